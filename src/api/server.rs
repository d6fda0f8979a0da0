//! Connections: accepted, served, drained.
//!
//! ```text
//! socket     addresses that are bound
//! handshake  the first words on a TLS listener
//! head       how long a client may take
//! ```

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Options,
    builders::Peer,
    handlers::{self, Context},
    tunnel::Tunnels,
};
use crate::{
    cluster::Cluster,
    engine::transport::{Body, keep_alive},
    tls,
};

mod handshake;
mod head;
mod socket;

use self::handshake::LogGate;
pub use self::socket::{BindError, Listener, bind};

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long to wait when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log says that clients are refused, for each address.
const REFUSAL_LOG_PERIOD: Duration = Duration::from_secs(1);

/// How often the log says that all places are taken, for each address.
const FULL_LOG_PERIOD: Duration = Duration::from_secs(60);

/// A place among an address's connections; it is free again when this is dropped.
type Place = OwnedSemaphorePermit;

/// Serves the API until `shutdown`, then stops accepting, closes idle connections, and gives the
/// others the grace period. Streams that are still open then are cut.
pub async fn serve(
    listeners: Vec<Listener>,
    cluster: Cluster,
    options: Options,
    shutdown: CancellationToken,
) {
    let grace = options.grace_period;
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let tunnels = Tunnels::new(connections.clone(), cut.clone());
    let max_connections = options.max_connections.get();
    let (head_timeout, idle_timeout) = (options.head_timeout, options.idle_timeout);
    let context = Arc::new(Context::new(cluster, tunnels, options, shutdown.clone()));
    let accepting = TaskTracker::new();
    for listener in listeners {
        let acceptor = Acceptor {
            context: Arc::clone(&context),
            connections: connections.clone(),
            shutdown: shutdown.clone(),
            cut: cut.clone(),
            places: Arc::new(Semaphore::new(max_connections)),
            full: LogGate::new(FULL_LOG_PERIOD),
            refusals: Arc::new(LogGate::new(REFUSAL_LOG_PERIOD)),
            head_timeout,
            idle_timeout,
        };
        accepting.spawn(acceptor.accept(listener));
    }
    accepting.close();
    accepting.wait().await;
    connections.close();
    if tokio::time::timeout(grace, connections.wait())
        .await
        .is_err()
    {
        warn!(
            connections = connections.len(),
            "grace period is over, cutting what is open"
        );
    }
    cut.cancel();
    connections.wait().await;
}

/// Accepts the connections of one address.
struct Acceptor {
    context: Arc<Context>,
    connections: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
    /// Of this address alone: a crowd on one does not keep anybody off the others.
    places: Arc<Semaphore>,
    full: LogGate,
    refusals: Arc<LogGate>,
    head_timeout: Duration,
    idle_timeout: Duration,
}

impl Acceptor {
    async fn accept(self, listener: Listener) {
        announce(&listener);
        loop {
            let accepted = async {
                // First the place, then the connection: without one, clients wait in the backlog.
                let place = self.place().await?;
                self.accept_one(&listener, place).await
            };
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok(()) => {}
                Err(error) if is_about_one_client(&error) => {
                    debug!(%error, "a client was gone before it was accepted");
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others will close.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn place(&self) -> io::Result<Place> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        if self.full.pass().is_some() {
            warn!("as many clients are connected as may be, others wait (`api.max-connections`)");
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.map_err(io::Error::other)
    }

    async fn accept_one(&self, listener: &Listener, place: Place) -> io::Result<()> {
        match listener {
            Listener::Tcp(tcp) => {
                let (stream, peer) = accept_tcp(tcp).await?;
                self.connections
                    .spawn(self.serve(stream, Peer(Some(peer.ip())), place));
            }
            Listener::Tls(tcp, tls) => {
                let (stream, peer) = accept_tcp(tcp).await?;
                self.connections
                    .spawn(self.serve_tls(stream, peer, tls.clone(), place));
            }
            Listener::Unix(socket) => {
                let (stream, _) = socket.listener().accept().await?;
                self.connections
                    .spawn(self.serve(stream, Peer(None), place));
            }
        }
        Ok(())
    }

    /// Shakes hands, in a task of its own as a slow client must not hold up others, then serves.
    fn serve_tls(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: tls::Server,
        place: Place,
    ) -> impl Future<Output = ()> + Send + use<> {
        let refusals = Arc::clone(&self.refusals);
        let shutdown = self.shutdown.clone();
        let server = self.connection();
        async move {
            let shaking = handshake::shake_hands(stream, peer, &tls, &refusals);
            let Some(Some(stream)) = shutdown.run_until_cancelled(shaking).await else {
                return;
            };
            server.serve(stream, Peer(Some(peer.ip())), place).await;
        }
    }

    fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        place: Place,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.connection().serve(stream, peer, place)
    }

    fn connection(&self) -> Connection {
        Connection {
            context: Arc::clone(&self.context),
            shutdown: self.shutdown.clone(),
            cut: self.cut.clone(),
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
        }
    }
}

fn announce(listener: &Listener) {
    let addr = |tcp: &TcpListener| {
        tcp.local_addr()
            .map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string())
    };
    let (addr, proto, tls) = match listener {
        Listener::Tcp(tcp) => (addr(tcp), "tcp", false),
        Listener::Tls(tcp, _) => (addr(tcp), "tcp", true),
        Listener::Unix(socket) => (socket.path().display().to_string(), "unix", false),
    };
    info!(addr, proto, tls, "Listening for HTTP");
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    // These fail if the client is gone already, which serving it will find out. A client that
    // vanishes later without a word would hold its streams for ever without the second.
    let tuned = stream.set_nodelay(true).and_then(|()| keep_alive(&stream));
    if let Err(error) = tuned {
        debug!(%error, %peer, "cannot set a connection's options");
    }
    Ok((stream, peer))
}

/// Whether an error of accepting concerns the one client that was next, and nobody else: accept(2)
/// hands out what went wrong with the new connection as its own.
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::Interrupted
    )
}

/// What one connection needs of the server.
struct Connection {
    context: Arc<Context>,
    shutdown: CancellationToken,
    cut: CancellationToken,
    head_timeout: Duration,
    idle_timeout: Duration,
}

impl Connection {
    /// Serves a client until it goes, or until shutdown; the grace period is left to the caller.
    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        place: Place,
    ) {
        let context = self.context;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            answer(Arc::clone(&context), request)
        });
        let (stream, timer) = head::timed(TokioIo::new(stream), place, self.head_timeout);
        let connection = http1::Builder::new()
            .timer(timer)
            .header_read_timeout(self.idle_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(stream, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended early");
        }
    }
}

/// Answers one request, errors included.
async fn answer(
    context: Arc<Context>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let result = handlers::handle(&context, request).await;
    let mut response = result.unwrap_or_else(|error| {
        info!(%method, path, error = error.message(), "request refused");
        error.response()
    });
    debug!(%method, path, status = response.status().as_u16(), "request answered");
    context.decorate(&mut response);
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        // A switch has no length; some clients read one as a body.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    Ok(response)
}
