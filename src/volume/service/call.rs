//! One call, whose turn it is: what is asked of the driver, and what the ledger says before and after.

use std::{path::PathBuf, sync::Arc};

use tracing::warn;

use super::{CallError, Deadline, Inner};
use crate::volume::{
    DriverError,
    engine::Containers,
    ledger::{Holder, Mounts},
    turns::Turn,
};

/// A call for one volume, whose turn it is.
pub(super) struct Call {
    pub(super) inner: Arc<Inner>,
    pub(super) name: String,
    deadline: Deadline,
    _turn: Turn,
}

impl Call {
    pub(super) fn new(inner: Arc<Inner>, name: String, deadline: Deadline, turn: Turn) -> Self {
        Self {
            inner,
            name,
            deadline,
            _turn: turn,
        }
    }

    /// Waits for the driver.
    pub(super) async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, CallError> {
        self.inner.ask(self.deadline, answer).await
    }

    /// What the ledger has about the volume.
    pub(super) async fn mounts(&self) -> Result<Option<Mounts>, CallError> {
        Ok(self.inner.ledger.mounts(&self.name).await?)
    }

    async fn write(&self, mounts: &Mounts) -> Result<(), CallError> {
        Ok(self.inner.ledger.write(&self.name, mounts).await?)
    }

    /// Mounts the volume once more for `id`, a mount by the process `engine`.
    pub(super) async fn mount(&self, id: String, engine: String) -> Result<PathBuf, CallError> {
        let mut mounts = match self.mounts().await? {
            Some(mounts) => mounts,
            None => {
                let nobody = Mounts::default();
                self.write(&nobody).await?;
                nobody
            }
        };
        let path = self.mounted(&mounts).await?;
        let first = mounts.holders.is_empty();
        mounts.mountpoint = Some(path.clone());
        mounts.agent.clone_from(&self.inner.agent);
        count(&mut mounts, id, engine);
        match self.write(&mounts).await {
            Ok(()) => Ok(path),
            Err(error) => {
                if first {
                    self.undo().await;
                }
                Err(error)
            }
        }
    }

    /// Where the volume is. The driver is asked unless it told this process already.
    async fn mounted(&self, mounts: &Mounts) -> Result<PathBuf, CallError> {
        if let Some(path) = &mounts.mountpoint
            && !mounts.holders.is_empty()
            && mounts.agent == self.inner.agent
        {
            return Ok(path.clone());
        }
        let asked = self.ask(self.inner.driver.mount(&self.name)).await;
        if let Err(CallError::Driver(DriverError::NotFound | DriverError::Failed(_))) = &asked
            && mounts.holders.is_empty()
        {
            self.undo().await;
        }
        asked
    }

    /// Takes back a first mount that failed. The reason for that is the one to tell, and if this
    /// fails as well, the ledger goes on saying that the volume may be mounted.
    async fn undo(&self) {
        if let Err(error) = self.settle().await {
            warn!(volume = self.name, %error, "a mount that failed cannot be taken back yet");
        }
    }

    /// Ends one mount of `id`.
    pub(super) async fn unmount(&self, id: &str, engine: &str) -> Result<(), CallError> {
        let Some(mut mounts) = self.mounts().await? else {
            return Ok(());
        };
        if mounts.holders.is_empty() {
            return self.settle().await;
        }
        match mounts.holders.get_mut(id) {
            None => return Ok(()),
            Some(holder) if holder.times > 1 && holder.engine == engine => holder.times -= 1,
            Some(_) => {
                mounts.holders.remove(id);
            }
        }
        if mounts.holders.is_empty() {
            return self.let_go().await;
        }
        self.write(&mounts).await
    }

    /// Has the driver unmount the volume, whoever has it.
    pub(super) async fn let_go(&self) -> Result<(), CallError> {
        self.write(&Mounts::default()).await?;
        self.settle().await
    }

    /// Has the driver unmount the volume that nobody has according to the ledger.
    async fn settle(&self) -> Result<(), CallError> {
        match self.ask(self.inner.driver.unmount(&self.name)).await {
            Ok(()) | Err(CallError::Driver(DriverError::NotFound)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.inner.ledger.forget(&self.name).await?)
    }

    /// Has the driver unmount the volume unless somebody uses it, which is asked once more: who wants
    /// to mount it now waits. Returns whether it is unmounted.
    pub(super) async fn release(&self, containers: &dyn Containers) -> Result<bool, CallError> {
        let Some(mounts) = self.mounts().await? else {
            return Ok(false);
        };
        let is_unused = self.inner.is_unused(&self.name, &mounts, containers);
        if is_unused.await != Ok(true) {
            return Ok(false);
        }
        self.let_go().await?;
        Ok(true)
    }

    /// Has the driver do what the ledger says.
    pub(super) async fn reconcile(&self) -> Result<(), CallError> {
        let Some(mut mounts) = self.mounts().await? else {
            return Ok(());
        };
        if mounts.holders.is_empty() {
            return self.settle().await;
        }
        mounts.mountpoint = Some(self.mounted(&mounts).await?);
        mounts.agent.clone_from(&self.inner.agent);
        self.write(&mounts).await
    }
}

/// Adds a mount of `id` to those it has.
fn count(mounts: &mut Mounts, id: String, engine: String) {
    match mounts.holders.get_mut(&id) {
        Some(holder) if holder.engine == engine => {
            holder.times = holder.times.saturating_add(1);
        }
        _ => {
            mounts.holders.insert(id, Holder { times: 1, engine });
        }
    }
}

/// Where a volume is, if somebody has it mounted.
pub(super) fn mountpoint(mounts: Mounts) -> Option<PathBuf> {
    mounts.mountpoint.filter(|_| !mounts.holders.is_empty())
}
