//! What others knew of an engine, as long as it cannot be asked itself.
//!
//! An engine is to be recalled when it is found, and again when this manager takes over: whoever
//! led before may have seen it later. The records are read while the engine is tried, and again
//! and again until that succeeds; until then the engine counts as unheard, and names that are taken
//! there may not be known. An engine that answers knows best, and nothing is recalled of it.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};
use tracing::debug;

use super::{Monitor, MonitorError, Unheard, lock};
use crate::{engine::inventory::Inventory, model::address::EngineAddr};

/// Wait before records that could not be read are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What an earlier process knew of engines.
#[async_trait]
pub trait Recall: Send + Sync {
    /// An engine as last seen, at the moment of `updated_at`; `None` if it never was.
    ///
    /// # Errors
    ///
    /// Nobody can tell at the moment.
    async fn recall(&self, addr: &EngineAddr) -> Result<Option<Inventory>, String>;
}

/// Where it is asked for what others knew of one engine. Never full: who asks twice gets one
/// answer, that is younger than both questions.
pub(super) struct Slot {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Default)]
struct State {
    /// How often it was asked for, and how many of these questions have an answer.
    asked: u64,
    answered: u64,
    /// Whether the engine answers.
    is_followed: bool,
    failed_at: Option<Instant>,
    /// There until the answer is public.
    unheard: Option<Unheard>,
}

/// Reads what is asked for. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recalls {
    /// `None` if nothing outlives a process.
    source: Option<Arc<dyn Recall>>,
    slot: Arc<Slot>,
}

impl Slot {
    /// One for an engine of which nothing is known yet.
    pub fn new(unheard: Unheard) -> Self {
        let state = State {
            asked: 1,
            unheard: Some(unheard),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            asked: Notify::new(),
        }
    }

    /// Asks again. An engine that answers does not become unheard by that.
    pub fn ask(&self, unheard: impl FnOnce() -> Unheard) {
        let mut state = self.state();
        state.asked += 1;
        if !state.is_followed {
            state.unheard.get_or_insert_with(unheard);
        }
        self.asked.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Recalls {
    pub fn new(source: Option<Arc<dyn Recall>>, slot: Arc<Slot>) -> Self {
        if source.is_none() {
            let mut state = slot.state();
            state.answered = state.asked;
        }
        Self { source, slot }
    }

    /// Waits until it is asked for what others knew, and until that is read: the engine as last
    /// seen, or `None` if it never was.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped loses nothing; records are read once more.
    pub async fn next(&self, addr: &EngineAddr) -> Option<Inventory> {
        loop {
            let asked = self.wanted().await;
            match self.read(asked, addr).await {
                Ok(seen) => return seen,
                Err(reason) => debug!(reason, "cannot recall the engine yet"),
            }
        }
    }

    /// As [`Recalls::next`], but tries once and at once.
    pub async fn first(&self, addr: &EngineAddr) -> Option<Inventory> {
        let asked = self.slot.state().asked;
        self.read(asked, addr).await.ok().flatten()
    }

    /// The engine itself has said what it holds.
    pub fn follow(&self) {
        let mut state = self.slot.state();
        state.answered = state.asked;
        state.is_followed = true;
    }

    /// The engine does not answer any more.
    pub fn lose(&self) {
        self.slot.state().is_followed = false;
    }

    /// To be dropped once what is known is public; `None` as long as something is still to be
    /// read.
    pub fn heard(&self) -> Option<Unheard> {
        let mut state = self.slot.state();
        let is_known = state.answered == state.asked;
        state.unheard.take_if(|_| is_known)
    }

    /// Waits for a question that has no answer; returns its number.
    async fn wanted(&self) -> u64 {
        loop {
            let (asked, failed_at) = {
                let state = self.slot.state();
                let is_open = self.source.is_some() && state.answered < state.asked;
                (is_open.then_some(state.asked), state.failed_at)
            };
            let Some(asked) = asked else {
                self.slot.asked.notified().await;
                continue;
            };
            if let Some(at) = failed_at {
                tokio::time::sleep_until(at + RETRY).await;
            }
            return asked;
        }
    }

    async fn read(&self, asked: u64, addr: &EngineAddr) -> Result<Option<Inventory>, String> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        let read = source.recall(addr).await;
        let mut state = self.slot.state();
        match &read {
            Ok(_) => {
                state.answered = state.answered.max(asked);
                state.failed_at = None;
            }
            Err(_) => state.failed_at = Some(Instant::now()),
        }
        read
    }
}

impl Monitor {
    /// Takes over what an earlier process knew before the engine itself is asked.
    pub(super) async fn recall_first(&mut self) {
        let seen = self.recalls.first(&self.inventory.addr).await;
        self.take_seen(seen);
    }

    /// Asks the engine what it is; what others knew of it is made public meanwhile.
    pub(super) async fn make_contact(&mut self) -> Result<(), MonitorError> {
        let recalls = self.recalls.clone();
        let addr = self.inventory.addr.clone();
        loop {
            let seen = tokio::select! {
                biased;
                met = self.learn_specs() => return met,
                seen = recalls.next(&addr) => seen,
            };
            self.show_seen(seen).await;
        }
    }

    pub(super) async fn show_seen(&mut self, seen: Option<Inventory>) {
        self.take_seen(seen);
        self.publish(Vec::new()).await;
    }

    /// Adds what somebody else saw of an engine that does not answer now, or goes by that alone if
    /// it is younger than what this monitor saw itself.
    fn take_seen(&mut self, seen: Option<Inventory>) {
        let Some(mut seen) = seen else {
            return;
        };
        debug!(node = seen.name(), "remembered engine");
        let own = &mut self.inventory;
        match self.heard_at {
            Some(heard_at) if seen.updated_at <= heard_at => {
                for (id, container) in seen.containers {
                    own.containers.entry(id).or_insert(container);
                }
            }
            Some(_) => {
                own.containers = seen.containers;
                own.specs = seen.specs.or(own.specs.take());
                own.ip = seen.ip.or(own.ip);
                own.is_recalled = true;
            }
            None => {
                seen.down_since = seen.down_since.or(own.down_since);
                self.health.remember();
                self.inventory = seen;
            }
        }
    }
}
