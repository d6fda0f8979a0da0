//! What `skep list` and `skep join` do.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tracing::{error, info};

use super::spec;
use crate::{
    config::{Config, duration},
    discovery::Change,
    plugin::Loader,
    signal::Shutdown,
};

/// Asks discovery once and returns the addresses in the backend's order.
///
/// # Errors
///
/// The backend's first error, or `Timed out` if it says nothing within `timeout`; also a plugin
/// that cannot be loaded.
pub async fn list(config: Config, timeout: Duration) -> anyhow::Result<Vec<String>> {
    let missing = config.missing_files();
    if !missing.is_empty() {
        return Err(anyhow!(missing.join("\n")));
    }
    let plugin = config
        .discovery_plugin()
        .ok_or_else(|| anyhow!("no discovery is configured"))?;
    let specs = [spec(&config, &plugin)?];
    let cache_dir = config.plugin_host.cache_dir.clone();
    let total_memory = usize::try_from(config.plugin_host.total_memory_bytes).unwrap_or(usize::MAX);
    let mut plugins = tokio::task::spawn_blocking(move || {
        let loader = Loader::try_new(Some(&cache_dir), total_memory)?;
        anyhow::Ok(loader.load(&specs)?)
    })
    .await
    .context("the plugin loader panicked")??;
    let mut backend = plugins
        .backends
        .pop()
        .ok_or_else(|| anyhow!("no discovery is configured"))?;
    let batch = tokio::time::timeout(timeout, backend.next(timeout))
        .await
        .map_err(|_| anyhow!("Timed out"))??;
    let members = batch.changes.into_iter().filter_map(|change| match change {
        Change::Put(address) => Some(address),
        Change::Delete(_) => None,
    });
    Ok(members.collect())
}

/// Tries to register this node every `heartbeat` until `shutdown`.
///
/// No backend takes registrations yet, so this only says so each time, as classic Swarm does with
/// the same backends.
pub async fn join(heartbeat: Duration, shutdown: Shutdown) {
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
