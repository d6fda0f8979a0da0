//! A registry that wants a login, and who brings it.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    bed::Bed,
    docker::Docker,
    fleet::{Fleet, IMAGE},
    manager::eventually,
};

const USER: &str = "keeper";
const PASSWORD: &str = "honey & wax";

/// `USER` with the bcrypt hash of `PASSWORD`, as `htpasswd -B` writes it.
const LOGINS: &str = "keeper:$2b$05$abcdefghijklmnopqrstuuBZBLHgU6.Dv1amR1ef/G8r8t1dP97Iq\n";

/// The distribution's registry on the fleet's own bridge, behind basic authentication.
struct Registry {
    child: Child,
    address: String,
    /// Its files, and the docker command's configuration of someone who is logged in.
    directory: TempDir,
}

impl Registry {
    fn start(fleet: &Fleet) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        // Asked of the system and given back: nobody else is on this bridge.
        let port = {
            let address = format!("{}:0", fleet.gateway());
            let probe = TcpListener::bind(address).expect("the bridge has the address");
            probe.local_addr().expect("a bound port").port()
        };
        let address = format!("{}:{port}", fleet.gateway());
        fs::write(path.join("logins"), LOGINS).expect("the file is written");
        let config = format!(
            "version: 0.1\n\
             log: {{level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n\
             auth: {{htpasswd: {{realm: hive, path: {root}/logins}}}}\n\
             http: {{addr: \"{address}\"}}\n",
            root = path.display()
        );
        fs::write(path.join("config.yml"), config).expect("the file is written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let registry = Self {
            child,
            address,
            directory,
        };
        eventually("the registry answers", || {
            TcpStream::connect(&registry.address).ok()
        });
        registry
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Puts an image there, past the daemon under test.
    fn hold(&self, engine: &Docker, name: &str) -> String {
        let image = self.image(name);
        let engine = engine.with_env("DOCKER_CONFIG", self.login(engine));
        engine.ok(&["tag", IMAGE, &image]);
        engine.ok(&["push", &image]);
        engine.ok(&["rmi", &image]);
        image
    }

    /// The configuration directory of a docker command that is logged in.
    fn login(&self, docker: &Docker) -> std::path::PathBuf {
        let config = self.directory.path().join("docker");
        fs::create_dir_all(&config).expect("the directory is made");
        let docker = docker.with_env("DOCKER_CONFIG", &config);
        docker.ok(&["login", "-u", USER, "-p", PASSWORD, &self.address]);
        config
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration with a login for the registry.
fn config(registry: &Registry, login: &str) -> String {
    let path = registry.directory.path().join("skep.toml");
    fs::write(registry.directory.path().join("password"), PASSWORD).expect("the file is written");
    let text = format!("[registries.\"{}\"]\n{login}\n", registry.address);
    fs::write(&path, text).expect("the file is written");
    path.display().to_string()
}

/// A credential helper in the registry's directory.
fn helper(directory: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("docker-credential-test");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the file is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
}

#[test]
fn the_configured_login_is_used_where_the_client_has_none() {
    let fleet = Fleet::of_this_slot();
    let registry = Registry::start(&fleet);
    let engine = fleet.engine(0);
    let image = registry.hold(&engine, "private:1");
    let login = format!("username = \"{USER}\"\npassword-file = \"password\"");
    let option = format!("--config={}", config(&registry, &login));
    let bed = Bed::over(fleet, &[&option]);

    // The docker command sends no credentials with a create; the engine pulls all the same.
    assert_eq!(
        bed.docker.ok(&["run", "--rm", &image, "echo", "sweet"]),
        "sweet"
    );

    bed.docker.ok(&["pull", &image]);
    for node in 0..3 {
        assert_ne!(
            bed.fleet.engine(node).ok(&["images", "-q", &image]),
            "",
            "{node}"
        );
    }

    let other = registry.image("pushed:1");
    bed.docker.ok(&["tag", IMAGE, &other]);
    bed.docker.ok(&["push", &other]);
    bed.docker.ok(&["rmi", &other]);
    bed.docker.ok(&["pull", &other]);

    let directory = tempfile::tempdir().expect("a temporary directory");
    let base = registry.hold(&bed.fleet.engine(0), "base:1");
    fs::write(
        directory.path().join("Dockerfile"),
        format!("FROM {base}\nCMD [\"true\"]\n"),
    )
    .expect("the file is written");
    let context = directory.path().display().to_string();
    bed.docker
        .with_env("DOCKER_BUILDKIT", "0")
        .ok(&["build", "-t", "built:1", &context]);
}

#[test]
fn a_helper_is_asked_and_a_failing_one_is_named() {
    let fleet = Fleet::of_this_slot();
    let registry = Registry::start(&fleet);
    let image = registry.hold(&fleet.engine(0), "private:1");
    let directory = registry.directory.path().to_owned();
    helper(
        &directory,
        &format!("echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'"),
    );
    let login = "helper = \"./docker-credential-test\"";
    let option = format!("--config={}", config(&registry, login));
    let bed = Bed::over(fleet, &[&option]);
    assert_eq!(
        bed.docker.ok(&["run", "--rm", &image, "echo", "sweet"]),
        "sweet"
    );

    bed.docker.ok(&["rmi", "-f", &image]);
    helper(&directory, "echo the vault is sealed; exit 1");
    let error = bed.docker.refused(&["run", "--rm", &image, "true"]);
    assert!(error.contains("the vault is sealed"), "{error}");
    assert!(error.contains(&registry.address), "{error}");
}

#[test]
fn what_a_client_sends_reaches_the_registry_and_wins() {
    let fleet = Fleet::of_this_slot();
    let registry = Registry::start(&fleet);
    let image = registry.hold(&fleet.engine(0), "private:1");
    let bed = Bed::over(fleet, &[]);

    let error = bed.docker.refused(&["pull", &image]);
    for node in ["node-0", "node-1", "node-2"] {
        assert!(error.contains(node), "{error}");
    }
    let error = bed.docker.refused(&["run", "--rm", &image, "true"]);
    assert!(error.contains("no basic auth credentials"), "{error}");

    let user = bed
        .docker
        .with_env("DOCKER_CONFIG", registry.login(&bed.docker));
    user.ok(&["pull", &image]);
    let other = registry.image("mine:1");
    user.ok(&["tag", IMAGE, &other]);
    user.ok(&["push", &other]);
}
