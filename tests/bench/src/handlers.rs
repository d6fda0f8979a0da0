//! What each route does. One module per kind of object; streams have their own.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is an answer too, and both arms of these results are answers"
)]

mod archive;
mod containers;
mod events;
mod exec;
mod images;
mod lifecycle;
mod networks;
mod streams;
mod system;
mod volumes;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::body::{self, Answer};
use crate::container::Container;
use crate::engine::{Engine, Open};
use crate::query::Query;
use crate::server::End;
use crate::state::State;

/// A call that has found its route.
pub(crate) struct Call {
    pub engine: Arc<Engine>,
    pub route: &'static str,
    /// The parameter in the path: an ID or a name.
    pub target: String,
    pub query: Query,
    pub request: Request<Incoming>,
    /// When upgraded streams must end.
    pub end: End,
    /// Keeps the connection counted while it is upgraded.
    pub open: Arc<Open>,
}

impl Call {
    /// Reads the whole body; what a cut connection left out is missing.
    pub async fn body(&mut self) -> Bytes {
        self.request
            .body_mut()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default()
    }

    /// The container this call is about, or the answer that there is none.
    pub fn container(&self) -> Result<Container, Answer> {
        self.engine
            .container(&self.target)
            .ok_or_else(|| no_container(&self.target))
    }

    /// Changes the container this call is about.
    pub fn change(&self, act: impl FnOnce(&mut State, usize, i64) -> Answer) -> Answer {
        let now = self.engine.now();
        self.engine.change(|state| match state.find(&self.target) {
            Some(at) => act(state, at, now),
            None => no_container(&self.target),
        })
    }
}

/// Answers a call.
pub(crate) async fn handle(call: Call) -> Answer {
    let answer = match call.route {
        "GET /_ping" | "HEAD /_ping" => Ok(system::ping(&call)),
        "GET /info" => Ok(system::info(&call)),
        "GET /version" => Ok(system::version(&call)),
        "GET /events" => events::stream(call),
        "GET /containers/json" => containers::list(&call),
        "GET /containers/{id}/json" => containers::inspect(&call),
        "POST /containers/create" => Ok(containers::create(call).await),
        "POST /containers/{id}/update" => Ok(containers::update(call).await),
        "POST /containers/{id}/rename" => Ok(containers::rename(&call)),
        "DELETE /containers/{id}" => Ok(containers::remove(&call)),
        "GET /containers/{id}/top" => containers::top(&call),
        "POST /containers/{id}/start" => Ok(lifecycle::start(&call)),
        "POST /containers/{id}/stop" => Ok(lifecycle::stop(&call)),
        "POST /containers/{id}/kill" => Ok(lifecycle::kill(&call)),
        "POST /containers/{id}/restart" => Ok(lifecycle::restart(&call)),
        "POST /containers/{id}/pause" => Ok(lifecycle::pause(&call)),
        "POST /containers/{id}/unpause" => Ok(lifecycle::unpause(&call)),
        "POST /containers/{id}/wait" => lifecycle::wait(call),
        "POST /containers/{id}/resize" => lifecycle::resize(&call),
        "GET /containers/{id}/logs" => streams::logs(call),
        "GET /containers/{id}/stats" => streams::stats(call),
        "POST /containers/{id}/attach" => streams::attach(call),
        "POST /containers/{id}/exec" => exec::create(call).await,
        "POST /exec/{id}/start" => exec::start(call).await,
        "POST /exec/{id}/resize" => exec::resize(&call),
        "GET /exec/{id}/json" => exec::inspect(&call),
        "GET /containers/{id}/export" => archive::export(&call),
        "GET /containers/{id}/changes" => archive::changes(&call),
        "GET /containers/{id}/archive" | "HEAD /containers/{id}/archive" => archive::read(&call),
        "PUT /containers/{id}/archive" => archive::write(call).await,
        "GET /images/json" => Ok(images::list(&call)),
        "GET /images/{name...}/json" => Ok(images::inspect(&call)),
        "POST /images/create" => Ok(images::pull(call)),
        "GET /networks" => networks::list(&call),
        "GET /networks/{name}" => Ok(networks::inspect(&call)),
        "POST /networks/create" => Ok(networks::create(call).await),
        "POST /networks/{name}/connect" | "POST /networks/{name}/disconnect" => {
            Ok(networks::join(call).await)
        }
        "DELETE /networks/{name}" => Ok(networks::remove(&call)),
        "GET /volumes" => volumes::list(&call),
        "GET /volumes/{name}" => Ok(volumes::inspect(&call)),
        "POST /volumes/create" => Ok(volumes::create(call).await),
        "DELETE /volumes/{name}" => Ok(volumes::remove(&call)),
        _ => Ok(body::error(StatusCode::NOT_FOUND, "page not found")),
    };
    answer.unwrap_or_else(|refusal| refusal)
}

fn no_container(wanted: &str) -> Answer {
    body::error(
        StatusCode::NOT_FOUND,
        &format!("No such container: {wanted}"),
    )
}

fn bad_request(error: impl std::fmt::Display) -> Answer {
    body::error(StatusCode::BAD_REQUEST, &error.to_string())
}
