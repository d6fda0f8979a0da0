//! The events of the whole cluster, for clients that follow them.
//!
//! An event is handed out only after the snapshot shows what it tells, so a client that sees
//! `start` finds the container in `ps`. A client that reads too slowly is cut off rather than
//! kept in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;

use crate::engine::event::Event;

/// How many past events are kept for `since`.
const HISTORY: usize = 4096;

/// Hands events to every subscriber.
pub struct Feed {
    past: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

/// What a new subscriber gets: the past it may ask for, and the future.
pub struct Subscription {
    /// Oldest first.
    pub past: Vec<Arc<Event>>,
    /// Everything after `past`; lags if it is read too slowly.
    pub future: broadcast::Receiver<Arc<Event>>,
}

impl Feed {
    /// A feed whose subscribers may be at most `queue` events behind.
    pub fn new(queue: usize) -> Self {
        Self {
            past: Mutex::default(),
            sender: broadcast::Sender::new(queue.max(1)),
        }
    }

    /// Hands one event out.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == HISTORY {
            past.pop_front();
        }
        past.push_back(Arc::clone(&event));
        // Sent under the lock, so that past and future of a subscription never overlap or gap.
        // Nobody listening is no error.
        let _ = self.sender.send(event);
    }

    /// Starts following.
    pub fn subscribe(&self) -> Subscription {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        Subscription {
            past: past.iter().cloned().collect(),
            future: self.sender.subscribe(),
        }
    }

    /// How many clients follow.
    pub fn subscribers(&self) -> usize {
        self.sender.receiver_count()
    }
}
