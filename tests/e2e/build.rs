//! Images built and committed through the daemon.
//!
//! I-SEA-1 (`docker search`) needs a hub, which the engines of these tests cannot reach; what is
//! tested is that the engine's own answer comes through.

use crate::{bed::Bed, docker::Outcome};

/// The command line of a classic build of `Dockerfile` text from standard input.
fn build(bed: &Bed, dockerfile: &str, options: &[&str]) -> Outcome {
    let mut arguments = vec!["build"];
    arguments.extend(options);
    arguments.push("-");
    bed.docker.run_with_input(dockerfile, &arguments)
}

const GREETING: &str = "FROM busybox\nARG greeting\nENV G=\"$greeting\"\nCMD echo \"$G\"\n";

// I-BLD-2, I-BLD-5
#[test]
fn image_is_built_where_the_build_arguments_say_and_runs_there() {
    Bed::with_each_client(|bed| {
        let options = [
            "--build-arg=constraint:node==node-1",
            "--build-arg=greeting=Hello Args",
            "-t=greeter",
        ];
        let built = build(bed, GREETING, &options);
        assert_eq!(built.code, 0, "{}", built.stderr);
        assert_eq!(bed.docker.lines(&["images", "-q", "greeter"]).len(), 1);
        assert_eq!(
            bed.fleet
                .engine(1)
                .lines(&["images", "-q", "greeter"])
                .len(),
            1
        );
        bed.docker.ok(&["run", "--name", "hello", "greeter"]);
        assert_eq!(bed.docker.ok(&["logs", "hello"]), "Hello Args");
        assert_eq!(bed.node_of("hello"), "node-1");
    });
}

// I-BLD-4
#[test]
fn build_that_no_node_may_run_is_refused_in_words() {
    Bed::with_each_client(|bed| {
        let before = bed.docker.lines(&["images", "-q"]).len();
        let options = ["--build-arg=constraint:node==node-9", "-t=nowhere"];
        let refused = build(bed, GREETING, &options);
        assert_ne!(refused.code, 0);
        for text in [
            "Unable to find a node that satisfies the following conditions",
            "[node==node-9]",
        ] {
            assert!(refused.stderr.contains(text), "{}", refused.stderr);
        }
        assert_eq!(bed.docker.lines(&["images", "-q"]).len(), before);
    });
}

// I-COM-1
#[test]
fn committed_container_is_listed_as_an_image_at_once() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &["-e", "constraint:node==node-1"]);
    bed.docker.ok(&["commit", "node-1/web", "snapshot:1"]);
    let reference = ["images", "-q", "snapshot:1"];
    assert_eq!(bed.docker.lines(&reference).len(), 1);
    assert_eq!(bed.fleet.engine(1).lines(&reference).len(), 1);
}

// I-SEA-1
#[test]
fn answer_of_an_engine_that_cannot_search_comes_through() {
    let bed = Bed::new(&[]);
    let direct = bed.fleet.engine(0).refused(&["search", "anything"]);
    let through = bed.docker.refused(&["search", "anything"]);
    // The rest of the text holds a port that differs from call to call.
    let cause = |text: &str| text.split(": ").take(2).collect::<Vec<_>>().join(": ");
    assert_eq!(cause(&through), cause(&direct));
}

#[test]
fn routes_of_swarm_mode_say_that_this_is_not_swarm_mode() {
    Bed::with_each_client(|bed| {
        for arguments in [["config", "ls"], ["service", "ls"], ["secret", "ls"]] {
            let refusal = bed.docker.refused(&arguments);
            assert!(refusal.contains("not a swarm manager"), "{refusal}");
        }
    });
}
