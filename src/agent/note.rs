//! What an agent knows of its lease, and the note on disk that outlives it.
//!
//! Time is counted from the boot of the host and goes on while the host is suspended, so that an
//! agent that is started again knows how much of its lease is left. After another boot nothing is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Options, REPRIEVE};
use crate::{
    atomic_file::{self, Durability},
    boot,
};

/// Most managers that are remembered.
const MAX_MANAGERS: usize = 16;

/// How a lease stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Until when it is valid for sure, by [`boot::elapsed`].
    pub valid_until: Duration,
    /// How often it was renewed since this process started.
    pub renewals: u64,
    /// Whether leases count, as far as it was said.
    pub counts: bool,
    /// Where managers can be asked.
    pub managers: BTreeSet<String>,
    /// Containers of this node that were made again elsewhere.
    pub superseded: BTreeSet<String>,
}

/// Containers that were stopped for want of a lease: when they ended, by their engine's word, or
/// `None` for those that were frozen.
pub(super) type Fenced = BTreeMap<String, Option<String>>;

/// What is on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Note {
    /// Which run of the host it is of.
    boot: String,
    /// When a renewal that succeeded was asked for, milliseconds by [`boot::elapsed`]; `None` once the lease
    /// was given back.
    renewed_at: Option<u64>,
    counts: bool,
    managers: BTreeSet<String>,
    fenced: Fenced,
}

/// Which run of the host this is; where that is unknown, which process.
static BOOT: LazyLock<String> =
    LazyLock::new(|| boot::id().unwrap_or_else(|_| rand::random::<u64>().to_string()));

/// Keeps the note. Clones keep the same one.
#[derive(Clone)]
pub(super) struct Keeper {
    path: Option<PathBuf>,
    ttl: Duration,
    managers: BTreeSet<String>,
    note: Arc<Mutex<Note>>,
    /// Held by the one who writes.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Keeper {
    pub fn new(options: &Options) -> Self {
        // Several agents of one host do not share a note.
        let file = options.addr.replace(['/', ':'], "_");
        let path = options.state_dir.as_ref();
        Self {
            path: path.map(|dir| dir.join(format!("agent-{file}.json"))),
            ttl: options.ttl,
            managers: options.managers.iter().cloned().collect(),
            note: Arc::default(),
            writing: Arc::default(),
        }
    }

    /// How the lease stands when the agent starts, and what an earlier one stopped.
    pub async fn load(&self) -> (Standing, Fenced) {
        let mut standing = Standing {
            valid_until: boot::elapsed() + self.ttl,
            managers: self.managers.clone(),
            ..Standing::default()
        };
        let Some(mut note) = self.read().await else {
            return (standing, Fenced::new());
        };
        standing.counts = note.counts;
        standing.managers.extend(note.managers.iter().cloned());
        let renewed_at = note.renewed_at.filter(|_| note.boot == *BOOT);
        let ends_at = renewed_at.map(|at| Duration::from_millis(at) + self.ttl);
        // A time to come is of another clock.
        let ends_at = ends_at.filter(|at| *at <= boot::elapsed() + self.ttl);
        standing.valid_until = ends_at.unwrap_or_default().max(boot::elapsed() + REPRIEVE);
        if note.counts && ends_at.is_none_or(|at| at < boot::elapsed()) {
            info!(
                "this node has no lease any more: unless it is renewed within {REPRIEVE:?}, containers \
                 that may be made again elsewhere are stopped"
            );
        }
        let fenced = std::mem::take(&mut note.fenced);
        *self.note() = Note {
            fenced: fenced.clone(),
            ..note
        };
        (standing, fenced)
    }

    /// The lease was renewed, as asked for at `asked_at`.
    pub async fn renewed(&self, asked_at: Duration, standing: &Standing) {
        {
            let mut note = self.note();
            note.boot.clone_from(&BOOT);
            note.renewed_at = Some(u64::try_from(asked_at.as_millis()).unwrap_or(u64::MAX));
            note.counts = standing.counts;
            note.managers = standing.managers.clone();
        }
        self.write().await;
    }

    /// The lease was given back: the next agent begins without.
    pub async fn given_back(&self) {
        self.note().renewed_at = None;
        self.write().await;
    }

    /// These containers are stopped for want of a lease.
    pub async fn fenced(&self, fenced: &Fenced) {
        self.note().fenced.clone_from(fenced);
        self.write().await;
    }

    async fn read(&self) -> Option<Note> {
        let path = self.path.as_ref()?;
        let text = match tokio::fs::read(path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "the agent's note cannot be read");
                return None;
            }
        };
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                warn!(path = %path.display(), %error, "the agent's note makes no sense");
            })
            .ok()
    }

    /// Writes the note as it is by now; the last one wins.
    async fn write(&self) {
        let Some(path) = &self.path else {
            return;
        };
        let _only = self.writing.lock().await;
        let text = serde_json::to_vec(&*self.note()).unwrap_or_default();
        let file = path.clone();
        let writing = tokio::task::spawn_blocking(move || {
            if let Some(directory) = file.parent() {
                fs::create_dir_all(directory)?;
            }
            atomic_file::replace(&file, &text, Durability::Machine)
        });
        if let Err(error) = writing.await.unwrap_or_else(|error| Err(error.into())) {
            warn!(path = %path.display(), %error, "the agent's note cannot be written");
        }
    }

    fn note(&self) -> std::sync::MutexGuard<'_, Note> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Forgets managers that are not listed any more, but for those that were named at the start.
    pub fn learn_managers(&mut self, named: &[String], listed: Vec<String>) {
        self.managers = named.iter().cloned().collect();
        let room = MAX_MANAGERS.saturating_sub(self.managers.len());
        self.managers.extend(listed.into_iter().take(room));
    }
}
