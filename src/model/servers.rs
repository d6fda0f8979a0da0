//! Names of stores that are servers: `etcd://host,host:port/path`.

use std::{fmt, str::FromStr};

use super::key::{KeyError, check_key};

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// etcd, version 3.
    Etcd,
    /// Consul.
    Consul,
    /// ZooKeeper.
    ZooKeeper,
}

/// The servers of a store, and where in it to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersUrl {
    /// What they are.
    pub kind: ServerKind,
    /// `host:port` each, one at least.
    pub endpoints: Vec<String>,
    /// The key that everything is below; empty for the top.
    pub path: String,
}

/// Why a text names no servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum ServersUrlError {
    #[error("there are the stores etcd://, consul://, and zk://, not `{0}`")]
    Kind(String),
    #[error("`{0}` is no server: it must be of the form host or host:port")]
    Endpoint(String),
    #[error(
        "credentials are not part of the URL, they come from files: see user, password-file, and token-file"
    )]
    Credentials,
    #[error(transparent)]
    Path(#[from] KeyError),
}

impl ServerKind {
    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::ZooKeeper => "zk",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Etcd => 2379,
            Self::Consul => 8500,
            Self::ZooKeeper => 2181,
        }
    }
}

impl ServersUrl {
    /// The key `key` below this URL's path.
    pub fn key(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}/{key}"),
        }
    }
}

impl FromStr for ServersUrl {
    type Err = ServersUrlError;

    fn from_str(text: &str) -> Result<Self, ServersUrlError> {
        let (scheme, location) = text.split_once("://").unwrap_or((text, ""));
        let kind = [ServerKind::Etcd, ServerKind::Consul, ServerKind::ZooKeeper]
            .into_iter()
            .find(|kind| kind.scheme() == scheme)
            .ok_or_else(|| ServersUrlError::Kind(scheme.to_owned()))?;
        let (hosts, path) = location.split_once('/').unwrap_or((location, ""));
        if hosts.contains('@') {
            return Err(ServersUrlError::Credentials);
        }
        let endpoints = hosts
            .split(',')
            .map(|host| endpoint(host.trim(), kind.default_port()))
            .collect::<Result<_, _>>()?;
        let path = path.trim_matches('/');
        if !path.is_empty() {
            check_key(path)?;
        }
        Ok(Self {
            kind,
            endpoints,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for ServersUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.endpoints.join(","))?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

fn endpoint(text: &str, default_port: u16) -> Result<String, ServersUrlError> {
    let error = || ServersUrlError::Endpoint(text.to_owned());
    let is_bare_v6 = text.starts_with('[') && text.ends_with(']');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_bare_v6 => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            (host, port.ok_or_else(error)?)
        }
        _ => (text, default_port),
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_host = match inner {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            !host.is_empty() && host.chars().all(is_plain)
        }
    };
    if is_host {
        Ok(format!("{host}:{port}"))
    } else {
        Err(error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers_and_a_path() {
        for (text, full) in [
            ("etcd://a", "etcd://a:2379"),
            ("consul://a:1", "consul://a:1"),
            ("zk://a,b:7/x/y/", "zk://a:2181,b:7/x/y"),
            ("etcd://[::1],[::1]:3", "etcd://[::1]:2379,[::1]:3"),
        ] {
            assert_eq!(text.parse::<ServersUrl>().unwrap().to_string(), full);
        }
        let url: ServersUrl = "etcd://a/x".parse().unwrap();
        assert_eq!(url.key("y/z"), "x/y/z");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("redis://a", "`redis`"),
            ("etcd://", "`` is no server"),
            ("etcd://a,,b", "`` is no server"),
            ("etcd://a:0", "`a:0`"),
            ("etcd://a:b", "`a:b`"),
            ("etcd://::1", "`::1`"),
            ("etcd://u:p@a", "files"),
            ("etcd://a/x//y", "empty segment"),
            ("etcd://a b", "`a b`"),
        ] {
            let error = text.parse::<ServersUrl>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
