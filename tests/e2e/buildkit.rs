//! BuildKit builds, whose several connections all have to reach one engine.
//!
//! Three clients build: the docker command with a BuildKit client of its own (20.10), buildx (its
//! plugin comes from `config/unpack`), and both through Compose in `tests/clients`. The classic
//! builder is tested in `build`, and here when it is cut off.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    bed::Bed,
    docker::Docker,
    fleet::{IMAGE, unpacked},
    manager::eventually,
};

/// Where the plugins of the docker command are.
fn plugins() -> PathBuf {
    unpacked("trixie", &["docker-compose", "docker-buildx"]).join("usr/libexec/docker/cli-plugins")
}

/// The docker command that speaks BuildKit by itself, as those before 23 do.
fn with_own_buildkit(bed: &Bed) -> Docker {
    let format = ["version", "--format", "{{.Client.Version}}"];
    Docker::programs()
        .into_iter()
        .map(|program| bed.docker.with_program(program))
        .find(|docker| docker.ok(&format).starts_with("20."))
        .expect("docker 20.10 is installed")
        .with_env("DOCKER_BUILDKIT", "1")
}

/// A directory with a Dockerfile that runs `command`, from the image that every node has.
fn context(command: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = format!("FROM {IMAGE}\nARG greeting\nRUN {command}\nCMD [\"cat\", \"/greeting\"]\n");
    fs::write(directory.path().join("Dockerfile"), text).expect("the file is written");
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path as text")
}

/// The nodes that have an image.
fn holders(bed: &Bed, image: &str) -> Vec<usize> {
    (0..3)
        .filter(|&node| {
            !bed.fleet
                .engine(node)
                .lines(&["images", "-q", image])
                .is_empty()
        })
        .collect()
}

const GREET: &str = "echo \"$greeting\" >/greeting";

#[test]
fn buildx_builds_on_one_node_and_the_image_runs_there() {
    let bed = Bed::new(&[]);
    let settings = tempfile::tempdir().expect("a temporary directory");
    let docker = bed.docker.with_plugins(&plugins(), settings.path());
    let context = context(GREET);
    for (tag, command) in [
        ("x:1", &["buildx", "build", "--load"][..]),
        ("x:2", &["build"][..]),
    ] {
        let docker = docker.with_env("DOCKER_BUILDKIT", "1");
        let mut arguments = command.to_vec();
        arguments.extend(["--build-arg=greeting=hello you", "-t", tag]);
        arguments.push(text(context.path()));
        docker.ok(&arguments);
        assert_eq!(holders(&bed, tag).len(), 1, "{tag}");
        bed.await_image(tag);
        assert_eq!(bed.docker.ok(&["run", "--rm", tag]), "hello you");
    }
}

// I-BLD-2, I-BLD-5
#[test]
fn buildkit_build_of_the_old_command_goes_where_its_arguments_say() {
    let bed = Bed::new(&[]);
    let docker = with_own_buildkit(&bed);
    let context = context(GREET);
    for node in [2, 1] {
        let constraint = format!("--build-arg=constraint:node==node-{node}");
        let tag = format!("placed:{node}");
        let greeting = "--build-arg=greeting=hello";
        docker.ok(&[
            "build",
            &constraint,
            greeting,
            "-t",
            &tag,
            text(context.path()),
        ]);
        assert_eq!(holders(&bed, &tag), [node]);
        assert_eq!(bed.docker.ok(&["run", "--rm", &tag]), "hello");
    }
    // I-BLD-4
    let nowhere = "--build-arg=constraint:node==node-9";
    let error = docker.refused(&["build", nowhere, text(context.path())]);
    assert!(error.contains("Unable to find a node"), "{error}");
}

#[test]
fn build_whose_context_is_a_pipe_is_kept_on_one_node() {
    let bed = Bed::new(&[]);
    let docker = with_own_buildkit(&bed);
    let dockerfile = format!("FROM {IMAGE}\nRUN echo hello >/greeting\n");
    let arguments = [
        "build",
        "--build-arg=constraint:node==node-1",
        "-t",
        "piped:1",
        "-",
    ];
    let built = docker.run_with_input(dockerfile, &arguments);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_eq!(holders(&bed, "piped:1"), [1]);
}

#[test]
fn build_of_a_client_that_vanishes_stops_on_its_engine() {
    let bed = Bed::new(&[]);
    let clients = [
        ("classic", bed.docker.with_env("DOCKER_BUILDKIT", "0")),
        ("BuildKit", with_own_buildkit(&bed)),
        // The plugin alone: a docker command before it would be the one that is killed.
        (
            "buildx",
            bed.docker.with_program(plugins().join("docker-buildx")),
        ),
    ];
    for (index, (client, docker)) in clients.iter().enumerate() {
        let command = format!("sleep 8640{index}");
        let context = context(&command);
        let runs = || (0..3).any(|node| bed.fleet.runs(node, &command));
        let build = docker.follow(&["build", text(context.path())]);
        eventually(&format!("the {client} build runs"), || runs().then_some(()));
        drop(build);
        eventually(&format!("the {client} build has stopped"), || {
            (!runs()).then_some(())
        });
    }
}
