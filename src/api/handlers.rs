//! What each route does.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    builders::Builders,
    error::ApiError,
    primary::{Passed, Primary},
    proxy::Proxy,
    query::Query,
    router::{Route, Target, route},
    tunnel::Tunnels,
};
use crate::{
    cluster::{Cluster, create::CreateError, snapshot::Node},
    engine::{
        raw::RawObject,
        transport::{self, Body},
    },
    model::{
        directive::Kind,
        expression::{Expression, Operator, Softness},
    },
    registry::REGISTRY_AUTH,
    scheduler::{ScheduleError, request::Request as PlacementRequest},
};

mod agents;
mod anywhere;
mod build;
mod built;
mod compose;
mod containers;
mod disk_usage;
mod engine_plugins;
mod events;
mod exec;
mod explain;
mod images;
mod list;
mod networks;
mod nodes;
mod prune;
mod pull;
mod rebalance;
mod system;
mod tasks;
pub mod tokens;
mod versions;
mod volumes;

use self::versions::{api_version, engine_path, parse_version, version_text};

/// What every handler has.
pub struct Context {
    cluster: Cluster,
    proxy: Proxy,
    primary: Primary,
    builders: Builders,
    options: Options,
    shutdown: CancellationToken,
}

/// An answer, or why there is none.
type Answer = Result<Response<Body>, ApiError>;

impl Context {
    /// Prepares to answer requests about `cluster`.
    pub fn new(
        cluster: Cluster,
        tunnels: Tunnels,
        options: Options,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            primary: Primary::new(
                cluster.leadership().clone(),
                options.peers.clone(),
                options.max_connections.get(),
                tunnels.clone(),
                shutdown.clone(),
            ),
            proxy: Proxy::new(cluster.clone(), tunnels),
            cluster,
            builders: Builders::default(),
            options,
            shutdown,
        }
    }

    /// Adds what every answer carries.
    pub fn decorate(&self, response: &mut Response<Body>) {
        let version = api_version(&self.cluster.snapshot());
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&version_text(version)) {
            headers.insert("Api-Version", value);
        }
        let experimental = if self.options.experimental {
            "true"
        } else {
            "false"
        };
        headers.insert(
            "Docker-Experimental",
            HeaderValue::from_static(experimental),
        );
        headers.insert("Ostype", HeaderValue::from_static("linux"));
        headers.insert(
            header::SERVER,
            HeaderValue::from_static(concat!("Skep/", env!("CARGO_PKG_VERSION"), " (linux)")),
        );
        if self.options.cors {
            for (name, value) in [
                ("Access-Control-Allow-Origin", "*"),
                (
                    "Access-Control-Allow-Headers",
                    "Origin, X-Requested-With, Content-Type, Accept",
                ),
                (
                    "Access-Control-Allow-Methods",
                    "GET, POST, DELETE, PUT, OPTIONS, HEAD",
                ),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
    }
}

/// Answers one request.
///
/// # Errors
///
/// What the client gets instead of an answer.
pub async fn handle(context: &Arc<Context>, request: Request<Incoming>) -> Answer {
    let Target { version, route } = route(request.method(), request.uri().path());
    let request = match context.primary.pass_on(&route, request).await? {
        Passed::Here(request) => request,
        Passed::Answered(response) => return Ok(response),
    };
    let query = Query::parse(request.uri().query());
    versions::check(&context.cluster.snapshot(), version.as_deref())?;
    built::note(context, &route, request.extensions()).await;
    match route {
        Route::Ping => Ok(system::ping(request.method())),
        Route::Info => Ok(system::info(context)),
        Route::Version => Ok(system::version(context)),
        Route::Events => events::follow(context, &query),
        Route::Containers => list::list(context, &query).await,
        Route::Create => containers::create(context, version, &query, request).await,
        Route::Inspect(name) => {
            containers::inspect(context, version.as_deref(), &name, &query).await
        }
        Route::Rename(name) => containers::rename(context, &name, &query).await,
        Route::Remove(name) => {
            containers::remove(context, version.as_deref(), &name, &query, request).await
        }
        Route::Container(name, operation) => {
            containers::operate(
                context,
                version.as_deref(),
                &name,
                operation,
                &query,
                request,
            )
            .await
        }
        Route::ExecCreate(name) => exec::create(context, version.as_deref(), &name, request).await,
        Route::Exec(id, path) => {
            exec::operate(context, version.as_deref(), &id, path, &query, request).await
        }
        Route::Images => images::list(context, version.as_deref(), &query),
        Route::Image(name, path) => {
            images::forward(context, version.as_deref(), &name, path, &query, request).await
        }
        Route::ImagesSave => {
            images::names::save(context, version.as_deref(), &query, request).await
        }
        Route::ImageLoad => images::load::load(context, version.as_deref(), &query, request).await,
        Route::ImagePush(name) => {
            images::names::push(context, version.as_deref(), &name, &query, request).await
        }
        Route::ImageTag(name) => {
            images::names::tag(context, version.as_deref(), &name, &query).await
        }
        Route::ImageRemove(name) => {
            images::names::remove(context, version.as_deref(), &name, &query).await
        }
        Route::ImagePull if query.get("fromImage").is_empty() => {
            images::load::import(context, version.as_deref(), &query, request).await
        }
        Route::ImagePull => pull::pull(context, &query, request.headers()).await,
        Route::Networks => networks::list(context, &query),
        Route::Network(name) => {
            networks::inspect(context, version.as_deref(), &name, &query, request).await
        }
        Route::Volumes => volumes::list(context, &query),
        Route::Volume(name) => {
            volumes::inspect(context, version.as_deref(), &name, &query, request).await
        }
        Route::NetworkCreate => {
            networks::change::create(context, version.as_deref(), &query, request).await
        }
        Route::NetworkRemove(name) => {
            networks::change::remove(context, version.as_deref(), &name, &query).await
        }
        Route::NetworkConnect(name) => {
            networks::change::connect(context, version.as_deref(), &name, request).await
        }
        Route::NetworkDisconnect(name) => {
            networks::change::disconnect(context, version.as_deref(), &name, request).await
        }
        Route::VolumeCreate => {
            volumes::change::create(context, version.as_deref(), &query, request).await
        }
        Route::VolumeRemove(name) => {
            volumes::change::remove(context, version.as_deref(), &name, &query).await
        }
        Route::VolumeUpdate => Err(ApiError::no_cluster_volumes()),
        Route::Prune(what) => prune::prune(context, version.as_deref(), what, &query).await,
        Route::Plugins => engine_plugins::list(context, version.as_deref(), &query).await,
        Route::DiskUsage => disk_usage::measure(context, version.as_deref(), &query).await,
        Route::Build => build::build(context, version.as_deref(), &query, request).await,
        Route::BuildCancel => build::cancel(context, version.as_deref(), &query, request).await,
        Route::Session => build::session(context, version.as_deref(), &query, request).await,
        Route::Grpc => build::grpc(context, version.as_deref(), &query, request).await,
        Route::Commit => anywhere::commit(context, version.as_deref(), &query, request).await,
        Route::Anywhere(path) => {
            anywhere::ask(context, version.as_deref(), &path, &query, request).await
        }
        Route::AgentLease(addr) => agents::lease(context, &addr, request).await,
        Route::AgentFenced(addr) => agents::fenced(context, &addr, request).await,
        Route::Nodes => nodes::list(context, &query),
        Route::Node(id) => nodes::inspect(context, &id),
        Route::NodeUpdate(id) => nodes::update(context, &id, &query, request).await,
        Route::NodeRemove => Err(ApiError::with_status(
            StatusCode::NOT_IMPLEMENTED,
            "nodes come and go with discovery: take the node out of it, or stop its agent",
        )),
        Route::Tasks => tasks::list(context, &query),
        Route::Task(id) => tasks::inspect(context, &id),
        Route::Rebalance => rebalance::rebalance(context, &query).await,
        Route::Explain => explain::explain(context, &query, request).await,
        Route::Tokens(rest) => tokens::answer(context, &rest, &query, request).await,
        Route::SwarmMode => Err(ApiError::not_swarm_mode()),
        Route::Options if context.options.cors => Ok(Response::new(transport::empty())),
        Route::Redirect(path) => Ok(redirect(&path, &query)),
        Route::NotInCluster => Err(ApiError::not_in_cluster()),
        Route::Unsupported(path) => Err(ApiError::unsupported(request.method(), &path)),
        Route::Options | Route::Unknown => Err(ApiError::not_found("page not found")),
    }
}

/// A JSON answer with status 200.
fn json(value: &impl Serialize) -> Response<Body> {
    json_with(StatusCode::OK, value)
}

fn json_with(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Writing to memory cannot fail, and none of our values has keys that are no text.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    json_bytes(status, transport::full(bytes))
}

fn json_bytes(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(transport::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn redirect(path: &str, query: &Query) -> Response<Body> {
    let mut response = Response::new(transport::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{path}{}", query.suffix())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Reads a body into memory, as far as is allowed.
async fn read_body(context: &Context, body: Incoming) -> Result<Bytes, ApiError> {
    let limit = context.options.max_body_bytes;
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::too_large(limit))
        }
        Err(error) => Err(ApiError::bad_request(format!(
            "the request body broke off: {error}"
        ))),
    }
}

/// Reads a body that is a JSON object.
async fn read_object(context: &Context, body: Incoming) -> Result<RawObject, ApiError> {
    let body = read_body(context, body).await?;
    RawObject::parse(&body).map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))
}

/// Gives a request about `image` the configured credentials if it brings none.
async fn authorize(
    context: &Context,
    image: &str,
    request: &mut Request<Incoming>,
) -> Result<(), ApiError> {
    let registries = &context.cluster.options().registries;
    let sent = request.headers().get(REGISTRY_AUTH);
    if let Some(auth) = registries.auth_for(image, sent).await? {
        request.headers_mut().insert(REGISTRY_AUTH, auth);
    }
    Ok(())
}

/// Splits `<node>/<name>`, as local networks and volumes are shown.
fn split_node(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((node, name)) => (Some(node), name),
        None => (None, name),
    }
}

/// The nodes that scheduling leaves for an object that takes no room, best first and at least one:
/// those of a node's name or ID if it is pinned there, those that pass the expressions otherwise.
async fn candidates(
    context: &Context,
    pinned: Option<&str>,
    mut request: PlacementRequest,
) -> Result<Vec<Arc<Node>>, ApiError> {
    if let Some(node) = pinned {
        let expression = Expression {
            key: "node".to_owned(),
            operator: Operator::Equal,
            value: node.to_owned(),
            softness: Softness::Hard,
        };
        request.add_expression(Kind::Constraint, expression);
    }
    let mut nodes = context
        .cluster
        .rank(request)
        .await
        .map_err(CreateError::from)?;
    if let Some(wanted) = pinned {
        // Whoever left the constraint filter out still gets the node asked for.
        nodes.retain(|node| node.inventory.name() == wanted || node.inventory.node_id() == wanted);
    }
    if nodes.is_empty() {
        return Err(CreateError::from(ScheduleError::NoNodes).into());
    }
    Ok(nodes)
}
