//! Two upgraded connections made one: attach, exec, websockets.

use std::{io, time::Duration};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

/// How long a client may go on sending after the engine has said its last word.
const LINGER: Duration = Duration::from_secs(10);

/// How much is copied at a time, in each direction.
const BUFFER_BYTES: usize = 32 * 1024;

/// The tunnels of all connections: shutdown waits for them as it does for requests, then cuts them.
#[derive(Clone)]
pub struct Tunnels {
    open: TaskTracker,
    cut: CancellationToken,
}

impl Tunnels {
    /// Keeps tunnels in `open` until they end or `cut` is cancelled.
    pub fn new(open: TaskTracker, cut: CancellationToken) -> Self {
        Self { open, cut }
    }

    /// Makes the two connections one as soon as both have switched.
    pub fn open(&self, client: OnUpgrade, engine: OnUpgrade) {
        let cut = self.cut.clone();
        self.open
            .spawn(async move { cut.run_until_cancelled(join(client, engine)).await });
    }
}

/// Copies bytes both ways until both ends are done.
///
/// When one end has no more to send, the other is told so and may go on: a client that closes its
/// standard input still gets the output. The tunnel ends with the engine's end, give or take
/// [`LINGER`], or when either connection breaks. A client that closes its connection in silence looks
/// like one that has no more input; as on an engine, it is missed with the next output.
async fn join(client: OnUpgrade, engine: OnUpgrade) {
    let (client, engine) = match tokio::try_join!(client, engine) {
        Ok(both) => both,
        Err(error) => {
            debug!(%error, "upgrade failed");
            return;
        }
    };
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_engine, to_engine) = tokio::io::split(TokioIo::new(engine));
    let mut input = std::pin::pin!(copy(from_client, to_engine));
    let mut output = std::pin::pin!(copy(from_engine, to_client));
    tokio::select! {
        _ = output.as_mut() => {
            if tokio::time::timeout(LINGER, input).await.is_err() {
                debug!("the client went on sending to an engine that is done");
            }
        }
        ended = input.as_mut() => {
            if ended.is_ok() {
                // How the output ends is logged, and the tunnel with it.
                let _ = output.await;
            }
        }
    }
}

/// Copies until there is no more to read, or nobody who takes it, and then tells `to` so.
///
/// # Errors
///
/// `from` broke.
async fn copy(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let read = loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(length) => length,
            Err(error) => break Err(error),
        };
        // The other end may be gone already; then there is nothing more to send.
        if let Err(error) = to.write_all(&buffer[..length]).await {
            debug!(%error, "one end of a tunnel takes no more");
            break Ok(());
        }
        // Encrypted connections keep back what was written last.
        if length < buffer.len() && to.flush().await.is_err() {
            break Ok(());
        }
    };
    let closed = to.shutdown().await;
    debug!(?read, ?closed, "one direction of a tunnel ended");
    read
}
