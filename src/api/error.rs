//! Errors as clients see them: a status and `{"message": …}`.
//!
//! The one place that knows which failure has which status. The texts are classic Swarm's where
//! its clients match them, and the engine's own where the engine refused.

use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::{
    cluster::create::CreateError,
    engine::{
        client::ClientError,
        raw::MemberError,
        transport::{self, Body, TransportError},
    },
    registry::RegistryError,
    store::StoreError,
};

/// What a client gets instead of an answer.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// An error with the status that an engine gave.
    pub fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::with_status(StatusCode::BAD_REQUEST, message)
    }

    /// A list filter has a value that cannot be.
    pub fn bad_filter(name: &str, value: &str) -> Self {
        Self::bad_request(format!("invalid filter '{name}={value}'"))
    }

    /// No such object; the text names it.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::with_status(StatusCode::NOT_FOUND, message)
    }

    /// No such container, as most routes say it.
    pub fn no_container(reference: &str) -> Self {
        Self::not_found(format!("No such container: {reference}"))
    }

    /// No such container, as inspect, start, and exec say it.
    pub fn no_container_plain(reference: &str) -> Self {
        Self::not_found(format!("No such container {reference}"))
    }

    /// The container is there, but its node cannot be reached.
    pub fn unhealthy(reference: &str, node: &str) -> Self {
        Self::internal(format!(
            "Container {reference} running on unhealthy node {node}"
        ))
    }

    /// The request may be fulfilled another time.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::with_status(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The request is fine and cannot be fulfilled.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::with_status(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A route of the Docker API that is not there yet; `path` has no version.
    pub fn unsupported(method: &Method, path: &str) -> Self {
        Self::with_status(
            StatusCode::NOT_IMPLEMENTED,
            format!("{method} /{path} is not supported yet"),
        )
    }

    /// What classic Swarm refused too.
    pub fn not_in_cluster() -> Self {
        Self::with_status(
            StatusCode::NOT_IMPLEMENTED,
            "Not supported in clustering mode.",
        )
    }

    /// Only volumes of a swarm can be changed, and the cluster is none; the words are dockerd's.
    pub fn no_cluster_volumes() -> Self {
        Self::with_status(
            StatusCode::SERVICE_UNAVAILABLE,
            "volume update only valid for cluster volumes, but swarm is unavailable",
        )
    }

    /// What an engine outside swarm mode says to the routes of swarm mode; clients know the text.
    pub fn not_swarm_mode() -> Self {
        Self::with_status(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
             to connect this node to swarm and try again.",
        )
    }

    /// The body is longer than what is held in memory.
    pub fn too_large(limit: usize) -> Self {
        Self::with_status(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is longer than {limit} bytes"),
        )
    }

    /// The same error with one more line of text.
    #[must_use]
    pub fn with_line(mut self, line: &str) -> Self {
        self.message.push('\n');
        self.message.push_str(line);
        self
    }

    /// The answer: JSON, never anything else.
    pub fn response(&self) -> Response<Body> {
        let json = serde_json::json!({ "message": self.message }).to_string() + "\n";
        let mut response = Response::new(transport::full(json));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }

    /// For the log.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<TransportError> for ApiError {
    fn from(error: TransportError) -> Self {
        let status = match error {
            TransportError::Busy { .. } | TransportError::NotPrimary { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            TransportError::Connect { .. }
            | TransportError::Tls { .. }
            | TransportError::Lost { .. }
            | TransportError::Timeout { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::with_status(status, error.to_string())
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Transport(error) => error.into(),
            ClientError::Engine { status, message } => Self::with_status(status, message),
            ClientError::Answer { .. } => Self::internal(error.to_string()),
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::NameTaken(_) => Self::with_status(StatusCode::CONFLICT, error.to_string()),
            CreateError::Body(error) => error.into(),
            CreateError::Engine(error) | CreateError::Pull(error) => error.into(),
            CreateError::Registry(error) => error.into(),
            CreateError::Policy(_) | CreateError::Schedule(_) | CreateError::NodeGone => {
                Self::internal(error.to_string())
            }
            CreateError::Store(StoreError::TooLarge { .. }) => {
                Self::with_status(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            CreateError::ShuttingDown
            | CreateError::NotPrimary
            | CreateError::Unheard(_)
            | CreateError::Store(_) => {
                Self::with_status(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}

impl From<MemberError> for ApiError {
    fn from(error: MemberError) -> Self {
        let cause = std::error::Error::source(&error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        Self::bad_request(format!("{error}{cause}"))
    }
}
