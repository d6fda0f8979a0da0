//! What operators say of nodes: whether they take containers, and labels of their own.
//!
//! Kept in the store at `settings/<addr>`, so it outlives the manager and the engine. Without a
//! store it is forgotten with the manager.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::{model::address::EngineAddr, store::StoreError};

/// Whether a node takes containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// It keeps those it has and gets no more.
    Pause,
    /// Those it has are moved away, if they may.
    Drain,
}

/// What an operator said of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// Grows with every change; 0 if there never was one.
    pub version: u64,
    /// Whether it takes containers.
    pub availability: Availability,
    /// Labels besides those of the engine; they win over these.
    pub labels: BTreeMap<String, String>,
    /// When that was said.
    pub updated_at: Option<DateTime<Utc>>,
    /// Since when the node is known, as of the first time that something was said of it.
    pub created_at: Option<DateTime<Utc>>,
}

/// Why the settings of a node were not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Somebody else changed them meanwhile; the text is the engine's.
    #[error("rpc error: code = Unknown desc = update out of sequence")]
    OutOfSequence,
    /// They cannot be kept.
    #[error("the settings of a node cannot be kept: {0}")]
    Store(#[from] StoreError),
    /// Another manager may lead by now.
    #[error("this manager is not the primary any more")]
    NotPrimary,
}

/// The settings of all nodes.
#[derive(Default)]
pub struct AllSettings {
    nodes: Mutex<HashMap<EngineAddr, Settings>>,
    /// Since when those are known of which nothing was said.
    seen: Mutex<HashMap<EngineAddr, DateTime<Utc>>>,
    /// Held by the one who changes them.
    changing: tokio::sync::Mutex<()>,
}

impl AllSettings {
    /// What was said of a node.
    pub(super) fn of(&self, addr: &EngineAddr) -> Settings {
        self.nodes().get(addr).cloned().unwrap_or_default()
    }

    /// Since when a node is known that was heard of at `heard_at`; the answer stays the same.
    fn known_since(&self, addr: &EngineAddr, heard_at: DateTime<Utc>) -> DateTime<Utc> {
        self.of(addr).created_at.unwrap_or_else(|| {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen.entry(addr.clone()).or_insert(heard_at)
        })
    }

    pub(super) fn set(&self, addr: EngineAddr, settings: Settings) {
        self.nodes().insert(addr, settings);
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<EngineAddr, Settings>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    /// What an operator said of a node.
    pub fn settings(&self, addr: &EngineAddr) -> Settings {
        self.inner.settings.of(addr)
    }

    /// Since when a node is known that was heard of at `heard_at`. Nothing that is said of it
    /// later changes that; where nothing ever was, the next manager begins anew.
    pub fn known_since(&self, addr: &EngineAddr, heard_at: DateTime<Utc>) -> DateTime<Utc> {
        self.inner.settings.known_since(addr, heard_at)
    }

    /// Says something else of a node, if what was said before has this version. When this returns,
    /// it is kept, and placement goes by it.
    ///
    /// # Errors
    ///
    /// [`UpdateError`]; after [`UpdateError::Store`] it may count or not.
    pub async fn update_settings(
        &self,
        addr: &EngineAddr,
        version: u64,
        availability: Availability,
        labels: BTreeMap<String, String>,
    ) -> Result<(), UpdateError> {
        let all = &self.inner.settings;
        let _only = all.changing.lock().await;
        let leadership = self.leadership();
        let term = leadership.term().ok_or(UpdateError::NotPrimary)?;
        if let Some(memory) = &self.inner.memory {
            // Before that what is kept is not known.
            memory.ready(term).await?;
        }
        if !leadership.is_current(term) {
            return Err(UpdateError::NotPrimary);
        }
        if all.of(addr).version != version {
            return Err(UpdateError::OutOfSequence);
        }
        let now = Utc::now();
        let settings = Settings {
            version: version + 1,
            availability,
            labels,
            updated_at: Some(now),
            created_at: Some(all.known_since(addr, now)),
        };
        if let Some(memory) = &self.inner.memory {
            memory.put_settings(addr, &settings).await?;
        }
        all.set(addr.clone(), settings.clone());
        self.inner.placement.set(addr.clone(), settings).await;
        self.inner.board.wake();
        Ok(())
    }
}
