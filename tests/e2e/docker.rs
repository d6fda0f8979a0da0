//! The docker command, pointed at one host.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

/// Longest one docker command may take; a command that hangs fails its test.
const DEADLINE: Duration = Duration::from_secs(60);

/// One docker executable and the host it talks to.
#[derive(Clone, Debug)]
pub struct Docker {
    program: PathBuf,
    host: String,
    variables: Vec<(&'static str, OsString)>,
}

/// How one docker command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; 124 if the command ran into [`DEADLINE`].
    pub code: i32,
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
}

impl Docker {
    /// The docker command that a user of this machine gets, for the engine at `address`.
    pub fn current(address: &str) -> Self {
        let program = Self::programs()
            .into_iter()
            .next()
            .expect("the docker command is installed");
        Self {
            program,
            host: format!("tcp://{address}"),
            variables: Vec::new(),
        }
    }

    /// The same for the daemon behind a Unix socket.
    pub fn at_socket(&self, path: &Path) -> Self {
        Self {
            host: format!("unix://{}", path.display()),
            ..self.clone()
        }
    }

    /// The same host over TLS, with ca.pem, cert.pem, and key.pem of `directory`; the host's
    /// certificate is verified.
    pub fn with_tls(&self, directory: &Path) -> Self {
        self.with_env("DOCKER_TLS_VERIFY", "1")
            .with_env("DOCKER_CERT_PATH", directory)
    }

    /// Every docker command of this machine: often an old one of the distribution and a newer one.
    pub fn programs() -> Vec<PathBuf> {
        let mut programs: Vec<PathBuf> = Vec::new();
        for directory in ["/usr/local/bin", "/usr/bin"] {
            if let Ok(program) = fs::canonicalize(Path::new(directory).join("docker"))
                && !programs.contains(&program)
            {
                programs.push(program);
            }
        }
        programs
    }

    /// The same host through another docker executable.
    pub fn with_program(&self, program: PathBuf) -> Self {
        Self {
            program,
            ..self.clone()
        }
    }

    /// The same command with the plugins of directory `plugins`, such as `docker-buildx`.
    ///
    /// Their state, as the builders of buildx, is kept in `settings`.
    pub fn with_plugins(&self, plugins: &Path, settings: &Path) -> Self {
        let link = settings.join("cli-plugins");
        std::os::unix::fs::symlink(plugins, link).expect("the settings directory is empty");
        self.with_env("DOCKER_CONFIG", settings)
    }

    /// The same with an environment variable.
    pub fn with_env(&self, name: &'static str, value: impl Into<OsString>) -> Self {
        let mut docker = self.clone();
        docker.variables.push((name, value.into()));
        docker
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input("", arguments)
    }

    /// Runs a command to its end with `input` as its standard input.
    pub fn run_with_input(&self, input: impl AsRef<[u8]>, arguments: &[&str]) -> Outcome {
        // In the foreground: the whole test's process group ends together.
        let mut timeout = Command::new("timeout");
        timeout.args([
            "--foreground",
            "--kill-after=5",
            &DEADLINE.as_secs().to_string(),
        ]);
        timeout.arg(&self.program);
        let mut child = self
            .prepare(timeout, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.as_ref().to_vec();
        // A command that ends without reading its input closes the pipe, which is no error here.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("docker ends");
        writer.join().expect("the input is written");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that has to succeed and returns what it printed, without the last newline.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "docker {arguments:?} failed: {outcome:?}");
        outcome.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs a command that has to succeed and returns the lines it printed.
    #[track_caller]
    pub fn lines(&self, arguments: &[&str]) -> Vec<String> {
        self.ok(arguments).lines().map(str::to_owned).collect()
    }

    /// Runs a command that has to fail and returns its error output.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_ne!(
            outcome.code, 0,
            "docker {arguments:?} succeeded: {outcome:?}"
        );
        assert_ne!(
            outcome.code, 124,
            "docker {arguments:?} did not end: {outcome:?}"
        );
        outcome.stderr
    }

    /// Starts a command that prints until something ends it.
    pub fn follow(&self, arguments: &[&str]) -> Following {
        let mut child = self
            .prepare(Command::new(&self.program), arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        Following {
            child,
            lines: read_lines(stdout),
        }
    }

    fn prepare(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.args(arguments);
        // The user's own client settings are not for these tests.
        for variable in [
            "DOCKER_CONTEXT",
            "DOCKER_TLS_VERIFY",
            "DOCKER_CERT_PATH",
            "DOCKER_API_VERSION",
        ] {
            command.env_remove(variable);
        }
        command.env("DOCKER_HOST", &self.host);
        command.env(
            "DOCKER_CONFIG",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker-config"),
        );
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }
}

/// A docker command that still runs; it is ended with the value.
pub struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    /// Waits for the next line of output that `wanted` accepts.
    #[track_caller]
    pub fn line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no such line ({error}); seen: {seen:#?}"),
            }
        }
    }

    /// Waits until the command ends by itself and returns the lines not read yet.
    #[track_caller]
    pub fn rest(self) -> Vec<String> {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => return rest,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the command did not end by itself: {rest:#?}")
                }
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Both fail only if the command has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
