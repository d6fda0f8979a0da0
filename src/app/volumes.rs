//! The volume drivers that `skep join` serves to its node's engine.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{digest, limits, load};
use crate::{
    config::{Config, plugin::Source, volume::VolumeDriver},
    engine::client::Client,
    plugin::{
        self, Directories, DriverGrant, HttpGrant, Kind, MountsGrant, Quotas, RootGrant, Spec,
    },
    tls,
    volume::{
        Driver,
        engine::Containers,
        ledger::Ledger,
        service::{self, Service},
        socket,
    },
};

/// Loads the volume drivers of the configuration and makes their sockets. What is returned serves
/// them until `shutdown`, to the engine whose API `engine` is.
///
/// # Errors
///
/// The first driver that cannot be loaded or served.
pub(super) async fn serve(
    config: &Config,
    engine: Client,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let drivers = load_drivers(config).await?;
    let mut services = Vec::new();
    for driver in drivers {
        let name = driver.name().to_owned();
        let ledger = Ledger::open(&directory(config, &name).join("mounts"))?;
        services.push(Service::try_new(
            driver,
            ledger,
            service::Limits::default(),
        )?);
        info!(driver = name, "serving a volume driver");
    }
    let options = socket::Options {
        directory: config.agent.plugin_directory.clone(),
        ..socket::Options::default()
    };
    let period = config.agent.unused_grace;
    let containers: Arc<dyn Containers> = Arc::new(EngineContainers(engine));
    let sweeps: Vec<_> = services
        .iter()
        .map(|service| {
            let (service, containers) = (service.clone(), Arc::clone(&containers));
            async move { service.sweep(containers, period).await }
        })
        .collect();
    let serving = socket::bind(services, options)?.serve(shutdown.clone());
    Ok(async move {
        let sweeping = shutdown.run_until_cancelled(join_all(sweeps));
        tokio::join!(serving, sweeping);
    })
}

/// The containers of this node's engine.
struct EngineContainers(Client);

#[async_trait]
impl Containers for EngineContainers {
    async fn use_volume(&self, name: &str) -> Result<bool, String> {
        match self.0.users_of_volume(name).await {
            Ok(users) => Ok(!users.is_empty()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Loads all volume drivers of the configuration. Their directories are made if need be.
async fn load_drivers(config: &Config) -> anyhow::Result<Vec<Arc<dyn Driver>>> {
    let mut specs = Vec::new();
    for driver in config.volume_drivers.values() {
        for directory in [driver.root(&config.agent), records(config, driver)] {
            std::fs::create_dir_all(&directory).with_context(|| {
                let (name, directory) = (&driver.name, directory.display());
                format!("volume driver `{name}`: directory `{directory}` cannot be made")
            })?;
        }
        specs.push(spec(config, driver)?);
    }
    Ok(load(config, specs).await?.drivers)
}

/// Where a driver keeps its records.
fn records(config: &Config, driver: &VolumeDriver) -> std::path::PathBuf {
    directory(config, &driver.name).join("records")
}

/// Where what is kept for a driver is.
fn directory(config: &Config, driver: &str) -> std::path::PathBuf {
    let state: &Path = &config.agent.state_directory;
    state.join("volume-drivers").join(driver)
}

/// One driver's configuration in the host's words.
fn spec(config: &Config, from: &VolumeDriver) -> anyhow::Result<Spec> {
    let kind = Kind::Volume;
    let source = match &from.source {
        Source::Builtin(name) => plugin::Source::Builtin(format!("{kind}-{name}")),
        Source::File(path) => plugin::Source::File(path.clone()),
    };
    let mut spec = Spec::new(&from.name, kind, source);
    spec.sha256 = from.sha256.as_deref().map(digest).transpose()?;
    spec.settings = from.settings_json();
    spec.limits = limits(kind, &from.limits);
    let is_secure = |origin: &String| origin.starts_with("https:");
    let tls = match from.allow.http.iter().any(is_secure) {
        true => Some(Arc::new(tls::web(None, None)?)),
        false => None,
    };
    spec.allow.http = HttpGrant {
        origins: from.allow.http.clone(),
        tls,
    };
    spec.allow.driver = Some(DriverGrant {
        root: RootGrant {
            path: from.root(&config.agent),
            mounts: MountsGrant {
                kinds: from.allow.mounts.clone(),
                sources: from.allow.mount_sources.clone(),
                options: from.allow.mount_options.clone(),
            },
            quotas: match from.allow.quotas {
                true => Quotas::Allowed,
                false => Quotas::Denied,
            },
            directories: match from.allow.subvolumes {
                true => Directories::Subvolumes,
                false => Directories::Plain,
            },
        },
        records: records(config, from),
        secrets: from.secrets.clone(),
    });
    Ok(spec)
}
