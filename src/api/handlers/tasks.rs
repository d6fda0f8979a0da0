//! Containers as tasks, so that `docker node ps` shows what a node has.
//!
//! There are no services here: each container is the only task of a service of its own name.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Answer, Context, json, nodes};
use crate::{
    api::{entries, error::ApiError, list_filters::ListFilters, query::Query},
    cluster::snapshot::{Found, Node, Snapshot},
    engine::inventory::Container,
};

/// The filters that the list knows.
const KNOWN: [&str; 8] = [
    "_up-to-date",
    "desired-state",
    "id",
    "label",
    "name",
    "node",
    "runtime",
    "service",
];

/// What the filter `desired-state` may be.
const DESIRED: [&str; 3] = ["running", "shutdown", "accepted"];

/// `GET /tasks`
pub fn list(context: &Context, query: &Query) -> Answer {
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    let odd = |value: &&String| !DESIRED.contains(&value.as_str());
    if let Some(odd) = filters.get("desired-state").iter().find(odd) {
        let text = format!("invalid desired-state filter: '{odd}'");
        return Err(ApiError::bad_request(text));
    }
    let snapshot = context.cluster.snapshot();
    let mut wanted = Vec::new();
    for reference in filters.get("node") {
        wanted.push(nodes::find(&snapshot, reference)?.inventory.addr.clone());
    }
    let mut tasks = Vec::new();
    for node in snapshot.validated() {
        let addr = &node.inventory.addr;
        if !filters.get("node").is_empty() && !wanted.contains(addr) {
            continue;
        }
        let own = node.inventory.containers.values();
        let own = own.filter(|container| is_wanted(container, &filters));
        tasks.extend(own.map(|container| shown(context, &snapshot, node, container)));
    }
    Ok(json(&tasks))
}

/// `GET /tasks/{id}`
pub fn inspect(context: &Context, reference: &str) -> Answer {
    let snapshot = context.cluster.snapshot();
    let found = snapshot.container(reference);
    let Some(Found { node, container }) = found else {
        let text = format!("task {reference} not found");
        return Err(ApiError::not_found(text));
    };
    Ok(json(&shown(context, &snapshot, &node, &container)))
}

fn is_wanted(container: &Container, filters: &ListFilters) -> bool {
    filters.any("id", |value| container.id.starts_with(value))
        && filters.any("name", |value| container.name().starts_with(value))
        && filters.any("service", |value| {
            container.name() == value || *container.id == *value
        })
        && filters.any("desired-state", |value| desired(container) == value)
        && filters.any("runtime", |value| value == "container")
        && filters.labels("label", |key| container.labels.get(key))
}

fn shown(context: &Context, snapshot: &Snapshot, node: &Node, container: &Container) -> Value {
    let inventory = &node.inventory;
    let labels = container.labels.iter();
    let labels: BTreeMap<&str, &str> = labels.map(|(key, value)| (&**key, &**value)).collect();
    let created = nodes::rfc3339(container.created);
    let (state, since) = state(container);
    let since = since.map_or_else(|| created.clone(), nodes::rfc3339);
    let waits = context.cluster.why_waiting(&inventory.addr, &container.id);
    let error = match (waits, state) {
        (Some(reason), _) => reason.to_string(),
        (None, "failed") => format!("task: non-zero exit ({})", container.state.exit_code),
        (None, _) => String::new(),
    };
    let message = match inventory.is_healthy() {
        true => entries::state(container),
        false => "its node is out of reach",
    };
    json!({
        "ID": *container.id,
        "Version": {"Index": 0},
        "CreatedAt": created,
        "UpdatedAt": since,
        "Name": container.name(),
        "Labels": labels,
        "Spec": {"ContainerSpec": {"Image": *container.image}, "Runtime": "container"},
        "ServiceID": container.name(),
        "Slot": 1,
        "NodeID": nodes::id_of(snapshot, node),
        "Status": {
            "Timestamp": since,
            "State": state,
            "Message": message,
            "Err": error,
            "ContainerStatus": {"ContainerID": *container.id, "ExitCode": container.state.exit_code},
            "PortStatus": {},
        },
        "DesiredState": desired(container),
    })
}

/// A container's state in the words of tasks, and since when it has it; `None` if that is its
/// creation.
fn state(container: &Container) -> (&'static str, Option<DateTime<Utc>>) {
    let state = &container.state;
    match entries::state(container) {
        "running" | "paused" => ("running", state.started_at),
        "restarting" => ("starting", state.finished_at),
        "created" => ("ready", None),
        "removing" => ("remove", state.finished_at),
        _ if state.exit_code == 0 => ("complete", state.finished_at),
        _ => ("failed", state.finished_at),
    }
}

fn desired(container: &Container) -> &'static str {
    match entries::state(container) {
        "running" | "paused" | "restarting" => "running",
        "created" => "accepted",
        _ => "shutdown",
    }
}
