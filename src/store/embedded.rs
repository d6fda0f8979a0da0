//! The store of a manager that is alone: one file, changed by one thread.
//!
//! Changes that wait together are committed together, with one flush of the disk, and are
//! acknowledged after it: a crash at any moment loses nothing that was acknowledged, and leaves
//! the file whole. The file is redb's; every open checks it, so that damage is reported and not
//! served.
//!
//! A disk that is full, or fails, refuses changes until it is well again; what was there can be
//! read meanwhile if the disk lets us.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use redb::Database;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

mod desk;
mod packed;

use self::desk::Desk;
use super::{
    Change, Entry, Expected, Known, Listing, Revision, Session, Store, StoreError, Watch,
    check_key, check_value,
};

/// The largest value, in bytes. Consul takes half of this, and etcd a little more.
const MAX_VALUE: usize = 1 << 20;

/// Longest time for one call: a disk may hang.
const DEADLINE: Duration = Duration::from_secs(10);

/// How many calls may wait; more callers wait before that.
const QUEUE: usize = 4096;

/// Wait before a watch tries again a file that cannot be read.
const PAUSE: Duration = Duration::from_secs(1);

/// Memory for pages of the file, in bytes.
const CACHE: usize = 4 << 20;

/// A file that no store can be made of.
#[derive(Debug, thiserror::Error)]
#[error("store {path}: {reason}")]
pub struct OpenError {
    path: String,
    reason: String,
    cause: Cause,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Another process has it open.
    Busy,
    /// It holds what is no store, or one that was damaged.
    Damaged,
    /// The disk is full, or refuses.
    Disk,
}

impl OpenError {
    /// Whether another process has the file open.
    pub fn is_busy(&self) -> bool {
        self.cause == Cause::Busy
    }

    /// Whether it is damaged, or was never a store.
    pub fn is_damaged(&self) -> bool {
        self.cause == Cause::Damaged
    }
}

/// The embedded store. Closed when the last handle, session, and watch are gone.
#[derive(Clone)]
pub struct Embedded {
    name: Arc<str>,
    calls: mpsc::Sender<Call>,
}

/// What the thread is asked to do, and where the answer goes.
enum Call {
    Get(String, Reply<Option<Entry>>),
    List(String, Reply<Listing>),
    Follow(String, Reply<(Listing, mpsc::Receiver<Vec<Change>>)>),
    Write(Write, Reply<Revision>),
    StartSession(Reply<u64>),
    EndSession(u64, Reply<Revision>),
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change that is wanted.
struct Write {
    key: String,
    /// As the file has it; `None` deletes.
    value: Option<Bytes>,
    expected: Option<Expected>,
    /// 0 for none.
    session: u64,
}

impl Embedded {
    /// Opens the file, which is made if it is not there, readable by its owner alone; so is its
    /// directory. Keys of sessions of an earlier process are gone.
    ///
    /// Blocks: the whole file is checked.
    ///
    /// # Errors
    ///
    /// Another process has it open, it is no store, it is damaged, or the disk refuses.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let database = open(path)?;
        let name: Arc<str> = format!("embedded://{}", path.display()).into();
        let desk = Desk::recovered(path, &name, database).map_err(|error| OpenError {
            path: path.display().to_string(),
            reason: error.to_string(),
            cause: cause_of(&error),
        })?;
        let (calls, received) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || desk.run(received))
            .map_err(|error| OpenError {
                path: path.display().to_string(),
                reason: error.to_string(),
                cause: Cause::Disk,
            })?;
        Ok(Self { name, calls })
    }

    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let ended = || unavailable(&self.name, "its thread has ended");
        let asked = async {
            self.calls.send(call(reply)).await.map_err(|_| ended())?;
            answer.await.unwrap_or_else(|_| Err(ended()))
        };
        let silent = |_| {
            let reason = format!("the disk has not answered for {DEADLINE:?}");
            Err(unavailable(&self.name, reason))
        };
        timeout(DEADLINE, asked).await.unwrap_or_else(silent)
    }

    async fn write(&self, mut write: Write) -> Result<Revision, StoreError> {
        check_key(&write.key)?;
        check_value(self, &write.key, write.value.as_deref().unwrap_or_default())?;
        // Here and not by the thread, which everybody waits for.
        write.value = write.value.map(packed::pack);
        self.ask(|reply| Call::Write(write, reply)).await
    }
}

#[async_trait]
impl Store for Embedded {
    fn name(&self) -> &str {
        &self.name
    }

    fn max_value(&self) -> usize {
        MAX_VALUE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        self.ask(|reply| Call::Get(key.to_owned(), reply)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_key(prefix)?;
        self.ask(|reply| Call::List(prefix.to_owned(), reply)).await
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.write(Write {
            key: key.to_owned(),
            value: Some(value),
            expected: None,
            session: 0,
        })
        .await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.write(Write {
            key: key.to_owned(),
            value: Some(value),
            expected: Some(expected),
            session: 0,
        })
        .await
    }

    async fn delete(&self, key: &str, at: Option<Revision>) -> Result<bool, StoreError> {
        let delete = Write {
            key: key.to_owned(),
            value: None,
            expected: at.map(Expected::At),
            session: 0,
        };
        Ok(self.write(delete).await? != 0)
    }

    async fn watch(&self, from: Listing) -> Result<Box<dyn Watch>, StoreError> {
        check_key(&from.prefix)?;
        let mut watch = Follower {
            store: self.clone(),
            known: Known::new(&from),
            prefix: from.prefix,
            changes: None,
            found: Vec::new(),
        };
        watch.catch_up().await?;
        Ok(Box::new(watch))
    }

    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError> {
        let id = self.ask(Call::StartSession).await?;
        Ok(Box::new(OwnSession {
            store: self.clone(),
            id,
            ttl,
            lost: CancellationToken::new(),
        }))
    }
}

/// A watch: changes as the thread sends them, and a listing where it fell behind.
struct Follower {
    store: Embedded,
    prefix: String,
    known: Known,
    changes: Option<mpsc::Receiver<Vec<Change>>>,
    /// Found and not told yet.
    found: Vec<Change>,
}

impl Follower {
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let prefix = self.prefix.clone();
        let (listing, changes) = self.store.ask(|reply| Call::Follow(prefix, reply)).await?;
        self.found.extend(self.known.advance_to(listing));
        self.changes = Some(changes);
        Ok(())
    }
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            if !self.found.is_empty() {
                return Ok(std::mem::take(&mut self.found));
            }
            let received = match &mut self.changes {
                Some(changes) => changes.recv().await,
                None => None,
            };
            match received {
                Some(changes) => {
                    for change in changes {
                        if self.known.note(&change) {
                            self.found.push(change);
                        }
                    }
                }
                // Too far behind, or the file was opened again.
                None => match self.catch_up().await {
                    Err(StoreError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
                    caught_up => caught_up?,
                },
            }
        }
    }
}

/// A session lives as long as this process, which is the only one that can see it.
struct OwnSession {
    store: Embedded,
    id: u64,
    ttl: Duration,
    lost: CancellationToken,
}

#[async_trait]
impl Session for OwnSession {
    fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    fn valid_until(&self) -> Instant {
        Instant::now() + self.ttl
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.store
            .write(Write {
                key: key.to_owned(),
                value: Some(value),
                expected: None,
                session: self.id,
            })
            .await
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.store
            .write(Write {
                key: key.to_owned(),
                value: Some(value),
                expected: Some(Expected::Absent),
                session: self.id,
            })
            .await
    }

    async fn end(self: Box<Self>) -> Result<(), StoreError> {
        let id = self.id;
        self.store
            .ask(|reply| Call::EndSession(id, reply))
            .await
            .map(drop)
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        let (reply, _) = oneshot::channel();
        // A full queue leaves the keys until the next start, as if the process had died.
        let _ = self.store.calls.try_send(Call::EndSession(self.id, reply));
    }
}

fn unavailable(store: &str, reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        store: store.to_owned(),
        reason: reason.into(),
    }
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let error = |reason: String, cause| OpenError {
        path: path.display().to_string(),
        reason,
        cause,
    };
    if let Some(directory) = path.parent().filter(|parent| !parent.exists()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(directory)
            .map_err(|cause| error(format!("cannot make its directory: {cause}"), Cause::Disk))?;
    }
    // What containers are started with is often secret.
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|cause| error(cause.to_string(), Cause::Disk))?;
    drop(file);
    Database::builder()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create(path)
        .map_err(|cause| match cause {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                error("another process has it open".to_owned(), Cause::Busy)
            }
            redb::DatabaseError::Storage(redb::StorageError::Io(io))
                if io.kind() == ErrorKind::InvalidData =>
            {
                error(
                    "it is no store of Skep, or damaged".to_owned(),
                    Cause::Damaged,
                )
            }
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(what)) => error(
                format!("it is damaged ({what}); move it away to start without memory"),
                Cause::Damaged,
            ),
            other => {
                let other = redb::Error::from(other);
                error(other.to_string(), cause_of(&other))
            }
        })
}

fn cause_of(error: &redb::Error) -> Cause {
    match error {
        redb::Error::Io(error)
            if !matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ) =>
        {
            Cause::Disk
        }
        _ => Cause::Damaged,
    }
}

#[cfg(test)]
mod tests;
