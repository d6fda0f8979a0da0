//! Where an engine listens.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

/// The address of one Docker engine.
///
/// Written `host:port`, `[v6]:port`, or `unix:///path`; a `tcp://` in front is dropped. TLS is a
/// property of the connection, not of the address. Copies share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EngineAddr {
    /// A TCP endpoint. `host` has no brackets.
    Tcp {
        /// Host name or IP literal.
        host: Arc<str>,
        /// 1 to 65535.
        port: u16,
    },
    /// A Unix socket on the manager's machine.
    Unix(Arc<Path>),
}

/// Why a text is not an engine address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an engine address: {reason}")]
pub struct AddrError {
    text: String,
    reason: &'static str,
}

impl FromStr for EngineAddr {
    type Err = AddrError;

    /// Splits as Go's `SplitHostPort` does, with the port checked to be 1 to 65535.
    fn from_str(text: &str) -> Result<Self, AddrError> {
        let fail = |reason| AddrError {
            text: text.to_owned(),
            reason,
        };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(fail("a socket path must be absolute"));
            }
            return Ok(Self::Unix(Path::new(path).into()));
        }
        let bare = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = bare.rsplit_once(':').ok_or(fail("missing port"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or(fail("missing `]`"))?,
            None if host.contains(':') => return Err(fail("too many colons")),
            None => host,
        };
        if host.contains(['[', ']', '/', ' ']) {
            return Err(fail("the host has a character that no host has"));
        }
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fail("the port is not a number"));
        }
        match port.parse::<u16>() {
            Ok(0) | Err(_) => Err(fail("the port is not between 1 and 65535")),
            Ok(port) => Ok(Self::Tcp {
                host: host.into(),
                port,
            }),
        }
    }
}

impl fmt::Display for EngineAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_classic_swarm_accepted() {
        for text in [
            "1.1.1.1:1111",
            "hostname:1111",
            "host-name_42:1111",
            "1.1.1.1:65535",
            "[2001:db8:0:f101::3]:2375",
            "unix:///var/run/docker.sock",
            ":2375",
        ] {
            assert_eq!(text.parse::<EngineAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_classic_swarm_refused() {
        for text in [
            "1.1.1.1",
            "hostname",
            "1.1.1.1:",
            "hostname:",
            "1.1.1.1:111111",
            "http://1.1.1.1",
            "http://1.1.1.1:1",
            "http://hostname:1",
            ":1.1.1.1",
            ":hostname",
            ":1.1.1.1:1",
            ":hostname:1",
            ":-1",
            ":0",
            ":65536",
            ": 4000",
            ":m2",
            "2001:db8:0:f101::3:2375",
            "[2001:db8:0:f101::3]:3:2375",
            "unix://relative",
        ] {
            assert!(text.parse::<EngineAddr>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn drops_the_tcp_scheme() {
        let addr: EngineAddr = "tcp://10.0.0.1:2375".parse().unwrap();
        assert_eq!(addr.to_string(), "10.0.0.1:2375");
    }
}
