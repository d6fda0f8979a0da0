//! A request to the engine that owns the object: bytes in, bytes out.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};

use super::{error::ApiError, tunnel::Tunnels};
use crate::{
    cluster::{Cluster, snapshot::Node},
    engine::{
        monitor::Refresh,
        transport::{Body, BodyError, Transport, TransportError},
    },
};

/// Headers that are about one connection and never passed on.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What a proxied call leaves behind on its engine.
#[derive(Clone, Debug)]
pub enum Aftermath {
    /// Nothing.
    None,
    /// Brought up to date before the answer's head reaches the client.
    AtHead(Refresh),
    /// Brought up to date before the answer's end reaches the client.
    AtEnd(Refresh),
}

/// Hands requests to engines.
pub struct Proxy {
    cluster: Cluster,
    tunnels: Tunnels,
}

impl Proxy {
    /// Prepares to hand requests to the engines of `cluster`.
    pub fn new(cluster: Cluster, tunnels: Tunnels) -> Self {
        Self { cluster, tunnels }
    }

    /// Sends `request` to `node` as `path` (with query) and returns what it answers.
    ///
    /// An upgrade that the client asks for is asked of the engine, and if the engine agrees, the two
    /// connections become one tunnel. If the client goes away, so does the request to the engine.
    ///
    /// # Errors
    ///
    /// [`ApiError`] if the engine cannot be reached; what it answers, errors too, is passed on.
    pub async fn forward(
        &self,
        node: &Node,
        request: Request<Incoming>,
        path: &str,
        aftermath: Aftermath,
    ) -> Result<Response<Body>, ApiError> {
        let cluster = &self.cluster;
        let addr = &node.inventory.addr;
        let answer = relay(node.client.transport(), &self.tunnels, request, path).await;
        let response = match answer.inspect_err(|error| cluster.report_failure(addr, error))? {
            Relayed::Switched(response) => return Ok(response),
            Relayed::Answer(response) => response,
        };
        if let Aftermath::AtHead(what) = &aftermath
            && !response.status().is_client_error()
        {
            cluster.refresh(addr, what.clone()).await;
        }
        let (mut head, body) = response.into_parts();
        let body = match aftermath {
            Aftermath::AtEnd(what) => {
                // With a length the client would stop reading before the refresh.
                head.headers.remove(header::CONTENT_LENGTH);
                let cluster = cluster.clone();
                let addr = addr.clone();
                let after = Box::pin(async move { cluster.refresh(&addr, what).await });
                ThenRefresh {
                    inner: body,
                    after: Some(after),
                }
                .boxed_unsync()
            }
            Aftermath::None | Aftermath::AtHead(_) => body.map_err(BodyError::from).boxed_unsync(),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        *answer.headers_mut() = passed_on(&head.headers);
        Ok(answer)
    }
}

/// What came of a request that was passed on.
pub(super) enum Relayed {
    /// The two connections are one now; the client has to be told.
    Switched(Response<Body>),
    /// An answer.
    Answer(Response<Incoming>),
}

/// Sends a client's request over `transport` as `path`, and makes the two connections one if both
/// agree on an upgrade.
///
/// # Errors
///
/// As [`Transport::send`].
pub(super) async fn relay(
    transport: &Transport,
    tunnels: &Tunnels,
    request: Request<Incoming>,
    path: &str,
) -> Result<Relayed, TransportError> {
    let (mut parts, body) = request.into_parts();
    let upgrade = wanted_upgrade(&parts.headers);
    let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut sent = Request::new(body.map_err(BodyError::from).boxed_unsync());
    *sent.method_mut() = parts.method;
    *sent.headers_mut() = passed_on(&parts.headers);
    if let Some(protocol) = &upgrade {
        let headers = sent.headers_mut();
        headers.insert(
            header::CONNECTION,
            http::HeaderValue::from_static("Upgrade"),
        );
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let mut response = transport.send(sent, path).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Relayed::Answer(response));
    }
    let engine = hyper::upgrade::on(&mut response);
    let mut switching = Response::new(crate::engine::transport::empty());
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switching.headers_mut() = response.headers().clone();
    if let Some(client) = client {
        tunnels.open(client, engine);
    }
    Ok(Relayed::Switched(switching))
}

/// Whether a client wants to switch to another protocol.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    wanted_upgrade(headers).is_some()
}

/// The protocol a client wants to switch to.
fn wanted_upgrade(headers: &HeaderMap) -> Option<http::HeaderValue> {
    let asks = headers.get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',')
                .any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
        })
    });
    asks.then(|| headers.get(header::UPGRADE).cloned())
        .flatten()
}

/// The headers that concern the other end, too.
pub(super) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    // A connection header may name more headers that end here.
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        kept.remove(name);
    }
    kept.remove(header::HOST);
    kept
}

/// A body that brings the cluster up to date before it ends.
struct ThenRefresh {
    inner: Incoming,
    after: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl hyper::body::Body for ThenRefresh {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(None) => {}
            other => return other.map_err(BodyError::from),
        }
        if let Some(after) = &mut self.after {
            std::task::ready!(after.as_mut().poll(cx));
            self.after = None;
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.after.is_none() && self.inner.is_end_stream()
    }

    /// Unknown, so that the end is told by the last chunk and not by the last byte.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_end_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "Upgrade, X-Mine"),
            ("upgrade", "tcp"),
            ("x-mine", "1"),
            ("host", "docker"),
            ("x-registry-auth", "secret"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        assert_eq!(wanted_upgrade(&headers).unwrap(), "tcp");
        let kept = passed_on(&headers);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept["x-registry-auth"], "secret");
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("upgrade", "tcp".parse().unwrap());
        assert!(wanted_upgrade(&headers).is_none());
    }
}
