//! What runs beside an engine, under `skep join`: it keeps the lease of its node, and stops what may
//! run elsewhere by the time it has none.
//!
//! ```text
//! renewed through the store, or through any manager        valid for the lease's time from the
//! "hold": the manager has lost the store itself            moment it was asked for
//! neither for that long                                    containers that may be made again
//!                                                          elsewhere are stopped
//! ```
//!
//! Two tasks share the work, so that neither waits for what the other waits for: one renews
//! (`renewal`), the other stops containers (`guard`) at the very moment the lease ends.
//!
//! A manager that cannot reach the engine watches the lease: it makes nothing again elsewhere before
//! the lease did not change for its whole time, by the manager's own clock, and a margin. Each
//! clock starts no later than the agent's, so none has to agree with another.
//!
//! An agent stops nothing unless a manager told it, or left word in the store, that leases count,
//! and unless it knows a manager to turn to: a store that is down must not stop a container. What it
//! was told is on disk (`note`): a node that boots while it is cut off, or an agent that was not
//! there when its lease ended, has [`REPRIEVE`] to renew it, and what its engine started by itself is
//! stopped then.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{engine::client::Client, store::Store, tls};

mod guard;
mod note;
mod renewal;

use self::{guard::Guard, note::Keeper, renewal::Renewal};

/// How long there is to renew a lease that ended while nobody was there to see it.
pub const REPRIEVE: Duration = Duration::from_secs(2);

/// How long the engine may take for one call.
const ENGINE: Duration = Duration::from_secs(10);

/// What a lease is kept with.
pub struct Options {
    /// The engine's address as managers know it.
    pub addr: String,
    /// How the engine is reached from here.
    pub engine: Client,
    /// How long a lease is valid.
    pub ttl: Duration,
    /// The managers' store and the key that everything of theirs is below, if it can be reached.
    pub store: Option<(Arc<dyn Store>, String)>,
    /// Addresses of managers, `host:port`; more are learned.
    pub managers: Vec<String>,
    /// How managers are spoken to, if over TLS.
    pub tls: Option<tls::Client>,
    /// Where it is noted what shall outlive this process; `None` if nothing shall.
    pub state_dir: Option<PathBuf>,
}

/// Keeps the lease until `shutdown`, and gives it back then: whoever ends the agent in order does not
/// ask for containers to be stopped.
pub async fn keep_lease(options: Options, shutdown: CancellationToken) {
    let options = Arc::new(options);
    let keeper = Keeper::new(&options);
    let (standing, fenced) = keeper.load().await;
    let (publish, standings) = watch::channel(standing);
    let mut renewal = Renewal::new(Arc::clone(&options), publish, keeper.clone());
    let guard = Guard::new(Arc::clone(&options), standings, keeper, fenced);
    let guarding = tokio::spawn(guard.run(shutdown.clone()));
    shutdown.run_until_cancelled(renewal.run()).await;
    // It sees the same shutdown.
    let _ = guarding.await;
    renewal.give_back().await;
}
