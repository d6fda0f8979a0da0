//! Bytes to and from one engine.
//!
//! Connections are reused, and their number is bounded ([`pool`](super::pool)). Upgraded ones
//! (attach, exec) count too, and free their place when they end.
//!
//! TLS comes in here: a third kind of socket, chosen by the connector. Nothing above this module
//! notices.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1, rt::ReadBufCursor};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::{
    pool::{Busy, Place, Pool, Share},
    stream::{self, Stream},
};
use crate::{
    model::address::EngineAddr,
    tls::{self, HandshakeError},
};

/// The most that is read at a time.
const MAX_READ_BYTES: usize = 1024 * 1024;

/// The body of a request to an engine.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body without content.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is in memory already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Says whether engines may be changed at this moment. The default is always.
#[derive(Clone, Default)]
pub struct Fence(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Fence {
    /// One that is open while `is_open` says so.
    pub fn new(is_open: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_open)))
    }

    /// Whether these bytes may go out: they may unless they begin a request that changes anything.
    fn lets_pass(&self, bytes: &[u8]) -> bool {
        let Some(is_open) = &self.0 else {
            return true;
        };
        let methods: [&[u8]; 4] = [b"POST ", b"PUT ", b"DELETE ", b"PATCH "];
        !methods.iter().any(|method| bytes.starts_with(method)) || is_open()
    }
}

impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fence")
    }
}

/// A request was not sent as this manager may not change engines.
#[derive(Debug, thiserror::Error)]
#[error("this manager is not the primary")]
struct Fenced;

/// Bounds on one engine's connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Connections at a time, streams and upgraded ones included.
    pub max_connections: usize,
    /// Connections kept for the next request.
    pub max_idle: usize,
    /// How long each of those is kept.
    pub idle_timeout: Duration,
    /// How much is read at a time, in bytes; `None` for as much as comes, up to a megabyte.
    pub read_bytes: Option<usize>,
}

impl Limits {
    /// Bounds with the usual time that connections are kept, and reads of any length.
    pub fn new(connect_timeout: Duration, max_connections: usize, max_idle: usize) -> Self {
        Self {
            connect_timeout,
            max_connections,
            max_idle,
            idle_timeout: Duration::from_secs(30),
            read_bytes: None,
        }
    }
}

/// How one engine is reached.
#[derive(Clone)]
pub struct Transport {
    addr: EngineAddr,
    tls: Option<tls::Client>,
    connector: Connector,
    share: Arc<Share>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection; the text is the one classic Swarm's clients match.
    #[error("Cannot connect to the Docker daemon at {addr}. Is the docker daemon running?")]
    Connect {
        /// The engine, as a URL.
        addr: String,
        /// What the system said.
        source: BodyError,
    },
    /// All connections are in use, and none came free within the connect timeout.
    #[error("too many connections to the engine at {addr}: all {limit} are in use")]
    Busy {
        /// The engine, as a URL.
        addr: String,
        /// How many there may be.
        limit: usize,
    },
    /// The two sides do not agree on TLS: a certificate, or whether to use it at all.
    #[error("no TLS with the engine at {addr}: {reason}")]
    Tls {
        /// The engine, as a URL.
        addr: String,
        /// Which side has to change what.
        reason: String,
    },
    /// The connection broke before an answer came.
    #[error("lost the connection to the engine at {addr}")]
    Lost {
        /// The engine, as a URL.
        addr: String,
        /// What the system said.
        source: BodyError,
    },
    /// Nothing was sent: this manager may not change engines, as another one leads.
    #[error("this manager is not the primary any more, nothing was sent to the engine at {addr}")]
    NotPrimary {
        /// The engine, as a URL.
        addr: String,
    },
    /// No answer in time.
    #[error("the engine at {addr} did not answer within {}", humantime::format_duration(*.after))]
    Timeout {
        /// The engine, as a URL.
        addr: String,
        /// How long it had.
        after: Duration,
    },
}

impl Transport {
    /// Prepares to talk to `addr` without TLS and with connections of its own; connects when the
    /// first request is sent.
    pub fn new(addr: EngineAddr, limits: &Limits) -> Self {
        Self::with_tls(addr, limits, None, Fence::default(), &Pool::default())
    }

    /// The same, with TLS if `tls` says how, and with a part of the connections of `pool`. Requests
    /// that change the engine are sent while `fence` is open, which it is asked when the first byte
    /// is written.
    pub fn with_tls(
        addr: EngineAddr,
        limits: &Limits,
        tls: Option<tls::Client>,
        fence: Fence,
        pool: &Pool,
    ) -> Self {
        let connector = Connector {
            addr: addr.clone(),
            tls: tls.clone(),
            fence,
            timeout: limits.connect_timeout,
            read_bytes: limits.read_bytes,
        };
        Self {
            addr,
            tls,
            connector,
            share: Arc::new(pool.share(limits)),
        }
    }

    /// Whether connections are protected.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Where the engine listens.
    pub fn addr(&self) -> &EngineAddr {
        &self.addr
    }

    /// The engine as a URL, for messages.
    pub fn url(&self) -> String {
        url(&self.addr)
    }

    /// Sends a request and returns the answer's head; the body streams.
    ///
    /// `path` is the path and query. The request's own URI is ignored. There is no deadline here
    /// beyond connecting: a `wait` or a `logs --follow` may take for ever, and ends when the
    /// caller drops it.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; a request whose body is a stream is never sent twice.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection if the request was sent.
    pub async fn send(
        &self,
        mut request: Request<Body>,
        path: &str,
    ) -> Result<Response<Incoming>, TransportError> {
        *request.uri_mut() = path.parse().map_err(|error| TransportError::Lost {
            addr: self.url(),
            source: BodyError::from(http::Error::from(error)),
        })?;
        *request.version_mut() = http::Version::HTTP_11;
        request
            .headers_mut()
            .insert(http::header::HOST, http::HeaderValue::from_static("docker"));
        let connect = || self.connector.connect(&self.share);
        let sent = self.share.send(request, connect).await;
        sent.map_err(|failure| self.explain(failure))
    }

    /// Asks for `path` over a connection that serves nothing else, for an answer that lasts. There is
    /// no deadline here beyond connecting.
    ///
    /// # Errors
    ///
    /// [`TransportError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn stream(&self, path: &str) -> Result<(StatusCode, EngineStream), TransportError> {
        let asked = async {
            let opened = self.connector.open(&self.share).await;
            let socket = TokioIo::new(opened.map_err(Failure::Connect)?);
            let answer = stream::get(socket, path).await;
            answer.map_err(|error| Failure::Sent(error.into()))
        };
        let (status, stream) = asked.await.map_err(|failure| self.explain(failure))?;
        Ok((status, EngineStream(stream)))
    }

    fn explain(&self, failure: Failure) -> TransportError {
        let addr = self.url();
        let (source, is_connecting) = match failure {
            Failure::Connect(source) => (source, true),
            Failure::Sent(error) => (error, false),
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*source);
        while let Some(inner) = cause {
            if let Some(busy) = inner.downcast_ref::<Busy>() {
                return TransportError::Busy {
                    addr,
                    limit: busy.limit,
                };
            }
            let is_fenced =
                |error: &io::Error| matches!(error.get_ref(), Some(error) if error.is::<Fenced>());
            if inner.downcast_ref().is_some_and(is_fenced) {
                return TransportError::NotPrimary { addr };
            }
            if let Some(HandshakeError { reason }) = inner.downcast_ref() {
                let reason = reason.clone();
                return TransportError::Tls { addr, reason };
            }
            let broken = inner.downcast_ref::<io::Error>();
            let refusal = self.tls.as_ref().zip(broken);
            if let Some(refusal) = refusal.and_then(|(tls, error)| tls.refusal(error)) {
                let reason = refusal.reason;
                return TransportError::Tls { addr, reason };
            }
            cause = inner.source();
        }
        if is_connecting {
            TransportError::Connect { addr, source }
        } else {
            TransportError::Lost { addr, source }
        }
    }

    /// Resolves the engine's address to an IP, the first one the system gives.
    ///
    /// # Errors
    ///
    /// The name cannot be resolved. A socket's address is the loopback address.
    pub async fn resolve(&self) -> io::Result<IpAddr> {
        match &self.addr {
            EngineAddr::Unix(_) => Ok(IpAddr::from([127, 0, 0, 1])),
            EngineAddr::Tcp { host, port } => tokio::net::lookup_host((&**host, *port))
                .await?
                .next()
                .map(|addr| addr.ip())
                .ok_or_else(|| io::Error::other(format!("no address for `{host}`"))),
        }
    }
}

fn url(addr: &EngineAddr) -> String {
    match addr {
        EngineAddr::Tcp { .. } => format!("tcp://{addr}"),
        EngineAddr::Unix(_) => addr.to_string(),
    }
}

/// Opens connections to one engine.
#[derive(Clone)]
struct Connector {
    addr: EngineAddr,
    tls: Option<tls::Client>,
    fence: Fence,
    timeout: Duration,
    read_bytes: Option<usize>,
}

/// How far a request came that got no answer.
enum Failure {
    /// There was no connection.
    Connect(BodyError),
    /// The connection did not last.
    Sent(BodyError),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Sent(error.into())
    }
}

impl Connector {
    /// Opens a connection and starts the task that serves it.
    async fn connect(&self, share: &Share) -> Result<http1::SendRequest<Body>, Failure> {
        let stream = self.open(share).await.map_err(Failure::Connect)?;
        let mut http = http1::Builder::new();
        match self.read_bytes {
            Some(bytes) => http.read_buf_exact_size(Some(bytes)),
            None => http.max_buf_size(MAX_READ_BYTES),
        };
        let (sender, connection) = http.handshake(stream).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer hears of its end.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn open(&self, share: &Share) -> Result<Connection, BodyError> {
        // Most calls are short, so a place is worth waiting for.
        let place = share.place().await?;
        let socket = tokio::time::timeout(self.timeout, async {
            Ok::<_, BodyError>(match &self.addr {
                EngineAddr::Tcp { host, port } => {
                    let stream = TcpStream::connect((&**host, *port)).await?;
                    stream.set_nodelay(true)?;
                    keep_alive(&stream)?;
                    match &self.tls {
                        Some(tls) => {
                            let stream = tls.connect(host, stream).await?;
                            Socket::Tls(Box::new(TokioIo::new(stream)))
                        }
                        None => Socket::Tcp(TokioIo::new(stream)),
                    }
                }
                EngineAddr::Unix(path) => {
                    Socket::Unix(TokioIo::new(UnixStream::connect(path).await?))
                }
            })
        })
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Connection {
            socket,
            fence: self.fence.clone(),
            _place: place,
        })
    }
}

/// Notices within half a minute that the other host is gone, although nothing is sent: event
/// streams are silent for hours.
///
/// # Errors
///
/// The system refuses to set the options.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let options = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&options)
}

/// An answer that comes for as long as its connection lasts; dropping it closes the connection.
pub struct EngineStream(Stream<TokioIo<Connection>>);

impl EngineStream {
    /// The next bytes, never empty; `None` at the end.
    ///
    /// # Errors
    ///
    /// The connection breaks, or what comes is not HTTP.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next().await
    }
}

/// A connection to an engine; dropping it frees its place.
struct Connection {
    socket: Socket,
    fence: Fence,
    _place: Place,
}

enum Socket {
    Tcp(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
    Unix(TokioIo<UnixStream>),
}

/// Hands a poll to whichever socket it is.
macro_rules! on_socket {
    ($self:expr, $method:ident $(, $argument:expr)*) => {
        match &mut $self.get_mut().socket {
            Socket::Tcp(socket) => Pin::new(socket).$method($($argument),*),
            Socket::Tls(socket) => Pin::new(&mut **socket).$method($($argument),*),
            Socket::Unix(socket) => Pin::new(socket).$method($($argument),*),
        }
    };
}

impl Connection {
    /// Makes the error of a write that failed say why the engine closed the connection.
    ///
    /// An engine that refuses a certificate in TLS 1.3 does so after the handshake, says why, and
    /// closes. The request is on its way then, and writing it fails before anybody has read the
    /// engine's last words.
    fn with_last_words(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Socket::Tls(socket) = &mut self.get_mut().socket else {
            return written;
        };
        if !matches!(written, Poll::Ready(Err(_))) {
            return written;
        }
        let mut scrap = [0; 512];
        let mut scrap = hyper::rt::ReadBuf::new(&mut scrap);
        match hyper::rt::Read::poll_read(Pin::new(&mut **socket), cx, scrap.unfilled()) {
            Poll::Ready(Err(last_words)) => Poll::Ready(Err(last_words)),
            Poll::Ready(Ok(())) | Poll::Pending => written,
        }
    }
}

impl hyper::rt::Read for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        on_socket!(self, poll_read, cx, buffer)
    }
}

impl hyper::rt::Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.fence.lets_pass(bytes) {
            return Poll::Ready(Err(io::Error::other(Fenced)));
        }
        let written = on_socket!(self.as_mut(), poll_write, cx, bytes);
        self.with_last_words(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = on_socket!(self.as_mut(), poll_flush, cx);
        let flushed = flushed.map(|result| result.map(|()| 0));
        self.with_last_words(cx, flushed)
            .map(|result| result.map(|_| ()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, poll_shutdown, cx)
    }
}
