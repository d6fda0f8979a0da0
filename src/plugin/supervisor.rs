//! Keeps one scheduling plugin going: replaces lost instances, replays the request once, backs off.
//!
//! A new instance comes from a linked component, which takes some 30 µs and 2 µs for each node:
//! keeping a spare one warm would save nothing and double the memory of every plugin.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    breaker::{Admission, Breaker},
    fault::Fault,
    instance::{Exports, Instance, StartError, Template},
};
use crate::scheduler::PolicyError;

/// An instance that fills its memory is replaced, but not more often than this: one that needs
/// that much for the nodes alone would otherwise start over with each request.
const RECYCLE_AFTER: Duration = Duration::from_secs(60);

/// Tells the time; tests set their own.
pub(super) type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// A plugin and its current instance.
pub(super) struct Supervisor<G: Exports> {
    template: Template<G>,
    instance: Option<Instance<G>>,
    breaker: Breaker,
    clock: Clock,
}

impl<G: Exports> Supervisor<G> {
    pub(super) fn new(template: Template<G>, instance: Instance<G>, clock: Clock) -> Self {
        Self {
            template,
            instance: Some(instance),
            breaker: Breaker::default(),
            clock,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.template.name()
    }

    /// What is wrong with the plugin now.
    pub(super) fn trouble(&self) -> Option<String> {
        self.breaker.trouble((self.clock)())
    }

    /// Runs `ask`, and once more on a new instance if the first was lost to it.
    ///
    /// A second loss means that this request is poison; it is not held against the plugin twice.
    ///
    /// # Errors
    ///
    /// What the plugin refused with, or [`PolicyError::Failed`].
    pub(super) fn call<T>(
        &mut self,
        ask: impl Fn(&mut Instance<G>) -> Result<T, Fault>,
    ) -> Result<T, PolicyError> {
        let now = (self.clock)();
        let admission = self.breaker.admit(now);
        if let Admission::Refuse(wait) = admission {
            return Err(PolicyError::Failed(format!(
                "{}; it is tried again in {} ms",
                self.breaker.reason(),
                wait.as_millis().max(1)
            )));
        }
        let reason = match self.attempt(now, &ask) {
            Ok(answer) => {
                self.breaker.succeeded(now);
                return answer;
            }
            Err(reason) => reason,
        };
        self.breaker.failed((self.clock)(), &reason, rand::random());
        warn!(
            plugin = self.name(),
            reason, "plugin failed, replacing its instance"
        );
        if admission == Admission::Probe || self.breaker.is_quarantined() {
            return Err(PolicyError::Failed(reason));
        }
        match self.attempt(now, &ask) {
            Ok(answer) => {
                self.breaker.succeeded((self.clock)());
                answer
            }
            Err(again) => Err(PolicyError::Failed(again)),
        }
    }

    /// Asks a running guest in passing: no new instance is made and nothing is asked twice.
    pub(super) fn call_if_running<T>(
        &mut self,
        ask: impl FnOnce(&mut Instance<G>) -> Result<T, Fault>,
    ) -> Option<T> {
        match ask(self.instance.as_mut()?) {
            Ok(answer) => Some(answer),
            Err(Fault::Refused(_)) => None,
            Err(Fault::Broken(reason)) => {
                self.lose(&reason);
                None
            }
        }
    }

    /// Replaces an instance that has nearly used up its memory, before it fails of it.
    pub(super) fn recycle_if_full(&mut self) {
        let Some(instance) = &self.instance else {
            return;
        };
        let (used, limit) = instance.memory();
        if used < limit / 5 * 4 {
            return;
        }
        let age = (self.clock)().saturating_duration_since(instance.born());
        if age >= RECYCLE_AFTER {
            warn!(
                plugin = self.name(),
                used, "plugin filled its memory, replacing its instance"
            );
            self.instance = None;
        }
    }

    /// Counts a failure that no answer depends on.
    fn lose(&mut self, reason: &str) {
        self.instance = None;
        self.breaker.failed((self.clock)(), reason, rand::random());
        warn!(
            plugin = self.name(),
            reason, "plugin failed, replacing its instance"
        );
    }

    /// The answer or refusal of one instance, or why there is neither.
    fn attempt<T>(
        &mut self,
        now: Instant,
        ask: &impl Fn(&mut Instance<G>) -> Result<T, Fault>,
    ) -> Result<Result<T, PolicyError>, String> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => match self.template.start(now) {
                Ok((instance, _)) => instance,
                Err(StartError::Broken(reason)) => return Err(reason),
                Err(StartError::Settings(reason)) => {
                    return Err(format!("refuses its settings: {reason}"));
                }
            },
        };
        let answer = match ask(&mut instance) {
            Ok(answer) => Ok(answer),
            Err(Fault::Refused(error)) => Err(error),
            // The instance is dropped here: wasmtime would refuse to enter it again.
            Err(Fault::Broken(reason)) => return Err(reason),
        };
        self.instance = Some(instance);
        Ok(answer)
    }
}
