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
    collections::{BTreeSet, HashMap},
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Change, Entry, Expected, Known, Listing, Revision, Session, Store, StoreError, Watch,
    check_key, check_value, is_below,
};

/// Keys with revision, session (0 for none), and value.
const ENTRIES: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("entries");

/// The revision of the last change, under [`REVISION`].
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";

/// The largest value, in bytes. Consul takes half of this, and etcd a little more.
const MAX_VALUE: usize = 1 << 20;

/// Longest time for one call: a disk may hang.
const DEADLINE: Duration = Duration::from_secs(10);

/// How many calls may wait; more callers wait before that.
const QUEUE: usize = 4096;

/// How many calls are answered with one flush.
const BATCH: usize = 1024;

/// Wait before a watch tries again a file that cannot be read.
const PAUSE: Duration = Duration::from_secs(1);

/// How many batches of changes a watch may be behind before it has to look for itself.
const WATCH_QUEUE: usize = 256;

/// Memory for pages of the file, in bytes.
const CACHE: usize = 16 << 20;

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
    /// `None` deletes.
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
        let mut desk = Desk {
            path: path.to_owned(),
            name: Arc::clone(&name),
            database: Some(database),
            revision: 0,
            next_session: 1,
            sessions: HashMap::new(),
            watchers: Vec::new(),
        };
        desk.recover().map_err(|error| OpenError {
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

    async fn write(&self, write: Write) -> Result<Revision, StoreError> {
        check_key(&write.key)?;
        check_value(self, &write.key, write.value.as_deref().unwrap_or_default())?;
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

/// The revision of the last change that is in the file.
fn last_revision(database: &Database) -> Result<Revision, redb::Error> {
    let counters = database.begin_read()?.open_table(COUNTERS)?;
    Ok(counters.get(REVISION)?.map_or(0, |value| value.value()))
}

/// What the thread owns.
struct Desk {
    path: PathBuf,
    name: Arc<str>,
    /// `None` after a failure of the disk, until the file can be opened again.
    database: Option<Database>,
    /// Of the last committed change.
    revision: Revision,
    next_session: u64,
    /// Sessions of this process with their keys.
    sessions: HashMap<u64, BTreeSet<String>>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    changes: mpsc::Sender<Vec<Change>>,
}

type Entries<'a> = redb::Table<'a, &'static str, (u64, u64, &'static [u8])>;

/// What one batch changes besides the file; takes effect once that is committed.
#[derive(Default)]
struct Batch {
    revision: Revision,
    changes: Vec<Change>,
    /// Keys that sessions gained (`true`) and lost, in order.
    keys: Vec<(u64, String, bool)>,
    /// Sessions that end.
    ended: Vec<u64>,
    replies: Vec<(Reply<Revision>, Result<Revision, StoreError>)>,
}

impl Desk {
    fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while calls.blocking_recv_many(&mut waiting, BATCH) > 0 {
            let mut writes = Vec::new();
            for call in waiting.drain(..) {
                // Reads see every write that was acknowledged before them; the others do not
                // cost a flush each for their sake. Nobody waits for the end of a session that
                // was dropped.
                let is_read = matches!(call, Call::Get(..) | Call::List(..) | Call::Follow(..));
                let has_end = || {
                    writes
                        .iter()
                        .any(|call| matches!(call, Call::EndSession(..)))
                };
                if is_read && has_end() {
                    self.write(std::mem::take(&mut writes));
                }
                match call {
                    Call::Get(key, reply) => {
                        let _ = reply.send(self.get(&key));
                    }
                    Call::List(prefix, reply) => {
                        let _ = reply.send(self.list(&prefix));
                    }
                    Call::Follow(prefix, reply) => self.follow(prefix, reply),
                    Call::StartSession(reply) => {
                        let id = self.next_session;
                        self.next_session += 1;
                        self.sessions.insert(id, BTreeSet::new());
                        let _ = reply.send(Ok(id));
                    }
                    write => writes.push(write),
                }
            }
            self.write(writes);
        }
    }

    /// Reads the counter and forgets keys of sessions that ended with an earlier process.
    fn recover(&mut self) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Ok(());
        };
        let transaction = database.begin_write()?;
        {
            let counters = transaction.open_table(COUNTERS)?;
            let mut revision = counters.get(REVISION)?.map_or(0, |value| value.value());
            drop(counters);
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut orphans = 0;
            entries.retain(|_, (_, session, _)| {
                orphans += u64::from(session != 0);
                session == 0
            })?;
            revision += orphans;
            let mut counters = transaction.open_table(COUNTERS)?;
            counters.insert(REVISION, revision)?;
            self.revision = revision;
        }
        transaction.commit()?;
        Ok(())
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        Ok(self.database.insert(database))
    }

    /// Opens the file again after a failure. Whether the changes that failed are in it, nobody
    /// knows: revisions go on from what is there, and whoever watches has to look for itself.
    fn reopen(&mut self) -> Result<Database, StoreError> {
        let database = open(&self.path).map_err(|error| unavailable(&self.name, error.reason))?;
        let found =
            last_revision(&database).map_err(|error| unavailable(&self.name, error.to_string()))?;
        self.revision = self.revision.max(found);
        self.watchers.clear();
        Ok(database)
    }

    /// After a failed write redb refuses everything until the file is opened again.
    fn failed(&mut self, error: impl Into<redb::Error>) -> StoreError {
        let error = error.into();
        warn!(store = &*self.name, %error, "store failed");
        self.database = None;
        unavailable(&self.name, error.to_string())
    }

    fn get(&mut self, key: &str) -> Result<Option<Entry>, StoreError> {
        let read = |database: &Database| -> Result<_, redb::Error> {
            let entries = database.begin_read()?.open_table(ENTRIES)?;
            let found = entries.get(key)?;
            Ok(found.map(|found| entry(key, found.value())))
        };
        read(self.database()?).map_err(|error| self.failed(error))
    }

    fn list(&mut self, prefix: &str) -> Result<Listing, StoreError> {
        let read = |database: &Database| -> Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(ENTRIES)?;
            let mut entries = Vec::new();
            // `0` comes after `/`.
            let (first, end) = (format!("{prefix}/"), format!("{prefix}0"));
            for found in table.range(first.as_str()..end.as_str())? {
                let (key, value) = found?;
                entries.push(entry(key.value(), value.value()));
            }
            Ok(entries)
        };
        let entries = read(self.database()?).map_err(|error| self.failed(error))?;
        Ok(Listing {
            prefix: prefix.to_owned(),
            entries,
            revision: self.revision,
        })
    }

    fn follow(&mut self, prefix: String, reply: Reply<(Listing, mpsc::Receiver<Vec<Change>>)>) {
        let answer = self.list(&prefix).map(|listing| {
            let (changes, received) = mpsc::channel(WATCH_QUEUE);
            self.watchers.push(Watcher { prefix, changes });
            (listing, received)
        });
        let _ = reply.send(answer);
    }

    /// Makes changes in one transaction, then tells watchers and whoever asked, in this order.
    fn write(&mut self, calls: Vec<Call>) {
        if calls.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        let committed = self.commit(calls, &mut batch);
        match &committed {
            Ok(()) => {
                self.revision = batch.revision;
                for (session, key, gained) in batch.keys {
                    let keys = self.sessions.entry(session).or_default();
                    if gained {
                        keys.insert(key);
                    } else {
                        keys.remove(&key);
                    }
                }
                for session in batch.ended {
                    self.sessions.remove(&session);
                }
                self.tell(&batch.changes);
            }
            Err(error) => {
                for (_, outcome) in &mut batch.replies {
                    *outcome = Err(error.clone());
                }
            }
        }
        for (reply, outcome) in batch.replies {
            let _ = reply.send(outcome);
        }
    }

    fn commit(&mut self, calls: Vec<Call>, batch: &mut Batch) -> Result<(), StoreError> {
        let name = Arc::clone(&self.name);
        let mut calls = calls.into_iter();
        let begun = self.database().and_then(|database| {
            database
                .begin_write()
                .map_err(|error| unavailable(&name, error.to_string()))
        });
        let transaction = match begun {
            Ok(transaction) => transaction,
            Err(error) => {
                self.database = None;
                batch.refuse(calls, &error);
                return Err(error);
            }
        };
        // The file may just have been opened again.
        batch.revision = self.revision;
        let done = (|| -> Result<(), redb::Error> {
            {
                let mut entries = transaction.open_table(ENTRIES)?;
                for call in calls.by_ref() {
                    match call {
                        Call::Write(write, reply) => {
                            let outcome = self.apply(&mut entries, write, batch);
                            batch.settle(reply, outcome)?;
                        }
                        Call::EndSession(session, reply) => {
                            let outcome = self.end_session(&mut entries, session, batch);
                            batch.settle(reply, outcome.map(Ok))?;
                        }
                        _ => {}
                    }
                }
                let mut counters = transaction.open_table(COUNTERS)?;
                counters.insert(REVISION, batch.revision)?;
            }
            transaction.commit()?;
            Ok(())
        })();
        done.map_err(|error| {
            let error = self.failed(error);
            // Those after the one at which the disk failed hear of it too.
            batch.refuse(calls, &error);
            error
        })
    }

    /// Makes one change; 0 if there was nothing to delete.
    fn apply(
        &self,
        entries: &mut Entries<'_>,
        write: Write,
        batch: &mut Batch,
    ) -> Result<Result<Revision, StoreError>, redb::Error> {
        let Write {
            key,
            value,
            expected,
            session,
        } = write;
        let has_ended = !self.sessions.contains_key(&session) || batch.ended.contains(&session);
        if session != 0 && has_ended {
            return Ok(Err(StoreError::SessionEnded {
                store: self.name.to_string(),
            }));
        }
        let before = entries.get(key.as_str())?.map(|found| {
            let (revision, session, _) = found.value();
            (revision, session)
        });
        let matches = match (expected, before) {
            (None, _) | (Some(Expected::Absent), None) => true,
            (Some(Expected::At(at)), Some((revision, _))) => at == revision,
            (Some(Expected::Absent), Some(_)) => false,
            // Deleting what is gone is no conflict.
            (Some(Expected::At(_)), None) => value.is_none(),
        };
        if !matches {
            return Ok(Err(StoreError::Conflict { key }));
        }
        if value.is_none() && before.is_none() {
            return Ok(Ok(0));
        }
        batch.revision += 1;
        if let Some((_, owner)) = before.filter(|(_, owner)| *owner != 0) {
            batch.keys.push((owner, key.clone(), false));
        }
        match value {
            Some(value) => {
                entries.insert(key.as_str(), (batch.revision, session, &*value))?;
                if session != 0 {
                    batch.keys.push((session, key.clone(), true));
                }
                batch.changes.push(Change::Put(Entry {
                    key,
                    value,
                    revision: batch.revision,
                }));
            }
            None => {
                entries.remove(key.as_str())?;
                batch.changes.push(Change::Deleted(key));
            }
        }
        Ok(Ok(batch.revision))
    }

    fn end_session(
        &self,
        entries: &mut Entries<'_>,
        session: u64,
        batch: &mut Batch,
    ) -> Result<Revision, redb::Error> {
        let mut keys = self.sessions.get(&session).cloned().unwrap_or_default();
        for (_, key, gained) in batch.keys.iter().filter(|(owner, ..)| *owner == session) {
            if *gained {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        batch.ended.push(session);
        for key in keys {
            batch.revision += 1;
            entries.remove(key.as_str())?;
            batch.changes.push(Change::Deleted(key));
        }
        Ok(batch.revision)
    }

    fn tell(&mut self, changes: &[Change]) {
        self.watchers.retain(|watcher| {
            let own: Vec<Change> = changes
                .iter()
                .filter(|change| {
                    let (Change::Put(Entry { key, .. }) | Change::Deleted(key)) = change;
                    is_below(key, &watcher.prefix)
                })
                .cloned()
                .collect();
            // One that is full is dropped: its owner sees the end, and lists again.
            !watcher.changes.is_closed()
                && (own.is_empty() || watcher.changes.try_send(own).is_ok())
        });
    }
}

impl Batch {
    /// Notes an outcome, to be told after the commit; an error of the file ends the batch.
    fn settle(
        &mut self,
        reply: Reply<Revision>,
        outcome: Result<Result<Revision, StoreError>, redb::Error>,
    ) -> Result<(), redb::Error> {
        match outcome {
            Ok(outcome) => {
                self.replies.push((reply, outcome));
                Ok(())
            }
            Err(error) => {
                self.replies.push((reply, Ok(0)));
                Err(error)
            }
        }
    }

    fn refuse(&mut self, calls: impl Iterator<Item = Call>, error: &StoreError) {
        for call in calls {
            if let Call::Write(_, reply) | Call::EndSession(_, reply) = call {
                self.replies.push((reply, Err(error.clone())));
            }
        }
    }
}

fn entry(key: &str, (revision, _, value): (u64, u64, &[u8])) -> Entry {
    Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        revision,
    }
}

#[cfg(test)]
mod tests;
