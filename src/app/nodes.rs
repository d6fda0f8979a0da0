//! What `skep list` and `skep join` do.

use std::time::Duration;

use anyhow::anyhow;
use tracing::{error, info};

use super::load_discovery;
use crate::{
    config::{Config, duration},
    discovery::Change,
    signal::Shutdown,
};

/// Asks discovery once and returns the addresses in the backend's order.
///
/// # Errors
///
/// The backend's first error, or `Timed out` if it says nothing within `timeout`; also a plugin
/// that cannot be loaded.
pub async fn list(config: Config, timeout: Duration) -> anyhow::Result<Vec<String>> {
    let mut backend = load_discovery(&config).await?;
    let batch = tokio::time::timeout(timeout, backend.next(timeout))
        .await
        .map_err(|_| anyhow!("Timed out"))??;
    let members = batch.changes.into_iter().filter_map(|change| match change {
        Change::Put(address) => Some(address),
        Change::Delete(_) => None,
    });
    Ok(members.collect())
}

/// Tries to register this node every `heartbeat` until `shutdown`, for the first time within
/// `delay`.
///
/// No backend takes registrations yet, so this only says so each time, as classic Swarm does with
/// the same backends.
pub async fn join(delay: Duration, heartbeat: Duration, shutdown: Shutdown) {
    // Agents that start together shall not all come at once.
    let wait = delay.mul_f64(rand::random());
    tokio::select! {
        () = shutdown.started() => return,
        () = tokio::time::sleep(wait) => {}
    }
    let every = duration::format(heartbeat);
    loop {
        info!("Registering on the discovery service every {every}...");
        error!("not implemented in this discovery service");
        tokio::select! {
            () = shutdown.started() => return,
            () = tokio::time::sleep(heartbeat) => {}
        }
    }
}
