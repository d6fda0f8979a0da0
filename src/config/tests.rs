//! Tests of whole configuration files.

use super::*;
use crate::config::plugin::Allow;

/// Parses `text` and compares the mistakes, each as it is printed.
fn check(text: &str, mistakes: &[&str]) {
    let found = match Config::parse(text, Path::new("/etc/skep")) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(Mistake::to_string).collect(),
    };
    assert_eq!(found, mistakes, "{text}");
}

fn repository_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn an_empty_file_is_the_default() {
    let config = Config::parse("", Path::new("/etc/skep")).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn reports_all_mistakes_with_path_and_line() {
    check(
        concat!(
            "grace-perod = \"10s\"\n",
            "[log]\n",
            "level = \"loud\"\n",
            "[engine]\n",
            "failure-retry = 0\n",
            "connect-timeout = 5\n",
            "refresh-min-interval = \"2m\"\n",
            "[scheduler]\n",
            "strategy = \"spraed\"\n",
            "filters = [\"health\", \"rack\"]\n",
            "overcommit = -1\n",
            "[plugins.zone]\n",
            "kind = \"filter\"\n",
            "[plugins.zone.limits]\n",
            "cal = \"1s\"\n",
            "[volumes]\n",
            "copies = \"many\"\n",
        ),
        &[
            "line 1: grace-perod: unknown key, did you mean `grace-period`?",
            "line 3: log.level: not a valid logrus Level: \"loud\"",
            "line 5: engine.failure-retry: invalid value: integer `0`, expected a nonzero u32",
            "line 6: engine.connect-timeout: invalid type: integer `5`, expected a string",
            "line 9: scheduler.strategy: no strategy plugin `spraed`, did you mean `spread`?",
            "line 10: scheduler.filters[1]: no filter plugin `rack`; define it in [plugins.rack]",
            "line 11: scheduler.overcommit: must be a finite number above -1",
            "line 15: plugins.zone.limits.cal: unknown key, did you mean `call`?",
            "line 17: volumes.copies: unknown variant `many`, expected one of `explicit`, `one`, `every-node`",
            "engine.refresh-max-interval: cannot be less than `refresh-min-interval`",
            "plugins.zone.path: missing, and the name is not that of a built-in plugin",
        ],
    );
}

#[test]
fn a_syntax_error_stands_alone() {
    let mistakes = Config::parse("\n[log\nlevel = 3", Path::new("/")).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].line, Some(2));
}

#[test]
fn refuses_what_does_not_fit_the_kind_of_plugin() {
    check(
        "[plugins.data]\nkind = \"volume\"\npath = \"x.wasm\"",
        &["line 2: plugins.data.kind: a volume driver belongs into [volume-drivers.data]"],
    );
    check(
        "[plugins.spread]\nkind = \"filter\"",
        &["line 2: plugins.spread.kind: `spread` is a built-in strategy"],
    );
    check(
        "[plugins.spread]\non-failure = \"skip\"\nfallback = \"spread\"",
        &[
            "line 2: plugins.spread.on-failure: only filters have it",
            "line 3: plugins.spread.fallback: a strategy cannot be its own fallback",
        ],
    );
    check(
        "[scheduler]\nstrategy = \"health\"",
        &["line 2: scheduler.strategy: plugin `health` is a filter, not a strategy"],
    );
    check("log = 3", &["line 1: log: must be a table, not integer"]);
    check(
        "listen = []",
        &["line 1: listen: must name at least one address"],
    );
    check(
        "[discovery]\nurl = \"eureka://a\"",
        &["line 2: discovery.url: no discovery plugin `eureka`; define it in [plugins.eureka]"],
    );
    check(
        "[discovery]\nurl = \"etcd://a/b//c\"",
        &["line 2: discovery.url: `b//c` is no key: it has an empty segment"],
    );
    check(
        "[plugins.x]\nkind = \"discovery\"\npath = \"x\"\nallow.store = \"etcd://a\"\nallow.http = [\"a\"]",
        &[
            "line 4: plugins.x.allow.store: must have a path: what is below it is what the plugin gets",
            "line 5: plugins.x.allow.http[0]: must be of the form https://host:port",
        ],
    );
}

#[test]
fn paths_start_at_the_file() {
    let text = concat!(
        "[discovery]\nurl = \"file://nodes\"\n",
        "[plugins.zone]\nkind = \"filter\"\npath = \"zone.wasm\"\n",
        "settings = { label = \"zone\", since = 1979-05-27 }\n",
        "limits = { call = \"20ms\" }\n",
    );
    let config = Config::parse(text, Path::new("/etc/skep")).unwrap();
    let zone = config.plugin("zone").unwrap();
    assert_eq!(zone.source, Source::File("/etc/skep/zone.wasm".into()));
    assert_eq!(zone.limits.call, Duration::from_millis(20));
    assert_eq!(zone.limits.memory_bytes, 128 << 20);
    assert_eq!(
        zone.settings_json(),
        serde_json::json!({ "label": "zone", "since": "1979-05-27" })
    );
    assert_eq!(
        config.missing_files(),
        ["plugins.zone.path: no file `/etc/skep/zone.wasm`"]
    );

    let file = config.discovery_plugin().unwrap();
    assert_eq!(file.source, Source::Builtin("file"));
    assert_eq!(file.allow.files, [PathBuf::from("/etc/skep/nodes")]);
    assert_eq!(
        file.settings_json(),
        serde_json::json!({ "location": "/etc/skep/nodes" })
    );
}

#[test]
fn a_registry_has_one_way_to_log_in() {
    let text = concat!(
        "[registries.\"a.test:5000\"]\nusername = \"joe\"\npassword-file = \"secret\"\n",
        "[registries.\"b.test\"]\nhelper = \"docker-credential-pass\"\n",
    );
    let config = Config::parse(text, Path::new("/etc/skep")).unwrap();
    assert_eq!(
        config.missing_files(),
        ["registries.a.test:5000.password-file: no file `/etc/skep/secret`"]
    );
    let dump = config.dump().unwrap();
    assert_eq!(Config::parse(&dump, Path::new("/")).unwrap(), config);

    let incomplete = "needs `username` and `password-file`, or `identity-token-file`, or `helper`";
    for table in [
        "",
        "username = \"joe\"",
        "password-file = \"p\"",
        "helper = \"h\"\nusername = \"joe\"",
    ] {
        check(
            &format!("[registries.x]\n{table}"),
            &[&format!("line 1: registries.x: {incomplete}")],
        );
    }
    check(
        "[registries.\"https://x/\"]\nhelper = \"h\"",
        &["line 1: registries.https://x/: must be `host` or `host:port`, without a path"],
    );
}

#[test]
fn a_dump_reads_back_as_the_same_configuration() {
    for file in ["config/config.toml", "config/examples/custom-filter.toml"] {
        let config = Config::load(&repository_file(file)).unwrap();
        let dump = config.dump().unwrap();
        assert_eq!(
            Config::parse(&dump, Path::new("/")).unwrap(),
            config,
            "{dump}"
        );
    }
}

#[test]
fn the_commented_file_states_every_key_and_its_default() {
    let path = repository_file("config/config.toml");
    assert_eq!(Config::load(&path).unwrap(), Config::default());

    let text = std::fs::read_to_string(&path).unwrap();
    let plugin = "[plugins.x]\nkind = \"strategy\"\npath = \"x\"\nfallback = \"spread\"\n";
    let sha256 = format!("sha256 = \"{}\"\n", "0".repeat(64));
    let full = Config::parse(&format!("{plugin}{sha256}"), Path::new("/")).unwrap();
    let dump = full.dump().unwrap();
    let keys = dump
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0));
    for key in keys {
        let documented = text.lines().any(|line| {
            line.trim_start_matches("# ")
                .strip_prefix(key)
                .is_some_and(|rest| rest.starts_with(" = "))
        });
        assert!(documented, "`{key}` is not in config/config.toml");
    }
}

#[test]
fn the_examples_are_valid() {
    for entry in std::fs::read_dir(repository_file("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn tls_tables_state_their_files_and_what_they_lack() {
    let text = concat!(
        "[api.tls]\ncert = \"server.pem\"\nkey = \"/keys/server.pem\"\nclient-ca = \"ca.pem\"\n",
        "[engine.tls]\nca = \"engines.pem\"\ncert = \"client.pem\"\nkey = \"client-key.pem\"\n",
        "[engine.tls-for.\"tcp://old:2375\"]\nmode = \"off\"\n",
        "[engine.tls-for.\"[::1]:2376\"]\nmode = \"encrypt\"\n",
    );
    let config = Config::parse(text, Path::new("/etc/skep")).unwrap();
    let api = config.api.tls.as_ref().unwrap();
    assert_eq!(api.cert, Path::new("/etc/skep/server.pem"));
    assert_eq!(api.key, Path::new("/keys/server.pem"));
    let engine = config.engine.tls.as_ref().unwrap();
    assert_eq!(engine.mode, tls::EngineTlsMode::Verify);
    let single: Vec<_> = config
        .engine
        .tls_for
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(single, ["[::1]:2376", "old:2375"]);
    assert_eq!(config.missing_files().len(), 6);
    assert_eq!(
        config.missing_files()[0],
        "api.tls.cert: no file `/etc/skep/server.pem`"
    );
    let dump = config.dump().unwrap();
    assert_eq!(
        Config::parse(&dump, Path::new("/")).unwrap(),
        config,
        "{dump}"
    );

    check(
        concat!(
            "[api]\nmax-connections = 0\nhead-timeout = \"0s\"\n",
            "[api.tls]\ncert = \"server.pem\"\nca = \"ca.pem\"\n",
            "[engine.tls]\nkey = \"client-key.pem\"\n",
            "[engine.tls-for.nonsense]\nmode = \"maybe\"\n",
            "[engine.tls-for.\"unix:///run/docker.sock\"]\nmode = \"encrypt\"\n",
        ),
        &[
            "line 2: api.max-connections: invalid value: integer `0`, expected a nonzero usize",
            "line 3: api.head-timeout: must be longer than zero",
            "line 5: api.tls.cert: `cert` and `key` are both needed",
            "line 6: api.tls.ca: unknown key",
            "line 9: engine.tls-for.nonsense: `nonsense` is not an engine address: missing port",
            "line 10: engine.tls-for.nonsense.mode: unknown variant `maybe`, expected one of \
             `verify`, `encrypt`, `off`",
            "line 11: engine.tls-for.unix:///run/docker.sock: unix sockets never speak TLS",
            "engine.tls.ca: missing, and needed to verify certificates",
            "engine.tls.cert: `cert` and `key` need each other",
            "engine.tls-for.nonsense.ca: missing, and needed to verify certificates",
        ],
    );
}

#[test]
fn a_discovery_plugin_may_reach_what_the_url_names() {
    let granted = |url: &str, options: &str| {
        let text = format!("[discovery]\nurl = \"{url}\"\noptions = {{ {options} }}\n");
        let config = Config::parse(&text, Path::new("/etc/skep")).unwrap();
        config.discovery_plugin().unwrap().allow
    };
    assert_eq!(granted("nodes://a:1", ""), Allow::default());
    assert_eq!(
        granted("file://x", "").files,
        [PathBuf::from("/etc/skep/x")]
    );
    let store = |url: &str, options: &str| granted(url, options).store.unwrap().to_string();
    assert_eq!(
        store("etcd://a,b:1/x", ""),
        "etcd://a:2379,b:1/x/docker/swarm/nodes"
    );
    assert_eq!(
        store("consul://a", r#""kv.path" = "/docker/nodes/""#),
        "consul://a:8500/docker/nodes"
    );
    assert_eq!(granted("token://a:1/v1/t", "").http, ["https://a:1"]);
    assert_eq!(
        granted("token://a/t", r#""token.scheme" = "http""#).http,
        ["http://a"]
    );
    assert_eq!(granted("dns://a.example:1", "").names, ["a.example"]);
    assert_eq!(
        granted("dns://_d._tcp.example", "").names,
        ["_d._tcp.example"]
    );
}
