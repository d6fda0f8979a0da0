//! Tests of whole command lines.

use super::*;
use crate::config::listen::ListenAddr;

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
        ("--tls", "--tls is not supported yet"),
        (
            "--tlsverify --tlscert x",
            "--tlsverify is not supported yet",
        ),
        ("--replication", "--replication is not supported yet"),
        ("--addr 1.2.3.4:5", "--advertise is not supported yet"),
        (
            "--refresh-on-node-filter",
            "--refresh-on-node-filter is not supported yet",
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
        "--tls is not",
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
        "unsupported protocol",
    ];
    for (text, start) in texts.iter().zip(expected) {
        assert!(text.starts_with(start), "`{text}` instead of `{start}`");
    }
}

#[test]
fn options_may_stand_anywhere_with_one_dash_or_two() {
    let manage = managed(
        "skep -debug manage -H :4000 nodes://a:1,b:2 -strategy=binpacking --filter port -f health \
         --host=unix:///x.sock -cluster-opt swarm.overcommit=-0.5 --cluster-opt swarm.createretry=0x2 \
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
fn the_environment_fills_in_what_is_not_given() {
    let environment = Environment {
        debug: Some("*".into()),
        swarm_host: Some("tcp://1.2.3.4:1,:2".into()),
        swarm_discovery: Some("a:1".into()),
        swarm_advertise: None,
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
fn unknown_services_options_and_commands_fail() {
    for (line, text) in [
        ("skep manage consul://a", "discovery service not supported"),
        (
            "skep manage -bogus",
            "flag provided but not defined: -bogus",
        ),
        (
            "skep manage --bogus=1 a:1",
            "flag provided but not defined: -bogus",
        ),
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
        ("create", "tokens are not supported"),
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
}
