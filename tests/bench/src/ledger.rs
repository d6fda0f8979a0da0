//! Clients that create and remove at random, and a ledger of what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptions},
};
use rand::RngExt;

use crate::Fleet;

/// How many names the clients choose from: `n0`, `n1`, ...
pub const NAMES: usize = 120;

/// How many containers there may be before clients remove some. Names are left beside those, as
/// each kill leaves some that nobody knows of, or that are kept until it is known.
const FULL: usize = 20;

/// What the clients know.
#[derive(Default)]
pub struct Ledger {
    /// Names by ID of containers that were acknowledged, and not removed by anybody.
    there: BTreeMap<String, String>,
    /// Those of them whose removal was asked for, and may have happened.
    leaving: BTreeSet<String>,
    /// How many creates were acknowledged.
    pub created: usize,
    /// How many were refused.
    pub refused: usize,
}

impl Ledger {
    fn add(&mut self, id: String, name: &str) {
        let twice = self
            .there
            .iter()
            .find(|(other, taken)| *taken == name && !self.leaving.contains(*other));
        assert!(twice.is_none(), "{name} was given to {id} and {twice:?}");
        self.there.insert(id, name.to_owned());
        self.created += 1;
    }

    /// One that shall be removed, if there are many. It may have been picked before.
    fn pick(&mut self) -> Option<String> {
        if self.there.len() <= FULL {
            return None;
        }
        let at = rand::rng().random_range(0..self.there.len());
        let id = self.there.keys().nth(at)?.clone();
        self.leaving.insert(id.clone());
        Some(id)
    }

    fn remove(&mut self, id: &str) {
        self.there.remove(id);
        self.leaving.remove(id);
    }

    /// Names by ID of containers that must be there.
    pub fn staying(&self) -> BTreeMap<String, String> {
        let staying = self.there.iter();
        staying
            .filter(|(id, _)| !self.leaving.contains(*id))
            .map(|(id, name)| (id.clone(), name.clone()))
            .collect()
    }

    /// Removes what nobody was told of, as an operator would: its names are taken for ever
    /// otherwise, and a long run ends without any.
    pub fn sweep(&self, fleet: &Fleet) {
        for engine in fleet.engines() {
            for container in engine.containers() {
                let id = container.id.to_string();
                if !self.there.contains_key(&id) {
                    engine.remove_silently(&id);
                }
            }
        }
    }

    /// Checks on the engines themselves that no name is there twice, and that everything is there
    /// once that was acknowledged.
    ///
    /// # Panics
    ///
    /// Something is there twice, or is not there.
    pub fn check(&self, fleet: &Fleet) {
        let mut by_name: BTreeMap<String, String> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for engine in fleet.engines() {
            for container in engine.containers() {
                let id = container.id.to_string();
                let place = format!("{id} on {}", engine.name());
                let other = by_name.insert(container.name.to_string(), place.clone());
                assert!(
                    other.is_none(),
                    "{} twice: {other:?}, {place}",
                    container.name
                );
                assert!(ids.insert(id), "{place} twice");
            }
        }
        for (id, name) in self.staying() {
            assert!(ids.contains(&id), "{name} ({id}) was lost");
        }
    }
}

/// Makes a container of this name.
///
/// # Errors
///
/// As bollard has it.
pub async fn create(docker: &Docker, name: &str) -> Result<String, bollard::errors::Error> {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let body = ContainerCreateBody {
        image: Some("busybox".to_owned()),
        ..ContainerCreateBody::default()
    };
    let made = docker.create_container(Some(options), body).await?;
    Ok(made.id)
}

/// Creates and removes until the manager is gone.
///
/// # Panics
///
/// The manager gives a name twice, or answers with a status that means nothing here.
pub async fn work(docker: Docker, ledger: Arc<Mutex<Ledger>>) {
    loop {
        let name = format!("n{}", rand::rng().random_range(0..NAMES));
        match create(&docker, &name).await {
            Ok(id) => lock(&ledger).add(id, &name),
            Err(bollard::errors::Error::DockerResponseServerError { status_code, .. }) => {
                assert!([409, 500, 503].contains(&status_code), "{status_code}");
                lock(&ledger).refused += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(_) => return,
        }
        let Some(id) = lock(&ledger).pick() else {
            continue;
        };
        let removed = docker
            .remove_container(&id, None::<RemoveContainerOptions>)
            .await;
        match removed {
            Ok(()) => lock(&ledger).remove(&id),
            Err(bollard::errors::Error::DockerResponseServerError { status_code, .. }) => {
                // It may have happened otherwise: a manager that answers for another one, or for
                // an engine, does not always know.
                if status_code == 404 {
                    lock(&ledger).remove(&id);
                }
            }
            Err(_) => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
