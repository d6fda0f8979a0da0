//! Builds the plugins of this repository and tells when a built one is stale.
//!
//! The components under `plugins/dist` and `tests/guests/dist` are committed, so that a Rust
//! toolchain without WebAssembly targets still builds and tests the daemon. Each carries, in a
//! custom section, a digest of everything it was built from ([`sources`]); [`stale`] compares it
//! with the tree. `cargo run --release -p skep-dist` builds the plugins again, with `--guests` the
//! misbehaving ones for the tests as well.
//!
//! Neither git nor timestamps are asked: both lie in a copied or shallow tree.

mod build;
mod section;
pub mod sources;

use std::fs;
use std::path::{Path, PathBuf};

pub use build::build;

/// A plugin that is built into the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// What the component is called, without `.wasm`: `filter-health`.
    pub name: String,
    /// The cargo package.
    pub package: String,
    /// The directory of the package, below the root.
    pub directory: PathBuf,
    /// What it is for.
    pub group: Group,
}

/// Which of the repository's plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Embedded in the daemon.
    FirstParty,
    /// Misbehaving ones, and the example, for tests.
    Guests,
}

impl Group {
    /// Where the components are kept, below the root.
    pub fn dist(self) -> &'static Path {
        Path::new(match self {
            Self::FirstParty => "plugins/dist",
            Self::Guests => "tests/guests/dist",
        })
    }
}

impl Plugin {
    /// The committed component.
    pub fn component(&self, root: &Path) -> PathBuf {
        root.join(self.group.dist())
            .join(format!("{}.wasm", self.name))
    }
}

/// Why components cannot be built or compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot use `{path}`")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A manifest or the lock file is not what cargo writes.
    #[error("cannot read `{path}`")]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: toml::de::Error,
    },
    /// A package is not in the lock file, or several match.
    #[error("package `{0}` is not in Cargo.lock exactly once")]
    Locked(String),
    /// Cargo failed; it has said why.
    #[error("cargo could not build {0}")]
    Cargo(String),
    /// The module that cargo built is no component.
    #[error("cannot make a component of `{path}`: {reason}")]
    Encode {
        /// The module.
        path: PathBuf,
        /// What the encoder said.
        reason: String,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Returns the plugins of the repository at `root`, by name.
///
/// # Errors
///
/// A directory or manifest cannot be read.
pub fn plugins(root: &Path) -> Result<Vec<Plugin>, Error> {
    let mut plugins = Vec::new();
    for (below, group) in [
        ("plugins", Group::FirstParty),
        ("plugins/examples", Group::Guests),
        ("tests/guests", Group::Guests),
    ] {
        let listed = root.join(below);
        for entry in fs::read_dir(&listed).map_err(Error::io(&listed))? {
            let path = entry.map_err(Error::io(&listed))?.path();
            let manifest_path = path.join("Cargo.toml");
            if !manifest_path.exists() {
                continue;
            }
            let manifest = sources::read_toml(&manifest_path)?;
            // What is no library for WebAssembly is no plugin: this crate itself.
            let crate_types = manifest.get("lib").and_then(|lib| lib.get("crate-type"));
            let is_plugin = crate_types
                .and_then(toml::Value::as_array)
                .is_some_and(|types| types.iter().any(|kind| kind.as_str() == Some("cdylib")));
            let package = manifest
                .get("package")
                .and_then(|package| package.get("name"));
            if let (true, Some(package), Some(directory)) = (
                is_plugin,
                package.and_then(toml::Value::as_str),
                path.file_name(),
            ) {
                plugins.push(Plugin {
                    name: name(package),
                    package: package.to_owned(),
                    directory: Path::new(below).join(directory),
                    group,
                });
            }
        }
    }
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(plugins)
}

/// Returns the components that are missing or were built from other sources than the tree holds,
/// as paths below `root`.
///
/// # Errors
///
/// The tree cannot be read.
pub fn stale(root: &Path) -> Result<Vec<String>, Error> {
    let mut stale = Vec::new();
    for plugin in plugins(root)? {
        let component = plugin.component(root);
        let recorded = match fs::read(&component) {
            Ok(bytes) => section::read(&bytes).map(<[u8]>::to_vec),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(Error::Io {
                    path: component,
                    source,
                });
            }
        };
        if recorded != Some(sources::digest(root, &plugin)?.into_bytes()) {
            stale.push(format!(
                "{}/{}.wasm",
                plugin.group.dist().display(),
                plugin.name
            ));
        }
    }
    Ok(stale)
}

/// `skep-filter-health` builds `filter-health`, `guest-wasi-filter` builds `wasi-filter`.
fn name(package: &str) -> String {
    let name = package
        .strip_prefix("skep-")
        .or_else(|| package.strip_prefix("guest-"));
    name.unwrap_or(package).to_owned()
}
