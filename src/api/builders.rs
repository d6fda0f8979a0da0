//! Which engine the parts of one build go to.
//!
//! A classic build is one request. A BuildKit build is several connections that must all reach the
//! same engine, and only some of them say which build they belong to:
//!
//! - the docker command sends `POST /build?session=S&buildid=B` and opens `POST /session` (header
//!   `X-Docker-Expose-Session-Uuid: S`) at the same moment, in either order. The build has the
//!   directives, so it decides: the session waits [`SESSION_PATIENCE`] for it.
//! - a context read from standard input is sent as `buildid=upload-request:B`, and
//!   `POST /build/cancel?id=B` names the build: both wait [`BUILD_PATIENCE`] for it, as in classic
//!   Swarm.
//! - buildx opens `POST /grpc` several times and `POST /session`, and the build itself is a message
//!   inside: nothing names it. So all of them from one client go to one node: a client (its IP
//!   address; all users of unix sockets are one) keeps the node it got first for [`KEPT`], and
//!   again from each use.
//!   Directives among the build arguments of such a build cannot be seen and have no effect.
//!
//! What is remembered is bounded by [`MAX_PINS`]; the pin that would end first makes room.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::model::address::EngineAddr;

/// How long a pin lasts after its last use: classic Swarm's hour.
const KEPT: Duration = Duration::from_secs(3600);

/// How long a session waits for its build before it is placed alone.
pub const SESSION_PATIENCE: Duration = Duration::from_secs(1);

/// How long a cancel or an upload waits for its build: classic Swarm's five seconds.
pub const BUILD_PATIENCE: Duration = Duration::from_secs(5);

/// How many pins are remembered.
const MAX_PINS: usize = 4096;

/// Where a request came from: the client's address, or none on a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub Option<IpAddr>);

/// What ties connections to one build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A BuildKit session's ID.
    Session(String),
    /// The ID the client gave a build.
    Build(String),
    /// The client itself.
    Client(Peer),
}

/// The engines that builds were given to.
#[derive(Default)]
pub struct Builders {
    pins: Mutex<HashMap<Key, Pin>>,
    changed: Notify,
}

struct Pin {
    addr: EngineAddr,
    until: Instant,
}

impl Builders {
    /// The engine that belongs to `key`; the pin lasts longer for being used.
    pub fn find(&self, key: &Key) -> Option<EngineAddr> {
        self.find_at(key, Instant::now())
    }

    /// The engine that belongs to `key`, without making the pin last longer.
    pub fn peek(&self, key: &Key) -> Option<EngineAddr> {
        let pins = self.pins();
        let pin = pins.get(key).filter(|pin| pin.until > Instant::now())?;
        Some(pin.addr.clone())
    }

    fn find_at(&self, key: &Key, now: Instant) -> Option<EngineAddr> {
        let mut pins = self.pins();
        let pin = pins.get_mut(key).filter(|pin| pin.until > now)?;
        pin.until = now + KEPT;
        Some(pin.addr.clone())
    }

    /// Gives `key` an engine, whatever it had before.
    pub fn pin(&self, key: Key, addr: &EngineAddr) {
        self.pin_at(key, addr, Instant::now());
        self.changed.notify_waiters();
    }

    fn pin_at(&self, key: Key, addr: &EngineAddr, now: Instant) {
        let mut pins = self.pins();
        if pins.len() >= MAX_PINS && !pins.contains_key(&key) {
            pins.retain(|_, pin| pin.until > now);
            if pins.len() >= MAX_PINS
                && let Some(first) = pins
                    .iter()
                    .min_by_key(|(_, pin)| pin.until)
                    .map(|(key, _)| key.clone())
            {
                pins.remove(&first);
            }
        }
        let pin = Pin {
            addr: addr.clone(),
            until: now + KEPT,
        };
        pins.insert(key, pin);
    }

    /// Waits until `key` has an engine, at most `patience`.
    pub async fn wait_for(&self, key: &Key, patience: Duration) -> Option<EngineAddr> {
        let found = async {
            loop {
                // Listening begins before looking, so a pin in between is not missed.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(addr) = self.find(key) {
                    return addr;
                }
                changed.await;
            }
        };
        timeout(patience, found).await.ok()
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn addr(text: &str) -> EngineAddr {
        text.parse().unwrap()
    }

    fn session(id: usize) -> Key {
        Key::Session(id.to_string())
    }

    #[tokio::test]
    async fn a_session_that_came_first_gets_the_node_of_its_build() {
        let builders = Builders::default();
        let key = session(1);
        // The first future is polled first, so it waits when the pins are made.
        let (found, ()) = tokio::join!(builders.wait_for(&key, PATIENCE), async {
            builders.pin(session(2), &addr("b:1"));
            builders.pin(session(1), &addr("a:1"));
        });
        assert_eq!(found, Some(addr("a:1")));
        let unknown = session(3);
        let nobody = builders.wait_for(&unknown, Duration::from_millis(1));
        assert_eq!(nobody.await, None);
    }

    #[test]
    fn a_pin_lasts_an_hour_from_its_last_use() {
        let builders = Builders::default();
        let start = Instant::now();
        let almost = KEPT - Duration::from_secs(1);
        builders.pin_at(session(1), &addr("a:1"), start);
        for (after, found) in [(almost, true), (2 * almost, true), (3 * KEPT, false)] {
            let pin = builders.find_at(&session(1), start + after);
            assert_eq!(pin.is_some(), found, "{after:?}");
        }
    }

    #[test]
    fn the_oldest_pin_makes_room_for_one_too_many() {
        let builders = Builders::default();
        let start = Instant::now();
        for id in 0..=MAX_PINS {
            let now = start + Duration::from_millis(id as u64);
            builders.pin_at(session(id), &addr("a:1"), now);
        }
        assert_eq!(builders.find(&session(0)), None);
        assert!(builders.find(&session(1)).is_some());
        assert!(builders.find(&session(MAX_PINS)).is_some());
    }
}
