//! Commands run in a container that is there already.

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::{
    Answer, Context,
    containers::{find_or, note_failure},
    engine_path, json_bytes, read_object,
};
use crate::{
    api::{error::ApiError, proxy::Aftermath, query::Query},
    engine::{raw::RawObject, transport},
};

/// `POST /containers/{name}/exec`: the engine invents an ID, and the cluster remembers whose it is.
pub async fn create(
    context: &Context,
    version: Option<&str>,
    name: &str,
    request: Request<Incoming>,
) -> Answer {
    let found = find_or(context, name, ApiError::no_container_plain)?;
    let body = read_object(context, request.into_body()).await?;
    let command: Vec<String> = body.parsed("Cmd")?.unwrap_or_default();
    if command.is_empty() {
        return Err(ApiError::bad_request("No exec command specified"));
    }
    let path = engine_path(
        &found.node,
        version,
        &format!("/containers/{}/exec", found.container.id),
        &Query::default(),
    );
    let answer = found
        .node
        .client
        .post_at(&path, body.to_bytes().into())
        .await
        .inspect_err(|error| note_failure(context, &found.node, error))?;
    let id: Option<String> = RawObject::parse(&answer)
        .ok()
        .and_then(|answer| answer.parsed("Id").ok().flatten());
    if let Some(id) = id {
        context
            .cluster
            .remember_exec(&id, &found.node.inventory.addr);
    }
    Ok(json_bytes(StatusCode::CREATED, transport::full(answer)))
}

/// `/exec/{id}/start|json|resize`
pub async fn operate(
    context: &Context,
    version: Option<&str>,
    id: &str,
    path: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let node = context
        .cluster
        .find_exec(id)
        .await
        .ok_or_else(|| ApiError::not_found(format!("Exec {id} not found")))?;
    if !node.inventory.is_healthy() {
        return Err(ApiError::internal(format!(
            "Exec {id} running on unhealthy node {}",
            node.inventory.name()
        )));
    }
    let encoded = crate::engine::client::encode(id);
    let path = engine_path(&node, version, &format!("/exec/{encoded}/{path}"), query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}
