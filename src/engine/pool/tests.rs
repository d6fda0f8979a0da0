use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::{
    engine::transport::{Transport, TransportError, empty},
    model::address::EngineAddr,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Too long to arrive before anybody reads it: the connection is not done until then.
const ANSWER: &[u8] = &[b'x'; 8 << 20];

/// A server that answers every request, and how many connections it was asked for.
struct Server {
    addr: EngineAddr,
    accepted: Arc<AtomicUsize>,
    closing: Arc<tokio::sync::Notify>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string().parse().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let closing = Arc::new(tokio::sync::Notify::new());
        let (count, close) = (Arc::clone(&accepted), Arc::clone(&closing));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let close = Arc::clone(&close);
                tokio::spawn(async move {
                    let answer = service_fn(async |_| {
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(ANSWER))))
                    });
                    let serving = server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), answer);
                    tokio::select! {
                        _ = serving => {}
                        () = close.notified() => {}
                    }
                });
            }
        });
        Self {
            addr,
            accepted,
            closing,
        }
    }

    fn transport(&self, pool: &Pool, limits: &Limits) -> Transport {
        let fence = crate::engine::transport::Fence::default();
        Transport::with_tls(self.addr.clone(), limits, None, fence, pool)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

fn limits(max_connections: usize, max_idle: usize) -> Limits {
    Limits::new(PATIENCE, max_connections, max_idle)
}

async fn ask(transport: &Transport) -> Response<Incoming> {
    transport.send(Request::new(empty()), "/").await.unwrap()
}

/// Reads an answer, and waits until its connection waits for the next request, or is closed.
async fn read(answer: Response<Incoming>, pool: &Pool, waiting: usize) {
    answer.into_body().collect().await.unwrap();
    until(|| pool.idle().by_age.len() == waiting).await;
}

async fn until(check: impl Fn() -> bool) {
    let waiting = async {
        while !check() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (server, pool) = (Server::start().await, Pool::default());
    let transport = server.transport(&pool, &limits(4, 2));
    for _ in 0..3 {
        let answer = ask(&transport).await;
        read(answer, &pool, 1).await;
    }
    assert_eq!(server.accepted(), 1);
    let both = [ask(&transport).await, ask(&transport).await];
    assert_eq!(server.accepted(), 2);
    for (answer, waiting) in both.into_iter().zip(1..) {
        read(answer, &pool, waiting).await;
    }
    drop(transport);
    assert_eq!(pool.idle().by_age.len(), 0, "they go with their engine");
}

#[tokio::test]
async fn a_connection_that_was_closed_costs_no_request() {
    let (server, pool) = (Server::start().await, Pool::default());
    let transport = server.transport(&pool, &limits(4, 1));
    for round in 1..=20 {
        let answer = ask(&transport).await;
        read(answer, &pool, 1).await;
        assert_eq!(server.accepted(), round);
        // The next request meets a connection whose end may not have been seen yet.
        server.closing.notify_waiters();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_waits_makes_room_for_another_engine() {
    let pool = Pool::new(2);
    let servers = [
        Server::start().await,
        Server::start().await,
        Server::start().await,
    ];
    let transports = servers
        .each_ref()
        .map(|server| server.transport(&pool, &limits(4, 4)));
    for round in 0..3 {
        for transport in &transports {
            let answer = ask(transport).await;
            answer.into_body().collect().await.unwrap();
        }
        assert!(pool.idle().by_age.len() <= 2, "round {round}");
    }
}

#[tokio::test]
async fn an_engine_without_a_place_says_so() {
    let (server, pool) = (Server::start().await, Pool::new(1));
    let transport = server.transport(&pool, &limits(4, 4));
    let unread = ask(&transport).await;
    let impatient = Limits::new(Duration::from_millis(10), 4, 4);
    let refused = server
        .transport(&pool, &impatient)
        .send(Request::new(empty()), "/")
        .await;
    assert!(
        matches!(refused, Err(TransportError::Busy { limit: 1, .. })),
        "{refused:?}"
    );
    drop(unread);
    let answer = ask(&transport).await;
    answer.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn those_who_wait_get_the_place_of_a_connection_that_is_done() {
    let (server, pool) = (Server::start().await, Pool::default());
    let transport = server.transport(&pool, &limits(1, 1));
    let first = ask(&transport).await;
    let (second, ()) = tokio::join!(ask(&transport), async {
        first.into_body().collect().await.unwrap();
    });
    second.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn nothing_waits_for_longer_than_it_may() {
    let (server, pool) = (Server::start().await, Pool::default());
    let mut limits = limits(4, 4);
    limits.idle_timeout = Duration::ZERO;
    let transport = server.transport(&pool, &limits);
    let answer = ask(&transport).await;
    read(answer, &pool, 1).await;
    until(|| pool.idle().by_age.is_empty()).await;
    assert!(!pool.idle().is_swept, "nobody sweeps an empty pool");
}
