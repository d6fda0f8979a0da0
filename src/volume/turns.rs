//! Calls for one volume come one at a time; those for others do not wait for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose turn it is, by name. A name costs nothing while nobody has it or waits for it.
#[derive(Debug, Default)]
pub struct Turns {
    names: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The turn of one, until this is dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
    /// Dropped after the permit, so that nobody is in the way when the name goes.
    _place: Place,
}

/// Somebody who has a name or waits for it.
#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    name: String,
    semaphore: Arc<Semaphore>,
}

impl Turns {
    /// Waits for the turn of whoever has to do with `name`, first come, first served.
    ///
    /// # Cancel safety
    ///
    /// Whoever stops waiting loses the place in the queue.
    pub async fn take(self: &Arc<Self>, name: &str) -> Turn {
        let semaphore = {
            let mut names = self.lock();
            let made = names.entry(name.to_owned());
            Arc::clone(made.or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let place = Place {
            turns: Arc::clone(self),
            name: name.to_owned(),
            semaphore,
        };
        let permit = Arc::clone(&place.semaphore).acquire_owned().await;
        Turn {
            _permit: permit.expect("nobody closes it"),
            _place: place,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Semaphore>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut names = self.turns.lock();
        // The map's and ours: others come only through the map, which is locked.
        if Arc::strong_count(&self.semaphore) == 2 {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        let _other = turns.take("b").await;
        assert!(turns.take("a").now_or_never().is_none());
        assert_eq!(turns.len(), 2, "who gave up waiting took the name along");

        let mut second = Box::pin(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(turns.len(), 2);
        drop(second.await);
        assert_eq!(turns.len(), 1);
    }

    #[tokio::test]
    async fn a_turn_that_was_given_to_somebody_who_left_is_passed_on() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        let mut third = Box::pin(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        drop(third.now_or_never().expect("it is the third's turn"));
        assert_eq!(turns.len(), 0);
    }
}
