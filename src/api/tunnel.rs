//! Two upgraded connections made one: attach, exec, websockets.

use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tracing::debug;

/// How long a client may go on sending after the engine has said its last word.
const LINGER: Duration = Duration::from_secs(10);

/// Copies bytes both ways until both ends are done.
///
/// When one end has no more to send, the other is told so and may go on: a client that closes its
/// standard input still gets the output. The tunnel ends with the engine's end, give or take
/// [`LINGER`], or when either connection breaks.
pub async fn join(client: OnUpgrade, engine: OnUpgrade) {
    let (client, engine) = match tokio::try_join!(client, engine) {
        Ok(both) => both,
        Err(error) => {
            debug!(%error, "upgrade failed");
            return;
        }
    };
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_engine, to_engine) = tokio::io::split(TokioIo::new(engine));
    let mut input = tokio::spawn(copy(from_client, to_engine));
    copy(from_engine, to_client).await;
    if tokio::time::timeout(LINGER, &mut input).await.is_err() {
        input.abort();
    }
}

async fn copy(mut from: ReadHalf<TokioIo<Upgraded>>, mut to: WriteHalf<TokioIo<Upgraded>>) {
    let copied = tokio::io::copy(&mut from, &mut to).await;
    // The other end may be gone already; either way there is nothing more to send.
    let closed = to.shutdown().await;
    debug!(?copied, ?closed, "one direction of a tunnel ended");
}
