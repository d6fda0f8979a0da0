//! Which nodes have a volume driver, and where volumes are made.
//!
//! Engines tell nobody when a driver comes, and list it only once something made them look. So what
//! is known of drivers may be old, and before a request is refused for want of one the nodes are
//! asked again that are not known to have it. A node without it is never asked to make anything:
//! engines wait half a minute for a driver that is missing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Cluster,
    create::{CreateError, claims},
    placement::{PlaceError, Reservation, Wanted},
    snapshot::{Node, Snapshot},
};
use crate::{
    engine::{inventory::Container, monitor::Refresh},
    scheduler::{
        ScheduleError,
        request::{Request, VolumeUse},
    },
};

/// How long what was found about a driver counts.
const FRESH: Duration = Duration::from_secs(2);

/// How long nodes may take to tell which drivers they have.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many nodes are asked at a time.
const CONCURRENT_NODES: usize = 32;

/// The drivers that nodes were asked for lately.
#[derive(Default)]
pub(super) struct Looks {
    by_driver: Mutex<HashMap<String, Look>>,
}

#[derive(Clone)]
struct Look {
    at: Instant,
    done: CancellationToken,
}

impl Looks {
    /// The look that is under way or just over, or a new one that the caller has to take.
    fn find(&self, driver: &str) -> (Look, bool) {
        let mut all = self
            .by_driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, look| !look.done.is_cancelled() || look.at.elapsed() < FRESH);
        if let Some(look) = all.get(driver) {
            return (look.clone(), false);
        }
        let look = Look {
            at: Instant::now(),
            done: CancellationToken::new(),
        };
        all.insert(driver.to_owned(), look.clone());
        (look, true)
    }
}

impl Cluster {
    /// Healthy nodes with a volume driver, in natural order of their names; all that are healthy
    /// have the engine's own.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NoDriver`] or [`ScheduleError::NoNodes`].
    pub async fn nodes_with_driver(&self, driver: &str) -> Result<Vec<Arc<Node>>, CreateError> {
        let volume = VolumeUse {
            driver: driver.to_owned(),
            ..VolumeUse::default()
        };
        if volume.needs_driver() {
            self.look_for(driver).await;
        }
        let healthy = self.snapshot().healthy();
        let mut nodes = healthy.clone();
        nodes.retain(|node| !volume.needs_driver() || node.inventory.has_volume_driver(driver));
        if nodes.is_empty() {
            let names = healthy.iter().map(|node| node.inventory.name());
            return Err(match healthy.is_empty() {
                true => ScheduleError::NoNodes.into(),
                false => ScheduleError::no_driver(driver, names).into(),
            });
        }
        Ok(nodes)
    }

    /// Chooses the node of a volume that is made on one alone: the one that has it, or that
    /// another create under way makes it on, or else the strategy's choice.
    ///
    /// # Errors
    ///
    /// [`CreateError::Schedule`].
    pub async fn place_volume(&self, request: Request) -> Result<Reservation, CreateError> {
        let container = Arc::new(Container {
            mounts: claims(&request.volumes),
            ..Container::default()
        });
        let place = || {
            self.inner.placement.place(Wanted {
                request: request.clone(),
                container: Arc::clone(&container),
                instead_of: None,
                avoid: Vec::new(),
            })
        };
        match place().await {
            Err(PlaceError::Schedule(error)) if !self.look_again(&request).await => {
                Err(error.into())
            }
            Err(PlaceError::Schedule(_)) => Ok(place().await?),
            placed => Ok(placed?),
        }
    }

    /// Asks nodes once more for the volume drivers that a request needs, after it was refused.
    /// Returns whether it may fare better now.
    pub(super) async fn look_again(&self, request: &Request) -> bool {
        let mut looked = false;
        for driver in drivers_of(request, &self.snapshot()) {
            looked |= self.look_for(&driver).await;
        }
        looked
    }

    /// Asks the healthy nodes that are not known to have a driver whether they do, unless that was
    /// just done. Returns whether there are any.
    async fn look_for(&self, driver: &str) -> bool {
        let mut nodes = self.snapshot().healthy();
        nodes.retain(|node| !node.inventory.has_volume_driver(driver));
        if nodes.is_empty() {
            return false;
        }
        let (look, is_new) = self.inner.looks.find(driver);
        if is_new {
            let cluster = self.clone();
            let done = look.done.clone().drop_guard();
            self.inner.tasks.spawn(async move {
                let asked = stream::iter(nodes).for_each_concurrent(CONCURRENT_NODES, |node| {
                    let cluster = &cluster;
                    async move {
                        cluster
                            .refresh(&node.inventory.addr, Refresh::Drivers)
                            .await;
                    }
                });
                if tokio::time::timeout(DEADLINE, asked).await.is_err() {
                    debug!("some nodes take long to tell which volume drivers they have");
                }
                drop(done);
            });
        }
        look.done.cancelled().await;
        true
    }
}

/// The drivers that a request names, and those of shared volumes that it names.
fn drivers_of(request: &Request, snapshot: &Snapshot) -> BTreeSet<String> {
    let mut drivers = BTreeSet::new();
    for volume in &request.volumes {
        if volume.needs_driver() {
            drivers.insert(volume.driver.clone());
        } else if volume.driver.is_empty() && !volume.name.is_empty() {
            let found = snapshot.volumes(&volume.name).into_iter();
            let shared = found.filter(|(_, volume)| volume.is_shared());
            drivers.extend(shared.map(|(_, volume)| volume.driver.clone()));
        }
    }
    drivers
}
