//! Names that a discovery backend may look up.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use tokio::sync::OnceCell;

use super::{
    bindings::waiting::skep::plugin::{
        names::{Host as NamesHost, Service},
        types::Error,
    },
    host::Host,
};

/// The most hosts that SRV records add to those allowed.
const MAX_TARGETS: usize = 10_000;

/// How long one name server is waited for.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Names, and who knows them.
#[derive(Clone, Debug, Default)]
pub struct NamesGrant {
    /// `engines.example.org`, or `*.example.org` for all names below. The hosts that SRV records
    /// of such a name point at are included.
    pub names: Vec<String>,
    /// The name server; those of the system if there is none.
    pub server: Option<SocketAddr>,
}

/// A grant in use. Clones share the resolver.
#[derive(Clone)]
pub(super) struct Names {
    inner: Arc<Inner>,
}

struct Inner {
    grant: NamesGrant,
    targets: Mutex<BTreeSet<String>>,
    /// Made where it is used: it belongs to a runtime.
    resolver: OnceCell<TokioResolver>,
}

impl Names {
    pub(super) fn new(grant: NamesGrant) -> Self {
        Self {
            inner: Arc::new(Inner {
                grant,
                targets: Mutex::default(),
                resolver: OnceCell::new(),
            }),
        }
    }

    async fn resolver(&self) -> Result<&TokioResolver, Error> {
        let server = self.inner.grant.server;
        let make = || async { resolver(server).map_err(|error| unavailable("", &error)) };
        self.inner.resolver.get_or_try_init(make).await
    }

    fn permit(&self, name: &str) -> Result<(), Error> {
        let name = plain(name);
        let is_named = self.inner.grant.names.iter().any(|allowed| {
            let allowed = plain(allowed);
            match allowed.strip_prefix('*') {
                Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
                None => name == allowed,
            }
        });
        let targets = &self.inner.targets;
        let is_target = || {
            let targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
            targets.contains(&name)
        };
        if is_named || is_target() {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "`{name}` is not among the names allowed"
        )))
    }
}

impl NamesHost for Host {
    async fn addresses(&mut self, name: String) -> Result<(Vec<String>, u32), Error> {
        let names = self.granted_names()?;
        names.permit(&name)?;
        let found = names.resolver().await?.lookup_ip(name.as_str()).await;
        let found = found.map_err(|error| refused(&name, &error))?;
        let addresses: BTreeSet<_> = found.iter().collect();
        let addresses = addresses.iter().map(ToString::to_string).collect();
        Ok((addresses, seconds_to(found.valid_until())))
    }

    async fn services(&mut self, name: String) -> Result<(Vec<Service>, u32), Error> {
        let names = self.granted_names()?;
        names.permit(&name)?;
        let resolver = names.resolver().await?;
        let found = resolver.lookup(name.as_str(), RecordType::SRV).await;
        let found = found.map_err(|error| refused(&name, &error))?;
        let services = services(&found);
        let mut targets = names.inner.targets.lock();
        let targets = targets.as_deref_mut();
        if let Ok(targets) = targets {
            if targets.len() + services.len() > MAX_TARGETS {
                targets.clear();
            }
            let hosts = services.iter().map(|service| plain(&service.host));
            targets.extend(hosts.take(MAX_TARGETS));
        }
        Ok((services, seconds_to(found.valid_until())))
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        Some(server) => {
            let mut udp = ConnectionConfig::udp();
            let mut tcp = ConnectionConfig::tcp();
            udp.port = server.port();
            tcp.port = server.port();
            let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio()?,
    };
    builder.options_mut().timeout = TIMEOUT;
    builder.build()
}

fn services(found: &Lookup) -> Vec<Service> {
    let records = found.answers().iter();
    let services = records.filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(Service {
            host: plain(&srv.target.to_utf8()),
            port: srv.port,
            priority: srv.priority,
            weight: srv.weight,
        }),
        _ => None,
    });
    services.collect()
}

/// A name without the dot at its end, in lower case.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn seconds_to(end: Instant) -> u32 {
    let left = end.saturating_duration_since(Instant::now());
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
}

fn refused(name: &str, error: &NetError) -> Error {
    if error.is_no_records_found() {
        Error::NotFound(format!("`{name}` has no such records"))
    } else {
        unavailable(name, error)
    }
}

fn unavailable(name: &str, error: &NetError) -> Error {
    Error::Unavailable(format!("`{name}` cannot be looked up: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &str, name: &str, is_permitted: bool) {
        let names = Names::new(NamesGrant {
            names: vec![allowed.to_owned()],
            server: None,
        });
        let permitted = names.permit(name);
        assert_eq!(permitted.is_ok(), is_permitted, "{permitted:?}");
    }

    #[test]
    fn only_the_names_allowed_are_looked_up() {
        check("engines.example", "Engines.example.", true);
        check("engines.example", "a.engines.example", false);
        check("*.example", "a.b.example", true);
        check("*.example", "example", false);
        check("*.example", "badexample", false);
    }
}
