//! One connection: admitted or not, its calls counted, its faults played.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::body::{self, Answer};
use crate::engine::Engine;
use crate::fault::Fault;
use crate::handlers::{self, Call};
use crate::query::Query;
use crate::route;

/// What an engine with TLS answers to HTTP without.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Takes a fresh connection, unless the engine is dead or refuses it.
///
/// The task that serves it ends with the connection, with the engine's life or with the fleet.
pub(crate) fn admit(
    socket: TcpStream,
    engine: &Arc<Engine>,
    tls: Option<Arc<ServerConfig>>,
    stop: &CancellationToken,
) {
    engine.accepted();
    let life = engine.life();
    if life.is_cancelled() || engine.has_fault("", &Fault::RefuseConnections) {
        // No lingering: the client sees a reset at once, as close to a refusal as an open port gets.
        let _ = socket.set_zero_linger();
        return;
    }
    let _ = socket.set_nodelay(true);
    let (engine, stop) = (Arc::clone(engine), stop.clone());
    let garbled = engine.has_fault("", &Fault::NotHttp);
    tokio::spawn(async move {
        let end = End { life, stop };
        if garbled {
            let mut socket = socket;
            let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            return;
        }
        match tls {
            None => serve(socket, engine, end).await,
            Some(tls) => {
                if let Some(socket) = secured(socket, tls, &end).await {
                    serve(socket, engine, end).await;
                }
            }
        }
    });
}

/// Shakes hands as dockerd does; a client that does not speak TLS gets the answer of Go's server.
async fn secured(
    mut socket: TcpStream,
    tls: Arc<ServerConfig>,
    end: &End,
) -> Option<TlsStream<TcpStream>> {
    let shaking = async {
        let mut first = [0];
        socket.peek(&mut first).await.ok()?;
        if first[0].is_ascii_alphabetic() {
            // One look is enough for what tests send, and all that Go's server takes.
            let _ = socket.read(&mut [0; 4096]).await.ok()?;
            socket.write_all(PLAIN_ANSWER).await.ok()?;
            return None;
        }
        TlsAcceptor::from(tls).accept(socket).await.ok()
    };
    tokio::select! {
        secured = shaking => secured,
        () = end.reached() => None,
    }
}

async fn serve<S>(socket: S, engine: Arc<Engine>, end: End)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let open = Arc::new(engine.opened());
    let ends = end.clone();
    let service = service_fn(|request| {
        let (engine, end, open) = (Arc::clone(&engine), end.clone(), Arc::clone(&open));
        async move { Ok::<_, Infallible>(answer(engine, request, end, open).await) }
    });
    // As with dockerd, a client that closes its side ends its request.
    let serving = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::select! {
        _ = serving => {}
        () = ends.reached() => {}
    }
}

/// When a connection must end: with its engine's life, or with the fleet.
#[derive(Clone)]
pub(crate) struct End {
    life: CancellationToken,
    stop: CancellationToken,
}

impl End {
    pub async fn reached(&self) {
        tokio::select! {
            () = self.life.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }
}

async fn answer(
    engine: Arc<Engine>,
    request: Request<Incoming>,
    end: End,
    open: Arc<crate::engine::Open>,
) -> Answer {
    let found = route::find(request.method().as_str(), request.uri().path());
    let (route, target) = found.unwrap_or(("other", String::new()));
    engine.count(route);
    let faults = engine.faults_on(route);
    let mut lose = false;
    for fault in &faults {
        match fault {
            Fault::Latency { base, jitter } => {
                tokio::time::sleep(*base + share(*jitter, engine.total_requests())).await;
            }
            Fault::Hang => std::future::pending().await,
            Fault::Garbage => return body::json(StatusCode::OK, &b"\x00\xff<<not json"[..]),
            Fault::Error500(message) => {
                return body::error(StatusCode::INTERNAL_SERVER_ERROR, message);
            }
            Fault::LoseAnswer => lose = true,
            _ => {}
        }
    }
    let query = Query::parse(request.uri().query());
    let call = Call {
        engine: Arc::clone(&engine),
        route,
        target,
        query,
        request,
        end,
        open,
    };
    let mut answer = handlers::handle(call).await;
    if lose {
        std::future::pending::<()>().await;
    }
    for fault in faults {
        match fault {
            Fault::ResetMidBody => answer = cut(answer).await,
            Fault::SlowBody { per_byte } => answer = slowed(answer, per_byte),
            _ => {}
        }
    }
    answer
}

/// A part of `jitter` that varies from call to call but not from run to run.
fn share(jitter: Duration, serial: u64) -> Duration {
    let mixed = serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    jitter.mul_f64(mixed as f64 / f64::from(u32::MAX))
}

/// The first half of the body, then an error that makes the server cut the connection.
async fn cut(answer: Answer) -> Answer {
    let (mut head, mut body) = answer.into_parts();
    let first = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    // The promised length is more than what will come, so that a client cannot take it for whole.
    head.headers
        .insert(CONTENT_LENGTH, (first.len() + 1).into());
    let half = first.slice(..first.len() / 2);
    let chunks = stream::iter([Ok(half)]).chain(stream::once(async {
        // The half must reach the wire before the end does.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err(io::Error::other("cut on request"))
    }));
    Answer::from_parts(head, body::streamed(chunks))
}

fn slowed(answer: Answer, per_byte: Duration) -> Answer {
    let (head, body) = answer.into_parts();
    let bytes = body.into_data_stream().flat_map(|chunk| {
        let parts = match chunk {
            Ok(bytes) => (0..bytes.len())
                .map(|at| Ok(bytes.slice(at..=at)))
                .collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(parts)
    });
    let slow = bytes.then(move |part| async move {
        tokio::time::sleep(per_byte).await;
        part
    });
    Answer::from_parts(head, body::streamed(slow))
}
