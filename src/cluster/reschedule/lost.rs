//! Which nodes have failed: they are asked once more, their agents' leases are over, and they are not
//! too many.

use std::{
    collections::{BTreeMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http::Method;
use rand::seq::IteratorRandom;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Answer, DEPARTED_LIFE, Desk, Ended, Seen, movable};
use crate::{
    cluster::snapshot::{Node, Snapshot},
    engine::client::ClientError,
    model::address::EngineAddr,
};

/// How long an engine may take to answer when it is asked whether it is there.
const PROBE: Duration = Duration::from_secs(2);

/// How often the lease of a node that is out of reach is looked at.
pub(super) const LEASE_INTERVAL: Duration = Duration::from_millis(500);

/// How often a node that left discovery is asked.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a node that left discovery and does not answer is remembered.
const SILENT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How many nodes that seem well are asked before anything is moved.
const SAMPLE: usize = 64;

/// How long such an answer counts before they are asked again, which it outlives.
pub(super) const SAMPLE_LIFE: Duration = Duration::from_secs(5);

/// How long a node that is out of reach counts as one that vanished with others.
const VANISHED: Duration = Duration::from_secs(600);

impl Desk {
    /// A node that left discovery may be well, or may be the one that died.
    pub(super) fn ask_departed(&mut self) {
        let is_due = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() >= PROBE_INTERVAL);
        let due: Vec<_> = self
            .departed
            .iter_mut()
            .filter(|(_, departed)| is_due(&departed.asked_at))
            .map(|(addr, departed)| {
                departed.asked_at = Some(Instant::now());
                (addr.clone(), Arc::clone(&departed.node))
            })
            .collect();
        self.ask(due);
        // One that stays away and well was taken out on purpose.
        self.departed.retain(|_, departed| {
            let life = match departed.silent_since {
                Some(_) => SILENT_LIFE,
                None => DEPARTED_LIFE,
            };
            departed.left_at.elapsed() < life
        });
    }

    /// Has engines asked whether they are there, unless they are being asked.
    fn ask(&mut self, mut nodes: Vec<(EngineAddr, Arc<Node>)>) {
        nodes.retain(|(addr, _)| self.asking.insert(addr.clone()));
        if !nodes.is_empty() {
            self.jobs
                .spawn(async move { Ended::Asked(ask(nodes).await) });
        }
    }

    pub(super) fn note_answer(&mut self, addr: EngineAddr, answers: bool) {
        self.asking.remove(&addr);
        let now = Instant::now();
        if let Some(departed) = self.departed.get_mut(&addr) {
            let before = departed.silent_since.is_some();
            for since in [&mut departed.silent_since, &mut departed.lost_since] {
                *since = match *since {
                    _ if answers => None,
                    since => since.or(Some(now)),
                };
            }
            if before != departed.silent_since.is_some() {
                self.plans_at = now;
            }
        }
        if answers {
            debug!(%addr, "engine answers");
        }
        let answer = Answer {
            asked_at: now,
            is_silent: !answers,
        };
        self.answers.insert(addr, answer);
    }

    /// Watches whether the agents of nodes that are out of reach renew their leases.
    pub(super) async fn look_at_leases(&mut self) {
        let silent = self
            .departed
            .iter()
            .filter(|(_, departed)| departed.silent_since.is_some());
        let nodes: HashSet<EngineAddr> = self
            .failing
            .keys()
            .chain(silent.map(|(addr, _)| addr))
            .cloned()
            .collect();
        self.leases.retain(|addr, _| nodes.contains(addr));
        let Some(memory) = self.cluster.memory().filter(|_| self.options.fencing) else {
            return;
        };
        let begun_at = Instant::now();
        let due = nodes.into_iter().filter(|addr| {
            let seen = self.leases.get(addr);
            seen.is_none_or(|seen| begun_at - seen.confirmed_at >= LEASE_INTERVAL)
        });
        let looks = due.map(|addr| async move {
            let lease = memory.lease(&addr).await;
            (addr, lease)
        });
        let looks = stream::iter(looks).buffer_unordered(SAMPLE);
        let looks: Vec<_> = looks.collect().await;
        for (addr, lease) in looks {
            // While the store is away nothing is known, and nothing is moved.
            let Ok(lease) = lease else { continue };
            match self.leases.entry(addr) {
                Entry::Occupied(mut seen) if seen.get().lease == lease => {
                    seen.get_mut().confirmed_at = begun_at;
                }
                seen => {
                    seen.insert_entry(Seen {
                        lease,
                        since: Instant::now(),
                        confirmed_at: begun_at,
                        was_leased: true,
                    });
                }
            }
        }
        let addrs: Vec<EngineAddr> = self.leases.keys().cloned().collect();
        for addr in addrs {
            let is_leased = self.is_leased(&addr);
            if let Some(seen) = self.leases.get_mut(&addr)
                && std::mem::replace(&mut seen.was_leased, is_leased) != is_leased
            {
                self.plan_soon();
            }
        }
    }

    /// Whether a node's containers may be running for want of proof that its agent stopped them.
    pub(super) fn is_leased(&self, addr: &EngineAddr) -> bool {
        if !self.options.fencing || self.cluster.memory().is_none() {
            return false;
        }
        let Some(seen) = self.leases.get(addr) else {
            return true;
        };
        let lease = seen.lease.as_ref().map(|lease| seen.since + lease.ttl);
        // Whom this manager answered goes on by its answer, also where the store has no renewal.
        let heard = self.board().notes().heard.get(addr).copied();
        let Some(ends_at) = lease.max(heard) else {
            return false;
        };
        seen.confirmed_at < ends_at + self.options.lease_margin
    }

    /// The nodes that were out of reach for the grace period, and did not answer just now.
    pub(super) fn failed(&mut self) -> Vec<Arc<Node>> {
        let grace = self.options.grace;
        let failing = self
            .failing
            .values()
            .filter(|failing| failing.since.elapsed() >= grace)
            .map(|failing| &failing.node);
        let departed = self
            .departed
            .values()
            .filter(|departed| {
                let silent = departed.silent_since;
                silent.is_some_and(|since| since.elapsed() >= grace)
            })
            .map(|departed| &departed.node);
        let with_work: Vec<_> = failing
            .chain(departed)
            .filter(|node| {
                let addr = &node.inventory.addr;
                movable(&node.inventory.containers)
                    .any(|container| self.is_due(&(addr.clone(), Arc::clone(&container.id))))
            })
            .map(|node| (node.inventory.addr.clone(), Arc::clone(node)))
            .collect();
        let nodes: BTreeMap<_, _> = with_work.into_iter().collect();
        // A node that is cut off takes its time not to answer, and moves must not wait for that: what
        // it said before counts until it says something else.
        self.answers.retain(|addr, answer| {
            nodes.contains_key(addr) && answer.asked_at.elapsed() < 2 * SAMPLE_LIFE
        });
        let is_old = |addr: &EngineAddr| {
            let answer = self.answers.get(addr);
            answer.is_none_or(|answer| answer.asked_at.elapsed() >= SAMPLE_LIFE)
        };
        let old = nodes.iter().filter(|(addr, _)| is_old(addr));
        let old = old.map(|(addr, node)| (addr.clone(), Arc::clone(node)));
        self.ask(old.collect());
        let is_silent = |addr: &EngineAddr| {
            let answer = self.answers.get(addr);
            answer.is_some_and(|answer| answer.is_silent)
        };
        let silent = nodes.into_iter().filter(|(addr, _)| is_silent(addr));
        silent.map(|(_, node)| node).collect()
    }

    /// Why nothing may be moved, if so; `None` while that is not known. Asks a part of the fleet when
    /// there is something to move.
    pub(super) fn reason_to_halt(
        &mut self,
        snapshot: &Snapshot,
        failed: usize,
    ) -> Option<Option<String>> {
        // Nodes that left long ago are no part of the fleet any more.
        let silent = self.departed.values().filter(|departed| {
            let since = departed.lost_since;
            since.is_some_and(|since| since.elapsed() < VANISHED)
        });
        let vanished = self
            .failing
            .values()
            .filter(|failing| !failing.is_planned || failing.since.elapsed() < VANISHED);
        let silent = silent.count();
        let vanished = vanished.count() + silent;
        let validated = snapshot
            .nodes()
            .filter(|node| node.inventory.is_validated());
        let all = validated.count() + silent;
        let limit = f64::from(self.options.max_failed_percent);
        let percent = |count: f64| count * 100.0 / all.max(1) as f64;
        let sentence = |vanished: f64| {
            format!(
                "{vanished:.0} of {all} nodes are out of reach, more than {limit} %: nothing is rescheduled, \
                 since it may be this manager that is cut off"
            )
        };
        if percent(vanished as f64) > limit {
            return Some(Some(sentence(vanished as f64)));
        }
        if vanished == 0 || failed == 0 {
            return Some(None);
        }
        let well = self.healthy.len() as f64;
        let expected = vanished as f64 + self.sample(snapshot)? * well;
        Some((percent(expected) > limit).then(|| sentence(expected)))
    }

    /// The share of nodes that seem well and are silent now, as soon as it is known: nodes are not
    /// noticed to be out of reach all at the same time.
    fn sample(&mut self, snapshot: &Snapshot) -> Option<f64> {
        let is_younger = |life: Duration, at: Instant| at.elapsed() < life;
        let sampled = self.sampled;
        if !sampled.is_some_and(|(at, _)| is_younger(SAMPLE_LIFE, at)) && !self.is_sampling {
            self.is_sampling = true;
            let well = snapshot.nodes().filter(|node| node.inventory.is_healthy());
            let sample = well.sample(&mut rand::rng(), SAMPLE);
            let sample: Vec<_> = sample
                .into_iter()
                .map(|node| (node.inventory.addr.clone(), Arc::clone(node)))
                .collect();
            self.jobs.spawn(async move {
                let size = sample.len().max(1);
                let answers = ask(sample).await;
                let silent = answers.iter().filter(|(_, answers)| !answers).count();
                Ended::Sampled(silent as f64 / size as f64)
            });
        }
        let (_, share) = sampled.filter(|(at, _)| is_younger(2 * SAMPLE_LIFE, *at))?;
        Some(share)
    }

    /// Takes note of why nothing may be moved; returns whether nothing is to be moved now.
    pub(super) fn halt(&mut self, reason: Option<String>) -> bool {
        let before = std::mem::replace(&mut self.board().notes().halted, reason.clone());
        match reason {
            Some(ref reason) if before.is_none() => warn!("{reason}"),
            None if before.is_some() => {
                info!("rescheduling goes on");
                self.begin_anew();
                return true;
            }
            _ => {}
        }
        reason.is_some()
    }

    /// Gives nodes that have not failed yet the grace period from now on: those that were out of
    /// reach together come back one after the other.
    fn begin_anew(&mut self) {
        let now = Instant::now();
        let failing = self.failing.values_mut();
        for failing in failing.filter(|failing| !failing.is_planned) {
            failing.since = now;
        }
        for departed in self.departed.values_mut() {
            departed.silent_since = departed.silent_since.map(|_| now);
        }
        self.answers.clear();
    }
}

/// Asks engines whether they are there.
async fn ask(nodes: Vec<(EngineAddr, Arc<Node>)>) -> Vec<(EngineAddr, bool)> {
    stream::iter(nodes)
        .map(|(addr, node)| async move {
            let ping = node.client.call(Method::GET, "/_ping");
            let answer = tokio::time::timeout(PROBE, ping).await;
            // An engine that complains is there.
            let answers = matches!(answer, Ok(Ok(_) | Err(ClientError::Engine { .. })));
            (addr, answers)
        })
        .buffer_unordered(SAMPLE)
        .collect()
        .await
}
