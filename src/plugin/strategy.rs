//! A strategy that is a plugin.

use tracing::warn;

use super::{
    bindings::scheduling::exports::skep::plugin::strategy::{Guest, Ranked as GuestRanked},
    convert::RequestParts,
    fault::Fault,
    supervisor::Supervisor,
};
use crate::scheduler::{Call, PolicyError, Ranked, Strategy, node_set::NodeSet, request::Request};

/// A strategy in the sandbox.
pub(super) struct StrategyPlugin {
    supervisor: Supervisor<Guest>,
    fallback: Option<Box<StrategyPlugin>>,
}

impl StrategyPlugin {
    pub(super) fn new(supervisor: Supervisor<Guest>, fallback: Option<Box<Self>>) -> Self {
        Self {
            supervisor,
            fallback,
        }
    }
}

impl Strategy for StrategyPlugin {
    fn name(&self) -> &str {
        self.supervisor.name()
    }

    fn rank(
        &mut self,
        call: &Call<'_>,
        request: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError> {
        self.supervisor.recycle_if_full();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let parts = RequestParts::of(request);
        let answer = self.supervisor.call(|instance| {
            let ranking = instance.call_synced(call, |guest, store, generation| {
                store.data_mut().seed(call.seed);
                guest.call_rank(store, parts.view(), generation, candidates.words(), limit)
            })?;
            checked(ranking, candidates, limit)
        });
        match (answer, &mut self.fallback) {
            (Err(PolicyError::Failed(reason)), Some(fallback)) => {
                warn!(
                    plugin = self.supervisor.name(),
                    fallback = fallback.name(),
                    reason,
                    "strategy plugin failed, its fallback is asked"
                );
                fallback.rank(call, request, candidates, limit as usize)
            }
            (answer, _) => answer,
        }
    }

    fn trouble(&self) -> Option<String> {
        self.supervisor.trouble()
    }
}

/// Takes a ranking only if it could be one.
fn checked(
    ranking: Vec<GuestRanked>,
    candidates: &NodeSet,
    limit: u32,
) -> Result<Vec<Ranked>, Fault> {
    if ranking.len() > limit as usize {
        return Err(Fault::Broken(format!(
            "ranked {} nodes, at most {limit} were asked for",
            ranking.len()
        )));
    }
    let mut seen = NodeSet::with_slots(candidates.words().len() * 64);
    ranking
        .into_iter()
        .map(|GuestRanked { slot, score }| {
            if !candidates.contains(slot) {
                return Err(Fault::Broken(format!(
                    "ranked slot {slot}, which was no candidate"
                )));
            }
            if seen.contains(slot) {
                return Err(Fault::Broken(format!("ranked slot {slot} twice")));
            }
            seen.insert(slot);
            Ok(Ranked { slot, score })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(slots: &[u32], expected: Result<(), &str>) {
        let candidates: NodeSet = [1, 2, 70].into_iter().collect();
        let ranking = slots
            .iter()
            .map(|slot| GuestRanked {
                slot: *slot,
                score: 0,
            })
            .collect();
        let answer = checked(ranking, &candidates, 3).map(|_| ());
        let expected = expected.map_err(|reason| Fault::Broken(reason.to_owned()));
        assert_eq!(answer, expected, "{slots:?}");
    }

    #[test]
    fn takes_only_rankings_of_candidates() {
        check(&[], Ok(()));
        check(&[70, 1, 2], Ok(()));
        check(&[1, 3], Err("ranked slot 3, which was no candidate"));
        check(
            &[u32::MAX],
            Err("ranked slot 4294967295, which was no candidate"),
        );
        check(&[1, 70, 1], Err("ranked slot 1 twice"));
        check(
            &[1, 2, 70, 1],
            Err("ranked 4 nodes, at most 3 were asked for"),
        );
    }
}
