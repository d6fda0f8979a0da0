//! The time that a session has left, and the task that renews it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::StoreError;

/// How long a session lasts. Clones share it.
///
/// The clock is the monotonic one, which goes on while the process is stopped.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    start: Instant,
    /// Milliseconds after the start; 0 once it is lost.
    until: Arc<AtomicU64>,
    lost: CancellationToken,
}

/// What a renewal came to.
pub(super) enum Renewed {
    /// The session lasts this much longer.
    For(Duration),
    /// There is no such session any more.
    Gone,
}

impl Lease {
    /// One that was asked for at `sent`.
    pub(super) fn new(sent: Instant, ttl: Duration) -> Self {
        let lease = Self {
            start: sent,
            until: Arc::new(AtomicU64::new(0)),
            lost: CancellationToken::new(),
        };
        lease.renew(sent, ttl);
        lease
    }

    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    pub(super) fn valid_until(&self) -> Instant {
        self.start + Duration::from_millis(self.until.load(Ordering::Acquire))
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled() || self.valid_until() <= Instant::now()
    }

    fn renew(&self, sent: Instant, ttl: Duration) {
        let until = (sent + ttl).saturating_duration_since(self.start);
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until.store(until, Ordering::Release);
    }

    /// Notes that the session is over.
    pub(super) fn lose(&self) {
        self.until.store(0, Ordering::Release);
        self.lost.cancel();
    }

    /// Calls `renew` three times within each `ttl`, more often while it fails, until the session
    /// is lost.
    pub(super) async fn keep<F, R>(self, mut ttl: Duration, renew: F)
    where
        F: Fn() -> R + Send,
        R: Future<Output = Result<Renewed, StoreError>> + Send,
    {
        let mut pause = ttl / 3;
        loop {
            let until = self.valid_until();
            tokio::select! {
                () = self.lost.cancelled() => return,
                () = sleep_until(until.min(Instant::now() + pause)) => {}
            }
            let sent = Instant::now();
            if sent >= until {
                return self.lose();
            }
            match timeout_at(until, renew()).await {
                Ok(Ok(Renewed::For(time))) => {
                    self.renew(sent, time);
                    ttl = time;
                    pause = ttl / 3;
                }
                Ok(Ok(Renewed::Gone)) | Err(_) => return self.lose(),
                Ok(Err(_)) => pause = (ttl / 20).max(Duration::from_millis(50)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const TTL: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_session_whose_renewals_fail_is_lost_when_its_time_is_over() {
        let start = Instant::now();
        let lease = Lease::new(start, TTL);
        let tries = AtomicUsize::new(0);
        let renew = || {
            let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    return Ok(Renewed::For(TTL));
                }
                Err(StoreError::SessionEnded {
                    store: String::new(),
                })
            }
        };
        lease.clone().keep(TTL, renew).await;
        assert!(lease.lost().is_cancelled());
        assert!(lease.is_lost());
        assert!(start.elapsed() >= TTL / 3 + TTL);
        assert!(tries.into_inner() > 2, "it is tried again");
    }

    #[tokio::test]
    async fn a_renewal_counts_from_when_it_was_sent() {
        let lease = Lease::new(Instant::now(), TTL);
        let (sent, mut came) = tokio::sync::mpsc::unbounded_channel();
        let renew = || {
            let _ = sent.send(Instant::now());
            async {
                tokio::time::sleep(TTL / 10).await;
                Ok(Renewed::For(TTL))
            }
        };
        let keeper = lease.clone().keep(TTL, renew);
        let check = async {
            let first = came.recv().await.unwrap();
            came.recv().await.unwrap();
            // The second is under way: what counts is the first.
            assert!(lease.valid_until() <= first + TTL);
            assert!(lease.valid_until() > first + TTL - TTL / 10);
            lease.lose();
        };
        tokio::join!(keeper, check);
    }

    #[tokio::test]
    async fn a_session_that_is_gone_is_lost_at_once() {
        let lease = Lease::new(Instant::now(), Duration::from_secs(3));
        let keeper = lease.clone().keep(TTL, || async { Ok(Renewed::Gone) });
        keeper.await;
        assert!(lease.is_lost());
        assert!(lease.lost().is_cancelled());
    }
}
