//! What SIGHUP changes without a restart: the discovery, and the files of TLS.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::load_discovery;
use crate::{
    cluster::{Cluster, membership::Source},
    config::{
        Config,
        plugin::{self as plugin_config, Plugin},
    },
};

/// Reads the configuration as at the start: the file, and the command line on top.
///
/// # Errors
///
/// What is wrong with it, for the log.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, String> + Send>;

/// Reads the configuration again whenever `now` is notified, until `stop`; `certificates` is
/// notified each time.
pub(super) async fn follow(
    mut current: Config,
    read: ReadConfig,
    cluster: Cluster,
    now: Arc<Notify>,
    certificates: Arc<Notify>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = now.notified() => {}
        }
        certificates.notify_one();
        match read() {
            Ok(wanted) => current = apply(current, wanted, &cluster).await,
            Err(reason) => error!(reason, "configuration cannot be used, keeping the last one"),
        }
    }
}

/// Puts what may change in force, and returns what is in force then.
async fn apply(current: Config, wanted: Config, cluster: &Cluster) -> Config {
    let later = current.differences(&wanted);
    if !later.is_empty() {
        let keys = later.join(", ");
        warn!(keys, "changed keys count from the next start on");
    }
    let (before, after) = (current.discovery_plugin(), wanted.discovery_plugin());
    let is_same = before == after
        && current.discovery == wanted.discovery
        && !after.as_ref().is_some_and(is_file);
    if is_same {
        info!("discovery is as it was");
        return wanted;
    }
    match load_discovery(&wanted).await {
        Ok(backend) => {
            info!(backend = backend.name(), "discovery is replaced");
            let source = Source {
                backend,
                heartbeat: wanted.discovery.heartbeat,
                removal_delay: wanted.discovery.removal_delay,
            };
            cluster.follow(source).await;
            wanted
        }
        Err(error) => {
            error!(error = %format_args!("{error:#}"), "discovery cannot be replaced, keeping the last one");
            current
        }
    }
}

/// Whether the plugin's code may have changed without a change of its name.
fn is_file(plugin: &Plugin) -> bool {
    matches!(plugin.source, plugin_config::Source::File(_))
}
