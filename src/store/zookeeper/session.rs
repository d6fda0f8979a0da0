//! Keys that vanish with a connection of their own.
//!
//! A server that was cut off from its ensemble goes on answering reads for a while, and keeps the
//! connection. So a renewal is an answer that a majority had to agree to: that to a transaction
//! which checks that the root is there and changes nothing, be it only that it failed.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use zookeeper_client::{Client, CreateMode, Error, MultiWriteError};

use super::{ZooKeeper, path_of, revision};
use crate::store::{
    Revision, Session, StoreError,
    lease::{Lease, Renewed},
};

pub(super) struct OwnSession {
    store: ZooKeeper,
    /// There until the session ends.
    client: Option<Client>,
    lease: Lease,
    keeper: JoinHandle<()>,
}

impl OwnSession {
    /// Connects for as long as the session lives; the server may give it another time than `ttl`.
    pub(super) async fn start(store: ZooKeeper, ttl: Duration) -> Result<Self, StoreError> {
        let sent = Instant::now();
        let connected = timeout(store.inner.timeout, store.connect(ttl)).await;
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(store.failed("", error)),
            Err(_) => return Err(store.unavailable("no answer in time".to_owned())),
        };
        let ttl = granted(client.session_timeout());
        let lease = Lease::new(sent, ttl);
        let (asked, own) = (store.clone(), client.clone());
        let renew = move || {
            let (store, client) = (asked.clone(), own.clone());
            async move {
                // Its library keeps the session alive; this tells us that it is.
                match agree(&client).await {
                    Ok(()) => Ok(Renewed::For(ttl)),
                    Err(Error::SessionExpired | Error::ClientClosed | Error::AuthFailed) => {
                        Ok(Renewed::Gone)
                    }
                    Err(error) => Err(store.failed("", error)),
                }
            }
        };
        let keeper = tokio::spawn(lease.clone().keep(ttl, renew));
        Ok(Self {
            store,
            client: Some(client),
            lease,
            keeper,
        })
    }

    fn ended(&self) -> StoreError {
        StoreError::SessionEnded {
            store: self.store.inner.name.clone(),
        }
    }

    /// Does something with the session's own connection.
    async fn call<T, F, R>(&self, key: &str, action: F) -> Result<T, StoreError>
    where
        F: FnOnce(Client) -> R + Send,
        R: Future<Output = Result<T, Error>> + Send,
    {
        let Some(client) = self.client.clone().filter(|_| !self.lease.is_lost()) else {
            return Err(self.ended());
        };
        match timeout(self.store.inner.timeout, action(client)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Error::SessionExpired | Error::ClientClosed)) => {
                self.lease.lose();
                Err(self.ended())
            }
            Ok(Err(error)) => Err(self.store.failed(key, error)),
            Err(_) => Err(self.store.unavailable("no answer in time".to_owned())),
        }
    }
}

/// The part of a session's time that is sure. Whoever leads the ensemble learns from the servers
/// which sessions are alive, at every half tick; a session lasts for two ticks at least.
fn granted(timeout: Duration) -> Duration {
    timeout * 3 / 4
}

/// Has the ensemble agree to a transaction that changes nothing.
async fn agree(client: &Client) -> Result<(), Error> {
    let mut writer = client.new_multi_writer();
    writer.add_check_version("/", -1)?;
    match writer.commit().await {
        // That it failed was agreed to as well.
        Ok(_) | Err(MultiWriteError::OperationFailed { .. }) => Ok(()),
        Err(MultiWriteError::RequestFailed { source }) => Err(source),
    }
}

#[async_trait]
impl Session for OwnSession {
    fn lost(&self) -> CancellationToken {
        self.lease.lost()
    }

    fn valid_until(&self) -> Instant {
        self.lease.valid_until()
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.store.check(key, &value)?;
        let options = CreateMode::Ephemeral.with_acls(self.store.acls());
        let (store, path, value, options) = (&self.store, &path_of(key), &value, &options);
        let stat = self
            .call(key, |client| async move {
                loop {
                    let outcome = match client.check_stat(path).await? {
                        None => store.make(&client, path, value, options).await,
                        Some(stat) if stat.ephemeral_owner == client.session_id().0 => {
                            client.set_data(path, value, Some(stat.version)).await
                        }
                        Some(stat) => store.replace(&client, path, value, &stat, options).await,
                    };
                    if !matches!(
                        outcome,
                        Err(Error::NoNode | Error::NodeExists | Error::BadVersion)
                    ) {
                        return outcome;
                    }
                }
            })
            .await?;
        Ok(revision(&stat))
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.store.check(key, &value)?;
        let options = CreateMode::Ephemeral.with_acls(self.store.acls());
        let (store, path, value, options) = (&self.store, &path_of(key), &value, &options);
        let stat = self
            .call(key, |client| async move {
                store.make(&client, path, value, options).await
            })
            .await?;
        Ok(revision(&stat))
    }

    async fn end(mut self: Box<Self>) -> Result<(), StoreError> {
        self.lease.lose();
        self.keeper.abort();
        let _ = (&mut self.keeper).await;
        let Some(client) = self.client.take() else {
            return Ok(());
        };
        // The last handle closes the session.
        let mut states = client.state_watcher();
        drop(client);
        let closed = async { while !states.changed().await.is_terminated() {} };
        timeout(self.store.inner.timeout, closed)
            .await
            .map_err(|_| self.store.unavailable("no answer in time".to_owned()))
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        self.lease.lose();
        self.keeper.abort();
    }
}
