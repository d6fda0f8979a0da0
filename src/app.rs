//! Starts the daemon. This is a stub; the real one is on its way.

use crate::config::Config;
use crate::signal::Shutdown;

/// Runs until `shutdown` begins.
pub async fn run(_config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    shutdown.started().await;
    Ok(())
}
