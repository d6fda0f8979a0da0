//! `GET /containers/json`: every container of the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tracing::warn;

use super::{Answer, Context, json_bytes};
use crate::{
    api::{
        entries,
        error::ApiError,
        fanout::{Outcome, on_each},
        list_filters::{ListFilters, matches_name},
        query::Query,
    },
    cluster::{
        Cluster,
        snapshot::{Age, Found, Node, Snapshot},
    },
    engine::{
        inventory::{Container, resources::Tag},
        monitor::Refresh,
        raw::RawObject,
        transport::{Body, BodyError},
    },
};

/// The filters this list knows: the engine's, and `node`.
const KNOWN: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "label",
    "name",
    "network",
    "node",
    "publish",
    "since",
    "status",
    "volume",
    "isolation",
];

/// How much of the answer is encoded at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Lists containers, newest first.
pub async fn list(context: &Context, query: &Query) -> Answer {
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    refresh(context, &filters).await;
    let snapshot = context.cluster.snapshot();
    let select = Selection::new(&snapshot, query, filters)?;
    let sizes = if query.flag("size") {
        sizes(context, select.apply(&snapshot)).await
    } else {
        Sizes::new()
    };
    Ok(stream_entries(List {
        cluster: context.cluster.clone(),
        now: Utc::now(),
        left: select.most(),
        select,
        snapshot,
        sizes,
        last: None,
    }))
}

/// Asks nodes anew if that is configured for these filters. A node that does not answer keeps the
/// list as it was.
async fn refresh(context: &Context, filters: &ListFilters) {
    let options = &context.options;
    let all = !options.refresh_name_filter.is_empty()
        && filters.get("name").contains(&options.refresh_name_filter);
    let named: &[String] = if options.refresh_on_node_filter {
        filters.get("node")
    } else {
        &[]
    };
    if !all && named.is_empty() {
        return;
    }
    let mut nodes = context.cluster.snapshot().healthy();
    nodes.retain(|node| all || named.iter().any(|name| name == node.inventory.name()));
    on_each(&context.cluster, nodes, |node| async move {
        let addr = &node.inventory.addr;
        context.cluster.refresh(addr, Refresh::Containers).await;
        Ok(())
    })
    .await;
}

/// The members of list entries that only engines know, by container ID.
type Sizes = HashMap<String, RawObject>;

/// Asks the engines of the containers for sizes. Containers of an engine that does not tell have
/// none.
async fn sizes(context: &Context, found: impl Iterator<Item = Found>) -> Sizes {
    let nodes: BTreeMap<_, _> = found
        .filter(|one| one.node.inventory.is_healthy())
        .map(|one| (one.node.inventory.addr.clone(), one.node))
        .collect();
    let nodes = nodes.into_values().collect();
    let outcomes = on_each(&context.cluster, nodes, |node| async move {
        node.client.container_sizes().await
    })
    .await;
    let mut sizes = Sizes::new();
    for Outcome { node, result } in outcomes {
        let entries = result.unwrap_or_else(|error| {
            warn!(node = node.inventory.name(), %error, "engine does not tell sizes");
            Vec::new()
        });
        for entry in entries {
            let Some(id) = entry.parsed::<String>("Id").ok().flatten() else {
                continue;
            };
            let known: &mut RawObject = sizes.entry(id).or_default();
            for name in ["SizeRw", "SizeRootFs"] {
                if let Some(size) = entry.get(name) {
                    known.set(name, &size);
                }
            }
        }
    }
    sizes
}

/// Which containers are wanted.
struct Selection {
    filters: ListFilters,
    exited: Vec<i64>,
    is_task: Option<bool>,
    everything: bool,
    show_managers: bool,
    limit: usize,
    before: Option<Found>,
    since: Option<Found>,
    ancestors: Option<BTreeSet<String>>,
    publish: Vec<(u16, u16, Option<String>)>,
    expose: Vec<(u16, u16, Option<String>)>,
}

impl Selection {
    fn new(snapshot: &Snapshot, query: &Query, filters: ListFilters) -> Result<Self, ApiError> {
        let limit = usize::try_from(query.number("limit")).unwrap_or(0);
        let find = |reference: &str| {
            snapshot
                .container(reference)
                .ok_or_else(|| ApiError::not_found(format!("No such container {reference}")))
        };
        let one = |name: &str| -> Result<Option<Found>, ApiError> {
            let from_query = query.get(name);
            match (filters.get(name), from_query) {
                ([], "") => Ok(None),
                ([], reference) => find(reference).map(Some),
                ([value, ..], _) => find(value).map(Some),
            }
        };
        let exited = filters
            .get("exited")
            .iter()
            .map(|code| {
                code.parse()
                    .map_err(|_| ApiError::bad_filter("exited", code))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for status in filters.get("status") {
            if !STATES.contains(&status.as_str()) {
                return Err(ApiError::bad_filter("status", status));
            }
        }
        for health in filters.get("health") {
            if !["none", "starting", "healthy", "unhealthy"].contains(&health.as_str()) {
                return Err(ApiError::bad_filter("health", health));
            }
        }
        let before = one("before")?;
        let since = one("since")?;
        let implies_all = !filters.get("status").is_empty() || !exited.is_empty();
        Ok(Self {
            everything: query.flag("all")
                || limit > 0
                || before.is_some()
                || since.is_some()
                || implies_all,
            show_managers: query.flag("all"),
            is_task: filters.boolean("is-task")?,
            limit,
            before,
            since,
            ancestors: ancestors(snapshot, filters.get("ancestor")),
            publish: ports(&filters, "publish")?,
            expose: ports(&filters, "expose")?,
            exited,
            filters,
        })
    }

    /// The most containers that the answer may have.
    fn most(&self) -> usize {
        match self.limit {
            0 => usize::MAX,
            limit => limit,
        }
    }

    /// The wanted containers, newest first.
    fn apply(&self, snapshot: &Snapshot) -> impl Iterator<Item = Found> {
        let all = snapshot.newest_first(None).map(|(_, found)| found);
        all.filter(|found| self.wants(&found.node, &found.container))
            .take(self.most())
    }

    fn wants(&self, node: &Node, container: &Container) -> bool {
        let up = container.state.running && node.inventory.is_healthy();
        if !self.everything && !up {
            return false;
        }
        if !self.show_managers && is_manager(container) {
            return false;
        }
        let older = |than: &Found| container.created < than.container.created;
        let newer = |than: &Found| container.created > than.container.created;
        let filters = &self.filters;
        self.before.as_ref().is_none_or(older)
            && self.since.as_ref().is_none_or(newer)
            && filters.any("id", |value| {
                container.id.starts_with(value) || matches_name(value, &container.id)
            })
            && filters.any("name", |value| is_named(container, value))
            && filters.labels("label", |key| container.labels.get(key))
            && filters.any("status", |value| entries::state(container) == value)
            && filters.any("node", |value| matches_name(value, node.inventory.name()))
            && filters.any("health", |value| health(container) == value)
            && (self.exited.is_empty()
                || (!container.state.running && self.exited.contains(&container.state.exit_code)))
            && self.is_task.is_none_or(|wanted| {
                container.labels.contains_key("com.docker.swarm.task") == wanted
            })
            && filters.any("volume", |value| {
                container.mounts.iter().any(|mount| {
                    [&*mount.name, &*mount.destination, &*mount.source].contains(&value)
                })
            })
            && filters.any("network", |value| {
                container.networks.iter().any(|(name, id)| {
                    **name == *value
                        || format!("{}/{name}", node.inventory.name()) == value
                        || (!value.is_empty() && id.starts_with(value))
                })
            })
            && self.ancestors.as_ref().is_none_or(|ids| {
                ids.contains(&*container.image_id) || ids.contains(&*container.image)
            })
            && any_port(
                &self.publish,
                container
                    .bindings
                    .iter()
                    .map(|b| (b.first, b.protocol.as_str())),
            )
            && any_port(
                &self.expose,
                container
                    .exposed_ports
                    .iter()
                    .filter_map(|port| split_port(port)),
            )
    }
}

/// Whether this is one of classic Swarm's own containers, which only `all` shows.
fn is_manager(container: &Container) -> bool {
    container.image.split(':').next() == Some("swarm")
}

/// The states a status filter may name.
const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

/// A name filter is a regular expression over the bare name, with or without a leading slash.
fn is_named(container: &Container, value: &str) -> bool {
    container
        .names
        .iter()
        .any(|name| matches_name(value, name) || matches_name(value, &format!("/{name}")))
}

fn health(container: &Container) -> &str {
    match &container.state.health {
        Some(health) if !health.status.is_empty() => &health.status,
        _ => "none",
    }
}

/// The IDs and names that stand for the images given.
fn ancestors(snapshot: &Snapshot, references: &[String]) -> Option<BTreeSet<String>> {
    if references.is_empty() {
        return None;
    }
    let mut ids: BTreeSet<String> = references.iter().cloned().collect();
    for node in snapshot.nodes() {
        for image in node.inventory.images.iter() {
            if references.iter().any(|r| image.matches(r, Tag::Counts)) {
                ids.insert(image.id.clone());
            }
        }
    }
    Some(ids)
}

/// Parses `80`, `80/udp`, `8000-8010/tcp`.
fn ports(filters: &ListFilters, name: &str) -> Result<Vec<(u16, u16, Option<String>)>, ApiError> {
    filters
        .get(name)
        .iter()
        .map(|value| {
            let (range, protocol) = match value.split_once('/') {
                Some((range, protocol)) => (range, Some(protocol.to_owned())),
                None => (value.as_str(), None),
            };
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if first <= last => Ok((first, last, protocol)),
                _ => Err(ApiError::bad_filter(name, value)),
            }
        })
        .collect()
}

fn any_port<'a>(
    wanted: &[(u16, u16, Option<String>)],
    mut own: impl Iterator<Item = (u16, &'a str)>,
) -> bool {
    wanted.is_empty()
        || own.any(|(port, protocol)| {
            wanted.iter().any(|(first, last, of)| {
                (*first..=*last).contains(&port) && of.as_deref().is_none_or(|of| of == protocol)
            })
        })
}

fn split_port(text: &str) -> Option<(u16, &str)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    Some((port.parse().ok()?, protocol))
}

/// An answer under way.
struct List {
    cluster: Cluster,
    snapshot: Arc<Snapshot>,
    select: Selection,
    sizes: Sizes,
    now: DateTime<Utc>,
    /// How many more there may be.
    left: usize,
    /// The last container that was looked at; `None` before the first.
    last: Option<Age>,
}

impl List {
    /// Appends entries to `chunk` until it is full. Returns whether there may be more.
    fn fill(&mut self, chunk: &mut Vec<u8>) -> bool {
        let mut last = None;
        for (age, found) in self.snapshot.newest_first(self.last.as_ref()) {
            if self.left == 0 {
                return false;
            }
            if !self.select.wants(&found.node, &found.container) {
                continue;
            }
            self.left -= 1;
            if chunk.last() != Some(&b'[') {
                chunk.push(b',');
            }
            self.encode(&found, chunk);
            if chunk.len() >= CHUNK_BYTES {
                last = Some(age.clone());
                break;
            }
        }
        self.last = last;
        self.last.is_some()
    }

    fn encode(&self, found: &Found, chunk: &mut Vec<u8>) {
        let Found { node, container } = found;
        let inventory = &node.inventory;
        let waiting = match inventory.is_healthy() {
            true => None,
            false => self.cluster.why_waiting(&inventory.addr, &container.id),
        };
        let more = self.sizes.get(&*container.id);
        let waiting = waiting.as_deref();
        entries::encode(chunk, container, inventory, waiting, more, self.now);
    }
}

/// Encodes entries as they are sent, so that the answer is never in memory as a whole.
fn stream_entries(list: List) -> Response<Body> {
    let chunks = stream::unfold(Some((list, true)), |state| async {
        let (mut list, is_first) = state?;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + 4096);
        if is_first {
            chunk.push(b'[');
        }
        let has_more = list.fill(&mut chunk);
        if !has_more {
            chunk.extend_from_slice(b"]\n");
        }
        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(chunk)));
        Some((frame, has_more.then_some((list, false))))
    });
    let body = StreamBody::new(chunks)
        .map_err(|never| -> BodyError { match never {} })
        .boxed_unsync();
    json_bytes(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::snapshot::tests::{cluster, container, node};

    fn check(query: &str, expected: &[&str]) {
        let mut first = node("n0", "127.0.0.1:1", &[]);
        let mut inventory = (*first.inventory).clone();
        for (index, id) in ["c1", "c2"].into_iter().enumerate() {
            let mut container = container(id, &[&format!("{id}name")], "");
            container.created = DateTime::from_timestamp(index as i64, 0).unwrap();
            container.state.running = id == "c2";
            container.state.exit_code = 3;
            container.state.started_at = Some(Utc::now());
            container.exposed_ports.push("80/tcp".into());
            inventory
                .containers
                .insert(Arc::from(id), Arc::new(container));
        }
        first.inventory = Arc::new(inventory);
        let snapshot = cluster([first]);
        let query = Query::parse(Some(query));
        let filters = ListFilters::parse(query.get("filters"), &KNOWN).unwrap();
        let selection = Selection::new(&snapshot, &query, filters).unwrap();
        let ids: Vec<_> = selection
            .apply(&snapshot)
            .map(|f| f.container.id.to_string())
            .collect();
        assert_eq!(ids, expected, "{query:?}");
    }

    #[tokio::test]
    async fn running_ones_are_listed_newest_first() {
        check("", &["c2"]);
        check("all=1", &["c2", "c1"]);
        check("limit=1", &["c2"]);
        check("limit=5", &["c2", "c1"]);
        check("before=c2", &["c1"]);
        check(r#"filters={"since":["c1"]}"#, &["c2"]);
    }

    #[tokio::test]
    async fn filters_narrow_the_list() {
        check(r#"filters={"status":["exited"]}"#, &["c1"]);
        check(r#"filters={"exited":["3"]}"#, &["c1"]);
        check(r#"filters={"exited":["0"]}"#, &[]);
        check(r#"all=1&filters={"name":["^/c1"]}"#, &["c1"]);
        check(r#"all=1&filters={"name":["c.name"]}"#, &["c2", "c1"]);
        check(r#"all=1&filters={"node":["n1"]}"#, &[]);
        check(r#"all=1&filters={"ancestor":["busybox"]}"#, &["c2", "c1"]);
        check(r#"all=1&filters={"ancestor":["alpine"]}"#, &[]);
        check(r#"all=1&filters={"expose":["80-90/tcp"]}"#, &["c2", "c1"]);
        check(r#"all=1&filters={"publish":["80"]}"#, &[]);
        check(r#"all=1&filters={"health":["none"]}"#, &["c2", "c1"]);
        check(r#"all=1&filters={"is-task":["true"]}"#, &[]);
    }
}
