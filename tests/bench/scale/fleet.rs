//! The simulated fleet as a process of its own, so that its memory and files are not the load's.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use skep_fleet::{Fleet, Shape};
use tokio::io::AsyncReadExt;

use super::measure::Size;

/// A port that only one bench at a time can have.
const PORT: u16 = 14_243;

/// The fleet's process; it ends with the value, and when the bench is killed.
pub struct Process {
    child: Child,
    /// Where the engines listen, as discovery reads it.
    pub patterns: Vec<String>,
}

impl Process {
    /// Starts a fleet and returns once every engine answers.
    pub fn start(size: Size) -> Self {
        let own = std::env::current_exe().expect("a program has a path");
        let mut child = Command::new(own)
            .args(["fleet", &size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the fleet starts");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let lines = output.lines().map_while(Result::ok);
        let patterns: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        assert!(!patterns.is_empty(), "the fleet ended");
        Self { child, patterns }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a fleet until its parent closes the pipe.
pub async fn serve(size: Size) {
    let shape = Shape {
        events_kept: 16,
        create_bodies_kept: 1,
        ..Shape::default()
    };
    let fleet = Fleet::builder()
        .engines(size.engines)
        .containers(size.containers)
        .port(PORT)
        .shape(shape)
        .start()
        .await
        .expect("the engines start");
    for pattern in fleet.address_patterns() {
        println!("{pattern}");
    }
    println!();
    std::io::stdout().flush().expect("the bench reads");
    // The end of the input is the end of the bench, however it came.
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
}
