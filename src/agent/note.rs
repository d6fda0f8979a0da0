//! What an agent knows of its lease, and the note on disk that outlives it.
//!
//! Time is counted from the boot of the host and goes on while the host is suspended, so that an
//! agent that is started again knows how much of its lease is left. After another boot nothing is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Options, REPRIEVE};

/// Most managers that are remembered.
const MAX_MANAGERS: usize = 16;

/// How a lease stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Until when it is valid for sure, by [`now`].
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
    /// When a renewal that succeeded was asked for, milliseconds by [`now`]; `None` once the lease
    /// was given back.
    renewed_at: Option<u64>,
    counts: bool,
    managers: BTreeSet<String>,
    fenced: Fenced,
}

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
            valid_until: now() + self.ttl,
            managers: self.managers.clone(),
            ..Standing::default()
        };
        let Some(mut note) = self.read().await else {
            return (standing, Fenced::new());
        };
        standing.counts = note.counts;
        standing.managers.extend(note.managers.iter().cloned());
        let renewed_at = note.renewed_at.filter(|_| note.boot == boot());
        let ends_at = renewed_at.map(|at| Duration::from_millis(at) + self.ttl);
        // A time to come is of another clock.
        let ends_at = ends_at.filter(|at| *at <= now() + self.ttl);
        standing.valid_until = ends_at.unwrap_or_default().max(now() + REPRIEVE);
        if note.counts && ends_at.is_none_or(|at| at < now()) {
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
            note.boot = boot().to_owned();
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
        if let Err(error) = replace(path, &text).await {
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

async fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        tokio::fs::create_dir_all(directory).await?;
    }
    let new = path.with_extension("new");
    tokio::fs::write(&new, text).await?;
    // After a crash of the host either the old one is there or the new one.
    tokio::fs::File::open(&new).await?.sync_all().await?;
    tokio::fs::rename(&new, path).await
}

/// The time since the host booted, suspended or not; where that cannot be had, since the process
/// started.
pub(super) fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let uptime = std::fs::read_to_string("/proc/uptime").ok();
    let seconds = uptime.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let since_boot = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    since_boot.unwrap_or_else(|| START.elapsed())
}

/// Which run of the host this is; where that is unknown, which process.
fn boot() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map_or_else(
            |_| rand::random::<u64>().to_string(),
            |id| id.trim().to_owned(),
        )
    });
    &BOOT
}
