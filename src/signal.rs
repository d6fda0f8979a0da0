//! Turns Unix signals into an orderly shutdown, and into a wish to read files again.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Says when the daemon has to stop. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reload: Arc<Notify>,
}

impl Shutdown {
    /// Returns a handle that only [`Shutdown::start`] fires, for tests and embedding.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a handle that SIGTERM or SIGINT fires; a second one ends the process at once.
    ///
    /// SIGHUP notifies [`Shutdown::reload`]. The task that listens lives as long as the runtime.
    ///
    /// # Errors
    ///
    /// If the process cannot listen for signals.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let fired = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let (name, exit_code) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", 143),
                    _ = interrupt.recv() => ("SIGINT", 130),
                    _ = hangup.recv() => {
                        info!("SIGHUP: configuration and certificates are read again");
                        fired.reload.notify_one();
                        continue;
                    }
                };
                if fired.is_started() {
                    warn!(signal = name, "second signal, exiting at once");
                    std::process::exit(exit_code);
                }
                info!(signal = name, "shutting down");
                fired.start();
            }
        });
        Ok(shutdown)
    }

    /// Begins the shutdown. Calling it again changes nothing.
    pub fn start(&self) {
        self.token.cancel();
    }

    /// Returns whether the shutdown has begun.
    pub fn is_started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the shutdown begins.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    pub async fn started(&self) {
        self.token.cancelled().await;
    }

    /// Returns a token that is cancelled when the shutdown begins. Cancelling the token itself
    /// does not begin it.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Returns what is notified whenever files shall be read again at once. One task may wait.
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }
}
