//! Connections that wait for their next request, and how many there are in all.
//!
//! All engines share one pool, as what runs out are the process's files: ten thousand engines with
//! one event stream each leave few for anything else. A connection that is opened while none may be
//! open any more takes the place of the one that has waited longest, whichever engine it leads to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::transport::{Body, Limits};

/// How often connections are looked at that have waited too long.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections of all engines together.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    idle: Mutex<Idle>,
    /// One permit for each connection that may still be opened.
    room: Arc<Semaphore>,
    max_open: usize,
    engines: AtomicU64,
}

/// Waiting connections, in the order in which they began to wait.
#[derive(Debug, Default)]
struct Idle {
    // Invariant: `by_age` and `by_engine` hold the same numbers.
    by_age: BTreeMap<u64, Waiting>,
    by_engine: HashMap<u64, Vec<u64>>,
    next: u64,
    is_swept: bool,
}

#[derive(Debug)]
struct Waiting {
    engine: u64,
    until: Instant,
    sender: http1::SendRequest<Body>,
}

/// One engine's part of a pool; with it go the engine's waiting connections.
#[derive(Debug)]
pub struct Share {
    pool: Pool,
    engine: u64,
    room: Arc<Semaphore>,
    limits: Limits,
}

/// The place of an open connection among its engine's and among all; dropping it frees both.
#[derive(Debug)]
pub struct Place {
    _of_engine: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// All connections are in use.
#[derive(Debug, thiserror::Error)]
#[error("all {limit} connections are in use")]
pub struct Busy {
    /// How many there may be.
    pub limit: usize,
}

impl Default for Pool {
    /// One without a bound.
    fn default() -> Self {
        Self::new(Semaphore::MAX_PERMITS)
    }
}

impl Pool {
    /// A pool that has at most `max_open` connections at a time, waiting ones and streams included.
    pub fn new(max_open: usize) -> Self {
        Self(Arc::new(Inner {
            idle: Mutex::default(),
            room: Arc::new(Semaphore::new(max_open)),
            max_open,
            engines: AtomicU64::new(0),
        }))
    }

    /// A part for one engine, with bounds of its own.
    pub fn share(&self, limits: &Limits) -> Share {
        Share {
            pool: self.clone(),
            engine: self.0.engines.fetch_add(1, Ordering::Relaxed),
            room: Arc::new(Semaphore::new(limits.max_connections)),
            limits: limits.clone(),
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let room = &self.0.room;
        if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            return Some(permit);
        }
        // Its task gives the place back as soon as it has closed the connection.
        drop(self.idle().take_oldest());
        Arc::clone(room).acquire_owned().await.ok()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, waiting: Waiting, max_idle: usize) {
        let mut idle = self.idle();
        // Somebody may wait for a place, and would not hear of this connection.
        let evicted = match self.0.room.available_permits() {
            0 => idle.take_oldest(),
            _ => None,
        };
        let number = idle.next;
        idle.next += 1;
        let engine = idle.by_engine.entry(waiting.engine).or_default();
        engine.push(number);
        let surplus = (engine.len() > max_idle).then(|| engine.remove(0));
        idle.by_age.insert(number, waiting);
        let surplus = surplus.and_then(|number| idle.by_age.remove(&number));
        let sweeps = !std::mem::replace(&mut idle.is_swept, true);
        drop(idle);
        drop((surplus, evicted));
        if sweeps {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

impl Idle {
    fn take_oldest(&mut self) -> Option<Waiting> {
        let (number, waiting) = self.by_age.pop_first()?;
        self.unlist(number, waiting.engine);
        Some(waiting)
    }

    /// The engine's connection that has waited least: the others may be closed the sooner.
    fn take_newest(&mut self, engine: u64) -> Option<Waiting> {
        let number = self.by_engine.get_mut(&engine)?.pop()?;
        let waiting = self.by_age.remove(&number)?;
        self.unlist(number, engine);
        Some(waiting)
    }

    fn take_expired(&mut self, now: Instant) -> Vec<Waiting> {
        let is_due =
            |(_, waiting): &(&u64, &Waiting)| waiting.until <= now || waiting.sender.is_closed();
        let due = self.by_age.iter().filter(is_due).map(|(number, _)| *number);
        let due: Vec<u64> = due.collect();
        let taken = due.into_iter().filter_map(|number| {
            let waiting = self.by_age.remove(&number)?;
            self.unlist(number, waiting.engine);
            Some(waiting)
        });
        taken.collect()
    }

    fn unlist(&mut self, number: u64, engine: u64) {
        let Some(numbers) = self.by_engine.get_mut(&engine) else {
            return;
        };
        numbers.retain(|other| *other != number);
        if numbers.is_empty() {
            self.by_engine.remove(&engine);
        }
    }
}

/// Closes connections that have waited long enough, until none waits or the pool is gone.
async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(inner) = pool.upgrade() else {
            return;
        };
        let pool = Pool(inner);
        let mut idle = pool.idle();
        let expired = idle.take_expired(Instant::now());
        let is_done = idle.by_age.is_empty();
        idle.is_swept = !is_done;
        drop(idle);
        drop(expired);
        if is_done {
            return;
        }
    }
}

impl Share {
    /// Waits for a place for one more connection to this engine. If there is none among the
    /// connections of all engines, the one that has waited longest for a request gives up its own.
    ///
    /// # Errors
    ///
    /// [`Busy`] if no place comes free within the connect timeout.
    ///
    /// # Cancel safety
    ///
    /// Safe: a connection that was closed for this one is missed by nobody.
    pub async fn place(&self) -> Result<Place, Busy> {
        let timeout = self.limits.connect_timeout;
        let of_engine = Arc::clone(&self.room).acquire_owned();
        let Ok(Ok(of_engine)) = tokio::time::timeout(timeout, of_engine).await else {
            let limit = self.limits.max_connections;
            return Err(Busy { limit });
        };
        let Ok(Some(of_all)) = tokio::time::timeout(timeout, self.pool.place()).await else {
            let limit = self.pool.0.max_open;
            return Err(Busy { limit });
        };
        Ok(Place {
            _of_engine: of_engine,
            _of_all: of_all,
        })
    }

    /// A connection that was used before and is still open.
    fn reuse(&self) -> Option<http1::SendRequest<Body>> {
        loop {
            let waiting = self.pool.idle().take_newest(self.engine)?;
            if waiting.sender.is_ready() {
                return Some(waiting.sender);
            }
        }
    }

    /// Sends a request over a connection that waits, or over the one that `connect` opens, which
    /// waits for the next request once the answer has been read.
    ///
    /// A connection that its engine has closed in the meantime costs another attempt; a request
    /// whose first byte was written is never sent again.
    ///
    /// # Errors
    ///
    /// Those of `connect`, or [`hyper::Error`] if the connection does not last until the head of the
    /// answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection if the request was sent.
    pub async fn send<E, F>(
        &self,
        mut request: Request<Body>,
        connect: impl FnOnce() -> F,
    ) -> Result<Response<Incoming>, E>
    where
        E: From<hyper::Error>,
        F: Future<Output = Result<http1::SendRequest<Body>, E>>,
    {
        while let Some(mut sender) = self.reuse() {
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(self.answered(sender, answer)),
                Err(error) => request = unsent(error)?,
            }
        }
        let mut sender = connect().await?;
        let answer = sender.send_request(request).await?;
        Ok(self.answered(sender, answer))
    }

    fn answered(
        &self,
        mut sender: http1::SendRequest<Body>,
        answer: Response<Incoming>,
    ) -> Response<Incoming> {
        let Limits {
            max_idle,
            idle_timeout,
            ..
        } = self.limits;
        if max_idle == 0 {
            return answer;
        }
        let (pool, engine) = (self.pool.clone(), self.engine);
        let room = Arc::clone(&self.room);
        let keep = move |sender| {
            if room.available_permits() == 0 {
                // Somebody may wait for a place, and would not hear of this connection.
                return;
            }
            let until = Instant::now() + idle_timeout;
            let waiting = Waiting {
                engine,
                until,
                sender,
            };
            pool.put(waiting, max_idle);
        };
        if sender.is_ready() {
            keep(sender);
        } else {
            // An upgraded connection, or one whose answer nobody reads to its end, is never ready.
            tokio::spawn(async move {
                if sender.ready().await.is_ok() {
                    keep(sender);
                }
            });
        }
        answer
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        loop {
            let waiting = self.pool.idle().take_newest(self.engine);
            if waiting.is_none() {
                return;
            }
        }
    }
}

/// The request of a failed attempt, if no byte of it was written.
fn unsent(mut error: TrySendError<Request<Body>>) -> Result<Request<Body>, hyper::Error> {
    match error.take_message() {
        Some(request) => Ok(request),
        None => Err(error.into_error()),
    }
}

#[cfg(test)]
mod tests;
