//! Addresses the API listens on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Where the API listens: `[tcp://]ip:port`, `:port` for all IPv4 interfaces, or `unix://path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `host:port`, ready for `TcpListener::bind`.
    Tcp(String),
    /// Path of the socket.
    Unix(PathBuf),
}

/// Why a text is not an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddrError {
    /// The scheme is neither tcp nor unix.
    #[error("unsupported protocol: \"{0}\"")]
    Protocol(String),
    /// The rest is not `ip:port`.
    #[error("invalid address to listen on `{0}`: it must be of the form ip:port or unix://path")]
    Address(String),
}

impl ListenAddr {
    /// Makes the path of a socket relative to `base`; leaves TCP addresses alone.
    pub(crate) fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(base.join(path)),
            tcp => tcp,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, ListenAddrError> {
        let error = || ListenAddrError::Address(text.to_owned());
        match text.split_once("://").unwrap_or(("tcp", text)) {
            ("unix", "") => Err(error()),
            ("unix", path) => Ok(Self::Unix(PathBuf::from(path))),
            ("tcp", address) => {
                let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
                port.parse::<u16>().map_err(|_| error())?;
                let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
                if bare_v6 || host.contains('/') {
                    return Err(error());
                }
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            (scheme, _) => Err(ListenAddrError::Protocol(scheme.to_owned())),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Serialize for ListenAddr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, shown) in [
            ("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375"),
            ("127.0.0.1:0", "tcp://127.0.0.1:0"),
            (":4000", "tcp://0.0.0.0:4000"),
            ("[::1]:4000", "tcp://[::1]:4000"),
            ("unix:///run/skep.sock", "unix:///run/skep.sock"),
        ] {
            let address: ListenAddr = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let error = "foo://bar".parse::<ListenAddr>().unwrap_err();
        assert_eq!(error.to_string(), "unsupported protocol: \"foo\"");
        for text in [
            "",
            "host",
            "host:x",
            "host:70000",
            "::1:80",
            "unix://",
            "tcp://h:1/x",
        ] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text}");
        }
    }
}
