//! A driver for tests: it remembers what it was asked, and goes wrong as it is told to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::pending,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Driver, DriverError, Info, Scope};

/// How a call goes. What is not said goes well.
pub(super) enum Step {
    /// Nothing is done, and this is why.
    Fails(&'static str),
    /// Nothing is done, and no answer comes; nor an error.
    HangsBefore,
    /// It is done, and no answer comes; nor an error.
    HangsAfter,
    /// It is done, and the answer is lost.
    Traps,
    /// Nothing is done, and the host breaks.
    Panics,
    /// It is done, and so is this.
    And(Box<dyn FnOnce() + Send>),
    /// It is done when somebody notifies.
    Waits(Arc<Notify>),
}

/// What is on the machine: it stays when an agent goes.
#[derive(Default)]
pub(super) struct Double {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With their options.
    volumes: BTreeMap<String, BTreeMap<String, String>>,
    mounted: BTreeSet<String>,
    asked: Vec<String>,
    steps: HashMap<&'static str, VecDeque<Step>>,
    /// Names of volumes that calls are under way for.
    busy: BTreeSet<String>,
    most_calls: usize,
}

/// A call that is under way; it may be dropped.
struct UnderWay<'a> {
    double: &'a Double,
    name: &'a str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.double.state().busy.remove(self.name);
    }
}

impl Double {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Says how the next `call` goes, and those after it.
    pub(super) fn next(&self, call: &'static str, step: Step) {
        self.state().steps.entry(call).or_default().push_back(step);
    }

    /// What the driver was asked since this was called last, as `mount data`.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    /// The agent was killed, and with it the calls that are under way.
    pub(super) fn forget_calls(&self) {
        self.state().busy.clear();
    }

    pub(super) fn volumes(&self) -> Vec<String> {
        self.state().volumes.keys().cloned().collect()
    }

    pub(super) fn mounted(&self) -> Vec<String> {
        self.state().mounted.iter().cloned().collect()
    }

    /// The most calls that were under way at a time.
    pub(super) fn most_calls(&self) -> usize {
        self.state().most_calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call, and does what is to be done.
    async fn take<T>(
        &self,
        call: &'static str,
        name: &str,
        effect: impl FnOnce(&mut State) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let step = {
            let mut state = self.state();
            state
                .asked
                .push(format!("{call} {name}").trim_end().to_owned());
            let free = name.is_empty() || state.busy.insert(name.to_owned());
            assert!(free, "two calls at a time for `{name}`");
            state.most_calls = state.most_calls.max(state.busy.len());
            state.steps.get_mut(call).and_then(VecDeque::pop_front)
        };
        let _under_way = UnderWay { double: self, name };
        tokio::task::yield_now().await;
        match step {
            None => effect(&mut self.state()),
            Some(Step::Fails(text)) => Err(DriverError::Failed(text.to_owned())),
            Some(Step::HangsBefore) => pending().await,
            Some(Step::HangsAfter) => {
                let _ = effect(&mut self.state());
                pending().await
            }
            Some(Step::Traps) => {
                let _ = effect(&mut self.state());
                Err(DriverError::Lost("the plugin trapped".to_owned()))
            }
            Some(Step::Panics) => panic!("as the test wants it"),
            Some(Step::And(more)) => {
                let done = effect(&mut self.state());
                more();
                done
            }
            Some(Step::Waits(until)) => {
                until.notified().await;
                effect(&mut self.state())
            }
        }
    }
}

impl State {
    fn info(&self, name: &str) -> Result<Info, DriverError> {
        let options = self.volumes.get(name).ok_or(DriverError::NotFound)?;
        Ok(Info {
            name: name.to_owned(),
            created_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)),
            status: options.clone(),
        })
    }
}

#[async_trait]
impl Driver for Double {
    fn name(&self) -> &str {
        "double"
    }

    fn scope(&self) -> Scope {
        Scope::Local
    }

    async fn create(
        &self,
        name: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<(), DriverError> {
        self.take("create", name, |state| {
            state.volumes.insert(name.to_owned(), options.clone());
            Ok(())
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), DriverError> {
        self.take("remove", name, |state| {
            assert!(!state.mounted.contains(name), "`{name}` is mounted");
            state.volumes.remove(name);
            Ok(())
        })
        .await
    }

    async fn mount(&self, name: &str) -> Result<PathBuf, DriverError> {
        self.take("mount", name, |state| {
            state.info(name)?;
            state.mounted.insert(name.to_owned());
            Ok(PathBuf::from(format!("/mnt/{name}")))
        })
        .await
    }

    async fn unmount(&self, name: &str) -> Result<(), DriverError> {
        self.take("unmount", name, |state| {
            state.mounted.remove(name);
            Ok(())
        })
        .await
    }

    async fn path(&self, _name: &str) -> Result<Option<PathBuf>, DriverError> {
        Ok(None)
    }

    async fn get(&self, name: &str) -> Result<Info, DriverError> {
        self.take("get", name, |state| state.info(name)).await
    }

    async fn list(&self) -> Result<Vec<Info>, DriverError> {
        self.take("list", "", |state| {
            state.volumes.keys().map(|name| state.info(name)).collect()
        })
        .await
    }
}
