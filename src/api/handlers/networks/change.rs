//! Networks made, removed, joined, and left.

use std::collections::BTreeMap;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::super::{
    Answer, Context, candidates, compose,
    containers::{find_or, note_failure},
    engine_path, json_bytes, no_content, read_body, read_object, split_node,
};
use crate::{
    api::{error::ApiError, fanout, query::Query},
    cluster::snapshot::{Found, Node},
    engine::{
        client::{ClientError, encode},
        inventory::Network,
        monitor::Refresh,
        raw::RawObject,
        transport::{self, Body},
    },
    scheduler::request::Request as PlacementRequest,
};

/// The driver of networks of several nodes.
const OVERLAY: &str = "overlay";

/// `POST /networks/create`: on the node before the slash, or where scheduling puts it. A network of
/// more than one node is shown for all before the answer.
///
/// A network that names no driver is an overlay, as in classic Swarm, where an engine can make one,
/// and of the engine's own default elsewhere: classic failed there. In a swarm that overlay is
/// attachable, since no container could join it otherwise.
pub async fn create(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let mut body = read_object(context, request.into_body()).await?;
    let labels: BTreeMap<String, String> = body.parsed("Labels")?.unwrap_or_default();
    let full_name: String = body.parsed("Name")?.unwrap_or_default();
    let driver: String = body.parsed("Driver")?.unwrap_or_default();
    let (pinned, name) = split_node(&full_name);
    body.set("Name", &name);
    let mut nodes = candidates(context, pinned, PlacementRequest::default()).await?;
    compose::prefer(&context.cluster.snapshot(), &labels, &mut nodes);
    if matches!(&*driver, "" | OVERLAY) {
        // Workers of a swarm refuse to make an overlay network.
        nodes.sort_by_key(|node| !node.inventory.makes_overlays());
    }
    let node = nodes.swap_remove(0);
    if driver.is_empty() && node.inventory.makes_overlays() {
        body.set("Driver", &OVERLAY);
        if node.inventory.swarm().is_some() {
            body.set("Attachable", &true);
        }
    }
    let path = engine_path(&node, version, "/networks/create", query);
    let answer = node
        .client
        .post_at(&path, body.to_bytes().into())
        .await
        .inspect_err(|error| note_failure(context, &node, error))?;
    let addr = &node.inventory.addr;
    context.cluster.refresh(addr, Refresh::Networks).await;
    let id: String = RawObject::parse(&answer)
        .ok()
        .and_then(|answer| answer.parsed("Id").ok().flatten())
        .unwrap_or_default();
    let is_shared = context
        .cluster
        .snapshot()
        .network(&id)
        .is_some_and(|(_, network)| network.scope != "local");
    if is_shared {
        refresh_all(context).await;
    }
    Ok(json_bytes(StatusCode::CREATED, transport::full(answer)))
}

/// `DELETE /networks/{name}`: by its owner, or, if that cannot be reached and others know the
/// network too, by any of them.
pub async fn remove(context: &Context, version: Option<&str>, name: &str, query: &Query) -> Answer {
    let snapshot = context.cluster.snapshot();
    let (owner, network) = snapshot
        .network(name)
        .ok_or_else(|| ApiError::not_found(format!("No such network {name}")))?;
    let path = format!("/networks/{}", network.id);
    let ask = async |node: &Node| {
        let path = engine_path(node, version, &path, query);
        let result = node.client.call_at(Method::DELETE, &path).await;
        result.inspect_err(|error| note_failure(context, node, error))
    };
    let mut result = ask(&owner).await;
    if network.scope != "local" {
        for node in snapshot.healthy() {
            if !result.as_ref().is_err_and(ClientError::is_contact_failure) {
                break;
            }
            if node.inventory.addr != owner.inventory.addr {
                result = ask(&node).await;
            }
        }
    }
    result?;
    if network.scope == "local" {
        let addr = &owner.inventory.addr;
        context.cluster.refresh(addr, Refresh::Networks).await;
    } else {
        refresh_all(context).await;
    }
    Ok(no_content())
}

/// `POST /networks/{name}/connect`: on the container's engine.
pub async fn connect(
    context: &Context,
    version: Option<&str>,
    name: &str,
    request: Request<Incoming>,
) -> Answer {
    let mut body = membership(context, request).await?;
    let found = find_or(context, &body.container, ApiError::no_container)?;
    let network = find(context, name, &found)?;
    body.document.set("Container", &&*found.container.id);
    // A worker of a swarm knows a network of the swarm only once a container is on it, and asks
    // the managers for it by the name.
    let known = found
        .node
        .inventory
        .networks
        .iter()
        .any(|own| own.id == network.id);
    let target = if known || network.scope == "local" {
        &network.id
    } else {
        &network.name
    };
    let path = format!("/networks/{}/connect", encode(target));
    join(context, version, &found, &path, &body.document).await?;
    Ok(done())
}

/// `POST /networks/{name}/disconnect`: on the container's engine. If that is down, and the network
/// is there on other nodes too, a forced call is made on one of those.
pub async fn disconnect(
    context: &Context,
    version: Option<&str>,
    name: &str,
    request: Request<Incoming>,
) -> Answer {
    let mut body = membership(context, request).await?;
    let snapshot = context.cluster.snapshot();
    let mut found = snapshot
        .container(&body.container)
        .ok_or_else(|| ApiError::no_container(&body.container))?;
    let network = find(context, name, &found)?;
    let force: bool = body.document.parsed("Force")?.unwrap_or_default();
    if !found.node.inventory.is_healthy() {
        let other = snapshot.healthy().into_iter().next();
        let Some(other) = other.filter(|_| force && network.scope != "local") else {
            return Err(ApiError::unhealthy(
                &body.container,
                found.node.inventory.name(),
            ));
        };
        // Another engine knows the container by its endpoint's name alone.
        body.document.set("Container", &found.container.name());
        found.node = other;
    } else {
        body.document.set("Container", &&*found.container.id);
    }
    let path = format!("/networks/{}/disconnect", network.id);
    join(context, version, &found, &path, &body.document).await?;
    Ok(done())
}

/// The engine's answer to a connect or disconnect: 200 and nothing else. Clients exist that take
/// the 204 which classic Swarm gave to a disconnect for a failure.
fn done() -> Response<Body> {
    Response::new(transport::empty())
}

/// What connect and disconnect are asked.
struct Membership {
    container: String,
    document: RawObject,
}

async fn membership(context: &Context, request: Request<Incoming>) -> Result<Membership, ApiError> {
    let unspecified = || ApiError::not_found("Container is not specified");
    let body = read_body(context, request.into_body()).await?;
    let document = RawObject::parse(&body).map_err(|_| unspecified())?;
    let container: Option<String> = document.parsed("Container").map_err(|_| unspecified())?;
    let container = container
        .filter(|container| !container.is_empty())
        .ok_or_else(unspecified)?;
    Ok(Membership {
        container,
        document,
    })
}

/// The network as the whole cluster understands the reference, else as the container's node does:
/// `bridge` is on every node, but on one of them it is one network.
fn find(
    context: &Context,
    reference: &str,
    found: &Found,
) -> Result<std::sync::Arc<Network>, ApiError> {
    let snapshot = context.cluster.snapshot();
    let on_node = format!("{}/{reference}", found.node.inventory.name());
    snapshot
        .network(reference)
        .or_else(|| snapshot.network(&on_node))
        .map(|(_, network)| network)
        .ok_or_else(|| ApiError::not_found(format!("No such network: {reference}")))
}

async fn join(
    context: &Context,
    version: Option<&str>,
    found: &Found,
    path: &str,
    document: &RawObject,
) -> Result<(), ApiError> {
    let node = &found.node;
    let path = engine_path(node, version, path, &Query::default());
    node.client
        .post_at(&path, document.to_bytes().into())
        .await
        .inspect_err(|error| note_failure(context, node, error))?;
    let addr = &node.inventory.addr;
    let container = Refresh::Container(std::sync::Arc::clone(&found.container.id));
    context.cluster.refresh(addr, container).await;
    context.cluster.refresh(addr, Refresh::Networks).await;
    Ok(())
}

/// Brings the networks of all healthy nodes up to date.
async fn refresh_all(context: &Context) {
    let nodes = context.cluster.snapshot().healthy();
    fanout::on_each(&context.cluster, nodes, |node| async move {
        let addr = &node.inventory.addr;
        context.cluster.refresh(addr, Refresh::Networks).await;
        Ok(())
    })
    .await;
}
