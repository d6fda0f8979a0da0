//! Follows a discovery backend and starts or stops monitors accordingly.

use std::{collections::BTreeSet, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    discovery::{Backend, Batch, Change},
    engine::monitor::Monitors,
    model::address::EngineAddr,
};

/// Waits between tries after errors: doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Follows `backend` until `shutdown`. An error keeps the last good membership.
pub async fn follow(
    mut backend: Box<dyn Backend>,
    monitors: Monitors,
    heartbeat: Duration,
    shutdown: CancellationToken,
) {
    let mut members = BTreeSet::new();
    let mut back_off = BACK_OFF.0;
    loop {
        let step = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            step = backend.next(heartbeat) => step,
        };
        let pause = match step {
            Ok(batch) => {
                back_off = BACK_OFF.0;
                let pause = batch.retry_after;
                apply(&batch, &mut members, &monitors);
                pause
            }
            Err(error) => {
                warn!(%error, retry_in = ?back_off, "discovery failed, keeping the last membership");
                let pause = back_off;
                back_off = (back_off * 2).min(BACK_OFF.1);
                Some(pause)
            }
        };
        if let Some(pause) = pause {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

fn apply(batch: &Batch, members: &mut BTreeSet<EngineAddr>, monitors: &Monitors) {
    let next = next_members(batch, members);
    // Removals first: a node that changed its address may come back under the new one.
    for gone in members.difference(&next) {
        info!(addr = %gone, "engine left discovery");
        monitors.remove(gone);
    }
    for new in next.difference(members) {
        debug!(addr = %new, "engine found by discovery");
        monitors.add(new.clone());
    }
    *members = next;
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
}
