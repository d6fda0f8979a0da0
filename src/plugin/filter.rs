//! A filter that is a plugin.

use tracing::warn;

use super::{
    OnFailure,
    bindings::scheduling::exports::skep::plugin::filter::Guest,
    convert::{self, RequestParts},
    fault::{Fault, clip},
    instance::Instance,
    supervisor::Supervisor,
};
use crate::{
    model::directive::Kind,
    scheduler::{Applies, Call, Filter, PolicyError, node_set::NodeSet, request::Request},
};

/// The most conditions taken over from one filter for a message.
const MAX_CONDITIONS: usize = 64;

/// A filter in the sandbox.
pub(super) struct FilterPlugin {
    supervisor: Supervisor<Guest>,
    expressions: Vec<Kind>,
    on_failure: OnFailure,
    /// The request under way, for an instance that has not seen it.
    request: Request,
}

impl FilterPlugin {
    pub(super) fn new(
        supervisor: Supervisor<Guest>,
        expressions: Vec<Kind>,
        on_failure: OnFailure,
    ) -> Self {
        Self {
            supervisor,
            expressions,
            on_failure,
            request: Request::default(),
        }
    }

    /// Turns a failure into `otherwise` if the configuration says so.
    fn settle<T>(
        &self,
        answer: Result<T, PolicyError>,
        otherwise: impl FnOnce() -> T,
    ) -> Result<T, PolicyError> {
        match answer {
            Err(PolicyError::Failed(reason)) if self.on_failure == OnFailure::Skip => {
                warn!(
                    plugin = self.supervisor.name(),
                    reason, "filter plugin failed and is skipped"
                );
                Ok(otherwise())
            }
            other => other,
        }
    }
}

impl Filter for FilterPlugin {
    fn name(&self) -> &str {
        self.supervisor.name()
    }

    fn expressions(&self) -> &[Kind] {
        &self.expressions
    }

    fn prepare(&mut self, call: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.supervisor.recycle_if_full();
        let answer = self
            .supervisor
            .call(|instance| prepare(instance, call, request));
        if answer == Ok(Applies::Yes) {
            self.request = request.clone();
        }
        self.settle(answer, || Applies::No)
    }

    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        let request = &self.request;
        let answer = self.supervisor.call(|instance| {
            if !instance.prepared && prepare(instance, call, request)? == Applies::No {
                return Ok(candidates.clone());
            }
            let words = instance.call_synced(call, |guest, store, generation| {
                guest.call_filter(store, generation, candidates.words())
            })?;
            checked(words, candidates)
        });
        self.settle(answer, || candidates.clone())
    }

    fn explain(&mut self) -> Vec<String> {
        let mut conditions = self
            .supervisor
            .call_if_running(|instance| {
                instance.call(None, |guest, store| guest.call_explain(store))
            })
            .unwrap_or_default();
        conditions.truncate(MAX_CONDITIONS);
        conditions.into_iter().map(clip).collect()
    }

    fn trouble(&self) -> Option<String> {
        self.supervisor.trouble()
    }
}

/// Tells the guest the request.
fn prepare(
    instance: &mut Instance<Guest>,
    call: &Call<'_>,
    request: &Request,
) -> Result<Applies, Fault> {
    instance.prepared = false;
    // A filter may look at the nodes to tell whether it applies.
    instance.sync(call.nodes)?;
    let parts = RequestParts::of(request);
    let answer = instance.call(Some(call), |guest, store| {
        guest.call_prepare(store, parts.view())
    })?;
    instance.prepared = true;
    match answer {
        Ok(true) => Ok(Applies::Yes),
        Ok(false) => Ok(Applies::No),
        Err(error) => Err(Fault::Refused(convert::refusal(error))),
    }
}

/// Takes an answer only if it could be one.
fn checked(words: Vec<u64>, candidates: &NodeSet) -> Result<NodeSet, Fault> {
    if words.len() != candidates.words().len() {
        return Err(Fault::Broken(format!(
            "answered with {} words to {} words of candidates",
            words.len(),
            candidates.words().len()
        )));
    }
    let answer = NodeSet::from_words(words);
    if !answer.is_subset_of(candidates) {
        return Err(Fault::Broken(
            "answered with a node that was no candidate".to_owned(),
        ));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[u64], expected: Result<&[u32], &str>) {
        let candidates: NodeSet = [1, 2, 70].into_iter().collect();
        let answer = checked(words.to_vec(), &candidates)
            .map(|set| set.iter().collect::<Vec<_>>())
            .map_err(|fault| match fault {
                Fault::Broken(reason) => reason,
                Fault::Refused(error) => panic!("{error}"),
            });
        assert_eq!(
            answer,
            expected.map(<[u32]>::to_vec).map_err(str::to_owned),
            "{words:?}"
        );
    }

    #[test]
    fn takes_only_subsets_of_the_candidates() {
        check(&[0b110, 0b100_0000], Ok(&[1, 2, 70]));
        check(&[0b100, 0], Ok(&[2]));
        check(&[0, 0], Ok(&[]));
        check(
            &[0b1000, 0],
            Err("answered with a node that was no candidate"),
        );
        check(
            &[0b110],
            Err("answered with 1 words to 2 words of candidates"),
        );
        check(
            &[0, 0, 0],
            Err("answered with 3 words to 2 words of candidates"),
        );
    }
}
