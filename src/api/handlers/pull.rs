//! `POST /images/create?fromImage=…`: every healthy node pulls, and tells how it goes.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, Context, json_bytes};
use crate::{
    api::{
        error::ApiError,
        fanout::{self, CONCURRENT_NODES},
        query::Query,
    },
    cluster::{Cluster, snapshot::Node},
    engine::{
        client::{ClientError, REGISTRY_AUTH, progress_error},
        monitor::Refresh,
        raw::RawObject,
        transport::BodyError,
    },
};

/// How many lines wait for a client that reads slowly; nodes wait beyond that.
const QUEUE: usize = 256;

/// How many lines of one node are taken together.
const BATCH: usize = 64;

/// Starts the pulls and streams their progress. They end if the client goes away.
pub fn pull(context: &Context, query: &Query, headers: &HeaderMap) -> Answer {
    let image = query.get("fromImage");
    if image.is_empty() {
        return Err(ApiError::unsupported(
            &http::Method::POST,
            "images/create?fromSrc (import)",
        ));
    }
    let reference = match query.get("tag") {
        "" => image.to_owned(),
        digest if digest.contains(':') => format!("{image}@{digest}"),
        tag => format!("{image}:{tag}"),
    };
    let nodes = fanout::healthy(&context.cluster.snapshot());
    if nodes.is_empty() {
        return Err(ApiError::internal(
            "No healthy node available in the cluster",
        ));
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pulls = Pulls {
        cluster: context.cluster.clone(),
        reference,
        auth: headers.get(REGISTRY_AUTH).cloned(),
        sender,
    };
    let work = AbortOnDropHandle::new(tokio::spawn(pulls.run(nodes)));
    // The stream owns the work, so that a client that goes away ends it.
    let lines = stream::unfold((receiver, work), |(mut receiver, work)| async move {
        let line: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), (receiver, work)))
    });
    let body = StreamBody::new(lines)
        .map_err(|never| -> BodyError { match never {} })
        .boxed_unsync();
    Ok(json_bytes(StatusCode::OK, body))
}

/// One pull on many nodes.
struct Pulls {
    cluster: Cluster,
    reference: String,
    auth: Option<HeaderValue>,
    sender: mpsc::Sender<Bytes>,
}

impl Pulls {
    async fn run(self, nodes: Vec<Arc<Node>>) {
        let failures: Vec<String> = stream::iter(nodes)
            .map(|node| {
                let pulls = &self;
                async move {
                    let name = node.inventory.name().to_owned();
                    match pulls.on(&node).await {
                        Ok(()) => {
                            pulls.say(&name, &pulls.status("downloaded")).await;
                            None
                        }
                        Err(error) => {
                            pulls.say(&name, &pulls.status(&error.to_string())).await;
                            Some(format!("{name}: {error}"))
                        }
                    }
                }
            })
            .buffer_unordered(CONCURRENT_NODES)
            .filter_map(|failure| async move { failure })
            .collect()
            .await;
        if !failures.is_empty() {
            let mut sorted = failures;
            sorted.sort_by(|a, b| natord::compare(a, b));
            let message = sorted.join("\n");
            let mut last = RawObject::default();
            last.set("error", &message);
            last.set(
                "errorDetail",
                &serde_json::json!({ "code": 1, "message": message }),
            );
            self.send(&last).await;
        }
    }

    async fn on(&self, node: &Node) -> Result<(), ClientError> {
        let name = node.inventory.name();
        let mut first = RawObject::default();
        first.set("status", &format!("Pulling {}...", self.reference));
        first.set("id", &name);
        self.send(&first).await;
        let addr = &node.inventory.addr;
        let started = node
            .client
            .start_pull(&self.reference, self.auth.as_ref())
            .await;
        let mut progress = started.inspect_err(|error| {
            if error.is_contact_failure() {
                self.cluster.report_failure(addr, error);
            }
        })?;
        loop {
            let lines = progress
                .next_batch(BATCH)
                .await
                .map_err(|error| ClientError::Answer {
                    addr: addr.to_string(),
                    reason: error.to_string(),
                })?;
            if lines.is_empty() {
                break;
            }
            for line in lines {
                progress_error(&line)?;
                let Ok(mut message) = RawObject::parse(&line) else {
                    continue;
                };
                let status: String = message.parsed("status").ok().flatten().unwrap_or_default();
                let layer: String = message.parsed("id").ok().flatten().unwrap_or_default();
                let status = if layer.is_empty() {
                    status
                } else {
                    format!("{layer}: {status}")
                };
                message.set("status", &self.status(&status));
                message.set("id", &name);
                self.send(&message).await;
            }
        }
        self.cluster.refresh(addr, Refresh::Images).await;
        Ok(())
    }

    fn status(&self, text: &str) -> String {
        format!("Pulling {}... : {text}", self.reference)
    }

    async fn say(&self, node: &str, status: &str) {
        let mut message = RawObject::default();
        message.set("status", &status);
        message.set("id", &node);
        self.send(&message).await;
    }

    async fn send(&self, message: &RawObject) {
        let mut line = message.to_bytes();
        line.extend_from_slice(b"\r\n");
        // An error means the client is gone, and this work is about to be aborted.
        let _ = self.sender.send(Bytes::from(line)).await;
    }
}
