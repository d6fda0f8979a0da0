//! One container: created, looked at, and handed to its engine.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tracing::warn;

use super::{Answer, Context, engine_path, json, json_bytes, no_content, read_object};
use crate::{
    api::{
        entries::Binding,
        error::ApiError,
        proxy::Aftermath,
        query::Query,
        router::{Effect, Operation},
    },
    cluster::{
        create::CreateRequest,
        snapshot::{Found, Node},
    },
    engine::{
        client::{ClientError, encode},
        monitor::Refresh,
        raw::RawObject,
        transport,
    },
    registry::REGISTRY_AUTH,
};

/// `POST /containers/create`
pub async fn create(
    context: &Context,
    version: Option<String>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let auth = request.headers().get(REGISTRY_AUTH).cloned();
    let body = read_object(context, request.into_body()).await?;
    let created = context
        .cluster
        .create(CreateRequest {
            name: query.get("name").to_owned(),
            body,
            version,
            query: query.without("name"),
            auth,
        })
        .await?;
    Ok(json_bytes(
        StatusCode::CREATED,
        transport::full(created.body),
    ))
}

/// `GET /containers/{name}/json`: the engine's document with the node in it.
pub async fn inspect(
    context: &Context,
    version: Option<&str>,
    name: &str,
    query: &Query,
) -> Answer {
    let found = context.cluster.snapshot().container(name);
    let found = found.ok_or_else(|| ApiError::no_container_plain(name))?;
    let mut document = document(context, version, name, &found, query).await?;
    add_node(&mut document, &found.node)?;
    let addr = &found.node.inventory.addr;
    if let Some(reason) = context.cluster.why_waiting(addr, &found.container.id) {
        let mut node = document.object("Node")?;
        node.set("Waiting", &*reason);
        document.set("Node", &node);
    }
    Ok(json(&document))
}

/// What the engine says of a container, or said, if its node is down.
pub(super) async fn document(
    context: &Context,
    version: Option<&str>,
    name: &str,
    found: &Found,
    query: &Query,
) -> Result<RawObject, ApiError> {
    if let Some(document) = remembered(context, found).await {
        return Ok(document);
    }
    check_healthy(name, found)?;
    let path = engine_path(
        &found.node,
        version,
        &format!("/containers/{}/json", found.container.id),
        query,
    );
    let asked = found.node.client.json_at(Method::GET, &path).await;
    Ok(asked.inspect_err(|error| note_failure(context, &found.node, error))?)
}

/// The document of a container on a node that is down, as last seen.
async fn remembered(context: &Context, found: &Found) -> Option<RawObject> {
    let inventory = &found.node.inventory;
    if inventory.is_healthy() {
        return None;
    }
    let memory = context.cluster.memory()?;
    memory
        .inspect(&inventory.addr, &found.container.id)
        .await
        .inspect_err(|error| warn!(%error, "record cannot be read"))
        .ok()
        .flatten()
}

/// Puts the node, and its address where the engine says "all addresses", into the document.
fn add_node(document: &mut RawObject, node: &Node) -> Result<(), ApiError> {
    let inventory = &node.inventory;
    let ip = inventory.ip_text();
    let mut settings = document.object("NetworkSettings")?;
    let ports: Option<std::collections::BTreeMap<String, Option<Vec<Binding>>>> =
        settings.parsed("Ports")?;
    if let Some(mut ports) = ports
        && !ports.is_empty()
        && !ip.is_empty()
    {
        for binding in ports.values_mut().flatten().flatten() {
            binding.set_node_ip(&ip);
        }
        settings.set("Ports", &ports);
        document.set("NetworkSettings", &settings);
    }
    let mut own = RawObject::default();
    own.set("ID", &inventory.node_id());
    own.set("IP", &ip);
    own.set("Addr", &inventory.addr.to_string());
    own.set("Name", &inventory.name());
    if let Some(specs) = &inventory.specs {
        own.set("Cpus", &specs.cpus);
        own.set("Memory", &specs.memory_bytes);
        own.set("Labels", &specs.labels);
    }
    document.set("Node", &own);
    Ok(())
}

/// `POST /containers/{name}/rename`
pub async fn rename(context: &Context, name: &str, query: &Query) -> Answer {
    let found = find_or(context, name, ApiError::no_container)?;
    let wanted = query.get("name");
    if wanted.trim_start_matches('/').is_empty() {
        return Err(ApiError::bad_request(
            "Neither old nor new names may be empty",
        ));
    }
    context.cluster.rename(&found, wanted).await?;
    Ok(no_content())
}

/// `DELETE /containers/{name}`
pub async fn remove(
    context: &Context,
    version: Option<&str>,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let found = find_or(context, name, |name| {
        ApiError::not_found(format!("Container {name} not found"))
    })?;
    let id = &found.container.id;
    // A link is removed under the name of the alias, which the engine knows and the ID hides.
    let target = if query.flag("link") {
        let parts: Vec<String> = name.split('/').map(encode).collect();
        parts.join("/")
    } else {
        id.to_string()
    };
    let path = engine_path(
        &found.node,
        version,
        &format!("/containers/{target}"),
        query,
    );
    let after = Aftermath::AtHead(Refresh::Container(Arc::clone(id)));
    context
        .proxy
        .forward(&found.node, request, &path, after)
        .await
}

/// Whether a client wants a container to run from now on; `None` if it does not say.
fn wish(operation: &str, signal: &str) -> Option<bool> {
    let signal = signal.to_ascii_uppercase();
    match (operation, signal.trim_start_matches("SIG")) {
        ("start" | "restart", _) => Some(true),
        ("stop", _) => Some(false),
        ("kill", "" | "KILL" | "TERM" | "INT" | "QUIT" | "2" | "3" | "9" | "15") => Some(false),
        _ => None,
    }
}

/// Everything else about one container.
pub async fn operate(
    context: &Context,
    version: Option<&str>,
    name: &str,
    operation: Operation,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let missing = match operation.path {
        "start" => ApiError::no_container_plain,
        _ => ApiError::no_container,
    };
    let found = find_or(context, name, missing)?;
    let id = &found.container.id;
    if let Some(runs) = wish(operation.path, query.get("signal")) {
        let addr = &found.node.inventory.addr;
        context.cluster.note_wish(addr, id, runs);
    }
    let path = engine_path(
        &found.node,
        version,
        &format!("/containers/{id}/{}", operation.path),
        query,
    );
    let refresh = || Refresh::Container(Arc::clone(id));
    let after = match operation.effect {
        Effect::None => Aftermath::None,
        Effect::AtHead => Aftermath::AtHead(refresh()),
        Effect::AtEnd => Aftermath::AtEnd(refresh()),
    };
    context
        .proxy
        .forward(&found.node, request, &path, after)
        .await
}

/// Finds a container on a node that answers; `missing` says in which words there is none.
pub fn find_or(
    context: &Context,
    name: &str,
    missing: impl Fn(&str) -> ApiError,
) -> Result<Found, ApiError> {
    let found = context
        .cluster
        .snapshot()
        .container(name)
        .ok_or_else(|| missing(name))?;
    check_healthy(name, &found)?;
    Ok(found)
}

fn check_healthy(name: &str, found: &Found) -> Result<(), ApiError> {
    if found.node.inventory.is_healthy() {
        Ok(())
    } else {
        Err(ApiError::unhealthy(name, found.node.inventory.name()))
    }
}

/// Tells the cluster that a node could not be reached, if that is what the error says.
pub fn note_failure(context: &Context, node: &Node, error: &ClientError) {
    if error.is_contact_failure() {
        context.cluster.report_failure(&node.inventory.addr, error);
    }
}
