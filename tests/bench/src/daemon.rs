//! The daemon as a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::Method;

use crate::client::Client;

/// A daemon that listens on a free port; killed when dropped.
pub struct Daemon {
    child: Child,
    addr: SocketAddr,
    log: Arc<Log>,
}

/// A loopback address that only this process listens on: clients of a daemon that was killed must
/// not find another test's server at its port.
pub fn own_host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + high, middle, low)
}

/// The lines of the log so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Daemon {
    /// Starts `program`, `skep`, with options of `manage` and returns once it listens.
    ///
    /// # Panics
    ///
    /// The daemon ends instead.
    pub fn start(program: &str, options: &[&str]) -> Self {
        Self::start_with(&mut Command::new(program), options)
    }

    /// The same for a command that ends with `skep`, such as one that runs it under valgrind and
    /// writes nothing of its own to the standard error.
    ///
    /// # Panics
    ///
    /// The daemon ends instead.
    pub fn start_with(command: &mut Command, options: &[&str]) -> Self {
        let mut child = command
            .args(["--log-format", "json", "manage", "-H"])
            .arg(format!("tcp://{}:0", own_host()))
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
        // The daemon must not block on its log.
        let lines = Arc::new(Log::default());
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                lock(&kept.lines).push(line);
                kept.grown.notify_all();
            }
        });
        Self {
            child,
            addr,
            log: lines,
        }
    }

    /// Waits until the log has a line with `text`, for at most `patience`, and blocks meanwhile.
    ///
    /// # Panics
    ///
    /// There is none in time.
    pub fn await_log(&self, text: &str, patience: Duration) {
        let lines = lock(&self.log.lines);
        let has = |lines: &[String]| lines.iter().any(|line| line.contains(text));
        let (lines, _) = self
            .log
            .grown
            .wait_timeout_while(lines, patience, |lines| !has(lines))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(has(&lines), "`{text}` is not in the log: {lines:#?}");
    }

    /// Asks what the daemon knows of its nodes until so many are healthy; asks large fleets less
    /// often, as each answer tells of every node.
    ///
    /// # Panics
    ///
    /// They are not within `patience`.
    pub async fn await_healthy(&self, engines: usize, patience: Duration) {
        let pause = Duration::from_micros(20 * engines as u64).max(Duration::from_millis(10));
        let mut client = Client::connect(self.addr).await;
        let until = Instant::now() + patience;
        loop {
            let (status, answer) = client.call(Method::GET, "/v1.41/info", "").await;
            assert_eq!(status, 200);
            let text = String::from_utf8_lossy(&answer);
            let healthy = text.matches("\"Healthy\"").count();
            if healthy >= engines {
                return;
            }
            assert!(Instant::now() < until, "{healthy} of {engines} are healthy");
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends a signal, `HUP`.
    ///
    /// # Panics
    ///
    /// The daemon has ended.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{name} is not sent"
        );
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
