//! The `[plugin-host]` table.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::section::Section;
use super::size;

/// What all plugins share.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PluginHost {
    /// Where compiled plugins are kept. Default: `$XDG_CACHE_HOME/skep`, else `/var/cache/skep`
    /// for root, else `~/.cache/skep`.
    pub cache_dir: PathBuf,
    /// Memory of all plugins together. Default: 1GiB.
    #[serde(rename = "total-memory", serialize_with = "size::serialize")]
    pub total_memory_bytes: u64,
}

impl PluginHost {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        Self {
            cache_dir: section.get("cache-dir", default.cache_dir),
            total_memory_bytes: section.text(
                "total-memory",
                default.total_memory_bytes,
                size::parse,
            ),
        }
    }
}

impl Default for PluginHost {
    fn default() -> Self {
        Self {
            cache_dir: default_cache_dir(),
            total_memory_bytes: 1 << 30,
        }
    }
}

fn default_cache_dir() -> PathBuf {
    let env_dir = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    if let Some(dir) = env_dir("XDG_CACHE_HOME") {
        return dir.join("skep");
    }
    // A daemon started by an init system as root often has no HOME, or one it should not fill.
    match env_dir("HOME") {
        Some(home) if home != Path::new("/root") => home.join(".cache/skep"),
        _ => PathBuf::from("/var/cache/skep"),
    }
}
