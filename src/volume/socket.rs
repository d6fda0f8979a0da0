//! The sockets on which engines find drivers, and the HTTP that they speak there.
//!
//! An engine looks for a driver `NAME` at `NAME.sock` in its plugin directory, says hello once with
//! `Plugin.Activate`, and then posts JSON. An answer with a status other than 200 is an error, and
//! its `Err` the text that the user reads.

use std::{
    convert::Infallible, fs::DirBuilder, io, os::unix::fs::DirBuilderExt as _, path::PathBuf,
    sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use self::wire::{Call, Failure};
use super::{
    DriverError, engine,
    service::{self, Service},
};
use crate::unix_socket::UnixSocket;

mod wire;

/// Where engines look for the sockets of plugins.
pub const PLUGIN_DIRECTORY: &str = "/run/docker/plugins";

/// The longest body of a request.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long to wait when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How drivers are served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the sockets are made, and the directory itself if it is not there. Default:
    /// [`PLUGIN_DIRECTORY`].
    pub directory: PathBuf,
    /// Connections to one socket at a time; others wait. Default: 1024.
    pub max_connections: usize,
    /// Longest that an engine may take from one request to the end of the next one's head, and
    /// again for the body. Default: 1 min.
    pub request_timeout: Duration,
    /// How long calls that are under way at shutdown may take. Default: 10 s.
    pub grace_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PLUGIN_DIRECTORY.into(),
            max_connections: 1024,
            request_timeout: Duration::from_secs(60),
            grace_period: Duration::from_secs(10),
        }
    }
}

/// Why a driver cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No engine would look for a driver of that name.
    #[error("`{0}` is no name of a volume driver: letters, digits, `_`, `.` and `-`")]
    Name(String),
    /// The directory of the sockets cannot be made.
    #[error("cannot make the plugin directory `{}`", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A process that lives serves a driver of that name.
    #[error("volume driver `{name}` is served by another process on `{}`", .path.display())]
    Taken {
        /// The driver's name.
        name: String,
        /// Its socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot serve volume driver `{name}` on `{}`", .path.display())]
    Socket {
        /// The driver's name.
        name: String,
        /// Its socket.
        path: PathBuf,
        /// What the system says, or that the path is no socket.
        source: io::Error,
    },
}

/// Serves drivers until `shutdown`: [`bind`] and [`Endpoints::serve`].
///
/// # Errors
///
/// [`BindError`]; then none is served.
pub async fn serve(
    services: Vec<Service>,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), BindError> {
    bind(services, options)?.serve(shutdown).await;
    Ok(())
}

/// Makes the sockets of drivers. Engines can connect from now on, and wait.
///
/// A socket whose process is gone is replaced, and nothing else ever is. This also keeps a second
/// agent away from the first one's ledgers.
///
/// # Errors
///
/// [`BindError`]; then no socket is left.
///
/// # Panics
///
/// Outside a Tokio runtime.
pub fn bind(services: Vec<Service>, options: Options) -> Result<Endpoints, BindError> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&options.directory);
    made.map_err(|source| BindError::Directory {
        path: options.directory.clone(),
        source,
    })?;
    let bound = services
        .into_iter()
        .map(|service| Ok((bind_one(&service, &options)?, service)))
        .collect::<Result<_, _>>()?;
    Ok(Endpoints { bound, options })
}

fn bind_one(service: &Service, options: &Options) -> Result<UnixSocket, BindError> {
    let name = service.name().to_owned();
    if !service::is_name(&name) {
        return Err(BindError::Name(name));
    }
    let path = options.directory.join(format!("{name}.sock"));
    UnixSocket::bind(&path).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { name, path },
        _ => BindError::Socket { name, path, source },
    })
}

/// Drivers and their sockets, which go with the value.
pub struct Endpoints {
    bound: Vec<(UnixSocket, Service)>,
    options: Options,
}

impl Endpoints {
    /// Serves until `shutdown`. Then nothing is accepted any more, and calls that are under way have
    /// the grace period. The sockets are there until the end: whoever connects in the meantime is
    /// cut off, and asks the next agent.
    pub async fn serve(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        for (socket, service) in self.bound {
            let endpoint = Endpoint {
                socket,
                service,
                places: Arc::new(Semaphore::new(self.options.max_connections)),
                options: self.options.clone(),
                shutdown: shutdown.clone(),
                cut: cut.clone(),
            };
            tasks.spawn(endpoint.serve());
        }
        tasks.close();
        shutdown.cancelled().await;
        if timeout(self.options.grace_period, tasks.wait())
            .await
            .is_err()
        {
            warn!("grace period is over, volume drivers are left with what they do");
        }
        cut.cancel();
        tasks.wait().await;
    }
}

/// One driver's socket.
struct Endpoint {
    socket: UnixSocket,
    service: Service,
    places: Arc<Semaphore>,
    options: Options,
    shutdown: CancellationToken,
    /// The end of the grace period.
    cut: CancellationToken,
}

impl Endpoint {
    async fn serve(self) {
        let path = self.socket.path().display();
        info!(driver = self.service.name(), %path, "serving a volume driver");
        let connections = TaskTracker::new();
        let reconciling = self.cut.run_until_cancelled(self.service.reconcile());
        let accepting = self.shutdown.run_until_cancelled(self.accept(&connections));
        // Engines need not wait for what others left behind: each call looks after its own volume.
        tokio::join!(reconciling, accepting);
        connections.close();
        connections.wait().await;
        self.cut.run_until_cancelled(self.service.drain()).await;
    }

    async fn accept(&self, connections: &TaskTracker) {
        loop {
            // First the place, then the connection: without one, engines wait in the backlog.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            match self.socket.listener().accept().await {
                Ok((stream, _)) => {
                    connections.spawn(self.connection(stream, place));
                }
                Err(error) => {
                    warn!(driver = self.service.name(), %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection until it ends, or until shutdown and the call that is under way.
    fn connection(
        &self,
        stream: UnixStream,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (shutdown, cut) = (self.shutdown.clone(), self.cut.clone());
        let request_timeout = self.options.request_timeout;
        let service = self.service.clone();
        async move {
            let _place = place;
            let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
            let answering = service_fn(move |request| {
                let service = service.clone();
                async move {
                    let answered = answer(&service, peer, request, request_timeout).await;
                    Ok::<_, Infallible>(answered)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(request_timeout)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), answering);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let ended = cut.run_until_cancelled(connection).await;
                    ended.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                debug!(%error, "an engine's connection ended early");
            }
        }
    }
}

/// Answers one request, errors included.
async fn answer(
    service: &Service,
    peer: Option<i32>,
    request: Request<Incoming>,
    body_timeout: Duration,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let answered = async {
        let call = head(&request)?;
        let body = body(request, body_timeout).await?;
        call.answer(service, peer.and_then(engine::identity), &body)
            .await
    };
    let (status, body) = match answered.await {
        Ok(body) => (StatusCode::OK, body),
        Err(failure) => {
            // An engine looks for a volume before it makes one.
            let is_usual = failure.text == DriverError::NotFound.to_string();
            let (driver, error) = (service.name(), &failure.text);
            match is_usual {
                true => debug!(driver, path, error, "volume call failed"),
                false => info!(driver, path, error, "volume call failed"),
            }
            (failure.status, failure.body())
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(wire::MEDIA_TYPE),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// What is asked for.
fn head(request: &Request<Incoming>) -> Result<Call, Failure> {
    let path = request.uri().path();
    let call = Call::parse(path)
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("no such call: `{path}`")))?;
    if request.method() != Method::POST {
        let text = format!("`{path}` is called with POST");
        return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    match request.headers().get(header::CONTENT_TYPE) {
        Some(given) if !given.to_str().is_ok_and(wire::is_media_type) => Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("`{path}` takes {}", wire::MEDIA_TYPE),
        )),
        _ => Ok(call),
    }
}

async fn body(request: Request<Incoming>, limit: Duration) -> Result<Bytes, Failure> {
    let reading = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    match timeout(limit, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {MAX_BODY_BYTES} bytes"),
        )),
        Ok(Err(error)) => Err(Failure::new(
            StatusCode::BAD_REQUEST,
            format!("cannot read the body: {error}"),
        )),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
