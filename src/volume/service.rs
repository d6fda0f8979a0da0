//! The calls of Docker's volume plugin protocol, for one driver.
//!
//! A volume is mounted by the driver while anybody has it mounted. The ledger knows who, and what
//! the driver is about to do is in it before the driver is asked:
//!
//! ```text
//! ledger               driver             the volume is
//! no record            -                  not mounted
//! nobody               mount, unmount     either: whoever comes next asks the driver again
//! holders              -                  mounted, and where
//! holders, of another  mount              mounted, by an agent that is gone: the driver says where
//! agent process                           when it is asked again, at start or by the next mount
//! ```
//!
//! So it does not matter where a crash, a deadline or a driver's failure comes between: what is not
//! known is never answered, a mountpoint is only told while the volume is mounted, and nothing stays
//! mounted for nobody. Creating and removing have no record. What there is, the driver knows; a
//! create whose answer was lost is not undone, as the volume may have been there before.
//!
//! # Who has a volume mounted
//!
//! An engine makes up an ID for each use of a volume by a container, and keeps it with the container
//! until it has unmounted as often as it has mounted: `docker cp` mounts what a running container
//! has mounted once more with the same ID. So mounts are counted by ID. An ID that is not known is
//! unmounted already.
//!
//! An engine that was killed forgets how often it mounted. Its containers are dead, or, with live
//! restore, go on; the next engine process mounts the volumes of those that it starts again, with
//! the ID it finds in the container. It never unmounts those of containers that died with the
//! old process, and newer engines neither those of containers that were restored. This is why each
//! holder carries the engine process that mounted it, known from its first call,
//! `Plugin.Activate`. To a later process,
//!
//! - mounting with an ID of an earlier one is the first mount of that ID, not one more,
//! - unmounting such an ID is the last,
//! - IDs of earlier ones keep a volume mounted while there may be a running container behind them:
//!   until the engine, when it is asked, knows of none ([`Service::sweep`]). They do not keep it from
//!   being removed: an engine removes no volume that a container of its own, running or not, refers
//!   to.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{
    Driver, DriverError, Info, Scope,
    engine::{self, Containers},
    ledger::{Ledger, LedgerError, Mounts},
    turns::Turns,
};

mod call;
mod sweep;

use self::call::{Call, mountpoint};

/// The longest name of a volume, in bytes: what a file system takes for a file's.
const MAX_NAME_BYTES: usize = 255;

/// The longest ID of a mount, in bytes. Engines use 64.
const MAX_ID_BYTES: usize = 256;

/// How much a driver may be asked at a time, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls that are under way at a time. Default: 64.
    pub concurrent_calls: usize,
    /// Calls that wait for that, or for another call for the same volume. Default: 1024.
    pub waiting_calls: usize,
    /// Longest that a call takes which changes something, from its arrival to its answer. Default:
    /// 115 s; engines give up after 120 s, and are to hear why.
    pub change_timeout: Duration,
    /// Longest that another call takes. Default: 28 s; engines give up after 30 s.
    pub query_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_calls: 64,
            waiting_calls: 1024,
            change_timeout: Duration::from_secs(115),
            query_timeout: Duration::from_secs(28),
        }
    }
}

/// A volume as an engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What its driver says.
    pub info: Info,
    /// Where it is, while it is mounted.
    pub mountpoint: Option<PathBuf>,
}

/// Why a call was not answered. Docker shows the text.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Docker would not ask for a volume of that name.
    #[error("`{0}` is no name of a volume: at most 255 letters, digits, `_`, `.` and `-`")]
    Name(String),
    /// A mount has no ID, or one that nobody makes up.
    #[error("a mount needs an ID of at most {MAX_ID_BYTES} bytes")]
    Id,
    /// Somebody has the volume mounted.
    #[error("volume is in use")]
    InUse,
    /// More calls wait than may.
    #[error("volume driver `{0}` has too many calls to answer, try again later")]
    Overloaded(String),
    /// Calls before this one took all its time; the driver was not asked.
    #[error("volume driver `{0}` is busy with other calls")]
    Busy(String),
    /// The driver did not answer, and may have done what it was asked for.
    #[error("volume driver `{driver}` did not answer within {}", humantime::format_duration(*.after))]
    TimedOut {
        /// The driver's name.
        driver: String,
        /// How long the call had, in all.
        after: Duration,
    },
    /// The driver refuses, fails, or broke.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// What is mounted could not be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The call broke; that is an error of ours or of the driver.
    #[error("the call ended before its answer")]
    Broken,
}

/// The calls for one driver. Clones are the same service.
///
/// # Cancel safety
///
/// A call that is dropped goes on, and is answered to nobody; [`Service::drain`] waits for it.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
    calls: TaskTracker,
}

struct Inner {
    driver: Arc<dyn Driver>,
    ledger: Ledger,
    limits: Limits,
    /// This process in the ledger.
    agent: String,
    /// The engine process that asks.
    engine: Mutex<String>,
    turns: Arc<Turns>,
    /// Places of calls that are under way.
    running: Semaphore,
    /// Places of those and of the ones that wait.
    admitted: Semaphore,
}

/// Until when a call has to be answered.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    fn after(after: Duration) -> Self {
        Self {
            at: Instant::now() + after,
            after,
        }
    }
}

impl Service {
    /// Makes the service of `driver`. Nothing is asked yet: see [`Service::reconcile`].
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if the ledger cannot be read.
    pub fn try_new(
        driver: Arc<dyn Driver>,
        ledger: Ledger,
        limits: Limits,
    ) -> Result<Self, LedgerError> {
        let inner = Inner {
            engine: Mutex::new(ledger.engine()?),
            agent: format!("{:016x}", rand::random::<u64>()),
            turns: Arc::default(),
            running: Semaphore::new(limits.concurrent_calls),
            admitted: Semaphore::new(limits.concurrent_calls + limits.waiting_calls),
            driver,
            ledger,
            limits,
        };
        Ok(Self {
            inner: Arc::new(inner),
            calls: TaskTracker::new(),
        })
    }

    /// The driver's name.
    pub fn name(&self) -> &str {
        self.inner.driver.name()
    }

    /// Where the driver's volumes are. Never waits.
    pub fn scope(&self) -> Scope {
        self.inner.driver.scope()
    }

    /// An engine begins to use the driver. `engine` tells its process from every other one, before
    /// it and after it; without one, it is taken for a new process.
    ///
    /// # Errors
    ///
    /// [`CallError`]
    pub async fn activate(&self, engine: Option<String>) -> Result<(), CallError> {
        let engine = engine.unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
        self.run(|inner| async move {
            if inner.engine() == engine {
                return Ok(());
            }
            inner.ledger.write_engine(&engine).await?;
            info!(
                driver = inner.driver.name(),
                engine, "a new engine process uses the driver"
            );
            *inner.engine.lock().unwrap_or_else(PoisonError::into_inner) = engine;
            Ok(())
        })
        .await
    }

    /// Makes a volume. One that is there with the same options is done.
    ///
    /// # Errors
    ///
    /// [`CallError`]
    pub async fn create(
        &self,
        name: &str,
        options: BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        self.change(name, |call| async move {
            call.ask(call.inner.driver.create(&call.name, &options))
                .await
        })
        .await
    }

    /// Removes a volume and what is in it. One that is not there is done.
    ///
    /// # Errors
    ///
    /// [`CallError::InUse`] if it is mounted, or another [`CallError`].
    pub async fn remove(&self, name: &str) -> Result<(), CallError> {
        self.change(name, |call| async move {
            if let Some(mounts) = call.mounts().await? {
                let engine = call.inner.engine();
                if mounts.holders.values().any(|one| one.engine == engine) {
                    return Err(CallError::InUse);
                }
                call.let_go().await?;
            }
            call.ask(call.inner.driver.remove(&call.name)).await
        })
        .await
    }

    /// Mounts a volume for whoever has the ID `id`, and returns where it is.
    ///
    /// # Errors
    ///
    /// [`CallError`]
    pub async fn mount(&self, name: &str, id: &str) -> Result<PathBuf, CallError> {
        let id = checked_id(id)?;
        let engine = self.inner.engine();
        self.change(name, |call| async move { call.mount(id, engine).await })
            .await
    }

    /// Ends one mount of `id`. One that is not there is done.
    ///
    /// # Errors
    ///
    /// [`CallError`]; if it comes from the driver, then nobody has the volume mounted all the same.
    pub async fn unmount(&self, name: &str, id: &str) -> Result<(), CallError> {
        let id = checked_id(id)?;
        let engine = self.inner.engine();
        self.change(name, |call| async move { call.unmount(&id, &engine).await })
            .await
    }

    /// Where a volume is, while it is mounted.
    ///
    /// # Errors
    ///
    /// [`CallError`], with [`DriverError::NotFound`] if there is no such volume.
    pub async fn path(&self, name: &str) -> Result<Option<PathBuf>, CallError> {
        Ok(self.get(name).await?.mountpoint)
    }

    /// What is known of a volume.
    ///
    /// # Errors
    ///
    /// [`CallError`], with [`DriverError::NotFound`] if there is no such volume.
    pub async fn get(&self, name: &str) -> Result<Volume, CallError> {
        let limit = self.inner.limits.query_timeout;
        self.one(name, limit, |call| async move {
            let info = call.ask(call.inner.driver.get(&call.name)).await?;
            let mountpoint = call.mounts().await?.and_then(mountpoint);
            Ok(Volume { info, mountpoint })
        })
        .await
    }

    /// All volumes.
    ///
    /// # Errors
    ///
    /// [`CallError`]
    pub async fn list(&self) -> Result<Vec<Volume>, CallError> {
        let deadline = Deadline::after(self.inner.limits.query_timeout);
        self.run(move |inner| async move {
            let _admitted = inner.admit()?;
            let _running = inner.wait(deadline, inner.running.acquire()).await?;
            let infos = inner.ask(deadline, inner.driver.list()).await?;
            let mut mounts = inner.ledger.all().await?;
            let volume = |info: Info| Volume {
                mountpoint: mounts.remove(&info.name).and_then(mountpoint),
                info,
            };
            Ok(infos.into_iter().map(volume).collect())
        })
        .await
    }

    /// Makes what an earlier process of the agent left agree with the ledger again: the driver is
    /// asked to mount what somebody has mounted, and to unmount the rest. What fails is logged, and
    /// is tried again by the next call for that volume.
    pub async fn reconcile(&self) {
        let left = match self.inner.ledger.all().await {
            Ok(left) => left,
            Err(error) => {
                warn!(driver = self.name(), %error, "cannot tell what is mounted");
                return;
            }
        };
        // Half of the places are left to the engine.
        let at_a_time = self.inner.limits.concurrent_calls.div_ceil(2);
        stream::iter(left.into_keys())
            .for_each_concurrent(at_a_time, |name| async move {
                let reconciled = self.change(&name, |call| async move { call.reconcile().await });
                if let Err(error) = reconciled.await {
                    warn!(
                        driver = self.name(), volume = name, %error,
                        "what is mounted cannot be made what it should be, left to the next call"
                    );
                }
            })
            .await;
    }

    /// Waits until no call is under way. Every one ends by its deadline.
    pub async fn drain(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Makes a call for one volume that changes something.
    async fn change<T, F>(
        &self,
        name: &str,
        action: impl FnOnce(Call) -> F + Send + 'static,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send,
    {
        self.one(name, self.inner.limits.change_timeout, action)
            .await
    }

    /// Makes a call for one volume, when it is its turn.
    async fn one<T, F>(
        &self,
        name: &str,
        limit: Duration,
        action: impl FnOnce(Call) -> F + Send + 'static,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send,
    {
        let name = checked_name(name)?;
        let deadline = Deadline::after(limit);
        self.run(move |inner| async move {
            let _admitted = inner.admit()?;
            // The turn first: those that wait for one volume must not be in the way of others.
            let turn = inner.wait(deadline, async { Ok(inner.turns.take(&name).await) });
            let turn = turn.await?;
            let _running = inner.wait(deadline, inner.running.acquire()).await?;
            action(Call::new(Arc::clone(&inner), name, deadline, turn)).await
        })
        .await
    }

    /// Does something that goes on when its caller is gone.
    async fn run<T, F>(&self, action: impl FnOnce(Arc<Inner>) -> F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let call = self.calls.spawn(action(Arc::clone(&self.inner)));
        call.await.unwrap_or(Err(CallError::Broken))
    }
}

impl Inner {
    fn engine(&self) -> String {
        let engine = self.engine.lock();
        engine.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a volume is or may be mounted for no container, with these mounts in the ledger.
    async fn is_unused(
        &self,
        name: &str,
        mounts: &Mounts,
        containers: &dyn Containers,
    ) -> Result<bool, String> {
        if mounts.holders.is_empty() {
            return Ok(true);
        }
        let now = self.engine();
        let is_held = mounts.holders.values().any(|holder| holder.engine == now);
        if is_held && !engine::is_gone(&now) {
            return Ok(false);
        }
        Ok(!containers.use_volume(name).await?)
    }

    fn admit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CallError> {
        self.admitted.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => CallError::Overloaded(self.driver.name().to_owned()),
            TryAcquireError::Closed => CallError::Broken,
        })
    }

    /// Waits for something that other calls have.
    async fn wait<T>(
        &self,
        deadline: Deadline,
        free: impl Future<Output = Result<T, tokio::sync::AcquireError>>,
    ) -> Result<T, CallError> {
        match timeout_at(deadline.at, free).await {
            Ok(taken) => taken.map_err(|_| CallError::Broken),
            Err(_) => Err(CallError::Busy(self.driver.name().to_owned())),
        }
    }

    /// Waits for the driver.
    async fn ask<T>(
        &self,
        deadline: Deadline,
        answer: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, CallError> {
        match timeout_at(deadline.at, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CallError::TimedOut {
                driver: self.driver.name().to_owned(),
                after: deadline.after,
            }),
        }
    }
}

/// Whether Docker takes `name` for a volume or a driver: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn checked_name(name: &str) -> Result<String, CallError> {
    if is_name(name) {
        Ok(name.to_owned())
    } else {
        Err(CallError::Name(name.chars().take(64).collect()))
    }
}

fn checked_id(id: &str) -> Result<String, CallError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(CallError::Id);
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests;
