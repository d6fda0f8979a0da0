//! The `[discovery]` table.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::duration;
use super::plugin::{Allow, parse_origin};
use super::section::Section;
use super::store::Access;
use super::tls::StoreTls;
use crate::model::key::check_key;
use crate::model::servers::ServersUrl;

/// Where classic Swarm keeps the nodes in a store.
const KV_PATH: &str = "docker/swarm/nodes";

/// Where the list of engines comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Discovery {
    /// Default: empty; it then has to be given on the command line.
    #[serde(serialize_with = "serialize_url")]
    pub url: Option<DiscoveryUrl>,
    /// How often the list is read again; at least one second. Default: 60s.
    #[serde(serialize_with = "duration::serialize")]
    pub heartbeat: Duration,
    /// How long a node stays that is not listed any more. Default: 10s.
    #[serde(serialize_with = "duration::serialize")]
    pub removal_delay: Duration,
    /// Handed to the plugin as its setting `options`, if there are any. Default: none.
    pub options: BTreeMap<String, String>,
}

/// `[scheme://]location`; without a scheme it is `nodes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryUrl {
    /// Name of a discovery plugin.
    pub scheme: String,
    /// The rest, which only that plugin understands.
    pub location: String,
}

/// The URL has a scheme but no location, or the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be of the form `[scheme://]location`")]
pub struct DiscoveryUrlError;

impl Discovery {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let discovery = Self {
            url: section.text("url", default.url, |text| match text {
                "" => Ok(None),
                text => text.parse().map(Some),
            }),
            heartbeat: section.text("heartbeat", default.heartbeat, duration::parse),
            removal_delay: section.text("removal-delay", default.removal_delay, duration::parse),
            options: section.get("options", default.options),
        };
        if discovery.heartbeat < Duration::from_secs(1) {
            section.refuse("heartbeat", "must be at least one second");
        }
        if let Some((key, reason)) = discovery.mistake() {
            section.refuse(key, reason);
        }
        discovery
    }
}

impl Discovery {
    /// What is wrong with the URL or its options beyond what only the plugin knows, as the key it
    /// is about and the reason.
    pub fn mistake(&self) -> Option<(&'static str, String)> {
        let url = self.url.as_ref()?;
        match url.scheme.as_str() {
            "etcd" | "consul" | "zk" => match url.to_string().parse::<ServersUrl>() {
                Err(error) => Some(("url", error.to_string())),
                Ok(servers) => {
                    let path = check_key(&servers.key(&self.kv_path()));
                    let path = path.err().map(|error| format!("kv.path: {error}"));
                    let access = self.access();
                    let access = access.mistake(servers.kind);
                    let access = access.map(|(_, reason)| reason.to_owned());
                    path.or(access).map(|reason| ("options", reason))
                }
            },
            "token" => {
                let files = ["token.certfile", "token.keyfile"].map(|key| self.option(key));
                let is_half = files[0].is_some() != files[1].is_some();
                let reason = "`token.certfile` and `token.keyfile` need each other";
                is_half.then(|| ("options", reason.to_owned()))
            }
            "dns" => {
                let server = self.option("dns.server")?;
                let error = parse_server(server).err()?;
                Some(("options", format!("dns.server: {error}")))
            }
            _ => None,
        }
    }

    /// What the plugin that the URL names may reach because it does.
    pub(super) fn grants(&self) -> Allow {
        let mut allow = Allow::default();
        let Some(url) = &self.url else {
            return allow;
        };
        let location = url.location.as_str();
        match url.scheme.as_str() {
            "file" => allow.files.push(PathBuf::from(location)),
            "token" => {
                let scheme = self.option("token.scheme").unwrap_or("https");
                let host = location.split('/').next().unwrap_or_default();
                allow
                    .http
                    .extend(parse_origin(&format!("{scheme}://{host}")));
            }
            "dns" => {
                let name = location.rsplit_once(':').map_or(location, |(name, _)| name);
                allow.names.push(name.to_owned());
            }
            _ => {
                allow.store = self.servers().map(|servers| ServersUrl {
                    path: servers.key(&self.kv_path()),
                    ..servers
                });
            }
        }
        allow
    }

    /// The name server of the option `dns.server`.
    pub fn name_server(&self) -> Option<SocketAddr> {
        parse_server(self.option("dns.server")?).ok()
    }

    /// The CAs of the option `token.cacertfile`.
    pub fn token_ca(&self) -> Option<PathBuf> {
        self.path("token.cacertfile")
    }

    /// What is shown to a server of tokens that asks for a certificate: the options
    /// `token.certfile` and `token.keyfile`.
    pub fn token_pair(&self) -> Option<(PathBuf, PathBuf)> {
        self.path("token.certfile").zip(self.path("token.keyfile"))
    }

    /// Where in a store the nodes are, below the URL's path.
    fn kv_path(&self) -> String {
        let path = self.option("kv.path").unwrap_or(KV_PATH);
        path.trim_matches('/').to_owned()
    }

    fn option(&self, key: &str) -> Option<&str> {
        let value = self.options.get(key)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.option(key).map(PathBuf::from)
    }

    /// The servers that keep the membership, if a store does.
    pub fn servers(&self) -> Option<ServersUrl> {
        self.url.as_ref()?.to_string().parse().ok()
    }

    /// How those servers know us: the options `kv.cacertfile`, `kv.certfile`, and `kv.keyfile`, of
    /// which all three are needed for TLS, as with classic Swarm; `kv.user` with `kv.passwordfile`;
    /// `kv.tokenfile`.
    pub fn access(&self) -> Access {
        let tls = match (
            self.path("kv.cacertfile"),
            self.path("kv.certfile"),
            self.path("kv.keyfile"),
        ) {
            (Some(ca), Some(cert), Some(key)) => Some(StoreTls {
                ca,
                pair: Some((cert, key)),
            }),
            _ => None,
        };
        Access {
            user: self.option("kv.user").map(str::to_owned),
            password_file: self.path("kv.passwordfile"),
            token_file: self.path("kv.tokenfile"),
            tls,
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            url: None,
            heartbeat: Duration::from_secs(60),
            removal_delay: Duration::from_secs(10),
            options: BTreeMap::new(),
        }
    }
}

impl DiscoveryUrl {
    /// Makes the path of a `file` URL relative to `base`; leaves other URLs alone.
    pub(crate) fn relative_to(mut self, base: &Path) -> Self {
        if self.scheme == "file" {
            self.location = base.join(&self.location).to_string_lossy().into_owned();
        }
        self
    }
}

impl FromStr for DiscoveryUrl {
    type Err = DiscoveryUrlError;

    fn from_str(text: &str) -> Result<Self, DiscoveryUrlError> {
        let (scheme, location) = text.split_once("://").unwrap_or(("nodes", text));
        if scheme.is_empty() || location.is_empty() {
            return Err(DiscoveryUrlError);
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            location: location.to_owned(),
        })
    }
}

impl fmt::Display for DiscoveryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.location)
    }
}

/// `host` or `host:port`; the port of name servers is 53.
fn parse_server(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| "must be an IP address, with or without a port")
}

fn serialize_url<S: Serializer>(url: &Option<DiscoveryUrl>, to: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => to.collect_str(url),
        None => to.serialize_str(""),
    }
}
