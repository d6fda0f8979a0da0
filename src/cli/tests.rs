//! Tests of whole command lines.

use super::*;
use crate::config::listen::ListenAddr;
use crate::config::tls::EngineTlsMode;

/// Splits `line` at spaces and parses it without any environment.
fn parse_line(line: &str) -> Result<Invocation, CliError> {
    parse(line.split(' ').map(OsString::from), &Environment::default())
}

fn managed(line: &str) -> Manage {
    match parse_line(line) {
        Ok(Invocation::Manage(manage)) => *manage,
        other => panic!("{line}: {other:?}"),
    }
}

fn printed(line: &str) -> String {
    match parse_line(line) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn bad_options_get_the_classic_texts() {
    for (options, text) in [
        ("--strategy fill", "strategy not supported"),
        ("--strategy health", "strategy not supported"),
        ("--filter bogus", "filter not supported"),
        ("-f health,port", "filter not supported"),
        ("-H foo://bar", "unsupported protocol: \"foo\""),
        ("-c mesos", "unsupported cluster \"mesos\""),
        (
            "--engine-refresh-min-interval 0s",
            "min refresh interval should be a positive number",
        ),
        (
            "--engine-refresh-min-interval soon",
            "min refresh interval should be a positive number",
        ),
        (
            "--engine-refresh-min-interval -1s",
            "min refresh interval should be a positive number",
        ),
        (
            "--engine-refresh-max-interval 29s",
            "max refresh interval cannot be less than min refresh interval",
        ),
        ("--engine-failure-retry 0", "invalid failure retry count"),
        ("--engine-failure-retry -3", "invalid failure retry count"),
        (
            "--engine-refresh-retry 5",
            "--engine-refresh-retry is deprecated. Use --engine-failure-retry",
        ),
        (
            "--heartbeat 500ms",
            "--heartbeat should be at least one second",
        ),
        (
            "--heartbeat -5s",
            "--heartbeat should be at least one second",
        ),
        (
            "--discovery-opt kv.path",
            "--discovery-opt must contain key=value strings",
        ),
        (
            "--cluster-opt swarm.overcommit=-2",
            "swarm.overcommit should be larger than -1, -2.000000 is invalid",
        ),
        (
            "--cluster-opt swarm.createretry=-1",
            "swarm.createretry can not be negative, -1 is invalid",
        ),
        (
            "--cluster-opt swarm.createretry",
            "--cluster-opt swarm.createretry must be of the form swarm.createretry=value",
        ),
        (
            "--cluster-opt swarm.overcommit=much",
            "swarm.overcommit should be a number, much is invalid",
        ),
        ("-l loud", "not a valid logrus Level: \"loud\""),
        (
            "--tls",
            "--tlscert and --tlskey must be provided when using --tls",
        ),
        (
            "--tlsverify --tlscacert x --tlscert x",
            "--tlscert and --tlskey must be provided when using --tls",
        ),
        (
            "--tlsverify --tlscert x --tlskey x",
            "--tlscacert must be provided when using --tlsverify",
        ),
        (
            "--tlscacert x",
            "--tlscert, --tlskey and --tlscacert require the use of either --tls or --tlsverify",
        ),
        (
            "--tls=false --tlsverify=false --tlskey x",
            "--tlscert, --tlskey and --tlscacert require the use of either --tls or --tlsverify",
        ),
        (
            "--replication",
            "--advertise address must be provided when using --leader-election",
        ),
        (
            "--replication --addr a",
            "--advertise should be of the form ip:port or hostname:port",
        ),
        (
            "--replication --addr a:1 --replication-ttl 0s",
            "--replication-ttl should be a positive number",
        ),
        (
            "--replication --addr a:1 --replication-ttl 999ms",
            "--replication-ttl must be at least one second",
        ),
        (
            "--replication --addr a:1",
            "Leader election is only supported with consul, etcd and zookeeper discovery.",
        ),
    ] {
        let error = parse_line(&format!("skep manage {options} nodes://a:1")).unwrap_err();
        assert_eq!(error.to_string(), text, "{options}");
    }
}

#[test]
fn mistakes_are_found_in_the_classic_order() {
    // Each option is checked before those that follow it.
    let options = [
        "--tls",
        "--engine-refresh-min-interval 0s",
        "--engine-refresh-max-interval 1s",
        "--engine-refresh-retry 5",
        "--engine-failure-retry 0",
        "",
        "--heartbeat 1ms",
        "--discovery-opt x",
        "--strategy x",
        "--filter x",
        "-c x",
        "--cluster-opt swarm.overcommit=-2",
        "--replication",
        "-H x://",
    ];
    let texts: Vec<String> = (0..options.len())
        .map(|first| {
            // The gap in the list stands for the missing discovery argument.
            let discovery = if first > 5 { " a:1" } else { "" };
            let rest: Vec<&str> = options[first..]
                .iter()
                .copied()
                .filter(|o| !o.is_empty())
                .collect();
            let line = format!("skep manage {}{discovery}", rest.join(" "));
            parse_line(&line).unwrap_err().to_string()
        })
        .collect();
    let expected = [
        "--tlscert and --tlskey must",
        "min refresh",
        "max refresh",
        "--engine-refresh-retry is",
        "invalid failure",
        "discovery required to manage a cluster. See 'skep manage --help'.",
        "--heartbeat should",
        "--discovery-opt must",
        "strategy not",
        "filter not",
        "unsupported cluster",
        "swarm.overcommit should",
        "--advertise address must",
        "unsupported protocol",
    ];
    for (text, start) in texts.iter().zip(expected) {
        assert!(text.starts_with(start), "`{text}` instead of `{start}`");
    }
}

#[test]
fn options_may_stand_anywhere_with_one_dash_or_two() {
    let manage = managed(
        "skep -debug manage -H :4000 nodes://a:1,b:2 -strategy=binpacking -f port -f health \
         -H=unix:///x.sock -cluster-opt swarm.overcommit=-0.5 --cluster-opt swarm.createretry=0x2 \
         -heartbeat 1m30s -cors --cluster-opt swarm.createretry=7",
    );
    let config = &manage.config;
    assert_eq!(config.log.level, LogLevel::debug());
    assert_eq!(config.scheduler.strategy, "binpack");
    assert_eq!(config.scheduler.filters, ["port", "health"]);
    assert_eq!(config.scheduler.overcommit, -0.5);
    assert_eq!(config.scheduler.create_retry, 2);
    assert_eq!(config.discovery.heartbeat.as_secs(), 90);
    assert_eq!(
        config.listen,
        [
            ListenAddr::Tcp("0.0.0.0:4000".into()),
            ListenAddr::Unix("/x.sock".into())
        ]
    );
    assert_eq!(config.discovery.url.as_ref().unwrap().location, "a:1,b:2");
    assert!(config.api.cors);
    assert_eq!(manage.warnings.len(), 1, "{:?}", manage.warnings);
    assert_eq!(
        managed("skep m a:1 -debug -l warn")
            .config
            .log
            .level
            .as_str(),
        "warn"
    );
    assert_eq!(
        managed("skep m a:1 --tls=false --debug=false")
            .config
            .log
            .level
            .as_str(),
        "info"
    );
}

#[test]
fn tls_options_serve_clients_and_engines_alike() {
    let config = managed("skep manage --tls --tlscert c.pem --tlskey=/k.pem a:1").config;
    let (api, engine) = (config.api.tls.unwrap(), config.engine.tls.unwrap());
    assert!(api.cert.is_absolute() && api.cert.ends_with("c.pem"));
    assert_eq!(api.key, Path::new("/k.pem"));
    assert_eq!(api.client_ca, None);
    assert_eq!(engine.mode, EngineTlsMode::Encrypt);
    assert_eq!(engine.cert, Some(api.cert));

    let line = "skep manage -tlsverify -tlscacert /ca -tlscert /c -tlskey /k a:1";
    let config = managed(line).config;
    let (api, engine) = (config.api.tls.unwrap(), config.engine.tls.unwrap());
    assert_eq!(api.client_ca, Some("/ca".into()));
    assert_eq!(engine.mode, EngineTlsMode::Verify);
    assert_eq!(engine.ca, Some("/ca".into()));
}

#[test]
fn certificates_are_checked_with_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    for file in ["cert.pem", "key.pem"] {
        std::fs::write(directory.path().join(file), "nothing").unwrap();
    }
    let line = format!(
        "skep manage --check-config --tls --tlscert {path}/cert.pem --tlskey {path}/key.pem"
    );
    let error = parse_line(&line).unwrap_err().to_string();
    assert!(
        error.contains("cert.pem` holds no PEM certificate"),
        "{error}"
    );
    std::fs::remove_file(directory.path().join("key.pem")).unwrap();
    let error = parse_line(&line).unwrap_err().to_string();
    assert!(error.starts_with("api.tls.key: no file "), "{error}");
}

#[test]
fn engines_keep_the_certificates_that_the_file_gives_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "[engine.tls]\nca = \"/engines\"\n").unwrap();
    let line = format!(
        "skep manage --config {} --tls --tlscert /c --tlskey /k a:1",
        file.display()
    );
    let config = managed(&line).config;
    assert_eq!(config.api.tls.unwrap().cert, Path::new("/c"));
    let engine = config.engine.tls.unwrap();
    assert_eq!(engine.mode, EngineTlsMode::Verify);
    assert_eq!(engine.ca, Some("/engines".into()));
    assert_eq!(engine.cert, None);
}

#[test]
fn the_environment_fills_in_what_is_not_given() {
    let environment = Environment {
        debug: Some("*".into()),
        swarm_host: Some("tcp://1.2.3.4:1,:2".into()),
        swarm_discovery: Some("a:1".into()),
        swarm_advertise: None,
        ..Environment::default()
    };
    let parse = |line: &str| match parse(line.split(' ').map(OsString::from), &environment) {
        Ok(Invocation::Manage(manage)) => manage.config,
        other => panic!("{line}: {other:?}"),
    };
    let config = parse("skep manage");
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.discovery.url.unwrap().to_string(), "nodes://a:1");
    assert_eq!(config.log.level.as_str(), "info");
    let config = parse("skep manage -H :9 b:1");
    assert_eq!(config.listen, [ListenAddr::Tcp("0.0.0.0:9".into())]);
    assert_eq!(config.discovery.url.unwrap().location, "b:1");
}

#[test]
fn options_without_an_effect_of_their_own_are_taken() {
    let manage = managed(
        "skep -experimental manage --addr a:1 --replication-ttl 1s --replication=false \
         -refresh-on-node-filter --container-name-refresh-filter web a:1",
    );
    assert!(manage.config.api.experimental);
    assert!(manage.config.api.refresh_on_node_filter);
    assert_eq!(manage.config.api.refresh_name_filter, "web");
    assert!(!managed("skep manage a:1").config.api.experimental);
}

#[test]
fn unknown_services_options_and_commands_fail() {
    for (line, text) in [
        ("skep manage eureka://a", "discovery service not supported"),
        (
            "skep manage -bogus",
            "flag provided but not defined: -bogus",
        ),
        (
            "skep manage --bogus=1 a:1",
            "flag provided but not defined: -bogus",
        ),
        (
            "skep manage -heartbeet=5s a:1",
            "flag provided but not defined: -heartbeet",
        ),
        (
            "skep list -verbose a:1",
            "flag provided but not defined: -verbose",
        ),
        ("skep list zz://a", "discovery service not supported"),
        ("skep bogus", "No help topic for 'bogus'"),
        (
            "skep manage --host :1 -H :2 a:1",
            "Cannot use two forms of the same flag: H host",
        ),
    ] {
        let error = parse_line(line).unwrap_err().to_string();
        assert!(error.starts_with(text), "{line}: {error}");
    }
}

#[test]
fn prints_version_help_and_configuration() {
    let version = printed("skep --version");
    let expected = format!("skep version {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected), "{version}");
    assert_eq!(printed("skep -v"), version);
    assert!(printed("/bin/swarm -v").starts_with("swarm version "));
    for command in ["manage", "list", "join", "create"] {
        let help = printed(&format!("skep {command} --help"));
        assert!(help.contains(&format!("Usage: skep {command}")), "{help}");
        assert_eq!(printed(&format!("skep help {command}")), help);
    }
    assert!(printed("skep").contains("Usage: skep"));
    assert!(printed("skep manage --help").contains("--strategy"));
    assert_eq!(printed("skep manage --check-config"), "config is valid");

    let dump = printed("skep manage --dump-config --strategy random nodes://a:1");
    let config = Config::parse(&dump, Path::new("/")).unwrap();
    assert_eq!(config.scheduler.strategy, "random");
    assert_eq!(config.discovery.url.unwrap().location, "a:1");
}

// I-CLI-1
#[test]
fn mistakes_of_list_join_and_create_get_the_classic_texts() {
    const HEARTBEAT: &str = "--heartbeat should be at least one second";
    const FORM: &str = "--advertise should be of the form ip:port or hostname:port";
    for (line, text) in [
        (
            "list",
            "discovery required to list a cluster. See 'prog list --help'.",
        ),
        (
            "l --timeout 0s a:1",
            "--timeout should be a positive number",
        ),
        (
            "l --timeout -1s a:1",
            "--timeout should be a positive number",
        ),
        (
            "l --discovery-opt x a:1",
            "--discovery-opt must contain key=value strings",
        ),
        ("l bogus://x", "discovery service not supported"),
        (
            "join",
            "discovery required to join a cluster. See 'prog join --help'.",
        ),
        (
            "manage",
            "discovery required to manage a cluster. See 'prog manage --help'.",
        ),
        ("j a:1", "missing mandatory --advertise flag"),
        ("j --addr a a:1", FORM),
        (
            "j --addr a:1 --delay -1s a:1",
            "--delay should not be a negative number",
        ),
        ("j --addr a:1 --heartbeat 1ms a:1", HEARTBEAT),
        (
            "j --addr a:1 --ttl 60s a:1",
            "--ttl must be strictly superior to the heartbeat value",
        ),
        // Each option is checked before those that follow it.
        ("j --ttl 1s --heartbeat 1ms --delay -1s --addr a a:1", FORM),
        ("j --ttl 1s --heartbeat 1ms --addr a:1 a:1", HEARTBEAT),
        (
            "create x",
            "the `create` command takes no arguments. See 'prog create --help'.",
        ),
    ] {
        let error = parse_line(&format!("/usr/bin/prog {line}")).unwrap_err();
        assert_eq!(error.to_string(), text, "{line}");
    }
    for (line, start) in [
        ("l --timeout soon a:1", "invalid --timeout: "),
        ("j --addr a:1 --delay soon a:1", "invalid --delay: "),
        ("j --addr a:1 --heartbeat soon a:1", "invalid --heartbeat: "),
        ("j --addr a:1 --ttl soon a:1", "invalid --ttl: "),
    ] {
        let error = parse_line(&format!("skep {line}")).unwrap_err().to_string();
        assert!(error.starts_with(start), "{line}: {error}");
    }
    assert!(matches!(
        parse_line("skep list --timeout=1s a:1"),
        Ok(Invocation::List(list)) if list.timeout == Duration::from_secs(1)
    ));
    assert!(matches!(
        parse_line("skep join a:1 -advertise=b:2 -log-format json"),
        Ok(Invocation::Join(join)) if join.config.log.format == LogFormat::Json
    ));
    let token = || match parse_line("skep create") {
        Ok(Invocation::Print(token)) => token,
        other => panic!("{other:?}"),
    };
    assert_eq!(token().len(), 32);
    assert_ne!(token(), token());
}
