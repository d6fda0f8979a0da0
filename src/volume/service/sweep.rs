//! Unmounts what no container uses any more although nobody says so: an engine that was killed does
//! not, later ones do not for containers that outlived it, and a mount whose answer was lost is
//! nobody's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::Service;
use crate::volume::engine::Containers;

impl Service {
    /// Looks once in `period`, for ever, for volumes that are mounted for no container, and unmounts
    /// those that were it the last time, too. What the living engine process has mounted is its own
    /// business, and where the engine does not say what its containers use, everything stays.
    ///
    /// # Cancel safety
    ///
    /// What is under way goes on; [`Service::drain`] waits for it.
    pub async fn sweep(&self, containers: Arc<dyn Containers>, period: Duration) {
        let mut unused = BTreeSet::new();
        loop {
            sleep(period).await;
            unused = self.sweep_once(&containers, &unused).await;
        }
    }

    /// Returns the volumes that are mounted for no container, less those that were so `before` and
    /// are unmounted now.
    pub(super) async fn sweep_once(
        &self,
        containers: &Arc<dyn Containers>,
        before: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let driver = self.name();
        let all = match self.inner.ledger.all().await {
            Ok(all) => all,
            Err(error) => {
                warn!(driver, %error, "cannot tell what is mounted");
                return BTreeSet::new();
            }
        };
        let mut unused = BTreeSet::new();
        for (name, mounts) in all {
            match self.inner.is_unused(&name, &mounts, &**containers).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    debug!(
                        driver,
                        volume = name,
                        error,
                        "cannot tell who uses a volume"
                    );
                    continue;
                }
            }
            if !before.contains(&name) {
                unused.insert(name);
                continue;
            }
            let containers = Arc::clone(containers);
            let released = self.change(
                &name,
                |call| async move { call.release(&*containers).await },
            );
            match released.await {
                Ok(true) => info!(driver, volume = name, "unmounted what no container uses"),
                Ok(false) => {}
                Err(error) => {
                    warn!(driver, volume = name, %error, "what no container uses stays mounted");
                    unused.insert(name);
                }
            }
        }
        unused
    }
}
