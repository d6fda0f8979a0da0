//! The manager's own calls to one engine, each with a deadline and a bounded answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::{
    engine::{
        inventory::resources::split_reference,
        lines::Lines,
        raw::RawObject,
        transport::{self, Body, BodyError, Transport, TransportError},
    },
    registry::REGISTRY_AUTH,
};

/// The newest API version the manager's own calls use; what they read has not changed since.
pub const OWN_API_VERSION: (u32, u32) = (1, 44);

/// An answer longer than this is refused.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Of a refusal no more is read than this.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// How many times longer than for other calls the wait for long work is.
const PATIENCE: u32 = 10;

/// How much of an upload is read at a time.
const UPLOAD_CHUNK_BYTES: usize = 64 * 1024;

/// How many lines of progress are looked at together.
const PROGRESS_BATCH: usize = 256;

/// What a server written in Go, as engines are, answers if it is spoken to without TLS and wants it.
const WANTS_TLS: &[u8] = b"Client sent an HTTP request to an HTTPS server.";

/// One engine's API.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    timeout: Duration,
    prefix: Arc<str>,
}

/// A pull as the Docker API words it.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The query, with a leading `?`: `?fromImage=busybox&tag=latest&platform=`.
    pub query: String,
    /// Registry credentials.
    pub auth: Option<HeaderValue>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The engine said no.
    #[error("{message}")]
    Engine {
        /// The answer's status.
        status: StatusCode,
        /// The engine's own words.
        message: String,
    },
    /// The answer broke off, is too long, or is not what engines send.
    #[error("the engine at {addr} gave an answer that cannot be used: {reason}")]
    Answer {
        /// The engine, as a URL.
        addr: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// The status the engine answered with, if it answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Engine { status, .. } => Some(*status),
            Self::Transport(_) | Self::Answer { .. } => None,
        }
    }

    /// Whether the engine may have done what was asked although no answer came.
    pub fn is_answer_lost(&self) -> bool {
        match self {
            Self::Engine { .. }
            | Self::Transport(
                TransportError::Busy { .. }
                | TransportError::Connect { .. }
                | TransportError::NotPrimary { .. }
                | TransportError::Tls { .. },
            ) => false,
            Self::Transport(_) | Self::Answer { .. } => true,
        }
    }

    /// Whether the engine could not be reached, rather than said no.
    pub fn is_contact_failure(&self) -> bool {
        match self {
            Self::Transport(TransportError::Busy { .. } | TransportError::NotPrimary { .. })
            | Self::Engine { .. } => false,
            Self::Transport(_) | Self::Answer { .. } => true,
        }
    }
}

impl Client {
    /// Wraps a transport; `timeout` bounds each call from sending to the last byte.
    pub fn new(transport: Arc<Transport>, timeout: Duration) -> Self {
        Self {
            transport,
            timeout,
            prefix: Arc::from(""),
        }
    }

    /// The same client, speaking the newest version that both sides know.
    pub fn at_version(&self, engine: (u32, u32)) -> Self {
        let (major, minor) = engine.min(OWN_API_VERSION);
        Self {
            prefix: Arc::from(format!("/v{major}.{minor}")),
            ..self.clone()
        }
    }

    /// The same client for work that takes long, such as measuring or pruning what is on a disk,
    /// removing large images, or a pull: it waits ten times as long.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self {
            timeout: self.timeout * PATIENCE,
            ..self.clone()
        }
    }

    /// What the client talks through.
    pub fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// `GET /info`.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn info(&self) -> Result<RawObject, ClientError> {
        self.get_object("/info").await
    }

    /// `GET /version`.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn version(&self) -> Result<RawObject, ClientError> {
        self.get_object("/version").await
    }

    /// The list entries of all containers, or of one.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn containers(&self, id: Option<&str>) -> Result<Vec<RawObject>, ClientError> {
        let path = match id {
            None => "/containers/json?all=1".to_owned(),
            Some(id) => {
                let filters = format!(r#"{{"id":["{id}"]}}"#);
                format!("/containers/json?all=1&filters={}", encode(&filters))
            }
        };
        self.get_list(&path).await
    }

    /// The list entries of the containers that have a volume of this name and are not at rest: that
    /// run, are frozen, are about to be started again, or are being removed.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn users_of_volume(&self, name: &str) -> Result<Vec<RawObject>, ClientError> {
        let filters = format!(
            r#"{{"volume":["{name}"],"status":["paused","removing","restarting","running"]}}"#
        );
        self.get_list(&format!(
            "/containers/json?all=1&filters={}",
            encode(&filters)
        ))
        .await
    }

    /// The list entries of all containers with their sizes, which the engine has to measure.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn container_sizes(&self) -> Result<Vec<RawObject>, ClientError> {
        self.get_list("/containers/json?all=1&size=1").await
    }

    /// The inspect document of a container, as the engine wrote it.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn inspect(&self, id: &str) -> Result<Bytes, ClientError> {
        self.get(&format!("/containers/{id}/json")).await
    }

    /// The list entries of all images.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn images(&self) -> Result<Vec<RawObject>, ClientError> {
        self.get_list("/images/json?all=1").await
    }

    /// The list entries of all networks.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn networks(&self) -> Result<Vec<RawObject>, ClientError> {
        self.get_list("/networks").await
    }

    /// The list entries of all volumes.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn volumes(&self) -> Result<Vec<RawObject>, ClientError> {
        let answer = self.get_object("/volumes").await?;
        let volumes = answer.parsed("Volumes").map_err(|error| self.odd(&error))?;
        Ok(volumes.unwrap_or_default())
    }

    /// The engine's events from `since_nano` (nanoseconds since 1970, by its clock) on, as they
    /// come. Only the answer's head has a deadline.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn events(&self, since_nano: Option<i64>) -> Result<Lines, ClientError> {
        let path = match since_nano {
            Some(nano) => format!(
                "/events?since={}.{:09}",
                nano.div_euclid(1_000_000_000),
                nano.rem_euclid(1_000_000_000)
            ),
            None => "/events".to_owned(),
        };
        let path = self.path(&path);
        let (status, mut stream) = self.within(self.transport.stream(&path)).await??;
        if status.is_success() {
            return Ok(Lines::of_stream(stream));
        }
        let said = async {
            let mut said = Vec::new();
            while let Some(bytes) = stream.next().await? {
                said.extend_from_slice(&bytes);
                if said.len() > MAX_REFUSAL_BYTES {
                    break;
                }
            }
            Ok(said)
        };
        let said: std::io::Result<Vec<u8>> = self.within(said).await?;
        let said = said.map_err(|error| self.odd(&error))?;
        Err(self.refusal(status, &said))
    }

    /// Creates a container and returns the engine's answer.
    ///
    /// `version` is the API version the client of the cluster used; its body is in that dialect.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn create(
        &self,
        version: Option<&str>,
        query: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let path = match version {
            Some(version) => format!("/v{version}/containers/create{query}"),
            None => self.path(&format!("/containers/create{query}")),
        };
        self.post_at(&path, body).await
    }

    /// Pulls an image and waits until the engine has it. A pull takes as long as it takes, as long
    /// as the engine tells of progress: it may be silent for ten times the deadline of other calls.
    ///
    /// # Errors
    ///
    /// As [`Client::call`]; an error inside the progress stream is [`ClientError::Engine`] with
    /// status 404 if the image does not exist.
    pub async fn pull(&self, image: &str, auth: Option<&HeaderValue>) -> Result<(), ClientError> {
        let mut progress = self.start_pull(image, auth).await?;
        loop {
            let lines = self.next_lines(&mut progress).await?;
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines {
                progress_error(&line)?;
            }
        }
    }

    /// Asks the engine to pull an image and returns its progress, one JSON object a line; see
    /// [`progress_error`].
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn start_pull(
        &self,
        image: &str,
        auth: Option<&HeaderValue>,
    ) -> Result<Lines, ClientError> {
        let (name, tag) = match split_reference(image) {
            (name, "") => (name, "latest"),
            parts => parts,
        };
        self.start_pull_request(&PullRequest {
            query: format!("?fromImage={}&tag={}", encode(name), encode(tag)),
            auth: auth.cloned(),
        })
        .await
    }

    /// The same for a pull as a client of the cluster asked for it.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn start_pull_request(&self, wanted: &PullRequest) -> Result<Lines, ClientError> {
        let mut request = self.request(Method::POST, transport::empty());
        if let Some(auth) = &wanted.auth {
            request.headers_mut().insert(REGISTRY_AUTH, auth.clone());
        }
        let path = self.path(&format!("/images/create{}", wanted.query));
        let response = self
            .patient()
            .within(self.transport.send(request, &path))
            .await??;
        self.accept_stream(response).await.map(Lines::new)
    }

    /// Posts `length` bytes of content to `path` as it stands, version prefix included, and returns
    /// what the engine tells; see [`Client::next_lines`]. An upload takes as long as it takes, as
    /// long as the engine takes bytes: it may stop for ten times the deadline of other calls.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::call`].
    pub async fn upload(
        &self,
        path: &str,
        content_type: Option<&HeaderValue>,
        length: u64,
        content: impl AsyncRead + Send + 'static,
    ) -> Result<Lines, ClientError> {
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        let chunks = ReaderStream::with_capacity(content, UPLOAD_CHUNK_BYTES).map(move |chunk| {
            counter.fetch_add(1, Ordering::Relaxed);
            chunk.map(Frame::data).map_err(BodyError::from)
        });
        let mut request = self.request(Method::POST, StreamBody::new(chunks).boxed_unsync());
        let headers = request.headers_mut();
        headers.insert(http::header::CONTENT_LENGTH, length.into());
        if let Some(content_type) = content_type {
            headers.insert(http::header::CONTENT_TYPE, content_type.clone());
        }
        let patient = self.patient();
        let mut answer = std::pin::pin!(self.transport.send(request, path));
        let mut before = 0;
        loop {
            match patient.within(&mut answer).await {
                Ok(answer) => return self.accept_stream(answer?).await.map(Lines::new),
                Err(silent) => {
                    let now = taken.load(Ordering::Relaxed);
                    if now == before {
                        return Err(silent);
                    }
                    before = now;
                }
            }
        }
    }

    /// The next lines of progress, none at the end of the stream. An engine may be silent for ten
    /// times the deadline of other calls: a registry may be slow, and a layer large.
    ///
    /// # Errors
    ///
    /// The stream broke off, or is silent.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next_lines(&self, progress: &mut Lines) -> Result<Vec<Vec<u8>>, ClientError> {
        self.patient()
            .within(progress.next_batch(PROGRESS_BATCH))
            .await?
            .map_err(|error| self.odd(&error))
    }

    /// Sends a request without a body and returns the whole answer.
    ///
    /// `path` has no version prefix.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a status of 400 and above is [`ClientError::Engine`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the engine may have done what was asked.
    pub async fn call(&self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        self.call_at(method, &self.path(path)).await
    }

    /// As [`Client::call`], to `path` as it stands, version prefix included.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::call`].
    pub async fn call_at(&self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        self.finish(self.request(method, transport::empty()), path)
            .await
    }

    /// As [`Client::call_at`], for an answer that is JSON.
    ///
    /// # Errors
    ///
    /// As [`Client::call`]; an answer that is something else is [`ClientError::Answer`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::call`].
    pub async fn json_at<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        let answer = self.call_at(method, path).await?;
        serde_json::from_slice(&answer).map_err(|error| self.odd(&error))
    }

    /// Posts a small JSON document to `path`, which has no version prefix, and returns the whole
    /// answer.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::call`].
    pub async fn post(&self, path: &str, document: Bytes) -> Result<Bytes, ClientError> {
        self.post_at(&self.path(path), document).await
    }

    /// Posts a small JSON document to `path` as it stands, version prefix included, and returns the
    /// whole answer.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::call`].
    pub async fn post_at(&self, path: &str, document: Bytes) -> Result<Bytes, ClientError> {
        let mut request = self.request(Method::POST, transport::full(document));
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        self.finish(request, path).await
    }

    /// Sends a request and reads the whole answer, all within the deadline.
    async fn finish(&self, request: Request<Body>, path: &str) -> Result<Bytes, ClientError> {
        self.within(async {
            let response = self.transport.send(request, path).await?;
            self.accept(response).await
        })
        .await?
    }

    async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(Method::GET, path).await
    }

    async fn get_object(&self, path: &str) -> Result<RawObject, ClientError> {
        let answer = self.get(path).await?;
        RawObject::parse(&answer).map_err(|error| self.odd(&error))
    }

    async fn get_list(&self, path: &str) -> Result<Vec<RawObject>, ClientError> {
        let answer = self.get(path).await?;
        serde_json::from_slice::<Option<_>>(&answer)
            .map(Option::unwrap_or_default)
            .map_err(|error| self.odd(&error))
    }

    async fn accept(&self, response: http::Response<Incoming>) -> Result<Bytes, ClientError> {
        let status = response.status();
        let body = self.collect(response.into_body()).await?;
        if status.is_client_error() || status.is_server_error() {
            return Err(self.refusal(status, &body));
        }
        Ok(body)
    }

    async fn accept_stream(
        &self,
        response: http::Response<Incoming>,
    ) -> Result<Incoming, ClientError> {
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status();
        let body = self.collect(response.into_body()).await?;
        Err(self.refusal(status, &body))
    }

    /// An engine's refusal, in its own words unless they are about TLS.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        if !self.transport.is_encrypted() && body.trim_ascii() == WANTS_TLS {
            return ClientError::Transport(TransportError::Tls {
                addr: self.transport.url(),
                reason: "it speaks TLS, and no `[engine.tls]` is configured for it".to_owned(),
            });
        }
        refusal(status, body)
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| self.odd(&error))
    }

    async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, call).await.map_err(|_| {
            TransportError::Timeout {
                addr: self.transport.url(),
                after: self.timeout,
            }
            .into()
        })
    }

    fn odd(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Answer {
            addr: self.transport.url(),
            reason: reason.to_string(),
        }
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn request(&self, method: Method, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        request
    }
}

/// Percent-encodes one query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// An engine's refusal, in its own words.
fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    let message = RawObject::parse(body)
        .ok()
        .and_then(|object| object.parsed::<String>("message").ok().flatten())
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    ClientError::Engine { status, message }
}

/// Turns an error inside a progress stream into one of the call.
///
/// # Errors
///
/// [`ClientError::Engine`] if the line tells of an error.
pub fn progress_error(line: &[u8]) -> Result<(), ClientError> {
    let Ok(object) = RawObject::parse(line) else {
        return Ok(());
    };
    match object.parsed::<String>("error") {
        Ok(Some(message)) => {
            let text = message.to_ascii_lowercase();
            let missing = [
                "not found",
                "does not exist",
                "manifest unknown",
                "no such image",
            ]
            .iter()
            .any(|sign| text.contains(sign));
            Err(ClientError::Engine {
                status: if missing {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::INTERNAL_SERVER_ERROR
                },
                message,
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_engines_words() {
        let error = refusal(StatusCode::CONFLICT, br#"{"message":"name in use"}"#);
        assert_eq!(error.to_string(), "name in use");
        assert_eq!(error.status(), Some(StatusCode::CONFLICT));
        let error = refusal(StatusCode::BAD_GATEWAY, b"<html>odd</html>\n");
        assert_eq!(error.to_string(), "<html>odd</html>");
    }

    // U-ENG-2
    #[test]
    fn only_an_engine_that_cannot_be_reached_has_failed() {
        let refused = refusal(StatusCode::INTERNAL_SERVER_ERROR, b"no");
        assert!(!refused.is_contact_failure() && !refused.is_answer_lost());
        let addr = "tcp://e:1".to_owned();
        let busy = TransportError::Busy {
            addr: addr.clone(),
            limit: 1,
        };
        assert!(!ClientError::from(busy).is_contact_failure());
        let after = Duration::from_secs(1);
        let silent = ClientError::from(TransportError::Timeout { addr, after });
        assert!(silent.is_contact_failure() && silent.is_answer_lost());
    }

    #[test]
    fn an_error_in_a_progress_stream_fails_the_pull() {
        assert!(progress_error(br#"{"status":"Pulling"}"#).is_ok());
        let error = progress_error(br#"{"error":"manifest for x not found"}"#).unwrap_err();
        assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
    }
}
