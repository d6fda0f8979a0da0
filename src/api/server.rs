//! Connections: accepted, served, drained.

use std::{
    convert::Infallible,
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
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
    config::listen::ListenAddr,
    engine::transport::{Body, keep_alive},
};

/// How long a client may take to send a request's head, and a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long to wait when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that is bound.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, for its owner alone.
    Unix(UnixListener),
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{hint}")]
pub struct BindError {
    address: String,
    hint: &'static str,
    source: io::Error,
}

/// Binds an address, without accepting yet.
///
/// A Unix socket that nobody answers on is replaced, and nothing else ever is; the new one has mode
/// 0600.
///
/// # Errors
///
/// [`BindError`].
pub fn bind(address: &ListenAddr) -> Result<Listener, BindError> {
    match address {
        ListenAddr::Tcp(text) => bind_tcp(text).map_err(|source| BindError {
            hint: if source.kind() == io::ErrorKind::AddrInUse && text.contains(":2375") {
                ": is Docker already running on this machine? Try using a different port"
            } else {
                ""
            },
            address: format!("tcp://{text}"),
            source,
        }),
        ListenAddr::Unix(path) => bind_unix(path).map_err(|source| BindError {
            address: format!("unix://{}", path.display()),
            hint: "",
            source,
        }),
    }
}

fn bind_tcp(address: &str) -> io::Result<Listener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Listener::Tcp)
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path is taken by something that is no socket",
            ));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            // Whoever made it is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Ok(_) | Err(_) => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Listener::Unix(listener))
}

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
    let context = Arc::new(Context::new(cluster, tunnels, options, shutdown.clone()));
    let accepting = TaskTracker::new();
    for listener in listeners {
        let acceptor = Acceptor {
            context: Arc::clone(&context),
            connections: connections.clone(),
            shutdown: shutdown.clone(),
            cut: cut.clone(),
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

struct Acceptor {
    context: Arc<Context>,
    connections: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl Acceptor {
    async fn accept(self, listener: Listener) {
        match &listener {
            Listener::Tcp(tcp) => {
                let addr = tcp
                    .local_addr()
                    .map_or_else(|_| "unknown".to_owned(), |a| a.to_string());
                info!(addr, proto = "tcp", "Listening for HTTP");
            }
            Listener::Unix(unix) => {
                let addr = unix.local_addr().ok();
                let path = addr.as_ref().and_then(|addr| addr.as_pathname());
                let addr = path.unwrap_or(Path::new("")).display();
                info!(%addr, proto = "unix", "Listening for HTTP");
            }
        }
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = self.accept_one(&listener) => accepted,
            };
            if let Err(error) = accepted {
                // Out of file descriptors, most likely: others will close.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept_one(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                stream.set_nodelay(true)?;
                // A client that vanished without a word would hold its streams for ever.
                keep_alive(&stream)?;
                self.start(stream, Peer(Some(peer.ip())));
            }
            Listener::Unix(unix) => {
                let (stream, _) = unix.accept().await?;
                self.start(stream, Peer(None));
            }
        }
        Ok(())
    }

    fn start(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer) {
        let context = Arc::clone(&self.context);
        let shutdown = self.shutdown.clone();
        let cut = self.cut.clone();
        self.connections.spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer);
                answer(Arc::clone(&context), request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = cut.cancelled() => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                debug!(%error, "connection ended early");
            }
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skep.sock");
        let address = ListenAddr::Unix(path.clone());

        std::fs::write(&path, "precious").unwrap();
        let error = bind(&address).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();

        let first = bind(&address).unwrap();
        let error = bind(&address).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        // A socket outlives the one who made it.
        drop(first);
        bind(&address).unwrap();
    }
}
