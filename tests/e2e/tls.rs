//! TLS between real docker commands, the daemon, and real engines.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use skep_fleet::certificates::{Authority, Certificate, Issued};
use tempfile::TempDir;

use crate::{
    docker::Docker,
    fleet::{Fleet, IMAGE},
    manager::{FAST_FAIL, Manager, eventually},
};

/// Directories of certificates, each laid out as `DOCKER_CERT_PATH` wants it.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// Writes one: whom to trust, and what to show.
    fn write(&self, name: &str, trusted: &Authority, shown: &Issued) -> PathBuf {
        let directory = self.0.path().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        for (file, text) in [
            ("ca.pem", &trusted.cert),
            ("cert.pem", &shown.cert),
            ("key.pem", &shown.key),
        ] {
            fs::write(directory.join(file), text).expect("a file");
        }
        directory
    }

    fn config(&self, text: &str) -> String {
        let path = self.0.path().join("config.toml");
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

/// A certificate for the engine at `address`.
fn engine(address: &str) -> Certificate {
    let (ip, _) = address.split_once(':').expect("an address has a port");
    Certificate::server(&[ip])
}

fn classic_options(directory: &Path) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    vec![
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", file("ca.pem")),
        format!("--tlscert={}", file("cert.pem")),
        format!("--tlskey={}", file("key.pem")),
    ]
}

fn start(fleet: &Fleet, options: &[String]) -> Manager {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Manager::start(fleet, &[&FAST_FAIL[..], &options].concat())
}

/// Waits until a container can be run.
fn await_engine(docker: &Docker) {
    eventually("there is an engine to run a container on", || {
        let outcome = docker.run(&["run", "--rm", IMAGE, "true"]);
        (outcome.code == 0).then_some(())
    });
}

#[test]
fn classic_options_protect_both_sides_and_streams_pass() {
    let files = Certificates::new();
    let (ours, strange) = (Authority::new("ours"), Authority::new("strange"));
    let fleet = Fleet::start("tls", 1, "");
    let shown = ours.issue(&engine(&fleet.addresses()[0]));
    fleet.speak_tls(0, &files.write("engine", &ours, &shown));
    let shown = ours.issue(&Certificate::server(&["127.0.0.1"]).both_ways());
    let daemon = files.write("daemon", &ours, &shown);
    let manager = start(&fleet, &classic_options(&daemon));

    let client = |name: &str, trusted: &Authority, shown: &Issued| {
        let directory = files.write(name, trusted, shown);
        manager.docker().with_tls(&directory)
    };
    let good = ours.issue(&Certificate::client());
    let docker = client("good", &ours, &good);
    await_engine(&docker);

    for program in Docker::programs() {
        println!("--- with {}", program.display());
        let docker = docker.with_program(program);
        let outcome = docker.run_with_input("hello\n", &["run", "--rm", "-i", IMAGE, "cat"]);
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (0, "hello\n"),
            "{outcome:?}"
        );
        // `wc` answers only once the end of its input has passed through both connections.
        let big = vec![b'x'; 3_000_000];
        let outcome = docker.run_with_input(big, &["run", "--rm", "-i", IMAGE, "wc", "-c"]);
        assert_eq!(outcome.stdout.trim(), "3000000", "{outcome:?}");

        let script = "head -n 1; echo output";
        let waiter = [
            "run", "-d", "-i", "--name", "box", IMAGE, "sh", "-c", script,
        ];
        docker.ok(&waiter);
        let outcome = docker.run_with_input("in\n", &["exec", "-i", "box", "wc", "-c"]);
        assert_eq!(outcome.stdout.trim(), "3", "{outcome:?}");
        let attached = docker.follow(&["logs", "-f", "box"]);
        let outcome = docker.run_with_input("input\n", &["attach", "box"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        attached.line(|line| line == "output");
        assert_eq!(docker.lines(&["logs", "box"]), ["input", "output"]);
        docker.ok(&["rm", "-f", "box"]);
    }

    // Everybody else is kept out, and told why.
    let wrong = client("wrong", &ours, &strange.issue(&Certificate::client()));
    let old = client("old", &ours, &ours.issue(&Certificate::client().expired()));
    let distrustful = client("distrustful", &strange, &good);
    for (docker, text) in [
        (
            &manager.docker(),
            "Client sent an HTTP request to an HTTPS server.",
        ),
        (&wrong, "tls: unknown certificate authority"),
        (&old, "tls: expired certificate"),
        (&distrustful, "certificate signed by unknown authority"),
    ] {
        let error = docker.refused(&["version"]);
        assert!(error.contains(text), "`{text}` is not in `{error}`");
    }
    manager.await_log("the client speaks HTTP without TLS");

    // New files count at once, without a restart, and broken ones not at all.
    fs::write(daemon.join("cert.pem"), "broken").expect("a file");
    manager.signal("HUP");
    manager.await_log("TLS files are wrong, what was read before stays in force");
    docker.ok(&["ps"]);
    let shown = strange.issue(&Certificate::server(&["127.0.0.1"]).both_ways());
    files.write("daemon", &ours, &shown);
    manager.signal("HUP");
    eventually("the new certificate is shown", || {
        (distrustful.run(&["ps"]).code == 0).then_some(())
    });
}

#[test]
fn trouble_with_an_engines_tls_is_shown_with_the_node() {
    let files = Certificates::new();
    let (ours, strange) = (Authority::new("ours"), Authority::new("strange"));
    let fleet = Fleet::start("tls-engines", 4, "");
    let addresses = fleet.addresses();
    let good = ours.issue(&engine(&addresses[0]));
    let old = ours.issue(&engine(&addresses[1]).expired());
    let foreign = strange.issue(&engine(&addresses[2]));
    for (index, shown) in [good, old, foreign].iter().enumerate() {
        let directory = files.write(&format!("engine-{index}"), &ours, shown);
        fleet.speak_tls(index, &directory);
    }
    let client = ours.issue(&Certificate::client());
    let client = files.write("client", &ours, &client);
    let engine_tls = format!("[engine.tls]\nca = \"{}/ca.pem\"\n", client.display());
    let pair = format!(
        "cert = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"\n",
        client.display()
    );
    let plain = format!("[engine.tls-for.\"{}\"]\nmode = \"off\"\n", addresses[3]);

    let error = |manager: &Manager, index: usize| {
        eventually(&format!("the error of engine {index}"), || {
            let nodes = manager.nodes();
            let node = nodes.iter().find(|node| node.address == addresses[index])?;
            node.rows
                .get("Error")
                .filter(|error| *error != "(none)")
                .cloned()
        })
    };
    let check = |manager: &Manager, index, text: &str| {
        let error = error(manager, index);
        assert!(error.contains(text), "`{text}` is not in `{error}`");
    };

    let config = files.config(&format!("{engine_tls}{pair}{plain}"));
    let manager = start(&fleet, &["--config".to_owned(), config]);
    manager.await_status(&addresses[0], "Healthy");
    manager.await_status(&addresses[3], "Healthy");
    check(
        &manager,
        1,
        "the engine's certificate expired on 2020-02-01",
    );
    check(
        &manager,
        2,
        "the engine's certificate is not signed by a CA in ",
    );
    drop(manager);

    // The same without a certificate of our own, and with TLS where the engine has none.
    let config = files.config(&engine_tls);
    let manager = start(&fleet, &["--config".to_owned(), config]);
    check(
        &manager,
        0,
        "the engine asks for a certificate and none is configured: bad certificate",
    );
    check(&manager, 3, "what the engine sends is not TLS");
    drop(manager);

    let manager = start(&fleet, &[]);
    check(
        &manager,
        0,
        "it speaks TLS, and no `[engine.tls]` is configured",
    );
}

#[test]
fn a_socket_serves_its_group_beside_tcp_and_goes_with_the_daemon() {
    let fleet = Fleet::of_this_slot();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("skep.sock");
    let host = format!("unix://{}", path.display());
    let group = fs::metadata(directory.path()).expect("a directory").gid();
    let config = directory.path().join("config.toml");
    fs::write(&config, format!("[api]\nsocket-group = \"{group}\"\n")).expect("a file");
    let config = config.display().to_string();
    let mut manager = Manager::start(&fleet, &["--config", &config, "-H", &host]);
    let tcp = manager.docker();
    let socket = tcp.at_socket(&path);
    let file = fs::metadata(&path).expect("the socket");
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    assert_eq!(file.gid(), group);
    for address in fleet.addresses() {
        manager.await_status(address, "Healthy");
    }
    let outcome = socket.run_with_input("hello\n", &["run", "--rm", "-i", IMAGE, "cat"]);
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (0, "hello\n"),
        "{outcome:?}"
    );
    assert_eq!(socket.ok(&["ps", "-a"]), tcp.ok(&["ps", "-a"]));
    manager.terminate();
    assert!(manager.ended().success());
    assert!(!path.exists(), "the socket's file is left");
}
