//! Reading an engine's lists into the inventory.

use std::{collections::BTreeSet, sync::Arc};

use chrono::Utc;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use tokio::time::Instant;

use super::{Monitor, MonitorError};
use crate::engine::{
    client::{Client, ClientError},
    event::Event,
    inventory::{Container, Image, Network, Volume},
    raw::RawObject,
};

/// How many containers of one engine are inspected at once.
const CONCURRENT_INSPECTIONS: usize = 8;

/// What a batch of events touched.
#[derive(Default)]
pub(super) struct Touched {
    containers: BTreeSet<Arc<str>>,
    images: bool,
    networks: bool,
    volumes: bool,
    specs: bool,
}

impl Touched {
    /// Notes what an event may have changed.
    pub(super) fn add(&mut self, event: &Event) {
        match event.kind.as_str() {
            "container" => match event.verb() {
                "commit" => self.images = true,
                "top" | "resize" | "export" | "exec_create" | "exec_start" | "exec_detach"
                | "exec_die" | "attach" | "detach" | "extract-to-dir" | "copy" | "archive-path" => {
                }
                _ => self.add_container(&event.actor_id),
            },
            "image" => self.images = true,
            "volume" => self.volumes = true,
            "network" => {
                self.networks = true;
                if let Some(container) = event.attributes.get("container") {
                    self.add_container(container);
                }
            }
            "daemon" => self.specs = true,
            _ => {}
        }
    }

    /// Whether nothing may have changed.
    pub(super) fn is_empty(&self) -> bool {
        let others = self.images || self.networks || self.volumes || self.specs;
        self.containers.is_empty() && !others
    }

    fn add_container(&mut self, id: &str) {
        if !id.is_empty() {
            self.containers.insert(Arc::from(id));
        }
    }
}

impl Monitor {
    /// Brings everything that was touched up to date.
    pub(super) async fn look_at(&mut self, touched: Touched) -> Result<(), MonitorError> {
        let ids: Vec<_> = touched.containers.into_iter().collect();
        self.list_one(&ids).await?;
        if touched.images {
            self.list_images().await?;
        }
        if touched.networks {
            self.list_networks().await?;
        }
        if touched.volumes {
            self.list_volumes().await?;
        }
        if touched.specs {
            self.learn_specs().await?;
        }
        Ok(())
    }

    /// Lists all containers and inspects those that are new or look different.
    pub(super) async fn list_containers(&mut self) -> Result<(), MonitorError> {
        let client = self.client();
        // What comes while the engine lists may be missing.
        let asked_at = Instant::now();
        let entries = client.containers(None).await?;
        let mut kept = imbl::OrdMap::new();
        let mut changed = Vec::new();
        for entry in entries {
            let Some(id) = entry.parsed::<String>("Id").ok().flatten() else {
                continue;
            };
            match self.inventory.containers.get(id.as_str()) {
                Some(known) if !self.inventory.is_recalled && is_same(known, &entry) => {
                    kept.insert(Arc::clone(&known.id), Arc::clone(known));
                }
                _ => changed.push((Arc::from(id), entry)),
            }
        }
        for container in self.inspect_all(&client, changed).await? {
            kept.insert(Arc::clone(&container.id), container);
        }
        self.inventory.containers = kept;
        self.inventory.listed_at = Some(asked_at);
        Ok(())
    }

    /// Lists and inspects some containers; those that are gone are forgotten.
    pub(super) async fn list_one(&mut self, ids: &[Arc<str>]) -> Result<(), MonitorError> {
        let client = self.client();
        let looks: Vec<_> = stream::iter(ids.iter().cloned())
            .map(|id| {
                let client = client.clone();
                async move {
                    let entries = client.containers(Some(&id)).await?;
                    let own = entries.into_iter().find(|entry| {
                        entry.parsed::<String>("Id").ok().flatten().as_deref() == Some(&*id)
                    });
                    Ok::<_, ClientError>((id, own))
                }
            })
            .buffer_unordered(CONCURRENT_INSPECTIONS)
            .collect()
            .await;
        let mut found = Vec::new();
        for look in looks {
            match look? {
                (id, Some(entry)) => found.push((id, entry)),
                (id, None) => {
                    self.inventory.containers.remove(&id);
                }
            }
        }
        let wanted: Vec<_> = found.iter().map(|(id, _)| Arc::clone(id)).collect();
        let inspected = self.inspect_all(&client, found).await?;
        for id in wanted {
            self.inventory.containers.remove(&id);
        }
        for container in inspected {
            self.inventory
                .containers
                .insert(Arc::clone(&container.id), container);
        }
        Ok(())
    }

    pub(super) async fn list_images(&mut self) -> Result<(), MonitorError> {
        let entries = self.client().images().await?;
        self.inventory.images = Arc::new(
            entries
                .into_iter()
                .map(|entry| Arc::new(Image::parse(entry)))
                .collect(),
        );
        Ok(())
    }

    pub(super) async fn list_networks(&mut self) -> Result<(), MonitorError> {
        let entries = self.client().networks().await?;
        self.inventory.networks = Arc::new(
            entries
                .into_iter()
                .map(|entry| Arc::new(Network::parse(entry)))
                .collect(),
        );
        Ok(())
    }

    pub(super) async fn list_volumes(&mut self) -> Result<(), MonitorError> {
        let entries = self.client().volumes().await?;
        self.inventory.volumes = Arc::new(
            entries
                .into_iter()
                .map(|entry| Arc::new(Volume::parse(entry)))
                .collect(),
        );
        Ok(())
    }

    /// Inspects containers. One that vanished meanwhile is left out; one whose answer is odd stays
    /// as it was known, since an engine may fail to inspect one broken container for ever.
    async fn inspect_all(
        &mut self,
        client: &Client,
        entries: Vec<(Arc<str>, RawObject)>,
    ) -> Result<Vec<Arc<Container>>, MonitorError> {
        let cpus = self.inventory.specs.as_ref().map_or(0, |specs| specs.cpus);
        let shares = self.options.cpu_shares;
        let answers: Vec<_> = stream::iter(entries)
            .map(|(id, entry)| {
                let client = client.clone();
                async move {
                    let answer = client.inspect(&id).await;
                    (id, entry, answer)
                }
            })
            .buffer_unordered(CONCURRENT_INSPECTIONS)
            .collect()
            .await;
        let mut containers = Vec::with_capacity(answers.len());
        for (id, entry, answer) in answers {
            let odd = match answer {
                Ok(inspect) => match Container::parse(&entry, &inspect, cpus, shares) {
                    Ok(container) if container.id == id => {
                        if self.options.keeps_documents {
                            // Not a part of the buffer it was read into, which is larger and would stay.
                            self.documents
                                .push((id, bytes::Bytes::copy_from_slice(&inspect)));
                        }
                        containers.push(Arc::new(container));
                        continue;
                    }
                    Ok(container) => format!("it has the ID `{}`", container.id),
                    Err(error) => error.to_string(),
                },
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => continue,
                Err(ClientError::Engine { status, message }) => format!("{status}: {message}"),
                Err(error) => return Err(error.into()),
            };
            tracing::warn!(container = &*id, odd, "container cannot be inspected");
            containers.extend(self.inventory.containers.get(&id).cloned());
        }
        Ok(containers)
    }
}

/// Whether a list entry still tells what is known of the container, clock-dependent text aside.
fn is_same(known: &Container, entry: &RawObject) -> bool {
    let Ok(before) = RawObject::parse(known.entry.text().as_bytes()) else {
        return false;
    };
    let same_members = before.iter().count() == entry.iter().count()
        && before
            .iter()
            .zip(entry.iter())
            .all(|(old, new)| old.0 == new.0 && (old.0 == "Status" || old.1.get() == new.1.get()));
    let status: String = entry.parsed("Status").ok().flatten().unwrap_or_default();
    let old: String = before.parsed("Status").ok().flatten().unwrap_or_default();
    same_members && timeless(&status) == timeless(&old) && !restarted(known, &status)
}

/// A status text without its durations: `Exited (0) 3 minutes ago` is `Exited (0)`.
fn timeless(status: &str) -> String {
    let word = status.split(' ').next().unwrap_or_default();
    let notes = status
        .split('(')
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(note, _)| note);
    std::iter::once(word)
        .chain(notes)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether the text speaks of a much younger run than the one that is known.
fn restarted(known: &Container, status: &str) -> bool {
    let since = if known.state.running {
        known.state.started_at
    } else {
        known.state.finished_at
    };
    let Some(since) = since else {
        return false;
    };
    let age = (Utc::now() - since).num_seconds();
    (age > 150 && status.contains("second")) || (age > 3 * 3600 && status.contains("minute"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_do_not_make_a_status_different() {
        assert_eq!(
            timeless("Up 3 minutes (healthy)"),
            timeless("Up About an hour (healthy)")
        );
        assert_ne!(timeless("Up 3 minutes"), timeless("Up 3 minutes (Paused)"));
        assert_ne!(
            timeless("Exited (0) 3 minutes ago"),
            timeless("Exited (137) 3 minutes ago")
        );
    }

    #[test]
    fn exec_and_attach_change_nothing() {
        let mut touched = Touched::default();
        let mut event = Event {
            kind: "container".to_owned(),
            action: "exec_create: ls".to_owned(),
            actor_id: "abc".to_owned(),
            attributes: std::collections::BTreeMap::new(),
            scope: "local".to_owned(),
            time_nano: 0,
            json: bytes::Bytes::new(),
        };
        touched.add(&event);
        assert!(touched.containers.is_empty());
        event.action = "health_status: healthy".to_owned();
        touched.add(&event);
        assert_eq!(touched.containers.len(), 1);
    }
}
