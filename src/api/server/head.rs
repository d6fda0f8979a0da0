//! How long a client may take: for the head of a request, and between two.
//!
//! hyper has one deadline for both, from the end of one request to the end of the next one's head.
//! But a connection that idles for minutes is a good one, kept by a client for its next call,
//! while a head that comes byte by byte is an attack. So the timer that hyper is given is told by
//! the stream when the first byte of a head came, and shortens the deadline then.
//!
//! A part of a head that came together with the request before it is not told of, and has as long
//! as an idle connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};

/// What the stream tells the timer: how many times it had something to read.
type Heard = Arc<AtomicU64>;

/// Makes a stream and the timer that goes with it; `place` goes with the stream.
///
/// A head has to be there `head_timeout` after its first byte, the first one after the connection
/// was made. The time between two requests is hyper's `header_read_timeout`.
pub(super) fn timed<S, P>(
    stream: S,
    place: P,
    head_timeout: Duration,
) -> (ClientStream<S, P>, HeadTimer) {
    let heard = Heard::default();
    let stream = ClientStream {
        inner: stream,
        heard: Arc::clone(&heard),
        _place: place,
    };
    let timer = HeadTimer {
        heard,
        head_timeout,
    };
    (stream, timer)
}

/// A client's connection, which takes a place among the daemon's connections for as long as it
/// lives, also as a tunnel.
pub(super) struct ClientStream<S, P> {
    inner: S,
    heard: Heard,
    _place: P,
}

/// hyper's clock for one connection.
#[derive(Clone)]
pub(super) struct HeadTimer {
    heard: Heard,
    head_timeout: Duration,
}

/// The wait for one head.
struct HeadWait {
    heard: Heard,
    /// What the stream had told when the wait began.
    heard_before: u64,
    head_timeout: Duration,
    shortened: bool,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let heard_before = self.heard.load(Ordering::Relaxed);
        let mut wait = HeadWait {
            heard: Arc::clone(&self.heard),
            heard_before,
            head_timeout: self.head_timeout,
            shortened: false,
            sleep: Box::pin(tokio::time::sleep_until(deadline.into())),
        };
        // Who connects has something to say.
        if heard_before == 0 {
            wait.shorten();
        }
        Box::pin(wait)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl HeadWait {
    fn shorten(&mut self) {
        self.shortened = true;
        let deadline = tokio::time::Instant::now() + self.head_timeout;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }
}

impl Future for HeadWait {
    type Output = ();

    /// hyper polls this whenever it has read a part of a head and waits for the rest.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let wait = self.get_mut();
        if !wait.shortened && wait.heard.load(Ordering::Relaxed) != wait.heard_before {
            wait.shorten();
        }
        wait.sleep.as_mut().poll(cx)
    }
}

impl Sleep for HeadWait {}

impl<S: Read + Unpin, P: Unpin> Read for ClientStream<S, P> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let read = Pin::new(&mut stream.inner).poll_read(cx, buffer);
        if read.is_ready() {
            // One task reads and waits, so nothing else has to be ordered with this.
            stream.heard.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl<S: Write + Unpin, P: Unpin> Write for ClientStream<S, P> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Empty;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::timeout,
    };

    use super::*;

    const HEAD: Duration = Duration::from_millis(300);
    /// Longer than any test.
    const IDLE: Duration = Duration::from_secs(3600);
    const PATIENCE: Duration = Duration::from_secs(30);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// The client's end of a connection that answers every request with nothing.
    fn connect() -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let (stream, timer) = timed(TokioIo::new(server), (), HEAD);
        let answer = |_| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) };
        let serving = http1::Builder::new()
            .timer(timer)
            .header_read_timeout(IDLE)
            .serve_connection(stream, service_fn(answer));
        tokio::spawn(serving);
        client
    }

    /// Sends a request and reads its answer, which is a head alone.
    async fn exchange(client: &mut DuplexStream) {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }

    /// Waits until the server hangs up without a word.
    async fn hung_up(client: &mut DuplexStream) {
        let read = timeout(PATIENCE, client.read(&mut [0; 1])).await;
        assert_eq!(read.expect("the server hangs up").unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_given_up_soon() {
        for head in [&b""[..], b"GET / HT"] {
            let mut client = connect();
            client.write_all(head).await.unwrap();
            hung_up(&mut client).await;
        }
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_gains_no_time() {
        let mut client = connect();
        exchange(&mut client).await;
        for byte in REQUEST {
            // An error: the server has hung up already.
            let _ = client.write_all(&[*byte]).await;
            tokio::time::sleep(HEAD / 5).await;
        }
        hung_up(&mut client).await;
    }

    #[tokio::test]
    async fn a_connection_may_idle_between_requests_for_longer_than_a_head_takes() {
        let mut client = connect();
        for _ in 0..3 {
            exchange(&mut client).await;
            tokio::time::sleep(HEAD * 2).await;
        }
        exchange(&mut client).await;
    }

    #[tokio::test]
    async fn a_half_sent_second_head_is_given_up_soon() {
        let mut client = connect();
        exchange(&mut client).await;
        tokio::time::sleep(HEAD * 2).await;
        client.write_all(b"GET /").await.unwrap();
        hung_up(&mut client).await;
    }
}
