//! Runs the policies of the daemon: WebAssembly components in a sandbox.
//!
//! A [`Spec`] says where a plugin comes from, what it may use, and what happens when it fails. The
//! [`Loader`] turns specs into filters, strategies, discovery backends and volume drivers (the traits
//! of [`scheduler`](crate::scheduler), [`discovery`](crate::discovery) and
//! [`volume`](crate::volume)), whose callers never learn that WebAssembly exists:
//!
//! ```text
//! Spec -> artifact (bytes, digest, component) -> cache (machine code) -> instance -> supervisor
//! ```
//!
//! What a newcomer must know:
//!
//! - A plugin can be wrong, slow, hungry, or malicious. Each call has a deadline, each instance a
//!   quota, each answer is checked; whatever goes wrong costs the instance, never the daemon.
//! - An instance that trapped is dead. The supervisor makes a new one (some 30 µs, and 2 µs for
//!   each node), replays the request once, and backs off when that keeps happening.
//! - Filters and strategies keep a copy of the node table, brought up to date before each call.
//! - A scheduling call never waits: it runs on the thread that places containers.
//!
//! Not here: what a placement is (`scheduler`), what membership means (`cluster`), and the
//! plugins themselves (`plugins/`), which share nothing with this crate but the WIT files.

mod artifact;
mod bindings;
mod breaker;
mod builtin;
mod cache;
mod convert;
mod discovery;
mod fault;
mod files;
mod filter;
mod grants;
mod host;
mod http;
mod instance;
mod limits;
mod loader;
mod mirror;
mod mounting;
mod names;
mod quota;
mod rate;
mod records;
mod root;
mod runtime;
mod stores;
mod strategy;
mod supervisor;
mod volume;
mod waiting;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

pub use self::{
    cache::Origin,
    http::HttpGrant,
    limits::{DEFAULT_TOTAL_MEMORY_BYTES, Limits},
    loader::{Loaded, Loader, Plugins},
    mounting::MountsGrant,
    names::NamesGrant,
    root::{Directories, Quotas, RootGrant},
    stores::StoreGrant,
};

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Narrows the nodes a container may run on.
    Filter,
    /// Ranks the nodes that are left.
    Strategy,
    /// Tells which engines exist.
    Discovery,
    /// Makes volumes and mounts them.
    Volume,
}

/// One plugin as configured.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The name in the configuration, in logs, and in errors.
    pub name: String,
    /// What it is for; the component must export that interface.
    pub kind: Kind,
    /// Where the component is.
    pub source: Source,
    /// The SHA-256 digest its file must have.
    pub sha256: Option<[u8; 32]>,
    /// Handed to the plugin as JSON text; never looked into.
    pub settings: serde_json::Value,
    /// What a filter's failure means for the request.
    pub on_failure: OnFailure,
    /// The strategy asked instead of a strategy that failed.
    pub fallback: Option<Box<Spec>>,
    /// What it may use beyond the interfaces every plugin of its kind has.
    pub allow: Allow,
    /// How much it may take.
    pub limits: Limits,
}

/// Where a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the daemon itself, by the name of its crate: `filter-constraint`.
    Builtin(String),
    /// A file: a component, or a core module with component metadata. At most 32 MiB.
    File(PathBuf),
}

/// What a filter's failure means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The request is refused, with the filter's name.
    #[default]
    Deny,
    /// The request goes on as if the filter were not there; a warning is logged.
    Skip,
}

/// What one plugin may use. Everything is denied by default.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    /// Files a discovery backend may read, as absolute paths.
    pub files: Vec<PathBuf>,
    /// The part of a store that it may see and change.
    pub store: Option<StoreGrant>,
    /// Servers that it may ask.
    pub http: HttpGrant,
    /// Names that it may look up.
    pub names: NamesGrant,
    /// What a volume driver may do on its node.
    pub driver: Option<DriverGrant>,
}

/// What a volume driver may do on its node.
#[derive(Clone, Debug, Default)]
pub struct DriverGrant {
    /// Where its volumes are, and what may be mounted there.
    pub root: RootGrant,
    /// The directory for its records, which is made if need be.
    pub records: PathBuf,
    /// Files with secrets, by the names that the driver knows.
    pub secrets: BTreeMap<String, PathBuf>,
}

impl Spec {
    /// A plugin with nothing but defaults.
    pub fn new(name: impl Into<String>, kind: Kind, source: Source) -> Self {
        Self {
            name: name.into(),
            kind,
            source,
            sha256: None,
            settings: serde_json::Value::Object(serde_json::Map::new()),
            on_failure: OnFailure::default(),
            fallback: None,
            allow: Allow::default(),
            limits: Limits::for_kind(kind),
        }
    }
}

/// Why a plugin could not be loaded. Loading stops the start of the daemon.
#[derive(Debug, thiserror::Error)]
#[error("{kind} plugin `{name}` ({place})")]
pub struct LoadError {
    kind: Kind,
    name: String,
    place: String,
    #[source]
    reason: LoadFailure,
}

/// What was wrong with a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailure {
    /// The file could not be read.
    #[error("cannot be read")]
    Read(#[source] std::io::Error),
    /// The file is larger than 32 MiB.
    #[error("has {0} bytes, more than the {max} allowed", max = artifact::MAX_BYTES)]
    TooLarge(u64),
    /// No such built-in.
    #[error("is not built in; built in are {}", builtin::names().join(", "))]
    NoBuiltin,
    /// The file is not the one the configuration names.
    #[error("has the SHA-256 digest `{found}`, the configuration wants `{wanted}`")]
    Digest {
        /// The digest configured.
        wanted: String,
        /// The digest of the file.
        found: String,
    },
    /// Neither a component nor a core module.
    #[error("is not a WebAssembly component: {0}")]
    NotWasm(String),
    /// It exports or needs the wrong interfaces.
    #[error("{0}")]
    Interface(String),
    /// It could not be compiled or linked.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// It failed before its first call.
    #[error("failed to start: {0}")]
    Start(String),
    /// It refuses its settings.
    #[error("refuses its settings: {0}")]
    Settings(String),
    /// The WebAssembly runtime could not be set up.
    #[error("the WebAssembly runtime cannot be set up: {0}")]
    Runtime(String),
}

impl LoadError {
    fn new(spec: &Spec, reason: LoadFailure) -> Self {
        Self {
            kind: spec.kind,
            name: spec.name.clone(),
            place: spec.source.to_string(),
            reason,
        }
    }

    /// What was wrong.
    pub fn reason(&self) -> &LoadFailure {
        &self.reason
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Strategy => "strategy",
            Self::Discovery => "discovery",
            Self::Volume => "volume",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(path) => Path::display(path).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
