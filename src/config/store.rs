//! The `[store]` table.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::duration;
use super::section::Section;
use crate::model::key::check_key;

/// Where the manager keeps what shall outlive it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Store {
    /// Default: `auto`.
    #[serde(serialize_with = "serialize_url")]
    pub url: StoreUrl,
    /// The key that everything is kept below. Default: `skep`.
    pub prefix: String,
    /// Whether containers are created while the store is away. Default: `refuse`.
    pub when_away: WhenAway,
    /// How long a node that is not heard of is remembered. Default: 720h.
    #[serde(serialize_with = "duration::serialize")]
    pub forget_after: Duration,
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
    /// Stores of this kind are planned.
    #[error("store `{0}` is not there yet; there are `auto`, `none`, and `embedded:///path`")]
    Planned(String),
    /// It is nothing we know.
    #[error("must be `auto`, `none`, or `embedded:///path`")]
    Unknown,
}

impl Store {
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        Self {
            url: section.text("url", default.url, |text| {
                text.parse::<StoreUrl>().map(|url| url.relative_to(base))
            }),
            prefix: section.text("prefix", default.prefix, |text| {
                check_key(text).map(|()| text.to_owned())
            }),
            when_away: section.get("when-away", default.when_away),
            forget_after: section.text("forget-after", default.forget_after, duration::parse),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::Auto,
            prefix: "skep".to_owned(),
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
            Some((scheme @ ("etcd" | "consul" | "zk"), _)) => {
                Err(StoreUrlError::Planned(scheme.to_owned()))
            }
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
        }
    }
}

/// The file that `auto` means: `$XDG_STATE_HOME/skep/store.redb`, else `/var/lib/skep/store.redb`
/// for root, else `~/.local/state/skep/store.redb`.
pub fn default_path() -> PathBuf {
    let env_dir = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let directory = match (env_dir("XDG_STATE_HOME"), env_dir("HOME")) {
        (Some(state), _) => state.join("skep"),
        // A daemon started by an init system as root often has no HOME, or one it should not fill.
        (None, Some(home)) if home != Path::new("/root") => home.join(".local/state/skep"),
        _ => PathBuf::from("/var/lib/skep"),
    };
    directory.join("store.redb")
}

fn serialize_url<S: Serializer>(url: &StoreUrl, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written_alike() {
        for text in ["auto", "none", "embedded:///var/lib/skep/a.redb"] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        for (text, part) in [
            ("", "must be"),
            ("embedded://", "must be"),
            ("redis://a", "must be"),
            ("etcd://a:2379", "`etcd` is not there yet"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
