//! Volumes made and removed.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use rand::RngExt;
use tracing::warn;

use super::super::{
    Answer, Context, candidates, engine_path, json_bytes, no_content, read_object, split_node,
};
use crate::{
    api::{error::ApiError, fanout, query::Query},
    engine::{client::encode, monitor::Refresh, raw::RawObject, transport},
    model::directive::{Directives, Kind},
};

/// `POST /volumes/create`: on the node before the slash, on the nodes that a whitelist label
/// leaves, or else on every healthy node, under the same name.
pub async fn create(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let mut body = read_object(context, request.into_body()).await?;
    let full_name: String = body.parsed("Name")?.unwrap_or_default();
    let (pinned, name) = split_node(&full_name);
    let name = if name.is_empty() {
        random_name()
    } else {
        name.to_owned()
    };
    body.set("Name", &name);
    let directives = whitelists(&body)?;
    let is_placed = pinned.is_some() || !directives.texts(Kind::Whitelist).is_empty();
    let mut nodes = if is_placed {
        candidates(context, pinned, &directives).await?
    } else {
        fanout::some_healthy(&context.cluster.snapshot())?
    };
    nodes.retain(|node| node.inventory.is_healthy());
    let bytes = Bytes::from(body.to_bytes());
    let outcomes = fanout::on_each(&context.cluster, nodes, |node| {
        let bytes = bytes.clone();
        async move {
            let path = engine_path(&node, version, "/volumes/create", query);
            let answer = node.client.post_at(&path, bytes).await;
            let addr = &node.inventory.addr;
            context.cluster.refresh(addr, Refresh::Volumes).await;
            answer
        }
    })
    .await;
    let answer = fanout::all(outcomes)?.into_iter().next();
    let (_, answer) =
        answer.ok_or_else(|| ApiError::internal("No healthy node available in the cluster"))?;
    Ok(json_bytes(StatusCode::CREATED, transport::full(answer)))
}

/// `DELETE /volumes/{name}`: on every healthy node that has it; holders that cannot be reached are
/// logged, and keep it.
pub async fn remove(context: &Context, version: Option<&str>, name: &str, query: &Query) -> Answer {
    let holders = context.cluster.snapshot().volumes(name);
    if holders.is_empty() {
        if query.flag("force") {
            return Ok(no_content());
        }
        return Err(ApiError::not_found(format!("No such volume {name}")));
    }
    let (reachable, lost): (Vec<_>, Vec<_>) = holders
        .into_iter()
        .partition(|(node, _)| node.inventory.is_healthy());
    for (node, volume) in &lost {
        warn!(
            node = node.inventory.name(),
            volume = volume.name,
            "the node is down and keeps its volume"
        );
    }
    let Some((_, volume)) = reachable.first() else {
        let nodes: Vec<_> = lost.iter().map(|(node, _)| node.inventory.name()).collect();
        return Err(ApiError::internal(format!(
            "Volume {name} is on unhealthy node {}",
            nodes.join(", ")
        )));
    };
    let is_shared = volume.is_shared();
    let path = format!("/volumes/{}", encode(&volume.name));
    let nodes = reachable.iter().map(|(node, _)| node.clone()).collect();
    let mut outcomes = fanout::on_each(&context.cluster, nodes, |node| {
        let path = engine_path(&node, version, &path, query);
        async move {
            let answer = node.client.call_at(Method::DELETE, &path).await;
            let addr = &node.inventory.addr;
            context.cluster.refresh(addr, Refresh::Volumes).await;
            answer
        }
    })
    .await;
    if is_shared && outcomes.iter().any(|outcome| outcome.result.is_ok()) {
        // The first node removed it for all.
        outcomes.retain(|outcome| {
            !outcome
                .result
                .as_ref()
                .is_err_and(|error| error.status() == Some(StatusCode::NOT_FOUND))
        });
    }
    fanout::all(outcomes)?;
    Ok(no_content())
}

/// The whitelist that a volume's label carries.
fn whitelists(body: &RawObject) -> Result<Directives, ApiError> {
    let labels: std::collections::BTreeMap<String, String> =
        body.parsed("Labels")?.unwrap_or_default();
    let mut directives = Directives::default();
    if let Some(label) = labels.get(Kind::Whitelist.label()) {
        let texts: Vec<String> = serde_json::from_str(label).map_err(|error| {
            ApiError::bad_request(format!(
                "label {} is no JSON array of texts: {error}",
                Kind::Whitelist.label()
            ))
        })?;
        for text in texts {
            directives.push(Kind::Whitelist, text);
        }
    }
    Ok(directives)
}

/// 64 random hexadecimal digits, as an engine would invent.
fn random_name() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
