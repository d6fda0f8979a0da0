//! An HTTP client over one connection: what benches measure with.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection, kept from call to call. Panics where a test or a bench would: on any failure.
pub struct Client(http1::SendRequest<Full<Bytes>>);

impl Client {
    /// Connects.
    ///
    /// # Panics
    ///
    /// Nobody listens.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let (client, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self(client)
    }

    /// Sends a request with a JSON body and returns once the head of the answer is there.
    ///
    /// # Panics
    ///
    /// The connection does not last.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bench")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .expect("a request");
        self.0.ready().await.expect("the connection is kept");
        self.0.send_request(request).await.expect("an answer")
    }

    /// Sends a request and returns its status and its whole answer.
    ///
    /// # Panics
    ///
    /// The connection does not last.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Bytes) {
        let (head, body) = self.send(method, path, body).await.into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        (head.status.as_u16(), body)
    }
}
