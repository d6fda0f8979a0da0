//! The `[store]` table.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::duration;
use super::section::Section;
use super::tls::StoreTls;
use crate::model::key::check_key;
use crate::model::servers::{ServerKind, ServersUrl, ServersUrlError};

/// Where the manager keeps what shall outlive it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Store {
    /// Default: `auto`.
    #[serde(serialize_with = "serialize_url")]
    pub url: StoreUrl,
    /// The key that everything is kept below, after the URL's path. Default: `skep`.
    pub prefix: String,
    /// How servers know us, and we them.
    #[serde(flatten)]
    pub access: Access,
    /// Whether containers are created while the store is away. Default: `refuse`.
    pub when_away: WhenAway,
    /// How long a node that is not heard of is remembered. Default: 720h.
    #[serde(serialize_with = "duration::serialize")]
    pub forget_after: Duration,
}

/// How servers of a store know us, and we them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Access {
    /// Our name: etcd, ZooKeeper. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file with our password. Needed with `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The file with our token: Consul. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Default: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<StoreTls>,
}

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// The file at [`default_path`]; none if it cannot be had.
    Auto,
    /// None: nothing outlives the manager.
    None,
    /// A file on this machine.
    Embedded(PathBuf),
    /// Servers that several managers share.
    Servers(ServersUrl),
}

/// What happens to creates while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAway {
    /// They fail.
    Refuse,
    /// Their containers are recorded when the store is back.
    Continue,
}

/// Why a text is no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// It looks like servers, and names none.
    #[error(transparent)]
    Servers(#[from] ServersUrlError),
    /// It is nothing we know.
    #[error(
        "must be `auto`, `none`, `embedded:///path`, or etcd://, consul://, or zk:// with servers"
    )]
    Unknown,
}

impl Store {
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        let store = Self {
            url: section.text("url", default.url, |text| {
                text.parse::<StoreUrl>().map(|url| url.relative_to(base))
            }),
            prefix: section.text("prefix", default.prefix, |text| {
                check_key(text).map(|()| text.to_owned())
            }),
            access: Access::read(section, base),
            when_away: section.get("when-away", default.when_away),
            forget_after: section.text("forget-after", default.forget_after, duration::parse),
        };
        match &store.url {
            StoreUrl::Servers(url) => {
                if let Some((key, reason)) = store.access.mistake(url.kind) {
                    section.refuse(key, reason);
                }
            }
            _ if store.access != Access::default() => {
                section.refuse("url", "credentials and TLS are for stores that are servers");
            }
            _ => {}
        }
        store
    }
}

impl Access {
    fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let path = |path: Option<PathBuf>| path.map(|path| base.join(path));
        Self {
            user: section.get("user", None),
            password_file: path(section.get("password-file", None)),
            token_file: path(section.get("token-file", None)),
            tls: section
                .has("tls")
                .then(|| section.table("tls", |tls| StoreTls::read(tls, base)))
                .flatten(),
        }
    }

    /// What does not go together, as the key it is about and the reason.
    pub fn mistake(&self, kind: ServerKind) -> Option<(&'static str, &'static str)> {
        let has_user = self.user.is_some() || self.password_file.is_some();
        if has_user && kind == ServerKind::Consul {
            return Some(("user", "Consul knows tokens, not users: set token-file"));
        }
        if self.token_file.is_some() && kind != ServerKind::Consul {
            return Some((
                "token-file",
                "only Consul knows tokens: set user and password-file",
            ));
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Some(("user", "`user` and `password-file` need each other"));
        }
        None
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::Auto,
            prefix: "skep".to_owned(),
            access: Access::default(),
            when_away: WhenAway::Refuse,
            forget_after: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl StoreUrl {
    /// Makes the path of a file relative to `base`.
    pub(crate) fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Embedded(path) => Self::Embedded(base.join(path)),
            other => other,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        match text.split_once("://") {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "none" => Ok(Self::None),
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            Some(("etcd" | "consul" | "zk", _)) => Ok(Self::Servers(text.parse()?)),
            _ => Err(StoreUrlError::Unknown),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Embedded(path) => write!(f, "embedded://{}", path.display()),
            Self::Servers(url) => url.fmt(f),
        }
    }
}

/// The file that `auto` means.
pub fn default_path() -> PathBuf {
    default_directory().join("store.redb")
}

/// Where this program keeps its files: `$XDG_STATE_HOME/skep`, else `/var/lib/skep` for root, else
/// `~/.local/state/skep`.
pub fn default_directory() -> PathBuf {
    let env_dir = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    match (env_dir("XDG_STATE_HOME"), env_dir("HOME")) {
        (Some(state), _) => state.join("skep"),
        // A daemon started by an init system as root often has no HOME, or one it should not fill.
        (None, Some(home)) if home != Path::new("/root") => home.join(".local/state/skep"),
        _ => PathBuf::from("/var/lib/skep"),
    }
}

fn serialize_url<S: Serializer>(url: &StoreUrl, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written_alike() {
        for text in [
            "auto",
            "none",
            "embedded:///var/lib/skep/a.redb",
            "etcd://a:2379,b:2379/ops",
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        for (text, part) in [
            ("", "must be"),
            ("embedded://", "must be"),
            ("redis://a", "must be"),
            ("etcd://", "is no server"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
