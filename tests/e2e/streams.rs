//! Streams through the daemon: attached terminals, exec, logs, copied files.

use std::{fs, process::Command};

use crate::{bed::Bed, fleet::IMAGE};

/// Prints a numbered line every 100 ms, without an end.
const COUNTING: &str = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done";

#[test]
fn run_connects_stdin_stdout_stderr_and_exit_code() {
    Bed::with_each_client(|bed| {
        let outcome = bed
            .docker
            .run_with_input("hello\n", &["run", "--rm", "-i", IMAGE, "cat"]);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (0, "hello\n"),
            "{outcome:?}"
        );

        // Many buffers long, and the end of the input has to arrive for `wc` to answer.
        let big = vec![b'x'; 3_000_000];
        let outcome = bed
            .docker
            .run_with_input(big, &["run", "--rm", "-i", IMAGE, "wc", "-c"]);
        assert_eq!(outcome.stdout.trim(), "3000000", "{outcome:?}");

        let outcome = bed.docker.run(&[
            "run",
            "--rm",
            IMAGE,
            "sh",
            "-c",
            "echo out; echo err >&2; exit 42",
        ]);
        assert_eq!(
            (
                outcome.code,
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (42, "out\n", "err\n")
        );
        assert_eq!(bed.ps(&["-a"]), [""; 0], "--rm left a container");
    });
}

#[test]
fn terminal_keeps_its_line_ends() {
    Bed::with_each_client(|bed| {
        let outcome = bed
            .docker
            .run(&["run", "--rm", "-t", IMAGE, "echo", "hello"]);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (0, "hello\r\n"),
            "{outcome:?}"
        );
    });
}

#[test]
fn attach_passes_input_to_a_running_container() {
    Bed::with_each_client(|bed| {
        bed.script("reader", &["-i"], "head -n 1; echo output");
        let outcome = bed.docker.run_with_input("input\n", &["attach", "reader"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        // The engine lets go of an attached client when its input ends, so the log tells.
        bed.await_log("reader", "output");
        assert_eq!(bed.docker.lines(&["logs", "reader"]), ["input", "output"]);
    });
}

#[test]
fn attach_without_input_sees_the_output_until_the_end() {
    let bed = Bed::new(&[]);
    bed.script("counter", &[], COUNTING);
    let attached = bed.docker.follow(&["attach", "--no-stdin", "counter"]);
    attached.line(|line| line.starts_with("line "));
    bed.docker.ok(&["kill", "counter"]);
    attached.rest();
}

#[test]
fn exec_runs_in_a_running_container_only() {
    Bed::with_each_client(|bed| {
        bed.docker
            .ok(&["create", "--name", "box", IMAGE, "sleep", "1d"]);
        let error = bed.docker.refused(&["exec", "box", "echo", "hello"]);
        assert!(error.contains("is not running"), "{error}");
        bed.docker.ok(&["start", "box"]);
        assert_eq!(bed.docker.ok(&["exec", "box", "echo", "hello"]), "hello");

        let outcome =
            bed.docker
                .run(&["exec", "box", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (
                outcome.code,
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (7, "out\n", "err\n")
        );
        let outcome = bed
            .docker
            .run_with_input("a\nb\n", &["exec", "-i", "box", "wc", "-l"]);
        assert_eq!(
            (outcome.code, outcome.stdout.trim()),
            (0, "2"),
            "{outcome:?}"
        );
        let outcome = bed.docker.run(&["exec", "-t", "box", "echo", "hello"]);
        assert_eq!(outcome.stdout, "hello\r\n", "{outcome:?}");

        bed.docker
            .ok(&["exec", "-d", "box", "sh", "-c", "echo done >/tmp/detached"]);
        let wait = "until test -s /tmp/detached; do sleep 0.1; done; cat /tmp/detached";
        assert_eq!(bed.docker.ok(&["exec", "box", "sh", "-c", wait]), "done");
    });
}

#[test]
fn logs_come_in_order_and_by_number() {
    Bed::with_each_client(|bed| {
        bed.script("talker", &[], "echo one; echo two; echo three");
        bed.docker.ok(&["wait", "talker"]);
        let outcome = bed.docker.run(&["logs", "talker"]);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("one\ntwo\nthree\n", "")
        );
        let outcome = bed.docker.run(&["logs", "--tail", "2", "talker"]);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("two\nthree\n", "")
        );
    });
}

#[test]
fn logs_keep_stdout_and_stderr_apart() {
    Bed::with_each_client(|bed| {
        // The engine reads two pipes, so only the order within each of them is certain.
        bed.script("talker", &[], "echo out; echo problem >&2; echo more");
        bed.docker.ok(&["wait", "talker"]);
        let outcome = bed.docker.run(&["logs", "talker"]);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("out\nmore\n", "problem\n")
        );
    });
}

#[test]
fn logs_follow_until_the_container_ends() {
    Bed::with_each_client(|bed| {
        bed.script("counter", &[], COUNTING);
        let logs = bed.docker.follow(&["logs", "-f", "counter"]);
        logs.line(|line| line == "line 5");
        bed.docker.ok(&["kill", "counter"]);
        logs.rest();
    });
}

#[test]
fn followed_logs_end_with_their_engine() {
    let bed = Bed::new(&[]);
    bed.script("counter", &["-e", "constraint:node==node-1"], COUNTING);
    let logs = bed.docker.follow(&["logs", "-f", "counter"]);
    logs.line(|line| line == "line 1");
    bed.fleet.kill(1);
    logs.rest();
}

#[test]
fn files_are_copied_in_both_directions() {
    Bed::with_each_client(|bed| {
        bed.sleeper("box", &[]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (sent, received) = (
            directory.path().join("sent"),
            directory.path().join("received"),
        );
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(&sent, &content).expect("the file is written");
        bed.docker.ok(&[
            "cp",
            sent.to_str().expect("a path as text"),
            "box:/tmp/file",
        ]);
        assert_eq!(
            bed.docker.ok(&["exec", "box", "wc", "-c", "/tmp/file"]),
            "800000 /tmp/file"
        );
        bed.docker.ok(&[
            "cp",
            "box:/tmp/file",
            received.to_str().expect("a path as text"),
        ]);
        assert!(
            fs::read(&received).expect("the file came back") == content,
            "the copy differs"
        );
        let error = bed.docker.refused(&["cp", "box:/no/such/file", "-"]);
        assert!(error.contains("/no/such/file"), "{error}");
    });
}

#[test]
fn exported_container_is_an_archive_of_its_files() {
    let bed = Bed::new(&[]);
    bed.script("box", &[], "echo hello >/home/greeting");
    bed.docker.ok(&["wait", "box"]);
    let archive = tempfile::NamedTempFile::new().expect("a temporary file");
    bed.docker.ok(&[
        "export",
        "-o",
        archive.path().to_str().expect("a path as text"),
        "box",
    ]);
    let tar = Command::new("tar")
        .arg("-xOf")
        .arg(archive.path())
        .arg("home/greeting")
        .output();
    assert_eq!(tar.expect("tar starts").stdout, b"hello\n");
}

#[test]
fn container_whose_name_is_part_of_the_path_is_reached() {
    let bed = Bed::new(&[]);
    // Classic Swarm replaced the first match of the name in the request's path.
    for name in ["con", "containers", "logs", "exec"] {
        bed.script(name, &[], &format!("echo I am {name}; sleep 1d"));
        bed.await_log(name, &format!("I am {name}"));
        assert_eq!(bed.docker.ok(&["exec", name, "echo", "yes"]), "yes");
    }
}

// I-ATT-2
#[test]
fn websocket_is_opened_to_the_container() {
    use std::io::{Read, Write};
    let bed = Bed::new(&[]);
    bed.sleeper("web", &[]);
    let mut stream = std::net::TcpStream::connect(bed.manager.address()).expect("a connection");
    let deadline = Some(std::time::Duration::from_secs(60));
    stream.set_read_timeout(deadline).expect("a deadline");
    let request = "GET /containers/web/attach/ws?stream=1&stdout=1 HTTP/1.1\r\nHost: e2e\r\n\
                   Origin: http://e2e\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101");
}
