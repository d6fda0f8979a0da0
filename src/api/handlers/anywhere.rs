//! Questions that any healthy node can answer, and ones about containers that make images.
//!
//! Classic Swarm placed an empty container to find a node for `auth` and `search`, so nobody could
//! log in while all nodes were full. Here health alone counts.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use rand::RngExt;

use super::{Answer, Context, authorize, containers::find_or, engine_path};
use crate::{
    api::{error::ApiError, fanout, proxy::Aftermath, query::Query},
    cluster::snapshot::Node,
    engine::{client::encode, monitor::Refresh},
};

/// `POST /auth`, `GET /images/search`, `GET /distribution/{name}/json`; `path` is decoded.
pub async fn ask(
    context: &Context,
    version: Option<&str>,
    path: &str,
    query: &Query,
    mut request: Request<Incoming>,
) -> Answer {
    let node = any_healthy(context)?;
    let image = path
        .strip_prefix("/distribution/")
        .and_then(|rest| rest.strip_suffix("/json"));
    if let Some(image) = image {
        authorize(context, image, &mut request).await?;
    }
    // What was decoded for the router may hold anything, a question mark too.
    let encoded: Vec<String> = path.split('/').map(encode).collect();
    let path = engine_path(&node, version, &encoded.join("/"), query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// `POST /commit?container=…`: asked of the container's owner.
pub async fn commit(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let found = find_or(context, query.get("container"), ApiError::no_container)?;
    let rest = query.without("container");
    let separator = if rest.is_empty() { "" } else { "&" };
    let target = format!("container={}{separator}{rest}", found.container.id);
    let query = Query::parse(Some(&target));
    let path = engine_path(&found.node, version, "/commit", &query);
    // The image is to be listed as soon as the client knows that it is there.
    let after = Aftermath::AtHead(Refresh::Images);
    context
        .proxy
        .forward(&found.node, request, &path, after)
        .await
}

fn any_healthy(context: &Context) -> Result<Arc<Node>, ApiError> {
    let mut nodes = fanout::some_healthy(&context.cluster.snapshot())?;
    let chosen = rand::rng().random_range(0..nodes.len());
    Ok(nodes.swap_remove(chosen))
}
