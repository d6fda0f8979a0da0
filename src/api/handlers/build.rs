//! Builds: placed on one node, and all their parts kept there.
//!
//! The context streams to the engine and the engine's progress streams back, both as they came;
//! nothing is held in memory. The query goes through untouched, except that directives
//! (`--build-arg constraint:node==n0`) are taken out of `buildargs`. Classic Swarm also turned
//! build arguments without a value into empty texts; here they stay without one, so that the
//! engine's own defaults apply. Classic put the node into the `id` of each message and sent one
//! more at the end; today's clients print an `id` in front of every line, and take it for the image
//! under `--quiet`, so neither is done.
//!
//! How the connections of a BuildKit build find the same engine: [`crate::api::builders`].

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{Answer, Context, engine_path};
use crate::{
    api::{
        builders::{BUILD_PATIENCE, Key, Peer, SESSION_PATIENCE},
        error::ApiError,
        proxy::Aftermath,
        query::Query,
    },
    cluster::{build::BuildNeeds, placement::Reservation, snapshot::Node},
    engine::{client::encode, monitor::Refresh, raw::RawObject},
    model::{address::EngineAddr, directive::Directives},
    registry::REGISTRY_CONFIG,
};

/// The header with a BuildKit session's ID.
const SESSION_HEADER: &str = "x-docker-expose-session-uuid";

/// What a build's ID begins with if the request only brings its context.
const UPLOAD: &str = "upload-request:";

/// How much of a context is read, and how long, before its build is refused: a client that is cut
/// off while it sends would show that and not the refusal.
const REFUSED_CONTEXT_BYTES: usize = 64 * 1024 * 1024;
const REFUSED_CONTEXT_TIME: Duration = Duration::from_secs(5);

/// `POST /build`
pub async fn build(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    mut request: Request<Incoming>,
) -> Answer {
    if let Some(id) = query.get("buildid").strip_prefix(UPLOAD) {
        let node = started(context, id).await?;
        let path = engine_path(&node, version, "/build", query);
        let forwarded = context
            .proxy
            .forward(&node, request, &path, Aftermath::None);
        return forwarded.await;
    }
    let registries = &context.cluster.options().registries;
    let sent = request.headers().get(REGISTRY_CONFIG);
    if let Some(auth) = registries.auth_for_build(sent).await {
        request.headers_mut().insert(REGISTRY_CONFIG, auth);
    }
    let place = async {
        let (needs, query) = understand(query)?;
        let (node, room) = place(context, &query, &needs).await?;
        Ok::<_, ApiError>((query, node, room))
    };
    let (query, node, room) = match place.await {
        Ok(placed) => placed,
        Err(error) => {
            drain(request.body_mut()).await;
            return Err(error);
        }
    };
    let path = engine_path(&node, version, "/build", &query);
    // The image is to be listed as soon as the client knows that it is there.
    let after = Aftermath::AtEnd(Refresh::Images);
    let answer = context.proxy.forward(&node, request, &path, after).await?;
    // The room is free again when the body is dropped: at its end, or with the client.
    Ok(answer.map(|body| {
        body.map_frame(move |frame| {
            let _held = &room;
            frame
        })
        .boxed_unsync()
    }))
}

/// Reads the directives out of the build arguments; the query returned is without them.
fn understand(query: &Query) -> Result<(BuildNeeds, Query), ApiError> {
    let mut needs = BuildNeeds {
        directives: Directives::default(),
        cpu_shares: query.number("cpushares"),
        memory_bytes: query.number("memory"),
    };
    let text = query.get("buildargs");
    if text.is_empty() {
        return Ok((needs, query.clone()));
    }
    let arguments: std::collections::BTreeMap<String, Option<String>> = serde_json::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("error reading build args: {error}")))?;
    let mut kept = RawObject::default();
    let mut is_changed = false;
    for (name, value) in arguments {
        // The docker command splits at the first `=`, which is half of the operator.
        let entry = match &value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        };
        if needs.directives.take_env(vec![entry]).is_empty() {
            is_changed = true;
        } else {
            kept.set(&name, &value);
        }
    }
    if !is_changed {
        return Ok((needs, query.clone()));
    }
    let mut rest = query.without("buildargs");
    if !kept.is_empty() {
        if !rest.is_empty() {
            rest.push('&');
        }
        let json = String::from_utf8_lossy(&kept.to_bytes()).into_owned();
        rest.push_str(&format!("buildargs={}", encode(&json)));
    }
    Ok((needs, Query::parse(Some(&rest))))
}

/// The node of a build, and the room held for it there: none if its session is there already.
async fn place(
    context: &Context,
    query: &Query,
    needs: &BuildNeeds,
) -> Result<(Arc<Node>, Option<Reservation>), ApiError> {
    let keys: Vec<Key> = [
        (query.get("session"), Key::Session as fn(String) -> Key),
        (query.get("buildid"), Key::Build),
    ]
    .into_iter()
    .filter(|(id, _)| !id.is_empty())
    .map(|(id, key)| key(id.to_owned()))
    .collect();
    let free = needs.directives == Directives::default();
    let session = keys
        .iter()
        .find(|key| free && matches!(key, Key::Session(_)))
        .and_then(|key| context.builders.find(key))
        .and_then(|addr| usable(context, &addr));
    let (node, room) = match session {
        Some(node) => (node, None),
        None => {
            let room = context.cluster.place_build(needs).await?;
            (node_at(context, &room.addr)?, Some(room))
        }
    };
    for key in keys {
        context.builders.pin(key, &node.inventory.addr);
    }
    Ok((node, room))
}

/// `POST /build/cancel?id=…`
pub async fn cancel(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let id = query.get("id");
    if id.is_empty() {
        return Err(ApiError::bad_request("build ID not provided"));
    }
    let node = started(context, id).await?;
    let path = engine_path(&node, version, "/build/cancel", query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// The node of a build that is under way or about to begin.
async fn started(context: &Context, id: &str) -> Result<Arc<Node>, ApiError> {
    let key = Key::Build(id.to_owned());
    let addr = context
        .builders
        .wait_for(&key, BUILD_PATIENCE)
        .await
        .ok_or_else(|| ApiError::internal("timeout waiting for build to start"))?;
    node_at(context, &addr)
}

/// `POST /session`: the engine calls back to the client through it.
pub async fn session(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let id = request
        .headers()
        .get(SESSION_HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty())
        .ok_or_else(|| ApiError::bad_request("no session ID provided"))?;
    let key = Key::Session(id.to_owned());
    let built = context.builders.wait_for(&key, SESSION_PATIENCE).await;
    let node = match built.and_then(|addr| usable(context, &addr)) {
        Some(node) => node,
        None => node_of_client(context, &request).await?,
    };
    context.builders.pin(key, &node.inventory.addr);
    let path = engine_path(&node, version, "/session", query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// `POST /grpc`: BuildKit's own API, as buildx uses it.
pub async fn grpc(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let node = node_of_client(context, &request).await?;
    let path = engine_path(&node, version, "/grpc", query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// The node that a client builds on when nothing says which build it is about.
async fn node_of_client(
    context: &Context,
    request: &Request<Incoming>,
) -> Result<Arc<Node>, ApiError> {
    let peer = request.extensions().get::<Peer>().copied();
    let key = Key::Client(peer.unwrap_or(Peer(None)));
    let known = context.builders.find(&key);
    if let Some(node) = known.and_then(|addr| usable(context, &addr)) {
        return Ok(node);
    }
    let room = context.cluster.place_build(&BuildNeeds::default()).await?;
    // Two connections of one client may have come together; both go where the first one went.
    let addr = match context.builders.find(&key) {
        Some(other) if usable(context, &other).is_some() => other,
        _ => {
            context.builders.pin(key, &room.addr);
            room.addr.clone()
        }
    };
    node_at(context, &addr)
}

fn node_at(context: &Context, addr: &EngineAddr) -> Result<Arc<Node>, ApiError> {
    let snapshot = context.cluster.snapshot();
    snapshot.node(addr).cloned().ok_or_else(|| {
        ApiError::with_status(StatusCode::INTERNAL_SERVER_ERROR, "Engine no longer exists")
    })
}

/// The node at `addr` if it can be asked.
fn usable(context: &Context, addr: &EngineAddr) -> Option<Arc<Node>> {
    let node = context.cluster.snapshot().node(addr).cloned()?;
    node.inventory.is_healthy().then_some(node)
}

/// Reads and drops a context, as far as that is worth it.
async fn drain(body: &mut Incoming) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
            if bytes > REFUSED_CONTEXT_BYTES {
                break;
            }
        }
    };
    // The refusal is told whether or not all was read.
    let _ = tokio::time::timeout(REFUSED_CONTEXT_TIME, read).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::directive::Kind;

    fn check(arguments: &str, constraints: &[&str], expected: Option<&str>) {
        let raw = format!("t=a%2Fb&buildargs={}&future=1", encode(arguments));
        let (needs, query) = understand(&Query::parse(Some(&raw))).unwrap();
        assert_eq!(needs.directives.texts(Kind::Constraint), constraints);
        assert_eq!(query.get("buildargs"), expected.unwrap_or_default());
        assert!(query.suffix().starts_with("?t=a%2Fb&"), "{query:?}");
        assert_eq!(query.get("future"), "1");
    }

    #[test]
    fn directives_leave_the_build_arguments_and_the_rest_stays() {
        check(r#"{"constraint:node":"=n0"}"#, &["node==n0"], None);
        check(
            r#"{"a":"1","constraint:node":"=n0","proxy":null}"#,
            &["node==n0"],
            Some(r#"{"a":"1","proxy":null}"#),
        );
        check(
            r#"{"b":null, "a":"x"}"#,
            &[],
            Some(r#"{"b":null, "a":"x"}"#),
        );
    }

    #[test]
    fn limits_count_as_needs() {
        let query = Query::parse(Some("cpushares=2&memory=1048576"));
        let (needs, _) = understand(&query).unwrap();
        assert_eq!((needs.cpu_shares, needs.memory_bytes), (2, 1_048_576));
    }
}
