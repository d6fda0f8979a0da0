//! Two upgraded connections made one: attach, exec, websockets.

use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

/// How long a client may go on sending after the engine has said its last word.
const LINGER: Duration = Duration::from_secs(10);

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
/// [`LINGER`], or when either connection breaks.
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
    let input_ended = tokio::select! {
        () = output.as_mut() => false,
        () = input.as_mut() => true,
    };
    if input_ended {
        output.await;
    } else if tokio::time::timeout(LINGER, input).await.is_err() {
        debug!("the client went on sending to an engine that is done");
    }
}

async fn copy(mut from: ReadHalf<TokioIo<Upgraded>>, mut to: WriteHalf<TokioIo<Upgraded>>) {
    let copied = tokio::io::copy(&mut from, &mut to).await;
    // The other end may be gone already; either way there is nothing more to send.
    let closed = to.shutdown().await;
    debug!(?copied, ?closed, "one direction of a tunnel ended");
}
