//! Volumes of a node, served to its engine.
//!
//! An engine asks its volume drivers over a unix socket (Docker's volume plugin protocol). This
//! module is between that socket and a [`Driver`], which makes volumes and mounts them:
//!
//! ```text
//! engine --HTTP, JSON--> socket --> service --Driver--> a plugin in its sandbox
//!                                      |
//!                                    ledger      who has what mounted, across restarts
//!                                    turns       one call at a time for each volume
//! ```
//!
//! A driver never hears of containers: the service counts who has a volume mounted, and asks the
//! driver for the first and the last of them alone.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use async_trait::async_trait;

pub mod engine;
pub mod ledger;
pub mod service;
pub mod socket;
pub mod turns;

#[cfg(test)]
mod double;

/// Where the volumes of a driver are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On one node each.
    Local,
    /// On all nodes, with the same data.
    Global,
}

/// What a driver knows of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Its name, unique among the volumes of the driver.
    pub name: String,
    /// When it was made, if that is known.
    pub created_at: Option<SystemTime>,
    /// Whatever else there is to say, for `docker volume inspect`.
    pub status: BTreeMap<String, String>,
}

/// Why a driver did not do what it was asked for. Docker shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The driver has no such volume.
    #[error("no such volume")]
    NotFound,
    /// The driver refuses, or failed.
    #[error("{0}")]
    Failed(String),
    /// The driver did not answer; it may have done what it was asked for.
    #[error("{0}")]
    Lost(String),
}

/// Makes volumes and mounts them.
///
/// Calls for one volume come one at a time, and only with names that Docker takes. Every call may
/// be made again after one that failed or whose answer was lost, also by a later process: what is
/// done already is done well.
///
/// # Cancel safety
///
/// None: whoever drops a call does not know what came of it.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The name by which engines know it.
    fn name(&self) -> &str;

    /// Where its volumes are.
    fn scope(&self) -> Scope;

    /// Makes a volume. One that is there with the same options is done.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn create(
        &self,
        name: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<(), DriverError>;

    /// Removes a volume and what is in it. One that is not there is done.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn remove(&self, name: &str) -> Result<(), DriverError>;

    /// Makes what is in a volume reachable, and returns where: an absolute path on this host.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn mount(&self, name: &str) -> Result<PathBuf, DriverError>;

    /// Nobody uses the volume any more. One that is not mounted is done.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn unmount(&self, name: &str) -> Result<(), DriverError>;

    /// Where [`Driver::mount`] makes the volume reachable, if that is known without mounting it.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn path(&self, name: &str) -> Result<Option<PathBuf>, DriverError>;

    /// What is known of one volume.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn get(&self, name: &str) -> Result<Info, DriverError>;

    /// All volumes.
    ///
    /// # Errors
    ///
    /// [`DriverError`]
    async fn list(&self) -> Result<Vec<Info>, DriverError>;
}
