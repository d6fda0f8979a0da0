//! The one thread that has the file.
//!
//! It takes the calls that wait together, commits their changes at once, and tells watchers and
//! callers after that.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Call, Reply, Write, open, packed::unpack, unavailable};
use crate::store::{Change, Entry, Expected, Listing, Revision, StoreError, is_below};

/// Keys with revision, session (0 for none), and value.
const ENTRIES: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("entries");

/// The revision of the last change, under [`REVISION`].
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";

/// How many calls are answered with one flush.
const BATCH: usize = 1024;

/// How many batches of changes a watch may be behind before it has to look for itself.
pub(super) const WATCH_QUEUE: usize = 256;

/// What the thread owns.
pub(super) struct Desk {
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
    /// With values as the file has them.
    changes: Vec<Change>,
    /// Keys that sessions gained (`true`) and lost, in order.
    keys: Vec<(u64, String, bool)>,
    /// Sessions that end.
    ended: Vec<u64>,
    replies: Vec<(Reply<Revision>, Result<Revision, StoreError>)>,
}

impl Desk {
    /// Takes the file: reads the counter and forgets keys of sessions that ended with an earlier
    /// process.
    pub(super) fn recovered(
        path: &Path,
        name: &Arc<str>,
        database: Database,
    ) -> Result<Self, redb::Error> {
        let transaction = database.begin_write()?;
        let revision = {
            let counters = transaction.open_table(COUNTERS)?;
            let revision = counters.get(REVISION)?.map_or(0, |value| value.value());
            drop(counters);
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut orphans = 0;
            entries.retain(|_, (_, session, _)| {
                orphans += u64::from(session != 0);
                session == 0
            })?;
            let mut counters = transaction.open_table(COUNTERS)?;
            counters.insert(REVISION, revision + orphans)?;
            revision + orphans
        };
        transaction.commit()?;
        Ok(Self {
            path: path.to_owned(),
            name: Arc::clone(name),
            database: Some(database),
            revision,
            next_session: 1,
            sessions: HashMap::new(),
            watchers: Vec::new(),
        })
    }

    pub(super) fn run(mut self, mut calls: mpsc::Receiver<Call>) {
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
                .map(told)
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

/// A change as those who watch hear of it.
fn told(change: &Change) -> Change {
    match change {
        Change::Put(entry) => Change::Put(Entry {
            value: unpack(&entry.value),
            ..entry.clone()
        }),
        Change::Deleted(key) => Change::Deleted(key.clone()),
    }
}

fn entry(key: &str, (revision, _, value): (u64, u64, &[u8])) -> Entry {
    Entry {
        key: key.to_owned(),
        value: unpack(value),
        revision,
    }
}

/// The revision of the last change that is in the file.
fn last_revision(database: &Database) -> Result<Revision, redb::Error> {
    let counters = database.begin_read()?.open_table(COUNTERS)?;
    Ok(counters.get(REVISION)?.map_or(0, |value| value.value()))
}
