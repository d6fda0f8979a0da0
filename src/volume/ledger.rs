//! Who has what mounted, kept across restarts and crashes of the agent.
//!
//! ```text
//! <directory>/NAME      the mounts of one volume, there only while it is or may be mounted
//! <directory>/.engine   the engine process that uses the driver
//! ```
//!
//! A record is written aside and renamed, so it is never half there for whoever reads it, however
//! the agent dies. Nothing is synced to the disk: mounts end with the machine, so a record of
//! another boot means nothing, and neither does one that a crash of the machine has torn.
//!
//! A volume's file has its name and nothing more, because a name may be as long as a file's name may
//! be. It begins with a letter or a digit, so it is never one of ours, which begin with a dot.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{
    atomic_file::{self, Durability},
    boot,
};

/// The record of the engine.
const ENGINE: &str = ".engine";

/// The mounts of one volume.
///
/// One with nobody in it says that the driver was asked to mount or to unmount the volume, and that
/// nothing is known of what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// Where the volume is, if the driver said so.
    pub mountpoint: Option<PathBuf>,
    /// The process that was told so last; another one has to ask again.
    pub agent: String,
    /// Who has it mounted, by the engine's ID of the mount.
    pub holders: BTreeMap<String, Holder>,
}

/// One who has a volume mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// How many times it mounted the volume more than it unmounted it, at least once.
    pub times: u32,
    /// The engine process that asked for it.
    pub engine: String,
}

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {cause}", .path.display())]
pub struct LedgerError {
    action: &'static str,
    path: PathBuf,
    // Not the error's `source`, because Docker shows the text alone.
    cause: io::Error,
}

/// The records of one driver's volumes. Clones write the same files.
#[derive(Clone, Debug)]
pub struct Ledger {
    directory: Arc<Path>,
    boot: Arc<str>,
}

/// A file: what it says, and since when.
#[derive(Serialize, Deserialize)]
struct Entry<T> {
    boot: String,
    record: T,
}

impl Ledger {
    /// Opens the ledger in `directory`, which is made if it is not there. Nobody else may have it
    /// open, which the driver's socket sees to.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let boot = boot::id().map_err(failed("tell this boot from others in", directory))?;
        Self::open_at_boot(directory, &boot)
    }

    fn open_at_boot(directory: &Path, boot: &str) -> Result<Self, LedgerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o700)))
            .map_err(failed("make the directory", directory))?;
        atomic_file::clear_drafts(directory).map_err(failed("clear", directory))?;
        Ok(Self {
            directory: directory.into(),
            boot: boot.into(),
        })
    }

    /// The mounts of a volume, if it is or may be mounted.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]
    pub async fn mounts(&self, volume: &str) -> Result<Option<Mounts>, LedgerError> {
        let volume = volume.to_owned();
        self.blocking(move |ledger| ledger.read(&volume)).await
    }

    /// The mounts of all volumes that are or may be mounted, by name.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]
    pub async fn all(&self) -> Result<BTreeMap<String, Mounts>, LedgerError> {
        self.blocking(|ledger| {
            let mut all = BTreeMap::new();
            for name in ledger.file_names()? {
                if !name.starts_with('.')
                    && let Some(mounts) = ledger.read(&name)?
                {
                    all.insert(name, mounts);
                }
            }
            Ok(all)
        })
        .await
    }

    /// Writes the mounts of a volume.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; then the record is what it was.
    ///
    /// # Cancel safety
    ///
    /// It is written all the same.
    pub async fn write(&self, volume: &str, mounts: &Mounts) -> Result<(), LedgerError> {
        let (volume, mounts) = (volume.to_owned(), mounts.clone());
        self.blocking(move |ledger| ledger.replace(&volume, mounts))
            .await
    }

    /// Forgets the mounts of a volume.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]
    ///
    /// # Cancel safety
    ///
    /// They are forgotten all the same.
    pub async fn forget(&self, volume: &str) -> Result<(), LedgerError> {
        let volume = volume.to_owned();
        self.blocking(move |ledger| ledger.remove_file(&volume))
            .await
    }

    /// The engine process that uses the driver; empty if none did since the machine was started.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]
    pub fn engine(&self) -> Result<String, LedgerError> {
        Ok(self.read(ENGINE)?.unwrap_or_default())
    }

    /// Writes which engine process uses the driver.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]
    pub async fn write_engine(&self, engine: &str) -> Result<(), LedgerError> {
        let engine = engine.to_owned();
        self.blocking(move |ledger| ledger.replace(ENGINE, engine))
            .await
    }

    /// Does something with files on a thread that may wait for them.
    async fn blocking<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Self) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let ledger = self.clone();
        let done = spawn_blocking(move || action(&ledger)).await;
        done.unwrap_or_else(|error| Err(failed("use", &self.directory)(io::Error::other(error))))
    }

    /// What a file says, unless it means nothing.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, LedgerError> {
        let path = self.directory.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        match serde_json::from_slice::<Entry<T>>(&bytes) {
            Ok(entry) => Ok((*entry.boot == *self.boot).then_some(entry.record)),
            Err(error) => {
                warn!(path = %path.display(), %error, "a record of mounts is torn, and left aside");
                Ok(None)
            }
        }
    }

    fn replace<T: Serialize>(&self, name: &str, record: T) -> Result<(), LedgerError> {
        let path = self.directory.join(name);
        let boot = self.boot.to_string();
        let bytes = serde_json::to_vec(&Entry { boot, record }).map_err(io::Error::from);
        bytes
            .and_then(|bytes| atomic_file::replace(&path, &bytes, Durability::Process))
            .map_err(failed("write", &path))
    }

    fn remove_file(&self, name: &str) -> Result<(), LedgerError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The names of the files that can be ours.
    fn file_names(&self) -> Result<Vec<String>, LedgerError> {
        let names = fs::read_dir(&self.directory).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().into_string().ok()))
                .filter_map(Result::transpose)
                .collect()
        });
        names.map_err(failed("list", &self.directory))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |cause| LedgerError {
        action,
        path,
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> Mounts {
        let holder = Holder {
            times: 2,
            engine: "1:2".to_owned(),
        };
        Mounts {
            mountpoint: Some("/mnt/data".into()),
            agent: "me".to_owned(),
            holders: BTreeMap::from([("id".to_owned(), holder)]),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_there_for_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("local/mounts");
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.mounts("data").await.unwrap(), None);
        assert_eq!(ledger.engine().unwrap(), "");
        ledger.write("data", &mounts()).await.unwrap();
        ledger.write_engine("1:2").await.unwrap();

        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.mounts("data").await.unwrap(), Some(mounts()));
        assert_eq!(ledger.engine().unwrap(), "1:2");
        let all = ledger.all().await.unwrap();
        assert_eq!(all, BTreeMap::from([("data".to_owned(), mounts())]));

        ledger.forget("data").await.unwrap();
        ledger.forget("data").await.unwrap();
        assert_eq!(ledger.all().await.unwrap(), BTreeMap::new());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_record_of_another_boot_or_a_torn_one_means_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let before = Ledger::open_at_boot(directory.path(), "monday").unwrap();
        before.write("data", &mounts()).await.unwrap();
        before.write_engine("1:2").await.unwrap();
        let ledger = Ledger::open_at_boot(directory.path(), "tuesday").unwrap();
        assert_eq!(ledger.mounts("data").await.unwrap(), None);
        assert_eq!(ledger.engine().unwrap(), "");

        ledger.write("data", &mounts()).await.unwrap();
        let file = directory.path().join("data");
        let whole = fs::read(&file).unwrap();
        for len in 0..whole.len() {
            fs::write(&file, &whole[..len]).unwrap();
            assert_eq!(ledger.mounts("data").await.unwrap(), None, "{len} bytes");
        }
        assert_eq!(ledger.all().await.unwrap(), BTreeMap::new());
        ledger.write("data", &mounts()).await.unwrap();
        assert_eq!(ledger.mounts("data").await.unwrap(), Some(mounts()));
    }

    #[tokio::test]
    async fn every_name_that_docker_takes_is_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let longest = "x".repeat(255);
        let names = ["a", "a.engine", "a..", "A", "0-_.draft-", longest.as_str()];
        for name in names {
            let mut mounts = mounts();
            mounts.agent = name.to_owned();
            ledger.write(name, &mounts).await.unwrap();
        }
        let all = ledger.all().await.unwrap();
        assert_eq!(all.len(), names.len());
        assert!(all.iter().all(|(name, mounts)| *name == mounts.agent));
    }

    #[tokio::test]
    async fn what_a_dead_process_did_not_finish_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(".draft-abc"), "{").unwrap();
        Ledger::open(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_write_that_fails_says_where_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        // A file cannot take the place of a directory.
        fs::create_dir(directory.path().join("data")).unwrap();
        let error = ledger.write("data", &mounts()).await.unwrap_err();
        let place = directory.path().join("data");
        let expected = format!("cannot write `{}`: ", place.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
