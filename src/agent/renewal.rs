//! Renews the lease, through the store or through any manager.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::RngExt;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    ENGINE, Options,
    note::{Keeper, Standing},
};
use crate::{
    boot,
    engine::{
        client::{Client, encode},
        pool::Pool,
        transport::{Fence, Limits, Transport},
    },
    store::{
        Store, StoreError,
        agents::{Answer, Lease, Word, cluster_key, lease_key, managers_key, superseded_key},
    },
};

/// Wait before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Renews the lease again and again, and publishes how it stands.
pub(super) struct Renewal {
    options: Arc<Options>,
    lease: Lease,
    publish: watch::Sender<Standing>,
    keeper: Keeper,
}

impl Renewal {
    pub fn new(options: Arc<Options>, publish: watch::Sender<Standing>, keeper: Keeper) -> Self {
        let lease = Lease {
            ttl: options.ttl,
            boot: rand::rng().random(),
            beat: 0,
        };
        Self {
            options,
            lease,
            publish,
            keeper,
        }
    }

    /// Never ends.
    pub async fn run(&mut self) {
        let ttl = self.options.ttl;
        loop {
            let asked_at = boot::elapsed();
            self.lease.beat += 1;
            let Some(answer) = self.renew().await else {
                sleep(RETRY.min(ttl / 8)).await;
                continue;
            };
            self.publish
                .send_modify(|standing| take(standing, asked_at, answer, &self.options));
            let standing = self.publish.borrow().clone();
            self.keeper.renewed(asked_at, &standing).await;
            sleep((asked_at + ttl / 4).saturating_sub(boot::elapsed())).await;
        }
    }

    /// Renews the lease through the store, else through any manager.
    async fn renew(&self) -> Option<Answer> {
        let patience = self.options.ttl / 4;
        if let Some((store, prefix)) = &self.options.store {
            match timeout(patience, self.renew_in(&**store, prefix)).await {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => {}
                Err(_) => debug!("the store is silent"),
            }
        }
        let body = Bytes::from(self.lease.to_json());
        let path = format!("/skep/agents/{}/lease", encode(&self.options.addr));
        let managers = self.publish.borrow().managers.clone();
        let mut asked: FuturesUnordered<_> = managers
            .iter()
            .filter_map(|manager| client(&self.options, manager))
            .map(|client| {
                let (path, body) = (path.clone(), body.clone());
                async move { timeout(patience, client.post(&path, body)).await }
            })
            .collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok(answer)) => match Answer::parse(&answer) {
                    Ok(answer) => {
                        if answer.word == Word::Hold {
                            debug!("the manager has lost the store and says to hold");
                        }
                        return Some(answer);
                    }
                    Err(error) => warn!(%error, "a manager's answer makes no sense"),
                },
                Ok(Err(error)) => debug!(%error, "the manager does not renew the lease"),
                Err(_) => debug!("the manager is silent"),
            }
        }
        None
    }

    /// `None` if the store does not answer, or is not one where managers look for leases.
    async fn renew_in(&self, store: &dyn Store, prefix: &str) -> Option<Answer> {
        let failed = |error: StoreError| debug!(%error, "no renewal in the store");
        let word = store.get(&cluster_key(prefix)).await;
        let word = word.map_err(failed).ok()??;
        let mut answer = Answer::parse(&word.value).ok()?;
        let addr = &self.options.addr;
        let value = Bytes::from(self.lease.to_json());
        let put = store.put(&lease_key(prefix, addr), value).await;
        put.map_err(failed).ok()?;
        answer.managers = names_below(store, &managers_key(prefix)).await;
        answer.superseded = names_below(store, &superseded_key(prefix, addr)).await;
        Some(answer)
    }

    /// Managers need not wait for this node any more.
    pub async fn give_back(&self) {
        self.keeper.given_back().await;
        let Some((store, prefix)) = &self.options.store else {
            return;
        };
        let key = lease_key(prefix, &self.options.addr);
        let deleted = timeout(RETRY, store.delete(&key, None)).await;
        if !matches!(deleted, Ok(Ok(_))) {
            debug!("the lease runs out by itself");
        }
    }
}

/// How the lease stands after an answer.
fn take(standing: &mut Standing, asked_at: Duration, answer: Answer, options: &Options) {
    standing.valid_until = standing.valid_until.max(asked_at + options.ttl);
    standing.renewals += 1;
    if standing.counts != answer.counts {
        match answer.counts {
            true => info!(
                "containers that may run elsewhere are stopped if neither the store nor a manager can be reached for {:?}",
                options.ttl
            ),
            false => info!("fencing is switched off in this cluster: nothing is stopped here"),
        }
    }
    standing.counts = answer.counts;
    // Without the store a manager knows neither the others nor what is superseded.
    if let Some(listed) = answer.managers {
        standing.learn_managers(&options.managers, listed);
    }
    if let Some(superseded) = answer.superseded {
        standing.superseded = superseded.into_iter().collect();
    }
}

/// The last segments of the keys below one; `None` if the store does not say.
async fn names_below(store: &dyn Store, key: &str) -> Option<Vec<String>> {
    store.list(key).await.ok().map(|listing| listing.names())
}

/// A manager's API.
pub(super) fn client(options: &Options, manager: &str) -> Option<Client> {
    let addr = manager.parse().ok()?;
    let limits = Limits::new(options.ttl / 4, 1, 0);
    let (tls, pool) = (options.tls.clone(), Pool::default());
    let transport = Transport::with_tls(addr, &limits, tls, Fence::default(), &pool);
    Some(Client::new(Arc::new(transport), ENGINE))
}
