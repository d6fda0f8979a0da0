//! Files that change are read again, without a restart.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Client, Engines, Server, TlsError, client, server};
use crate::config::{
    engine::Engine,
    tls::{ApiTls, EngineTls, EngineTlsMode},
};

/// Reads the files of TLS, and reads them again when they change.
///
/// What it hands out follows the files for as long as [`Reloader::run`] runs.
#[derive(Default)]
pub struct Reloader {
    watched: Vec<Watched>,
}

/// The files that make one configuration.
struct Watched {
    files: Vec<PathBuf>,
    /// What the files were like just before they were last read.
    seen: Vec<Option<Stamp>>,
    /// Reads the files and puts what they hold in force.
    read: Box<dyn FnMut() -> Result<(), TlsError> + Send>,
}

/// Differs between two states of a file, also when it is replaced or written in place within one
/// second: the kernel changes the last two with every write.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_secs: i64,
    changed_nanos: i64,
}

impl Reloader {
    /// Reads the files of the listeners.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if there is anything wrong with them.
    pub fn server(&mut self, files: &ApiTls) -> Result<Server, TlsError> {
        let paths = [
            Some(&files.cert),
            Some(&files.key),
            files.client_ca.as_ref(),
        ];
        let current = self.watch(&paths, {
            let files = files.clone();
            move || server::load(&files)
        })?;
        Ok(Server::new(files.clone(), current))
    }

    /// Reads the files for connections to engines.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if there is anything wrong with them.
    pub fn engines(&mut self, config: &Engine) -> Result<Engines, TlsError> {
        let all = match &config.tls {
            Some(files) => self.client(files)?,
            None => None,
        };
        let mut single = HashMap::new();
        for (addr, files) in &config.tls_for {
            single.insert(addr.clone(), self.client(files)?);
        }
        Ok(Engines::new(all, single))
    }

    /// Reads the files for connections to other managers: the listener's own certificate, and its
    /// clients' CA, if there is one, to check theirs.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if there is anything wrong with them.
    pub fn peers(&mut self, files: &ApiTls) -> Result<Option<Client>, TlsError> {
        let mode = match files.client_ca {
            Some(_) => EngineTlsMode::Verify,
            None => EngineTlsMode::Encrypt,
        };
        self.client(&EngineTls {
            mode,
            ca: files.client_ca.clone(),
            cert: Some(files.cert.clone()),
            key: Some(files.key.clone()),
        })
    }

    fn client(&mut self, files: &EngineTls) -> Result<Option<Client>, TlsError> {
        if files.mode == EngineTlsMode::Off {
            return Ok(None);
        }
        let paths = [files.ca.as_ref(), files.cert.as_ref(), files.key.as_ref()];
        let current = self.watch(&paths, {
            let files = files.clone();
            move || client::load(&files)
        })?;
        Ok(Some(Client::new(files.clone(), current)))
    }

    fn watch<T: Send + Sync + 'static>(
        &mut self,
        files: &[Option<&PathBuf>],
        load: impl Fn() -> Result<T, TlsError> + Send + 'static,
    ) -> Result<watch::Receiver<Arc<T>>, TlsError> {
        let files: Vec<PathBuf> = files.iter().copied().flatten().cloned().collect();
        // Looked at before they are read: a change in between is read twice rather than missed.
        let seen = stamps(&files);
        let (sender, current) = watch::channel(Arc::new(load()?));
        let read = move || {
            sender.send_replace(Arc::new(load()?));
            Ok(())
        };
        self.watched.push(Watched {
            files,
            seen,
            read: Box::new(read),
        });
        Ok(current)
    }

    /// Looks at the files every `pause` and reads those that changed; reads all of them whenever
    /// `now` is notified. Ends with `stop`.
    ///
    /// A file that is wrong is logged, once for each change, and what was in force stays.
    pub async fn run(mut self, pause: Duration, now: Arc<Notify>, stop: CancellationToken) {
        if self.watched.is_empty() {
            return;
        }
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let which = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = now.notified() => Which::All,
                _ = ticks.tick() => Which::Changed,
            };
            let look = tokio::task::spawn_blocking(move || {
                for watched in &mut self.watched {
                    watched.look(which);
                }
                self
            });
            self = match look.await {
                Ok(reloader) => reloader,
                Err(error) => {
                    error!(%error, "TLS files are no longer watched");
                    return;
                }
            };
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Changed,
    All,
}

impl Watched {
    fn look(&mut self, which: Which) {
        let stamps = stamps(&self.files);
        if which == Which::Changed && stamps == self.seen {
            return;
        }
        self.seen = stamps;
        let files: Vec<_> = self.files.iter().map(|path| path.display()).collect();
        match (self.read)() {
            Ok(()) => info!(?files, "TLS files read again, new connections use them"),
            Err(error) => {
                error!(%error, ?files, "TLS files are wrong, what was read before stays in force");
            }
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|path| stamp(path)).collect()
}

/// `None` for a file that cannot be looked at. Links are followed: whoever swaps certificates by
/// moving a link changes the file behind it.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.size(),
        changed_secs: found.ctime(),
        changed_nanos: found.ctime_nsec(),
    })
}

#[cfg(test)]
mod tests {
    use skep_fleet::certificates::{Authority, Certificate, Issued};

    use super::*;

    /// How long a test waits for what must happen.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A certificate in files, and what was read of it.
    struct Bench {
        _directory: tempfile::TempDir,
        files: ApiTls,
        authority: Authority,
        reloader: Reloader,
        server: Server,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let files = ApiTls {
                cert: directory.path().join("cert.pem"),
                key: directory.path().join("key.pem"),
                client_ca: None,
            };
            let authority = Authority::new("CA");
            write(&files, &issue(&authority));
            let mut reloader = Reloader::default();
            let server = reloader.server(&files).unwrap();
            Self {
                _directory: directory,
                files,
                authority,
                reloader,
                server,
            }
        }

        /// Looks at the files once; returns whether something else is in force then.
        fn look(&mut self, which: Which) -> bool {
            let before = self.server.config();
            self.reloader.watched[0].look(which);
            !Arc::ptr_eq(&before, &self.server.config())
        }
    }

    fn issue(authority: &Authority) -> Issued {
        authority.issue(&Certificate::server(&["localhost"]))
    }

    fn write(files: &ApiTls, issued: &Issued) {
        std::fs::write(&files.key, &issued.key).unwrap();
        std::fs::write(&files.cert, &issued.cert).unwrap();
    }

    #[test]
    fn files_are_read_again_when_they_changed_or_when_asked_for() {
        let mut bench = Bench::new();
        assert!(!bench.look(Which::Changed));
        assert!(bench.look(Which::All));
        write(&bench.files, &issue(&bench.authority));
        assert!(bench.look(Which::Changed));
        assert!(!bench.look(Which::Changed));
    }

    #[test]
    fn broken_files_leave_the_last_good_ones_in_force() {
        let mut bench = Bench::new();
        let other = issue(&bench.authority);
        std::fs::write(&bench.files.key, &other.key).unwrap();
        assert!(
            !bench.look(Which::Changed),
            "the certificate has another key"
        );
        std::fs::remove_file(&bench.files.key).unwrap();
        assert!(!bench.look(Which::Changed), "there is no key");
        write(&bench.files, &other);
        assert!(bench.look(Which::Changed));
    }

    #[test]
    fn a_link_that_is_moved_to_other_files_is_a_change() {
        let mut bench = Bench::new();
        let elsewhere = bench.files.cert.with_file_name("next.pem");
        std::fs::copy(&bench.files.cert, &elsewhere).unwrap();
        std::fs::remove_file(&bench.files.cert).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &bench.files.cert).unwrap();
        assert!(bench.look(Which::Changed));
    }

    #[tokio::test]
    async fn files_are_watched_until_the_end() {
        for (pause, notified) in [(10, false), (3_600_000, true)] {
            let mut bench = Bench::new();
            let (now, stop) = (Arc::new(Notify::new()), CancellationToken::new());
            let pause = Duration::from_millis(pause);
            let running = tokio::spawn(bench.reloader.run(pause, Arc::clone(&now), stop.clone()));
            write(&bench.files, &issue(&bench.authority));
            if notified {
                now.notify_one();
            }
            tokio::time::timeout(PATIENCE, bench.server.current.changed())
                .await
                .expect("the files are read again")
                .unwrap();
            stop.cancel();
            tokio::time::timeout(PATIENCE, running)
                .await
                .expect("it ends")
                .unwrap();
        }
    }
}
