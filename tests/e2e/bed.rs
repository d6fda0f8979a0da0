//! What most tests stand on: an empty fleet, a daemon over it, and a docker command.

use serde_json::Value;

use crate::{
    docker::{Docker, Outcome},
    fleet::{Fleet, IMAGE},
    manager::{Manager, eventually},
};

/// A fleet of three engines under one daemon, all for one test.
pub struct Bed {
    /// The daemon; declared first, so it ends before the fleet does.
    pub manager: Manager,
    pub fleet: Fleet,
    /// The docker command for the daemon.
    pub docker: Docker,
}

impl Bed {
    /// Starts a daemon with `options` over this slot's fleet and waits until all nodes are healthy.
    pub fn new(options: &[&str]) -> Self {
        Self::over(Fleet::of_this_slot(), options)
    }

    /// The same over a given fleet.
    pub fn over(fleet: Fleet, options: &[&str]) -> Self {
        let discovery = fleet.discovery();
        Self::at(fleet, &discovery, options)
    }

    /// The same where the engines of the fleet are found at `discovery`.
    pub fn at(fleet: Fleet, discovery: &str, options: &[&str]) -> Self {
        let manager = Manager::start_at(discovery, options);
        for address in fleet.addresses() {
            manager.await_status(address, "Healthy");
        }
        let docker = manager.docker();
        Self {
            manager,
            fleet,
            docker,
        }
    }

    /// Runs `test` once for every docker command of this machine, each time on an empty fleet.
    pub fn with_each_client(test: impl Fn(&Self)) {
        for program in Docker::programs() {
            println!("--- with {}", program.display());
            let mut bed = Self::new(&[]);
            bed.docker = bed.docker.with_program(program);
            test(&bed);
        }
    }

    /// Starts container `name` that sleeps, with the given options of `docker run`.
    #[track_caller]
    pub fn sleeper(&self, name: &str, options: &[&str]) {
        self.docker.ok(&sleeper(name, options));
    }

    /// Tries to start container `name` that sleeps.
    pub fn try_sleeper(&self, name: &str, options: &[&str]) -> Outcome {
        self.docker.run(&sleeper(name, options))
    }

    /// Tries to start a container that has to be refused and returns the error output.
    #[track_caller]
    pub fn refused(&self, options: &[&str]) -> String {
        self.docker.refused(&sleeper("refused", options))
    }

    /// Starts container `name` that runs a shell script.
    #[track_caller]
    pub fn script(&self, name: &str, options: &[&str], script: &str) {
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(options);
        arguments.extend([IMAGE, "sh", "-c", script]);
        self.docker.ok(&arguments);
    }

    /// Starts container `name` with `options` and returns the node it was placed on.
    #[track_caller]
    pub fn placed(&self, name: &str, options: &[&str]) -> String {
        self.sleeper(name, options);
        self.node_of(name)
    }

    /// The node a container is on.
    #[track_caller]
    pub fn node_of(&self, container: &str) -> String {
        self.inspect(container, "{{.Node.Name}}")
    }

    /// One value of a container's inspect document.
    #[track_caller]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.docker
            .ok(&["container", "inspect", "--format", template, container])
    }

    /// A container's whole inspect document.
    #[track_caller]
    pub fn inspect_json(&self, container: &str) -> Value {
        self.manager
            .get_json(&format!("/containers/{container}/json"))
    }

    /// The names that `docker ps` prints with the given options, sorted.
    #[track_caller]
    pub fn ps(&self, options: &[&str]) -> Vec<String> {
        let mut arguments = vec!["ps", "--format", "{{.Names}}"];
        arguments.extend(options);
        let mut names = self.docker.lines(&arguments);
        names.sort();
        names
    }

    /// Waits until container `name` has the state `wanted`, such as `running` or `exited`.
    #[track_caller]
    pub fn await_state(&self, name: &str, wanted: &str) {
        eventually(&format!("{name} is {wanted}"), || {
            (self.inspect(name, "{{.State.Status}}") == wanted).then_some(())
        });
    }

    /// Waits until the daemon knows an image that an engine got past it.
    #[track_caller]
    pub fn await_image(&self, name: &str) {
        eventually(&format!("image {name} is known"), || {
            self.docker
                .lines(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
                .iter()
                .any(|line| line == name)
                .then_some(())
        });
    }

    /// Waits until `docker logs` has a line `wanted`.
    #[track_caller]
    pub fn await_log(&self, name: &str, wanted: &str) {
        eventually(&format!("{name} logs `{wanted}`"), || {
            self.docker
                .lines(&["logs", name])
                .iter()
                .any(|line| line == wanted)
                .then_some(())
        });
    }
}

/// The command line of a container that sleeps until it is told to stop.
///
/// It ends at SIGTERM, which process 1 of a container ignores by default, so that stopping it does
/// not take the ten seconds until it is killed.
fn sleeper<'a>(name: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(options);
    arguments.extend([IMAGE, "sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait"]);
    arguments
}
