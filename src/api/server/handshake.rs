//! The first words on a TLS listener, and what happens when they are wrong.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, warn};

use crate::tls;

/// How long a client has from connecting to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client that is refused may go on sending before it is cut off.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of that is read, in bytes.
const LAST_WORDS_LEN: usize = 64 * 1024;

/// What a client that speaks HTTP without TLS is told, in the words of Go's servers, which the
/// docker command knows.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 48\r\n\
    Connection: close\r\n\
    \r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// Makes a fresh connection a protected one. `None` if it is not to be served; the client was told
/// why as far as the protocol allows, and so was the log.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub(super) async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &tls::Server,
    refusals: &LogGate,
) -> Option<TlsStream<TcpStream>> {
    let outcome = timeout(HANDSHAKE_TIMEOUT, listen_to(stream, tls)).await;
    let Ok(outcome) = outcome else {
        refusals.warn(peer, "the client did not finish the TLS handshake in time");
        return None;
    };
    match outcome {
        FirstWords::Tls(stream) => Some(*stream),
        FirstWords::Nothing => {
            debug!(%peer, "client hung up before the TLS handshake");
            None
        }
        FirstWords::Plain(mut stream) => {
            refusals.warn(peer, "the client speaks HTTP without TLS");
            if stream.write_all(PLAIN_ANSWER).await.is_ok() {
                hang_up(stream).await;
            }
            None
        }
        FirstWords::Wrong(reason, stream) => {
            refusals.warn(peer, &reason);
            hang_up(stream).await;
            None
        }
    }
}

/// How a connection begins.
enum FirstWords {
    /// With a handshake that went well.
    Tls(Box<TlsStream<TcpStream>>),
    /// With HTTP.
    Plain(TcpStream),
    /// With a handshake that failed for this reason; the client was told so.
    Wrong(String, TcpStream),
    /// With its end.
    Nothing,
}

async fn listen_to(stream: TcpStream, tls: &tls::Server) -> FirstWords {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return FirstWords::Nothing,
        // HTTP begins with the letters of a method; the first byte of TLS is no letter.
        Ok(_) if first[0].is_ascii_alphabetic() => return FirstWords::Plain(stream),
        Ok(_) => {}
    }
    let accepting = TlsAcceptor::from(tls.config()).accept(stream);
    match accepting.into_fallible().await {
        Ok(stream) => FirstWords::Tls(Box::new(stream)),
        Err((error, stream)) => {
            let reason = tls.explain(&error);
            let reason = reason.unwrap_or_else(|| format!("the connection broke: {error}"));
            FirstWords::Wrong(reason, stream)
        }
    }
}

/// Ends a connection so that the client can read what it was told: closing one that has unread
/// bytes makes the kernel throw away what is on its way to the client.
async fn hang_up(mut stream: TcpStream) {
    let last_words = async {
        stream.shutdown().await?;
        let mut scrap = [0; 4096];
        let mut read = 0;
        while read < LAST_WORDS_LEN {
            match stream.read(&mut scrap).await? {
                0 => break,
                bytes => read += bytes,
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let ended = timeout(LAST_WORDS_TIMEOUT, last_words).await;
    debug!(?ended, "refused a client");
}

/// Lets one line in a period through to the log, so that clients cannot fill a disk.
#[derive(Debug)]
pub(super) struct LogGate {
    period: Duration,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    opened: Option<Instant>,
    held_back: u64,
}

impl LogGate {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            state: Mutex::default(),
        }
    }

    /// Returns how many lines were held back since the last one if this one may pass.
    pub(super) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .opened
            .is_some_and(|opened| now < opened + self.period)
        {
            state.held_back += 1;
            return None;
        }
        state.opened = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }

    fn warn(&self, peer: SocketAddr, reason: &str) {
        match self.pass() {
            Some(held_back) => warn!(%peer, reason, held_back, "client refused"),
            None => debug!(%peer, reason, "client refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_has_the_length_it_says() {
        let text = std::str::from_utf8(PLAIN_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    #[test]
    fn one_line_in_a_period_is_let_through_and_the_others_are_counted() {
        let period = Duration::from_secs(1);
        let gate = LogGate::new(period);
        let begin = Instant::now();
        assert_eq!(gate.pass_at(begin), Some(0));
        assert_eq!(gate.pass_at(begin), None);
        assert_eq!(gate.pass_at(begin + period / 2), None);
        assert_eq!(gate.pass_at(begin + period), Some(2));
    }
}
