//! Files a discovery backend may read: those the configuration names, and nothing else.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    bindings::waiting::skep::plugin::{
        files::{Host as FilesHost, Stamp},
        types::Error,
    },
    host::Host,
};

const MAX_BYTES: u64 = 16 << 20;

/// How often a file is looked at that the kernel does not tell about.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often one is looked at that the kernel tells about: not all file systems do, and a link in
/// the middle of the path may change.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The files one plugin may read.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    allowed: Arc<[PathBuf]>,
}

impl Files {
    pub(super) fn new(allowed: &[PathBuf]) -> Self {
        Self {
            allowed: allowed.into(),
        }
    }

    /// The path as configured; a guest cannot reach any other by spelling it differently.
    fn permit(&self, path: &str) -> Result<PathBuf, Error> {
        self.allowed
            .iter()
            .find(|allowed| allowed.as_path() == Path::new(path))
            .cloned()
            .ok_or_else(|| Error::Unavailable(format!("`{path}` is not among the files allowed")))
    }
}

impl FilesHost for Host {
    async fn read(&mut self, path: String) -> Result<(Vec<u8>, u64), Error> {
        let path = self.grants.files.permit(&path)?;
        let explain = |error| unreadable(&path, &error);
        let file = File::open(&path).await.map_err(explain)?;
        let metadata = file.metadata().await.map_err(explain)?;
        if !metadata.is_file() {
            return Err(Error::Unavailable(format!(
                "`{}` is not a regular file",
                path.display()
            )));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .await
            .map_err(explain)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::Unavailable(format!(
                "`{}` is larger than {} MiB",
                path.display(),
                MAX_BYTES >> 20
            )));
        }
        Ok((bytes, revision(&metadata)))
    }

    async fn wait(&mut self, path: String, seen: u64, max_wait_ms: u32) -> Result<Stamp, Error> {
        let path = self.grants.files.permit(&path)?;
        let until = Instant::now() + Duration::from_millis(max_wait_ms.into());
        // Before the first look, so that no change falls between them.
        let mut changes = match self.is_configured {
            true => changes(&path)
                .inspect_err(|error| debug!(%error, "looking at the file every second"))
                .ok(),
            false => None,
        };
        loop {
            let stamp = match tokio::fs::metadata(&path).await {
                Ok(metadata) => Stamp {
                    exists: true,
                    revision: revision(&metadata),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => Stamp {
                    exists: false,
                    revision: 0,
                },
                Err(error) => return Err(unreadable(&path, &error)),
            };
            let left = until.saturating_duration_since(Instant::now());
            if stamp.revision != seen || left.is_zero() {
                return Ok(stamp);
            }
            match &mut changes {
                Some(events) => {
                    let next = timeout(left.min(CHECK_INTERVAL), events.next()).await;
                    if !matches!(next, Ok(Some(Ok(_))) | Err(_)) {
                        changes = None;
                    }
                }
                None => sleep(left.min(POLL_INTERVAL)).await,
            }
        }
    }
}

/// What happens in the directory of a file, and in that of the file it is a link to.
fn changes(path: &Path) -> std::io::Result<EventStream<[u8; 4096]>> {
    let inotify = Inotify::init()?;
    let mut watches = inotify.watches();
    // Writes are told when they end: a file that is half written is of no use.
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::ATTRIB;
    if let Some(directory) = path.parent() {
        watches.add(directory, mask)?;
    }
    if let Ok(target) = std::fs::canonicalize(path)
        && let Some(directory) = target.parent()
    {
        watches.add(directory, mask)?;
    }
    inotify.into_event_stream([0; 4096])
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let text = format!("`{}` cannot be read: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound => Error::NotFound(text),
        _ => Error::Unavailable(text),
    }
}

/// A number that changes when the file is written or replaced; never 0, which is no file.
fn revision(metadata: &std::fs::Metadata) -> u64 {
    [
        metadata.ino(),
        metadata.size(),
        metadata.mtime().cast_unsigned(),
        metadata.mtime_nsec().cast_unsigned(),
        metadata.ctime().cast_unsigned(),
        metadata.ctime_nsec().cast_unsigned(),
    ]
    .into_iter()
    // FNV-1a over words: stable, and good enough to tell two states of one file apart.
    .fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3)
    })
    .max(1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plugin::{
        Allow, Kind, Limits,
        grants::Grants,
        quota::{Pool, Quota},
    };

    /// The host of a guest that may read these files.
    fn host(allowed: &[PathBuf]) -> Host {
        let quota = Quota::new(Limits::for_kind(Kind::Discovery), Pool::new(0));
        let allow = Allow {
            files: allowed.to_vec(),
            ..Allow::default()
        };
        let mut host = Host::new("reader".into(), quota, Grants::new(&allow));
        host.is_configured = true;
        host
    }

    fn text(path: &Path) -> String {
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn only_the_files_allowed_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let allowed = directory.path().join("engines");
        let secret = directory.path().join("secret");
        fs::write(&allowed, "a").unwrap();
        fs::write(&secret, "b").unwrap();
        let mut host = host(&[allowed.clone(), directory.path().to_owned()]);
        assert_eq!(host.read(text(&allowed)).await.unwrap().0, b"a");
        let detour = format!("{}/x/../secret", directory.path().display());
        for refused in [text(&secret), detour, text(directory.path())] {
            assert!(host.read(refused.clone()).await.is_err(), "{refused}");
        }
        assert!(host.wait(text(&secret), 0, 0).await.is_err());
    }

    #[tokio::test]
    async fn a_file_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engines");
        let file = fs::File::create(&path).unwrap();
        file.set_len(MAX_BYTES).unwrap();
        let mut host = host(std::slice::from_ref(&path));
        assert!(host.read(text(&path)).await.is_ok());
        file.set_len(MAX_BYTES + 1).unwrap();
        assert!(host.read(text(&path)).await.is_err());
    }

    #[tokio::test]
    async fn a_change_is_told_by_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engines");
        fs::write(&path, "a").unwrap();
        let mut events = changes(&path).unwrap();
        let patience = Duration::from_secs(20);
        for number in 0..3 {
            let draft = directory.path().join("draft");
            fs::write(&draft, number.to_string()).unwrap();
            fs::rename(&draft, &path).unwrap();
            loop {
                let event = timeout(patience, events.next()).await.unwrap();
                let name = event.unwrap().unwrap().name;
                if name.is_some_and(|name| name == "engines") {
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_wait_ends_with_a_change_or_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engines");
        let mut host = host(std::slice::from_ref(&path));
        let absent = host.wait(text(&path), 0, 0).await.unwrap();
        assert!(!absent.exists);
        fs::write(&path, "a").unwrap();
        let written = host.wait(text(&path), 0, 60_000).await.unwrap();
        assert!(written.exists);
        let (_, revision) = host.read(text(&path)).await.unwrap();
        assert_eq!(revision, written.revision);
    }
}
