//! Nodes as `docker node` shows and changes them: what an operator says of each.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Answer, Context, json, read_object};
use crate::{
    api::{error::ApiError, list_filters::ListFilters, query::Query},
    cluster::{
        nodes::{Availability, Settings, UpdateError},
        snapshot::{Node, Snapshot},
    },
    engine::{
        health::Status,
        transport::{self, Body},
    },
};

/// The filters that the list knows.
const KNOWN: [&str; 6] = ["id", "label", "membership", "name", "node.label", "role"];

/// What the filters `role` and `membership` may be, in any case.
const ROLES: [&str; 2] = ["worker", "manager"];
const MEMBERSHIPS: [&str; 2] = ["accepted", "pending"];

/// `GET /nodes`
pub fn list(context: &Context, query: &Query) -> Answer {
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    for (name, values) in [("role", ROLES), ("membership", MEMBERSHIPS)] {
        let is_known = |value: &String| is_one_of(value, &values);
        if let Some(odd) = filters.get(name).iter().find(|value| !is_known(value)) {
            return Err(ApiError::bad_request(format!(
                "invalid {name} filter: '{odd}'"
            )));
        }
    }
    let snapshot = context.cluster.snapshot();
    let nodes = snapshot.validated().into_iter().filter(|node| {
        let inventory = &node.inventory;
        let id = id_of(&snapshot, node);
        let settings = context.cluster.settings(&inventory.addr);
        let own = inventory.specs.as_ref();
        let engine_labels = own.map_or_else(BTreeMap::new, |specs| specs.labels.clone());
        filters.any("id", |value| id.starts_with(value))
            && filters.any("name", |value| inventory.name().starts_with(value))
            && filters.any("role", |value| is_one_of(value, &["worker"]))
            && filters.any("membership", |value| is_one_of(value, &["accepted"]))
            && has_labels(filters.get("label"), &engine_labels)
            && has_labels(filters.get("node.label"), &settings.labels)
    });
    let shown: Vec<Value> = nodes.map(|node| shown(context, &snapshot, node)).collect();
    Ok(json(&shown))
}

/// `GET /nodes/{id}`
pub fn inspect(context: &Context, reference: &str) -> Answer {
    let snapshot = context.cluster.snapshot();
    let node = find(&snapshot, reference)?;
    Ok(json(&shown(context, &snapshot, &node)))
}

/// `POST /nodes/{id}/update`
pub async fn update(
    context: &Context,
    reference: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let text = query.get("version");
    let version = text
        .parse()
        .map_err(|_| ApiError::bad_request(format!("invalid node version '{text}'")))?;
    let spec = read_object(context, request.into_body()).await?;
    let bad = |error: crate::engine::raw::MemberError| ApiError::bad_request(error.to_string());
    let labels: BTreeMap<String, String> = spec.parsed("Labels").map_err(bad)?.unwrap_or_default();
    let availability: String = spec
        .parsed("Availability")
        .map_err(bad)?
        .unwrap_or_default();
    let availability = match availability.as_str() {
        "" | "active" => Availability::Active,
        "pause" => Availability::Pause,
        "drain" => Availability::Drain,
        other => {
            let text = format!("invalid availability '{other}': it is active, pause, or drain");
            return Err(ApiError::bad_request(text));
        }
    };
    let role: String = spec.parsed("Role").map_err(bad)?.unwrap_or_default();
    if !["", "worker"].contains(&role.as_str()) {
        let text = format!(
            "a node of this cluster is a worker and cannot become a {role}: managers are started \
             with `skep manage --replication`"
        );
        return Err(ApiError::bad_request(text));
    }
    let node = find(&context.cluster.snapshot(), reference)?;
    let addr = &node.inventory.addr;
    let cluster = &context.cluster;
    let updated = cluster.update_settings(addr, version, availability, labels);
    updated.await.map_err(|error| match error {
        UpdateError::OutOfSequence => ApiError::internal(error.to_string()),
        UpdateError::Store(_) | UpdateError::NotPrimary => ApiError::unavailable(error.to_string()),
    })?;
    Ok(Response::new(transport::empty()))
}

fn is_one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// Whether all wanted labels are there. Unlike in other lists `key=` is the same as `key`.
fn has_labels(wanted: &[String], labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|wanted| {
        let (key, value) = wanted.split_once('=').unwrap_or((wanted, ""));
        let own = labels.get(key);
        own.is_some_and(|own| value.is_empty() || own == value)
    })
}

/// The node that an ID, a name, an address, or the beginning of an ID means.
pub(super) fn find(snapshot: &Snapshot, reference: &str) -> Result<Arc<Node>, ApiError> {
    let all = snapshot.validated();
    let with = |fits: &dyn Fn(&Node) -> bool| -> Vec<&Arc<Node>> {
        all.iter().copied().filter(|node| fits(node)).collect()
    };
    let rules: [&dyn Fn(&Node) -> bool; 3] = [
        &|node| {
            let inventory = &node.inventory;
            let is_address = inventory.addr.to_string() == reference;
            is_address || inventory.node_id() == reference || id_of(snapshot, node) == reference
        },
        &|node| node.inventory.name() == reference,
        &|node| !reference.is_empty() && node.inventory.node_id().starts_with(reference),
    ];
    for rule in rules {
        match with(rule).as_slice() {
            [] => {}
            [one] => return Ok(Arc::clone(one)),
            several => {
                let count = several.len();
                let text = format!("node {reference} is ambiguous ({count} matches found)");
                return Err(ApiError::bad_request(text));
            }
        }
    }
    Err(ApiError::not_found(format!("node {reference} not found")))
}

/// The engine's ID; with its address if several engines claim the same.
pub(super) fn id_of(snapshot: &Snapshot, node: &Node) -> String {
    let own = |node: &Node| node.inventory.specs.as_ref().map(|specs| specs.id.clone());
    let id = own(node).unwrap_or_default();
    let holders = snapshot
        .nodes()
        .filter(|other| own(other).as_ref() == Some(&id));
    if id.is_empty() || holders.count() > 1 {
        return node.inventory.node_id();
    }
    id
}

fn shown(context: &Context, snapshot: &Snapshot, node: &Node) -> Value {
    let inventory = &node.inventory;
    let Settings {
        version,
        availability,
        labels,
        updated_at,
        created_at: _,
    } = context.cluster.settings(&inventory.addr);
    let specs = inventory.specs.clone().unwrap_or_default();
    let total = inventory.total();
    let state = match inventory.status {
        Status::Healthy => "ready",
        Status::Unhealthy => "down",
        Status::Pending | Status::Disconnected => "unknown",
    };
    let heard_at: DateTime<Utc> = inventory.updated_at.into();
    let created_at = context.cluster.known_since(&inventory.addr, heard_at);
    json!({
        "ID": id_of(snapshot, node),
        "Version": {"Index": version},
        "CreatedAt": rfc3339(created_at),
        "UpdatedAt": rfc3339(updated_at.unwrap_or(created_at)),
        "Spec": {"Labels": labels, "Role": "worker", "Availability": availability},
        "Description": {
            "Hostname": inventory.name(),
            "Platform": {"Architecture": specs.architecture, "OS": specs.os_type},
            "Resources": {"NanoCPUs": total.cpu_nano, "MemoryBytes": total.memory_bytes},
            "Engine": {"EngineVersion": specs.server_version, "Labels": specs.labels},
        },
        "Status": {
            "State": state,
            "Message": message(context, node, availability),
            "Addr": inventory.ip_text(),
        },
    })
}

/// What is wrong with a node, or what a drain has left to do.
fn message(context: &Context, node: &Node, availability: Availability) -> String {
    let inventory = &node.inventory;
    if let Some(error) = &inventory.error {
        return error.clone();
    }
    if availability != Availability::Drain {
        return String::new();
    }
    let stays = inventory.containers.values().map(|container| {
        let why = context.cluster.why_waiting(&inventory.addr, &container.id);
        let why = why.as_deref().map(str::to_owned);
        let why = why.unwrap_or_else(|| match container.document.is_empty() {
            true => "it has no reschedule policy".to_owned(),
            false => "it is about to be moved".to_owned(),
        });
        format!("{}: {why}", container.name())
    });
    let stays: Vec<String> = stays.collect();
    match stays.len() {
        0 => "drained".to_owned(),
        count => format!("{count} left: {}", stays.join("; ")),
    }
}

pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}
