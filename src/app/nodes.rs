//! What `skep list` and `skep join` do.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{load_discovery, volumes};
use crate::{
    agent,
    config::{Config, duration},
    discovery::{Backend, Change},
    engine::{
        client::Client,
        pool::Pool,
        transport::{Fence, Limits, Transport},
    },
    model::address::EngineAddr,
    signal::Shutdown,
    store::servers,
    tls,
};

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How long taking back a registration may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long an engine may take to answer.
const LOOK: Duration = Duration::from_secs(5);

const PING: &[u8] = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Asks discovery once and returns the addresses in the backend's order.
///
/// # Errors
///
/// The backend's first error, or `Timed out` if it says nothing within `timeout`; also a plugin
/// that cannot be loaded.
pub async fn list(config: Config, timeout: Duration) -> anyhow::Result<Vec<String>> {
    let mut backend = load_discovery(&config).await?;
    let batch = tokio::time::timeout(timeout, backend.next(timeout))
        .await
        .map_err(|_| anyhow!("Timed out"))??;
    let members = batch.changes.into_iter().filter_map(|change| match change {
        Change::Put(address) => Some(address),
        Change::Delete(_) => None,
    });
    Ok(members.collect())
}

/// How `skep join` keeps a node listed.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The engine's address as the manager reaches it.
    pub advertise: String,
    /// How the engine is reached from here, `host:port` or `unix:///path`.
    pub engine: String,
    /// How long the node stays listed that is not heard of.
    pub ttl: Duration,
    /// The longest wait before the first registration.
    pub delay: Duration,
    /// The time between two registrations.
    pub heartbeat: Duration,
    /// Whether to register only if an engine answers.
    pub check_engine: bool,
    /// How the node's lease is kept, if it is.
    pub fencing: Option<Fencing>,
}

/// How `skep join` keeps its node's lease.
#[derive(Clone, Debug)]
pub struct Fencing {
    /// Where managers can be asked, `host:port`.
    pub managers: Vec<String>,
    /// How long a lease is valid.
    pub ttl: Duration,
    /// Where it is noted what shall outlive the agent.
    pub state_dir: PathBuf,
}

/// What the node's lease is kept with; `None` if there is nobody to renew it.
fn lease_options(
    config: &Config,
    membership: &Membership,
) -> anyhow::Result<Option<agent::Options>> {
    let Some(fencing) = &membership.fencing else {
        return Ok(None);
    };
    let store = match config.agent_store() {
        Some((url, access)) => {
            let prefix = url.key(&config.store.prefix);
            Some((servers::open(&url, &access)?, prefix))
        }
        None => None,
    };
    if store.is_none() && fencing.managers.is_empty() {
        info!("no lease is kept, since no manager is known: name one with --manager");
        return Ok(None);
    }
    let files = config.api.tls.as_ref();
    let tls = files.map(|files| tls::Reloader::default().peers(files));
    let tls = tls.transpose()?;
    Ok(Some(agent::Options {
        addr: membership.advertise.clone(),
        engine: engine_client(config, &membership.engine)?,
        ttl: fencing.ttl,
        store,
        managers: fencing.managers.clone(),
        tls: tls.flatten(),
        state_dir: Some(fencing.state_dir.clone()),
    }))
}

/// The API of this node's engine.
fn engine_client(config: &Config, engine: &str) -> anyhow::Result<Client> {
    let addr: EngineAddr = engine
        .parse()
        .map_err(|error| anyhow!("`{engine}` is no address of an engine: {error}"))?;
    let limits = Limits::new(LOOK, 16, 1);
    let tls = tls::Reloader::default()
        .engines(&config.engine)?
        .client(&addr);
    let transport = Transport::with_tls(addr, &limits, tls, Fence::default(), &Pool::default());
    Ok(Client::new(Arc::new(transport), 2 * LOOK))
}

/// Registers this node with discovery and keeps it registered until `shutdown`, and takes the
/// registration back then. Failures are tried again for ever, at first after a second and at last
/// after each heartbeat. Serves the volume drivers of the configuration meanwhile.
///
/// # Errors
///
/// The discovery plugin, or a volume driver, cannot be loaded.
pub async fn join(
    config: Config,
    membership: Membership,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let backend = load_discovery(&config).await?;
    let stop_volumes = CancellationToken::new();
    // Engines wait for their drivers when they start containers again: these come first.
    let volumes = if config.volume_drivers.is_empty() {
        None
    } else {
        let engine = engine_client(&config, &membership.engine)?;
        let serving = volumes::serve(&config, engine, stop_volumes.clone()).await?;
        Some(tokio::spawn(serving))
    };
    let ended = stay_listed(backend, &config, &membership, &shutdown).await;
    stop_volumes.cancel();
    if let Some(volumes) = volumes {
        // Its grace period is bounded.
        let _ = volumes.await;
    }
    ended
}

/// Keeps this node listed, and its lease, until `shutdown`.
async fn stay_listed(
    mut backend: Box<dyn Backend>,
    config: &Config,
    membership: &Membership,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let stop_lease = CancellationToken::new();
    let keeper = lease_options(config, membership)?
        .map(|options| tokio::spawn(agent::keep_lease(options, stop_lease.clone())));
    let stop_lease = stop_lease.drop_guard();
    // Agents that start together shall not all come at once.
    let wait = membership.delay.mul_f64(rand::random());
    tokio::select! {
        () = shutdown.started() => return Ok(()),
        () = tokio::time::sleep(wait) => {}
    }
    let mut lease = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let renewed = tokio::select! {
            () = shutdown.started() => break,
            renewed = renew(&mut *backend, membership, &mut lease) => renewed,
        };
        let wait = match renewed {
            Ok(()) => {
                pause = FIRST_PAUSE;
                membership.heartbeat
            }
            Err(reason) => {
                error!("{reason}");
                let wait = pause.min(membership.heartbeat);
                pause = (pause * 2).min(membership.heartbeat);
                wait
            }
        };
        tokio::select! {
            () = shutdown.started() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    drop(stop_lease);
    if let Some(keeper) = keeper {
        // Its last words are bounded.
        let _ = timeout(LAST_WORDS, keeper).await;
    }
    if let Some(lease) = lease {
        let withdrawn = timeout(LAST_WORDS, backend.deregister(&lease)).await;
        match withdrawn {
            Ok(Ok(())) => info!("registration taken back"),
            Ok(Err(error)) => warn!(%error, "the registration lapses by itself"),
            Err(_) => warn!("discovery is silent, the registration lapses by itself"),
        }
    }
    Ok(())
}

/// Registers once, or keeps the registration there is.
async fn renew(
    backend: &mut dyn Backend,
    membership: &Membership,
    lease: &mut Option<Vec<u8>>,
) -> Result<(), String> {
    let addr = &membership.advertise;
    info!(
        "Registering on the discovery service every {}...",
        duration::format(membership.heartbeat)
    );
    if membership.check_engine
        && let Err(reason) = look(addr).await
    {
        // Managers see for themselves that a registered engine is away, and remember it.
        if lease.is_none() {
            return Err(format!("no engine answers at {addr}: {reason}"));
        }
        warn!("no engine answers at {addr}: {reason}");
    }
    if let Some(held) = lease {
        let Err(error) = backend.heartbeat(held).await else {
            return Ok(());
        };
        warn!(%error, "registering anew");
        *lease = None;
    }
    let registered = backend.register(addr, membership.ttl).await;
    *lease = Some(registered.map_err(|error| error.to_string())?);
    Ok(())
}

/// Whether an engine answers, with or without TLS. Whatever it says, it is for managers to judge.
async fn look(addr: &str) -> Result<(), String> {
    let answer = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(PING).await?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match timeout(LOOK, answer).await {
        // The second is how servers with TLS end a connection that does not speak it.
        Ok(Ok(answer)) if answer == *b"HTTP/1." || answer[..2] == [0x15, 0x03] => Ok(()),
        Ok(Ok(_)) => Err("what answers there does not speak HTTP".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("silent for {}", duration::format(LOOK))),
    }
}
