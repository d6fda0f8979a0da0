//! Images tagged, removed, pushed, and saved: asked of the nodes that have them.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::{
    api::{
        error::ApiError,
        fanout,
        handlers::{Answer, Context, authorize, engine_path, json},
        proxy::Aftermath,
        query::Query,
    },
    cluster::snapshot::{Node, Snapshot},
    engine::{
        client::{ClientError, encode},
        inventory::{Image, resources::Tag},
        monitor::Refresh,
        raw::RawObject,
        transport,
    },
};

/// `POST /images/{name}/tag`: on every healthy node that has the image.
pub async fn tag(context: &Context, version: Option<&str>, name: &str, query: &Query) -> Answer {
    let missing = || ApiError::not_found(format!("No such image: {name}"));
    let nodes = holders(&context.cluster.snapshot(), name, missing)?;
    let path = format!("/images/{}/tag", path_of(name));
    change(context, nodes, |node| {
        let path = engine_path(&node, version, &path, query);
        async move { node.client.call_at(Method::POST, &path).await }
    })
    .await?;
    let mut created = Response::new(transport::empty());
    *created.status_mut() = StatusCode::CREATED;
    Ok(created)
}

/// `DELETE /images/{name}`: on every healthy node that has the image.
pub async fn remove(context: &Context, version: Option<&str>, name: &str, query: &Query) -> Answer {
    let missing = || ApiError::not_found(format!("No such image {name}"));
    let nodes = holders(&context.cluster.snapshot(), name, missing)?;
    let path = format!("/images/{}", path_of(name));
    let answers = change(context, nodes, |node| {
        let path = engine_path(&node, version, &path, query);
        async move {
            let client = node.client.patient();
            client
                .json_at::<Vec<RawObject>>(Method::DELETE, &path)
                .await
        }
    })
    .await?;
    let removed: Vec<RawObject> = answers.into_iter().flatten().collect();
    Ok(json(&removed))
}

/// `POST /images/{name}/push`: by one healthy node that has the image.
pub async fn push(
    context: &Context,
    version: Option<&str>,
    name: &str,
    query: &Query,
    mut request: Request<Incoming>,
) -> Answer {
    let reference = match query.get("tag") {
        "" => name.to_owned(),
        tag => format!("{name}:{tag}"),
    };
    let missing = || ApiError::not_found(format!("No such image: {reference}"));
    let nodes = holders(&context.cluster.snapshot(), &reference, missing)?;
    let node = nodes.first().ok_or_else(missing)?;
    authorize(context, name, &mut request).await?;
    let path = engine_path(
        node,
        version,
        &format!("/images/{}/push", path_of(name)),
        query,
    );
    context
        .proxy
        .forward(node, request, &path, Aftermath::AtEnd(Refresh::Images))
        .await
}

/// `GET /images/get?names=…`: from one healthy node that has all of them.
pub async fn save(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let names: Vec<&str> = query
        .all("names")
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .collect();
    let snapshot = context.cluster.snapshot();
    let node = snapshot
        .healthy()
        .into_iter()
        .find(|node| !names.is_empty() && names.iter().all(|name| has(node, name)))
        .ok_or_else(|| {
            ApiError::not_found(format!(
                "Unable to find a healthy engine containing all images: [{}]",
                names.join(" ")
            ))
        })?;
    let path = engine_path(&node, version, "/images/get", query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// Asks every node for the same change and returns once the images of all are known anew.
async fn change<T, Call>(
    context: &Context,
    nodes: Vec<Arc<Node>>,
    ask: impl Fn(Arc<Node>) -> Call,
) -> Result<Vec<T>, ApiError>
where
    Call: Future<Output = Result<T, ClientError>>,
{
    let cluster = &context.cluster;
    let outcomes = fanout::on_each(cluster, nodes, |node| {
        let call = ask(Arc::clone(&node));
        async move {
            let answer = call.await;
            cluster.refresh(&node.inventory.addr, Refresh::Images).await;
            answer
        }
    })
    .await;
    let answers = fanout::all(outcomes)?;
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// The healthy nodes that have an image, in natural order of their names.
fn holders(
    snapshot: &Snapshot,
    reference: &str,
    missing: impl Fn() -> ApiError,
) -> Result<Vec<Arc<Node>>, ApiError> {
    let (healthy, down): (Vec<Arc<Node>>, Vec<Arc<Node>>) = snapshot
        .validated()
        .into_iter()
        .filter(|node| has(node, reference))
        .cloned()
        .partition(|node| node.inventory.is_healthy());
    if !healthy.is_empty() {
        return Ok(healthy);
    }
    if down.is_empty() {
        return Err(missing());
    }
    let names: Vec<&str> = down.iter().map(|node| node.inventory.name()).collect();
    Err(ApiError::internal(format!(
        "Image {reference} is on unhealthy nodes only: {}",
        names.join(", ")
    )))
}

fn has(node: &Node, reference: &str) -> bool {
    let images: &[Arc<Image>] = &node.inventory.images;
    images
        .iter()
        .any(|image| image.matches(reference, Tag::Counts))
}

/// An image's name as a path: its slashes stay, everything else that is special is encoded.
pub fn path_of(name: &str) -> String {
    let parts: Vec<String> = name.split('/').map(encode).collect();
    parts.join("/")
}
