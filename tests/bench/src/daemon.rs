//! The daemon as a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

/// A daemon that listens on a free port; killed when dropped.
pub struct Daemon {
    child: Child,
    addr: SocketAddr,
}

impl Daemon {
    /// Starts `program`, `skep`, with options of `manage` and returns once it listens.
    ///
    /// # Panics
    ///
    /// The daemon ends instead.
    pub fn start(program: &str, options: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["--log-format", "json", "manage", "-H", "tcp://127.0.0.1:0"])
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("skep starts");
        let mut log = BufReader::new(child.stderr.take().expect("the log is piped"));
        let mut seen = String::new();
        let addr = loop {
            let mut line = String::new();
            let length = log.read_line(&mut line).expect("the log is text");
            assert_ne!(length, 0, "skep ended: {seen}");
            seen.push_str(&line);
            let line: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
            if let Some(addr) = line["fields"]["addr"].as_str() {
                break addr.parse().expect("an address");
            }
        };
        // Nobody else reads the log, and the daemon must not block on it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, addr }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills it, as `kill -9` does, and returns when it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
