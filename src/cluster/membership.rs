//! Follows a discovery backend and starts or stops monitors accordingly.
//!
//! A node that joins is watched at once. One that is missing stays until it was missing for a
//! while, since a backend that was just restarted, or a file in the middle of an edit, must not
//! cost the cluster its nodes; and an answer without any node at all counts only if the next one
//! says the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    discovery::{Backend, Batch, Change},
    engine::monitor::Monitors,
    model::address::EngineAddr,
};

/// Waits between tries after errors: doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A discovery backend, and how it is followed.
pub struct Source {
    /// Who knows the nodes.
    pub backend: Box<dyn Backend>,
    /// How long one step may wait for news.
    pub heartbeat: Duration,
    /// How long a node that is not listed any more stays.
    pub removal_delay: Duration,
}

/// Follows `source` until `shutdown`, and from then on each source that comes after it: nodes that
/// both list stay as they are. An error keeps the last good membership.
pub async fn follow(
    mut source: Source,
    sources: mpsc::Receiver<Source>,
    monitors: Monitors,
    shutdown: CancellationToken,
) {
    let mut desk = Desk {
        members: Members::new(source.removal_delay),
        monitors,
        sources,
        shutdown,
    };
    let mut back_off = BACK_OFF.0;
    loop {
        let heartbeat = desk.members.patience(source.heartbeat);
        let answered = desk.during(source.backend.next(heartbeat)).await;
        let paused = match answered {
            Step::Done(answer) => {
                let pause = match answer {
                    Ok(batch) => {
                        back_off = BACK_OFF.0;
                        desk.take(&batch);
                        batch.retry_after.map(|wait| desk.members.patience(wait))
                    }
                    Err(error) => {
                        warn!(%error, retry_in = ?back_off, "discovery failed, keeping the last membership");
                        let pause = back_off;
                        back_off = (back_off * 2).min(BACK_OFF.1);
                        Some(pause)
                    }
                };
                desk.during(tokio::time::sleep(pause.unwrap_or_default()))
                    .await
            }
            Step::Replaced(next) => Step::Replaced(next),
            Step::Over => Step::Over,
        };
        match paused {
            Step::Done(()) => {}
            Step::Replaced(next) => {
                desk.members.removal_delay = next.removal_delay;
                back_off = BACK_OFF.0;
                source = next;
            }
            Step::Over => return,
        }
    }
}

/// How waiting for something ended.
enum Step<T> {
    /// With what was waited for.
    Done(T),
    /// Another source takes over.
    Replaced(Source),
    /// With the daemon.
    Over,
}

/// What is done while the source is waited for.
struct Desk {
    members: Members,
    monitors: Monitors,
    sources: mpsc::Receiver<Source>,
    shutdown: CancellationToken,
}

impl Desk {
    /// Waits for `work`, which is not dropped when a removal is due: a plugin would have to start
    /// again.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Step<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Step::Over,
                Some(next) = self.sources.recv() => return Step::Replaced(next),
                done = &mut work => return Step::Done(done),
                () = until(self.members.next_removal()) => self.remove_due(),
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        let new = self.members.take(batch, Instant::now());
        // Removals first: a node that changed its address may come back under the new one.
        self.remove_due();
        for addr in new {
            debug!(%addr, "engine found by discovery");
            self.monitors.add(addr);
        }
        self.monitors.all_added();
    }

    fn remove_due(&mut self) {
        for addr in self.members.due(Instant::now()) {
            info!(%addr, "engine left discovery");
            self.monitors.remove(&addr);
        }
    }
}

/// Waits until a moment; for ever without one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The nodes that are watched.
struct Members {
    /// As the backend says.
    listed: BTreeSet<EngineAddr>,
    /// Watched, not listed any more, and when they go.
    missing: BTreeMap<EngineAddr, Instant>,
    removal_delay: Duration,
    /// Since when there is no node in the answers, while there were some before.
    emptied: Option<Instant>,
}

impl Members {
    fn new(removal_delay: Duration) -> Self {
        Self {
            listed: BTreeSet::new(),
            missing: BTreeMap::new(),
            removal_delay,
            emptied: None,
        }
    }

    /// Takes an answer in, and returns the nodes that are new.
    fn take(&mut self, batch: &Batch, now: Instant) -> Vec<EngineAddr> {
        let none = BTreeSet::new();
        let before = if self.emptied.is_some() {
            &none
        } else {
            &self.listed
        };
        let next = next_members(batch, before);
        if batch.full && next.is_empty() && !self.listed.is_empty() && self.emptied.is_none() {
            warn!("discovery lists no node at all, waiting for its next answer");
            self.emptied = Some(now);
            return Vec::new();
        }
        let emptied = self.emptied.take().filter(|_| next.is_empty());
        for gone in self.listed.difference(&next) {
            let since = emptied.unwrap_or(now);
            self.missing
                .insert(gone.clone(), since + self.removal_delay);
        }
        let mut new = Vec::new();
        for addr in next.difference(&self.listed) {
            if self.missing.remove(addr).is_none() {
                new.push(addr.clone());
            }
        }
        self.listed = next;
        new
    }

    /// How long to wait for the next answer at most: not as long as usual if the last one wants to
    /// be confirmed.
    fn patience(&self, usual: Duration) -> Duration {
        match self.emptied {
            Some(_) => usual.min(self.removal_delay),
            None => usual,
        }
    }

    fn next_removal(&self) -> Option<Instant> {
        self.missing.values().min().copied()
    }

    /// The nodes whose time is over; they are forgotten here.
    fn due(&mut self, now: Instant) -> Vec<EngineAddr> {
        let due = self.missing.extract_if(.., |_, due| *due <= now);
        due.map(|(addr, _)| addr).collect()
    }
}

/// The membership after a batch. An address that is none is left out, with a warning.
fn next_members(batch: &Batch, members: &BTreeSet<EngineAddr>) -> BTreeSet<EngineAddr> {
    let mut next = if batch.full {
        BTreeSet::new()
    } else {
        members.clone()
    };
    for change in &batch.changes {
        let (text, put) = match change {
            Change::Put(text) => (text, true),
            Change::Delete(text) => (text, false),
        };
        match text.parse() {
            Ok(addr) if put => {
                next.insert(addr);
            }
            Ok(addr) => {
                next.remove(&addr);
            }
            Err(error) => warn!(%error, "discovery gave an address that is none"),
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(members: &[&str], full: bool, changes: &[(&str, bool)], expected: &[&str]) {
        let set = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        let batch = Batch {
            full,
            changes: changes
                .iter()
                .map(|(text, put)| {
                    if *put {
                        Change::Put((*text).to_owned())
                    } else {
                        Change::Delete((*text).to_owned())
                    }
                })
                .collect(),
            retry_after: None,
        };
        assert_eq!(next_members(&batch, &set(members)), set(expected));
    }

    #[test]
    fn a_full_batch_replaces_and_a_difference_adds() {
        check(&["a:1"], true, &[("b:1", true)], &["b:1"]);
        check(&["a:1"], false, &[("b:1", true)], &["a:1", "b:1"]);
        check(&["a:1", "b:1"], false, &[("a:1", false)], &["b:1"]);
    }

    #[test]
    fn an_address_that_is_none_does_not_spoil_the_others() {
        check(&[], true, &[("nonsense", true), ("b:1", true)], &["b:1"]);
    }

    fn answer(full: bool, listed: &[&str]) -> Batch {
        Batch {
            full,
            changes: listed
                .iter()
                .map(|addr| Change::Put((*addr).to_owned()))
                .collect(),
            retry_after: None,
        }
    }

    fn addrs(texts: &[&str]) -> Vec<EngineAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    const DELAY: Duration = Duration::from_secs(10);

    #[test]
    fn a_node_goes_when_it_was_missing_long_enough() {
        let mut members = Members::new(DELAY);
        let start = Instant::now();
        let new = members.take(&answer(true, &["a:1", "b:1"]), start);
        assert_eq!(new, addrs(&["a:1", "b:1"]));
        assert_eq!(members.take(&answer(true, &["b:1"]), start), []);
        assert_eq!(members.next_removal(), Some(start + DELAY));
        assert_eq!(members.due(start + DELAY / 2), []);
        assert_eq!(members.due(start + DELAY), addrs(&["a:1"]));
        assert_eq!(members.next_removal(), None);
    }

    #[test]
    fn a_node_that_comes_back_in_time_was_never_gone() {
        let mut members = Members::new(DELAY);
        let start = Instant::now();
        members.take(&answer(true, &["a:1", "b:1"]), start);
        members.take(&answer(true, &["b:1"]), start);
        assert_eq!(members.take(&answer(true, &["a:1", "b:1"]), start), []);
        assert_eq!(members.due(start + DELAY), []);
    }

    #[test]
    fn a_list_without_any_node_counts_when_it_is_repeated() {
        // What is still so is told as a difference without changes, or in full.
        for repeated in [answer(false, &[]), answer(true, &[])] {
            let mut members = Members::new(DELAY);
            let start = Instant::now();
            members.take(&answer(true, &["a:1"]), start);
            members.take(&answer(true, &[]), start);
            assert_eq!(members.next_removal(), None);
            assert_eq!(members.patience(6 * DELAY), DELAY);
            members.take(&repeated, start + DELAY);
            assert_eq!(members.patience(6 * DELAY), 6 * DELAY);
            assert_eq!(members.due(start + DELAY), addrs(&["a:1"]));
        }
        let mut members = Members::new(DELAY);
        let start = Instant::now();
        members.take(&answer(true, &["a:1", "b:1"]), start);
        members.take(&answer(true, &[]), start);
        // A difference adds to the list that was empty.
        assert_eq!(members.take(&answer(false, &["b:1"]), start), []);
        assert_eq!(members.due(start + DELAY), addrs(&["a:1"]));
    }
}
