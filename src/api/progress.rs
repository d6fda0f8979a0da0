//! What many engines tell of a long job, as one stream of JSON lines.
//!
//! A line about a whole node has the node's name as its `id`; a line about one layer has
//! `<node> <layer>`, so that clients draw one progress bar for each node and layer.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::fanout;
use crate::{
    cluster::{
        Cluster,
        snapshot::{Node, Snapshot},
    },
    engine::{
        client::{ClientError, progress_error},
        lines::Lines,
        raw::RawObject,
        transport::{Body, BodyError},
    },
};

/// How many lines wait for a client that reads slowly; nodes wait beyond that.
const QUEUE: usize = 256;

/// What engines say when an image is for another operating system than theirs.
const OTHER_SYSTEM: &str = "image operating system";

/// Where the lines of one job go. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    sender: mpsc::Sender<Bytes>,
    /// What is done, `Pulling busybox:latest...`, in front of every status of a whole node.
    title: Arc<str>,
}

impl Progress {
    /// Starts a job and returns the answer that streams what it says. The job ends if the client
    /// goes away.
    pub fn start<Job>(title: &str, job: impl FnOnce(Self) -> Job) -> Response<Body>
    where
        Job: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let progress = Self {
            sender,
            title: Arc::from(title),
        };
        let work = AbortOnDropHandle::new(tokio::spawn(job(progress)));
        // The stream owns the work, so that a client that goes away ends it.
        let lines = stream::unfold((receiver, work), |(mut receiver, work)| async move {
            let line: Bytes = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(line)), (receiver, work)))
        });
        let body = StreamBody::new(lines)
            .map_err(|never| -> BodyError { match never {} })
            .boxed_unsync();
        let mut response = Response::new(body);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }

    /// Does the job on every node, as [`fanout::on_each`] does, and closes with an error that names
    /// each node that failed. Nodes that are not healthy are named and left out.
    pub async fn on_each<Call>(
        &self,
        cluster: &Cluster,
        snapshot: &Snapshot,
        nodes: Vec<Arc<Node>>,
        job: impl Fn(Arc<Node>) -> Call,
    ) where
        Call: Future<Output = Result<(), ClientError>>,
    {
        for node in snapshot.nodes() {
            if !node.inventory.is_healthy() {
                let name = node.inventory.name();
                let name = if name.is_empty() {
                    node.inventory.addr.to_string()
                } else {
                    name.to_owned()
                };
                self.say(&name, "skipped, the node is not healthy").await;
            }
        }
        let count = nodes.len();
        let outcomes = fanout::on_each(cluster, nodes, |node| {
            let work = job(Arc::clone(&node));
            async move {
                let name = node.inventory.name();
                self.say(name, "").await;
                let result = work.await;
                if let Err(error) = &result {
                    self.say(name, &error.to_string()).await;
                }
                result
            }
        })
        .await;
        let failures: Vec<(String, ClientError)> = outcomes
            .into_iter()
            .filter_map(|outcome| {
                let name = outcome.node.inventory.name().to_owned();
                Some((name, outcome.result.err()?))
            })
            .collect();
        if !is_failure(count, &failures) {
            return;
        }
        let lines: Vec<String> = failures
            .iter()
            .map(|(node, error)| format!("{node}: {error}"))
            .collect();
        let message = lines.join("\n");
        let mut last = RawObject::default();
        last.set("error", &message);
        last.set(
            "errorDetail",
            &serde_json::json!({ "code": 1, "message": message }),
        );
        self.send(&last).await;
    }

    /// Passes on what one engine tells until it ends.
    ///
    /// # Errors
    ///
    /// The engine told of an error, its stream broke off, or it is silent for too long.
    pub async fn relay(&self, node: &Node, lines: &mut Lines) -> Result<(), ClientError> {
        let name = node.inventory.name();
        loop {
            let batch = node.client.next_lines(lines).await?;
            if batch.is_empty() {
                return Ok(());
            }
            for line in batch {
                progress_error(&line)?;
                let Ok(mut message) = RawObject::parse(&line) else {
                    continue;
                };
                let layer: String = message.parsed("id").ok().flatten().unwrap_or_default();
                if layer.is_empty() {
                    let status: String =
                        message.parsed("status").ok().flatten().unwrap_or_default();
                    message.set("status", &self.status(&status));
                    message.set("id", &name);
                } else {
                    message.set("id", &format!("{name} {layer}"));
                }
                self.send(&message).await;
            }
        }
    }

    /// Tells something about a whole node; an empty text tells that its work begins.
    pub async fn say(&self, node: &str, text: &str) {
        let mut message = RawObject::default();
        message.set("status", &self.status(text));
        message.set("id", &node);
        self.send(&message).await;
    }

    fn status(&self, text: &str) -> String {
        if text.is_empty() {
            self.title.to_string()
        } else {
            format!("{} : {}", self.title, text.trim_end())
        }
    }

    async fn send(&self, message: &RawObject) {
        let mut line = message.to_bytes();
        line.extend_from_slice(b"\r\n");
        // An error means the client is gone, and this work is about to be aborted.
        let _ = self.sender.send(Bytes::from(line)).await;
    }
}

/// Whether the job as a whole failed. In a fleet of several operating systems an image is for some
/// nodes only, and that the others refuse it is no failure.
fn is_failure(nodes: usize, failures: &[(String, ClientError)]) -> bool {
    let elsewhere = failures.len() < nodes;
    let expected = |(_, error): &(String, ClientError)| error.to_string().contains(OTHER_SYSTEM);
    let harmless = elsewhere && failures.iter().all(expected);
    !failures.is_empty() && !harmless
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn failure(message: &str) -> (String, ClientError) {
        let error = ClientError::Engine {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: message.to_owned(),
        };
        ("n0".to_owned(), error)
    }

    #[test]
    fn nodes_of_another_system_may_refuse_an_image() {
        let other =
            || failure("image operating system \"windows\" cannot be used on this platform");
        assert!(!is_failure(2, &[]));
        assert!(!is_failure(2, &[other()]));
        assert!(is_failure(2, &[other(), other()]));
        assert!(is_failure(3, &[other(), failure("disk full")]));
    }
}
