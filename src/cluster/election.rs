//! Which of several managers leads: one lock in the store, held by a session.
//!
//! All managers follow the key `docker/swarm/leader`, whose value is the address of the one that
//! holds it, as classic Swarm and tools around it have it. A manager that finds the key gone tries
//! to make it. The revision of what it made is its fencing token: greater than that of every
//! leader before.
//!
//! A leader is one only as long as its session lasts for sure, which it asks its clock and not a
//! task: a process that was stopped for longer than the session lasts is no leader from its first
//! instruction on. [`Leadership::may_change`] says so, and every request that changes an engine
//! asks it at the moment its first byte is written (see `engine::transport`). What the kernel took
//! before the process was stopped is on its way, and cannot be called back.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::store::{Change, Session, Store, StoreError, Watch};

/// The last segments of the lock's key.
const DIRECTORY: &str = "docker/swarm";
const LEADER: &str = "leader";

/// The pause after the store failed.
const RETRY: Duration = Duration::from_millis(500);

/// How long a manager that is asked to end goes on leading, so that creates under way can end.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How an election is held.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where other managers reach this one, `host:port`.
    pub advertise: String,
    /// How long a leader leads that is not heard of.
    pub ttl: Duration,
}

/// What this manager is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Primary,
    /// Another one leads, at this address; `None` if nobody is known to.
    Replica(Option<String>),
}

/// A time in office of this manager: each one that it wins has a greater number than the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(u64);

/// Whether this manager leads. Clones share it.
#[derive(Clone)]
pub struct Leadership {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` for a manager that is alone.
    options: Option<Options>,
    role: watch::Sender<Role>,
    office: Mutex<Office>,
}

/// What a manager leads by.
#[derive(Default)]
struct Office {
    /// What the lock is held by, while it is.
    session: Option<Box<dyn Session>>,
    /// How many terms were won.
    terms: u64,
}

/// Why a term ended.
enum End {
    Shutdown,
    Lost(&'static str),
}

impl Leadership {
    /// That of a manager that is alone, for ever.
    pub fn alone() -> Self {
        Self::new(None, Role::Primary)
    }

    /// One that is to be had by [`Leadership::run`].
    pub fn contested(options: Options) -> Self {
        Self::new(Some(options), Role::Replica(None))
    }

    fn new(options: Option<Options>, role: Role) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                role: watch::Sender::new(role),
                office: Mutex::default(),
            }),
        }
    }

    /// What this manager is.
    pub fn role(&self) -> Role {
        self.inner.role.borrow().clone()
    }

    /// A receiver that tells of every change of the role.
    pub fn watch(&self) -> watch::Receiver<Role> {
        self.inner.role.subscribe()
    }

    /// Whether this manager leads, as far as it was told.
    pub fn is_primary(&self) -> bool {
        *self.inner.role.borrow() == Role::Primary
    }

    /// Where other managers and agents reach this one; `None` for a manager that is alone.
    pub fn advertise(&self) -> Option<&str> {
        let options = self.inner.options.as_ref()?;
        Some(&options.advertise)
    }

    /// How long a leader leads that is not heard of; zero for a manager that is alone.
    pub fn ttl(&self) -> Duration {
        let options = self.inner.options.as_ref();
        options.map_or(Duration::ZERO, |options| options.ttl)
    }

    /// Whether other managers may lead in this one's place.
    pub fn is_contested(&self) -> bool {
        self.inner.options.is_some()
    }

    /// Whether this manager leads for sure at this moment, and may thus change engines.
    pub fn may_change(&self) -> bool {
        if self.inner.options.is_none() {
            return true;
        }
        self.office().is_held()
    }

    /// The term that this manager is in, as far as it was told; `None` if it does not lead. That
    /// of a manager that is alone never ends.
    pub fn term(&self) -> Option<Term> {
        let office = self.office();
        (self.inner.options.is_none() || office.session.is_some()).then_some(Term(office.terms))
    }

    /// Whether this manager leads for sure at this moment, and never ceased to since it was told
    /// of `term`.
    pub fn is_current(&self, term: Term) -> bool {
        if self.inner.options.is_none() {
            return true;
        }
        let office = self.office();
        office.is_held() && Term(office.terms) == term
    }

    /// Waits until a term is over, as far as this manager is told.
    pub async fn over(&self, term: Term) {
        let mut roles = self.watch();
        while self.term() == Some(term) {
            // The sender is ours.
            let _ = roles.changed().await;
        }
    }

    /// Stands for election until `shutdown`, and resigns then. Keys are below `prefix`, which may
    /// be empty.
    pub async fn run(self, store: Arc<dyn Store>, prefix: String, shutdown: CancellationToken) {
        let Some(options) = self.inner.options.clone() else {
            return;
        };
        let directory = match prefix.as_str() {
            "" => DIRECTORY.to_owned(),
            prefix => format!("{prefix}/{DIRECTORY}"),
        };
        let candidate = Candidate {
            leadership: self,
            store,
            key: format!("{directory}/{LEADER}"),
            directory,
            options,
            shutdown,
        };
        candidate.run().await;
    }

    fn office(&self) -> MutexGuard<'_, Office> {
        let office = self.inner.office.lock();
        office.unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, role: Role) {
        let before = self.inner.role.send_replace(role.clone());
        if before == role {
            return;
        }
        match (&before, &role) {
            (_, Role::Primary) => info!("Leader Election: Cluster leadership acquired"),
            (Role::Primary, _) => warn!("Leader Election: Cluster leadership lost"),
            _ => {}
        }
        if let Role::Replica(Some(primary)) = &role {
            info!("New leader elected: {primary}");
        }
    }
}

impl Office {
    fn is_held(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| Instant::now() < session.valid_until())
    }

    fn enter(&mut self, session: Box<dyn Session>) {
        self.session = Some(session);
        self.terms += 1;
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leadership").field(&self.role()).finish()
    }
}

/// A manager that stands for election.
struct Candidate {
    leadership: Leadership,
    store: Arc<dyn Store>,
    directory: String,
    key: String,
    options: Options,
    shutdown: CancellationToken,
}

impl Candidate {
    async fn run(self) {
        while !self.shutdown.is_cancelled() {
            let mut session = None;
            let ended = self.stand(&mut session).await;
            let held = self.leadership.office().session.take();
            // Whoever was known to lead leads on, as far as anybody knows.
            if self.leadership.is_primary() {
                self.leadership.set(Role::Replica(None));
            }
            if let Some(session) = session.or(held) {
                // What cannot be ended ends by itself.
                let _ = timeout(self.options.ttl, session.end()).await;
            }
            match ended {
                Ok(End::Shutdown) => return,
                Ok(End::Lost(reason)) => warn!(reason, "standing for election again"),
                Err(error) => {
                    error!(%error, "Leader Election: trying again");
                    tokio::select! {
                        () = self.shutdown.cancelled() => {}
                        () = sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// Follows the key and takes it when it is free. The session is left in `own` unless it holds
    /// the lock.
    async fn stand(&self, own: &mut Option<Box<dyn Session>>) -> Result<End, StoreError> {
        let listing = self.store.list(&self.directory).await?;
        let leader = listing.entries.iter().find(|entry| entry.key == self.key);
        let mut leader = leader.map(|entry| text(&entry.value));
        let mut watch = self.store.watch(listing).await?;
        let lost = {
            let session = self.store.session(self.options.ttl).await?;
            let lost = session.lost();
            *own = Some(session);
            lost
        };
        loop {
            match (&leader, own.take()) {
                (None, Some(session)) => {
                    let value = Bytes::from(self.options.advertise.clone());
                    match session.create(&self.key, value).await {
                        Ok(token) => {
                            info!(token, "holding the lock");
                            return self.lead(session, lost, &mut *watch, token).await;
                        }
                        Err(StoreError::Conflict { .. }) => {
                            *own = Some(session);
                            let found = self.store.get(&self.key).await?;
                            leader = found.map(|entry| text(&entry.value));
                            continue;
                        }
                        Err(error) => {
                            *own = Some(session);
                            return Err(error);
                        }
                    }
                }
                (_, session) => *own = session,
            }
            // An earlier life of this manager may still hold the lock.
            let primary = leader
                .clone()
                .filter(|addr| *addr != self.options.advertise);
            self.leadership.set(Role::Replica(primary));
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(End::Shutdown),
                () = lost.cancelled() => return Ok(End::Lost("the session with the store is over")),
                changes = watch.next() => {
                    for change in changes? {
                        match change {
                            Change::Put(entry) if entry.key == self.key => {
                                leader = Some(text(&entry.value));
                            }
                            Change::Deleted(key) if key == self.key => leader = None,
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    /// Leads until the lock is lost, or until shutdown.
    async fn lead(
        &self,
        session: Box<dyn Session>,
        lost: CancellationToken,
        watch: &mut dyn Watch,
        token: u64,
    ) -> Result<End, StoreError> {
        self.leadership.office().enter(session);
        self.leadership.set(Role::Primary);
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => {
                    sleep(LAST_WORDS).await;
                    return Ok(End::Shutdown);
                }
                () = lost.cancelled() => {
                    return Ok(End::Lost("the session with the store is over"));
                }
                changes = watch.next() => {
                    let is_taken = changes?.iter().any(|change| match change {
                        Change::Put(entry) => entry.key == self.key && entry.revision != token,
                        Change::Deleted(key) => *key == self.key,
                    });
                    if is_taken {
                        return Ok(End::Lost("somebody else changed the lock"));
                    }
                }
            }
        }
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::embedded::Embedded;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Cluster {
        store: Arc<dyn Store>,
        _directory: TempDir,
    }

    struct Manager {
        leadership: Leadership,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Cluster {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Embedded::open(&directory.path().join("store")).unwrap();
            Self {
                store: Arc::new(store),
                _directory: directory,
            }
        }

        fn manager(&self, advertise: &str) -> Manager {
            let leadership = Leadership::contested(Options {
                advertise: advertise.to_owned(),
                ttl: Duration::from_secs(5),
            });
            let shutdown = CancellationToken::new();
            let run =
                leadership
                    .clone()
                    .run(Arc::clone(&self.store), "x".to_owned(), shutdown.clone());
            Manager {
                leadership,
                shutdown,
                task: tokio::spawn(run),
            }
        }
    }

    impl Manager {
        async fn await_role(&self, role: Role) {
            let mut roles = self.leadership.watch();
            let found = timeout(PATIENCE, roles.wait_for(|now| *now == role)).await;
            assert!(found.is_ok(), "it is {:?}", self.leadership.role());
        }
    }

    #[tokio::test]
    async fn one_leads_and_another_follows_when_it_ends() {
        let cluster = Cluster::start();
        let first = cluster.manager("a:1");
        first.await_role(Role::Primary).await;
        assert!(first.leadership.may_change());
        let second = cluster.manager("b:1");
        second.await_role(Role::Replica(Some("a:1".into()))).await;
        assert!(!second.leadership.may_change());
        let entry = cluster.store.get("x/docker/swarm/leader").await.unwrap();
        assert_eq!(entry.unwrap().value, "a:1");
        first.shutdown.cancel();
        second.await_role(Role::Primary).await;
        first.task.await.unwrap();
        assert!(!first.leadership.may_change());
        assert_eq!(first.leadership.term(), None);
        assert!(second.leadership.may_change());
    }

    #[tokio::test]
    async fn a_lock_that_somebody_deletes_is_held_once() {
        let cluster = Cluster::start();
        let first = cluster.manager("a:1");
        first.await_role(Role::Primary).await;
        let second = cluster.manager("b:1");
        second.await_role(Role::Replica(Some("a:1".into()))).await;
        let store = &cluster.store;
        store
            .put("x/docker/swarm/leader", "c:1".into())
            .await
            .unwrap();
        let foreign = Role::Replica(Some("c:1".into()));
        first.await_role(foreign.clone()).await;
        second.await_role(foreign).await;
        assert!(!first.leadership.may_change());
        store.delete("x/docker/swarm/leader", None).await.unwrap();
        let (one, other) = (&first.leadership, &second.leadership);
        timeout(PATIENCE, async {
            while one.is_primary() == other.is_primary() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn the_lock_of_an_earlier_life_is_no_primary() {
        let cluster = Cluster::start();
        let store = &cluster.store;
        store
            .put("x/docker/swarm/leader", "a:1".into())
            .await
            .unwrap();
        let manager = cluster.manager("a:1");
        manager.await_role(Role::Replica(None)).await;
        store.delete("x/docker/swarm/leader", None).await.unwrap();
        manager.await_role(Role::Primary).await;
    }

    #[tokio::test]
    async fn a_term_that_was_lost_does_not_come_back_with_the_office() {
        let cluster = Cluster::start();
        let manager = cluster.manager("a:1");
        manager.await_role(Role::Primary).await;
        let leadership = &manager.leadership;
        let first = leadership.term().unwrap();
        assert!(leadership.is_current(first));
        let store = &cluster.store;
        store
            .put("x/docker/swarm/leader", "c:1".into())
            .await
            .unwrap();
        timeout(PATIENCE, leadership.over(first)).await.unwrap();
        store.delete("x/docker/swarm/leader", None).await.unwrap();
        manager.await_role(Role::Primary).await;
        assert!(!leadership.is_current(first));
        let second = leadership.term().unwrap();
        assert!(second > first && leadership.is_current(second));
    }
}
