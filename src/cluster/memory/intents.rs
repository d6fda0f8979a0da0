//! Creates under way: written before an engine is asked, settled when the container is on record.
//!
//! An engine may go on making a container after the manager that asked for it has died. The next
//! manager must neither give its name away meanwhile nor lose the request that it was made with.
//! So the intent is in the store before the engine hears of it: the one write that a create waits
//! for. It is deleted once the container's record, which takes the request over, is written, or
//! once it is certain that there is no container.
//!
//! Key: `creates/<cluster-wide ID>`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{CreateRecord, Memory};
use crate::{
    cluster::{
        create::LISTING_PAUSE,
        election::Term,
        placement::{NameReservation, Placement},
    },
    engine::{
        inventory::Inventory,
        monitor::{Monitors, Refresh},
        raw::RawObject,
    },
    model::{address::EngineAddr, directive::FENCE_LABEL},
    store::StoreError,
};

/// What the engine says of a container besides what the request said, in bytes: twice, for a list
/// and for an inspection, and with room to grow.
const ENGINE_SHARE: usize = 32 << 10;

/// How many creates may wait for their records while the store is away, where records are optional.
const MAX_INTENTS: usize = 10_000;

/// How many are deleted at once.
const CONCURRENT_DELETES: usize = 256;

/// A create under way.
pub(super) struct Intent {
    addr: EngineAddr,
    /// What goes into the container's record.
    pub(super) create: RawObject,
    fate: Fate,
    /// Whether the store may have it.
    is_written: bool,
    /// Keeps the name of a create of an earlier process.
    _name: Option<NameReservation>,
}

/// What is known of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The engine is being asked.
    UnderWay,
    /// It was made and seen, at this moment.
    Made(Instant),
    /// It may be there or come, since this moment; the engine was not heard since.
    Unknown(Instant),
    /// The engine answers; what it does not list after this moment will not come.
    Answered(Instant),
    /// It is on record, or there is none: the intent has to go.
    Over,
}

/// The record of an intent.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IntentRecord {
    node: String,
    create: RawObject,
}

/// A create whose intent is on record. Dropped, it leaves open whether there is a container.
pub struct Intention {
    memory: Memory,
    swarm_id: Arc<str>,
    is_settled: bool,
}

impl Memory {
    /// Writes down that a container is about to be made on a node. Where records are optional and
    /// the store is away, the request is kept here until there is a record to put it in.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the engine must not be asked then. [`StoreError::TooLarge`] if the
    /// container's record would be, wherever records are optional or not.
    pub async fn intend(
        &self,
        swarm_id: &str,
        addr: &EngineAddr,
        create: &CreateRecord,
    ) -> Result<Intention, StoreError> {
        let ready = self.trouble().map_or(Ok(()), Err);
        let mut request = RawObject::default();
        request.set("Name", &create.name);
        request.set("Body", &create.body);
        let record = IntentRecord {
            node: addr.to_string(),
            create: request,
        };
        let value = Bytes::from(serde_json::to_vec(&record).unwrap_or_default());
        self.check_record(swarm_id, value.len(), create)?;
        let swarm_id: Arc<str> = swarm_id.into();
        let intent = Intent {
            addr: addr.clone(),
            create: record.create,
            fate: Fate::UnderWay,
            is_written: ready.is_ok(),
            _name: None,
        };
        {
            let mut desk = self.desk();
            if let Err(error) = &ready
                && (!self.is_optional() || desk.intents.len() >= MAX_INTENTS)
            {
                return Err(error.clone());
            }
            desk.intents.insert(Arc::clone(&swarm_id), intent);
        }
        let mut intention = Intention {
            memory: self.clone(),
            swarm_id,
            is_settled: false,
        };
        let key = self.intent_key(&intention.swarm_id);
        let written = match ready {
            Ok(()) => self.within(self.inner.store.put(&key, value)).await,
            Err(error) => Err(error),
        };
        let Err(error) = written else {
            return Ok(intention);
        };
        self.failed(error.clone());
        if self.is_optional() {
            warn!(%error, "create without a record");
            return Ok(intention);
        }
        // It may have been written in spite of the error.
        intention.settle(Fate::Over);
        Err(error)
    }

    /// Whether the store will take the record of a container: it holds the request, what the engine
    /// makes of it, and its labels once more in its list entry.
    fn check_record(
        &self,
        swarm_id: &str,
        request_bytes: usize,
        create: &CreateRecord,
    ) -> Result<(), StoreError> {
        let labels = create
            .body
            .get("Labels")
            .map_or(0, |labels| labels.get().len());
        let size = 2 * request_bytes + labels + ENGINE_SHARE;
        let limit = self.inner.store.max_value();
        if size <= limit {
            return Ok(());
        }
        Err(StoreError::TooLarge {
            store: self.inner.store.name().to_owned(),
            key: self.intent_key(swarm_id),
            reason: format!("the container's record may have {size} bytes, the limit is {limit}"),
        })
    }

    /// Reads the intents of an earlier process, whose names are kept until each is settled.
    pub(super) async fn recall_intents(&self, placement: &Placement) -> Result<(), StoreError> {
        let prefix = format!("{}/creates", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        for entry in listing.entries {
            let swarm_id = entry.key.rsplit('/').next().unwrap_or_default();
            let record: Result<IntentRecord, _> = serde_json::from_slice(&entry.value);
            let addr = record
                .as_ref()
                .ok()
                .and_then(|record| record.node.parse().ok());
            let (Ok(record), Some(addr)) = (record, addr) else {
                warn!(key = entry.key, "record cannot be read, left alone");
                continue;
            };
            let name: String = record
                .create
                .parsed("Name")
                .ok()
                .flatten()
                .unwrap_or_default();
            info!(name, node = %addr, "a create was under way when the last manager ended");
            let intent = Intent {
                addr,
                create: record.create,
                fate: Fate::Unknown(Instant::now()),
                is_written: true,
                // A record may say that another container has it, which is gone since.
                _name: placement.hold_name(&name).await.ok(),
            };
            self.desk().intents.insert(swarm_id.into(), intent);
        }
        Ok(())
    }

    /// Waits until the names of creates of whoever led before `term` are known: no name must be
    /// given before. Where records are optional, a store that is away is not waited for.
    ///
    /// # Errors
    ///
    /// The store cannot be used.
    pub async fn ready(&self, term: Term) -> Result<(), StoreError> {
        let outcome = self.await_ready(term).await;
        if self.is_optional() { Ok(()) } else { outcome }
    }

    async fn await_ready(&self, term: Term) -> Result<(), StoreError> {
        if let Some(error) = self.trouble() {
            return Err(error);
        }
        let mut ready = self.inner.ready.subscribe();
        let mut trouble = self.inner.trouble.subscribe();
        let wait = async {
            tokio::select! {
                _ = ready.wait_for(|ready| *ready == Some(term)) => Ok(()),
                error = trouble.wait_for(Option::is_some) => match error.ok().and_then(|error| error.clone()) {
                    Some(error) => Err(error),
                    None => Ok(()),
                },
            }
        };
        self.within(wait).await
    }

    /// Deletes what this process wrote down as a leader and no engine will hear of, now that it
    /// leads no more: its successor may not know of it. Returns whether nothing is left.
    pub(super) async fn settle_own(&self) -> bool {
        let over: Vec<_> = {
            let desk = self.desk();
            let over = desk
                .intents
                .iter()
                .filter(|(_, intent)| intent.fate == Fate::Over);
            over.map(|(swarm_id, _)| Arc::clone(swarm_id)).collect()
        };
        self.delete_intents(over).await;
        self.desk().intents.is_empty()
    }

    /// The request that a container was made with, if its create is not settled.
    pub(super) fn intended(
        &self,
        swarm_id: Option<&Arc<str>>,
        addr: &EngineAddr,
    ) -> Option<RawObject> {
        let desk = self.desk();
        let intent = desk.intents.get(swarm_id?)?;
        // Another copy of it is on record for itself.
        (intent.addr == *addr).then(|| intent.create.clone())
    }

    /// The node where a container may be in the making, and the token it was asked for with.
    pub fn under_way(&self, swarm_id: &str) -> Option<(EngineAddr, u64)> {
        let desk = self.desk();
        let intent = desk.intents.get(swarm_id)?;
        if matches!(intent.fate, Fate::Made(_) | Fate::Over) {
            return None;
        }
        let body = intent.create.object("Body").unwrap_or_default();
        let labels: Option<BTreeMap<String, String>> = body.parsed("Labels").ok().flatten();
        let token = labels.and_then(|labels| labels.get(FENCE_LABEL)?.parse().ok());
        Some((intent.addr.clone(), token.unwrap_or(0)))
    }

    /// The container is on record: its intent is deleted when the others are.
    pub(super) fn recorded(&self, swarm_id: Option<&Arc<str>>, addr: &EngineAddr) {
        let Some(swarm_id) = swarm_id else {
            return;
        };
        if let Some(intent) = self.desk().intents.get_mut(swarm_id)
            && intent.addr == *addr
        {
            intent.fate = Fate::Over;
        }
    }

    /// Deletes the intents that nothing will come of, or that did their service. Returns whether
    /// some may still be settled by time alone.
    pub(super) async fn settle_rest(&self, monitors: &Monitors) -> bool {
        let (mut over, mut unsure) = (Vec::new(), BTreeSet::new());
        let mut waits = false;
        {
            let mut desk = self.desk();
            let desk = &mut *desk;
            for (swarm_id, intent) in &mut desk.intents {
                let inventory = desk.latest.get(&intent.addr);
                let listed_at = inventory.and_then(|inventory| inventory.listed_at);
                let is_healthy = inventory.is_some_and(|inventory| inventory.is_healthy());
                let is_absent = || inventory.is_some_and(|all| !holds(all, swarm_id));
                let is_over = match intent.fate {
                    Fate::UnderWay => continue,
                    Fate::Over => true,
                    // Its record comes first, or it was removed before there was one.
                    Fate::Made(since) => {
                        since.elapsed() > self.inner.options.settle_after && is_absent()
                    }
                    Fate::Unknown(since) => {
                        if listed_at.is_some_and(|at| at >= since) {
                            let until = Instant::now() + self.inner.options.settle_after;
                            intent.fate = Fate::Answered(until);
                        } else if is_healthy {
                            unsure.insert(intent.addr.clone());
                        }
                        false
                    }
                    Fate::Answered(until) if listed_at.is_some_and(|at| at >= until) => is_absent(),
                    Fate::Answered(until) => {
                        if is_healthy && until <= Instant::now() {
                            unsure.insert(intent.addr.clone());
                        }
                        false
                    }
                };
                if is_over {
                    over.push(Arc::clone(swarm_id));
                } else {
                    waits = true;
                }
            }
            // An engine is asked by one at a time, and not more often than it is looked at.
            unsure.retain(|addr| {
                let asked_at = desk.asked.get(addr);
                asked_at.is_none_or(|at| at.elapsed() >= LISTING_PAUSE)
            });
            for addr in &unsure {
                desk.asked.insert(addr.clone(), Instant::now());
            }
            desk.asked.retain(|_, at| at.elapsed() < LISTING_PAUSE);
        }
        for addr in unsure {
            let monitors = monitors.clone();
            // Bounded by the deadline of a refresh; nobody waits for it.
            tokio::spawn(async move { monitors.refresh(&addr, Refresh::Containers).await });
        }
        self.delete_intents(over).await;
        waits
    }

    async fn delete_intents(&self, swarm_ids: Vec<Arc<str>>) {
        stream::iter(swarm_ids)
            .for_each_concurrent(CONCURRENT_DELETES, |swarm_id| async move {
                self.delete_intent(&swarm_id).await;
            })
            .await;
    }

    async fn delete_intent(&self, swarm_id: &Arc<str>) {
        let key = self.intent_key(swarm_id);
        match self.within(self.inner.store.delete(&key, None)).await {
            Ok(_) => {
                self.desk().intents.remove(swarm_id);
            }
            Err(error) => {
                debug!(%error, "intent cannot be deleted yet");
                self.failed(error);
            }
        }
    }

    fn intent_key(&self, swarm_id: &str) -> String {
        format!("{}/creates/{swarm_id}", self.inner.options.prefix)
    }
}

impl Intent {
    /// The container was removed. One whose create is under way may have gone before its answer.
    pub(super) fn removed(&mut self, addr: &EngineAddr) {
        if self.addr == *addr && matches!(self.fate, Fate::Made(_)) {
            self.fate = Fate::Over;
        }
    }

    /// Whether this process alone knows how the create ends: all others are left to whoever leads.
    pub(super) fn is_for_us_to_settle(&self) -> bool {
        matches!(self.fate, Fate::UnderWay | Fate::Over)
    }
}

impl Intention {
    /// The container was made, and the snapshot shows it.
    pub fn made(mut self) {
        self.settle(Fate::Made(Instant::now()));
    }

    /// The engine refused: there is no container.
    pub fn failed(mut self) {
        self.settle(Fate::Over);
    }

    fn settle(&mut self, fate: Fate) {
        let mut desk = self.memory.desk();
        if let Some(intent) = desk.intents.get_mut(&self.swarm_id)
            && intent.fate != Fate::Over
        {
            intent.fate = fate;
            if fate == Fate::Over && !intent.is_written {
                desk.intents.remove(&self.swarm_id);
            }
        }
        drop(desk);
        self.is_settled = true;
        self.memory.inner.work.notify_one();
    }
}

impl Drop for Intention {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle(Fate::Unknown(Instant::now()));
        }
    }
}

fn holds(inventory: &Inventory, swarm_id: &str) -> bool {
    let containers = inventory.containers.values();
    containers
        .into_iter()
        .any(|container| container.swarm_id.as_deref() == Some(swarm_id))
}
