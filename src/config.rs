//! The configuration: `config.toml` made into plain typed values.
//!
//! One file per table. Each table's type states its defaults, reads itself from a section of
//! the file and serializes itself for `--dump-config`. All mistakes of a file are collected and
//! reported together; nothing is ever ignored.
//!
//! Paths in the file are relative to the file. Whether they exist is not asked here, see
//! [`Config::missing_files`]. The command line is applied on top by `cli`.

pub mod advertise;
pub mod api;
pub mod discovery;
pub mod duration;
pub mod engine;
pub mod listen;
pub mod log;
pub mod mistakes;
pub mod plugin;
pub mod plugin_host;
pub mod rebalance;
pub mod registries;
pub mod replication;
pub mod reschedule;
pub mod scheduler;
mod section;
pub mod size;
pub mod store;
pub mod tls;
pub mod volume;
pub mod volumes;
pub mod workload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use toml::de::DeTable;

use crate::config::api::Api;
use crate::config::discovery::Discovery;
use crate::config::engine::Engine;
use crate::config::listen::ListenAddr;
use crate::config::log::Log;
use crate::config::mistakes::{Mistake, Mistakes, closest};
use crate::config::plugin::{Plugin, PluginKind, Source};
use crate::config::plugin_host::PluginHost;
use crate::config::rebalance::Rebalance;
use crate::config::registries::Credentials;
use crate::config::replication::Replication;
use crate::config::reschedule::Reschedule;
use crate::config::scheduler::Scheduler;
use crate::config::section::Section;
use crate::config::store::{Access, Store, StoreUrl};
use crate::config::volume::{Agent, VolumeDriver};
use crate::config::volumes::Volumes;
use crate::model::servers::ServersUrl;

/// Everything an operator can choose.
///
/// [`Default`] is the configuration of an empty file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// Where the API listens; never empty. Default: `tcp://127.0.0.1:2375`.
    pub listen: Vec<ListenAddr>,
    /// How long requests may go on after SIGTERM. Default: 10s.
    #[serde(serialize_with = "duration::serialize")]
    pub grace_period: Duration,
    /// Logging.
    pub log: Log,
    /// The Docker API.
    pub api: Api,
    /// Connections to engines.
    pub engine: Engine,
    /// Placement.
    pub scheduler: Scheduler,
    /// Where engines come from.
    pub discovery: Discovery,
    /// What outlives the manager.
    pub store: Store,
    /// Several managers, of which one leads.
    pub replication: Replication,
    /// What is done about nodes that fail.
    pub reschedule: Reschedule,
    /// Moving containers to better nodes by itself.
    pub rebalance: Rebalance,
    /// Volumes that one node alone has.
    pub volumes: Volumes,
    /// What all plugins share.
    pub plugin_host: PluginHost,
    /// Credentials for registries, by `host` or `host:port`.
    pub registries: BTreeMap<String, Credentials>,
    /// What `skep join` does on its node.
    pub agent: Agent,
    /// The volume drivers of the node's engine, by name.
    pub volume_drivers: BTreeMap<String, VolumeDriver>,
    // Invariant: holds every built-in, and every name that `scheduler` and `discovery` mention.
    plugins: BTreeMap<String, Plugin>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file can be read and is wrong; one line per mistake.
    #[error("{}", list(.path, .mistakes))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// In the order of the file.
        mistakes: Vec<Mistake>,
    },
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; it carries every mistake, not the first one alone.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        load(path, Self::parse)
    }

    /// Parses and checks the text of a file; its relative paths start at `base`.
    ///
    /// # Errors
    ///
    /// All mistakes, in the order of the file. A syntax error hides all others.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<Mistake>> {
        let root = DeTable::parse(text).map_err(|error| vec![Mistake::syntax(text, &error)])?;
        let root = root.into_inner();
        let mut mistakes = Mistakes::new(text, &root);
        let mut section = Section::new(String::new(), root, &mut mistakes);
        let config = Self::read(&mut section, base);
        section.finish();
        config.check_names(&mut mistakes);
        match mistakes.into_sorted() {
            found if found.is_empty() => Ok(config),
            found => Err(found),
        }
    }

    fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        let listen = section.texts("listen", default.listen, |text| {
            text.parse::<ListenAddr>()
                .map(|address| address.relative_to(base))
        });
        if listen.is_empty() {
            section.refuse("listen", "must name at least one address");
        }
        let mut discovery = section.table("discovery", Discovery::read);
        discovery.url = discovery.url.map(|url| url.relative_to(base));
        let mut plugin_host = section.table("plugin-host", PluginHost::read);
        plugin_host.cache_dir = base.join(plugin_host.cache_dir);
        Self {
            listen,
            grace_period: section.text("grace-period", default.grace_period, duration::parse),
            log: section.table("log", Log::read),
            api: section.table("api", |api| Api::read(api, base)),
            engine: section.table("engine", |engine| Engine::read(engine, base)),
            scheduler: section.table("scheduler", Scheduler::read),
            discovery,
            store: section.table("store", |store| Store::read(store, base)),
            replication: section.table("replication", Replication::read),
            reschedule: section.table("reschedule", Reschedule::read),
            rebalance: section.table("rebalance", Rebalance::read),
            volumes: section.table("volumes", Volumes::read),
            plugin_host,
            registries: section.table("registries", |registries| {
                Credentials::read_all(registries, base)
            }),
            volume_drivers: section.table("volume-drivers", |drivers| {
                VolumeDriver::read_all(drivers, base)
            }),
            agent: section.table("agent", |agent| Agent::read(agent, base)),
            plugins: section.table("plugins", |plugins| Plugin::read_all(plugins, base)),
        }
    }

    /// Returns the plugin called `name`, a built-in or one with a table.
    pub fn plugin(&self, name: &str) -> Option<&Plugin> {
        self.plugins.get(name)
    }

    /// Returns whether there is a plugin called `name` of this kind.
    pub fn has_plugin(&self, name: &str, kind: PluginKind) -> bool {
        self.plugin(name).is_some_and(|plugin| plugin.kind == kind)
    }

    /// Returns the discovery plugin with its settings complete, or `None` without a URL.
    ///
    /// Its setting `location` is what follows the scheme, and `options` the discovery options if
    /// there are any. Beside what its own `allow` says the plugin may reach what the URL names.
    pub fn discovery_plugin(&self) -> Option<Plugin> {
        let url = self.discovery.url.as_ref()?;
        let mut plugin = self.plugin(&url.scheme)?.clone();
        plugin
            .settings
            .insert("location".to_owned(), url.location.clone().into());
        if !self.discovery.options.is_empty() {
            let options: toml::Table = self
                .discovery
                .options
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into()))
                .collect();
            plugin.settings.insert("options".to_owned(), options.into());
        }
        let grants = self.discovery.grants();
        plugin.allow.files.extend(grants.files);
        plugin.allow.store = grants.store.or(plugin.allow.store);
        plugin.allow.http.extend(grants.http);
        plugin.allow.names.extend(grants.names);
        Some(plugin)
    }

    /// Returns the store in use, and how its servers know us: that of `[store]`, or with
    /// replication, if nothing is said there, that of discovery.
    pub fn effective_store(&self) -> (StoreUrl, Access) {
        let is_said = self.store.url != StoreUrl::Auto;
        match self.discovery.servers() {
            Some(url) if self.replication.enabled && !is_said => {
                (StoreUrl::Servers(url), self.discovery.access())
            }
            _ => (self.store.url.clone(), self.store.access.clone()),
        }
    }

    /// Returns the store that a node's agent shares with the managers, and how its servers know us:
    /// that of `[store]` if it has servers, else that of discovery.
    pub fn agent_store(&self) -> Option<(ServersUrl, Access)> {
        match &self.store.url {
            StoreUrl::Servers(url) => Some((url.clone(), self.store.access.clone())),
            _ => Some((self.discovery.servers()?, self.discovery.access())),
        }
    }

    /// Returns how long a node may be out of reach before it counts as failed. If nothing is said,
    /// as long as classic Swarm needed to find out: all its tries, one after the other.
    pub fn effective_grace(&self) -> Duration {
        let tries = self.engine.failure_retry.get();
        let usual = self.engine.refresh_min_interval.saturating_mul(tries);
        self.reschedule.grace.unwrap_or(usual)
    }

    /// Returns the keys whose values differ, without those of discovery and of its plugin.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (own, others) = (self.flat(), other.flat());
        let mut keys: Vec<&String> = own.keys().chain(others.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let plugins: Vec<String> = [self, other]
            .iter()
            .filter_map(|config| config.discovery.url.as_ref())
            .map(|url| format!("plugins.{}.", url.scheme))
            .collect();
        let concerns_discovery = |key: &str| {
            key.starts_with("discovery.") || plugins.iter().any(|plugin| key.starts_with(plugin))
        };
        keys.into_iter()
            .filter(|key| own.get(*key) != others.get(*key) && !concerns_discovery(key))
            .cloned()
            .collect()
    }

    /// Every value by its dotted key.
    fn flat(&self) -> BTreeMap<String, toml::Value> {
        fn walk(path: &str, table: toml::Table, flat: &mut BTreeMap<String, toml::Value>) {
            for (key, value) in table {
                let path = format!("{path}{key}");
                match value {
                    toml::Value::Table(table) => walk(&format!("{path}."), table, flat),
                    value => {
                        flat.insert(path, value);
                    }
                }
            }
        }
        let mut flat = BTreeMap::new();
        // Only paths that are not UTF-8 cannot be dumped; the daemon does not start with them.
        if let Ok(table) = toml::Table::try_from(self) {
            walk("", table, &mut flat);
        }
        flat
    }

    /// Returns one sentence for each file that the configuration names and that does not exist.
    pub fn missing_files(&self) -> Vec<String> {
        let registries = self.registries.iter().filter_map(|(host, credentials)| {
            let (key, path) = credentials.file()?;
            Some((format!("registries.{host}.{key}"), path))
        });
        let files = self.tls_files().into_iter().chain(registries);
        let missing = files.filter(|(_, path)| !path.is_file());
        let missing = missing.map(|(key, path)| format!("{key}: no file `{}`", path.display()));
        self.missing_plugins().into_iter().chain(missing).collect()
    }

    /// The files of TLS, each with its key.
    fn tls_files(&self) -> Vec<(String, &Path)> {
        let mut named: Vec<(String, &str, Option<&PathBuf>)> = Vec::new();
        if let Some(tls) = &self.api.tls {
            let table = || "api.tls".to_owned();
            named.push((table(), "cert", Some(&tls.cert)));
            named.push((table(), "key", Some(&tls.key)));
            named.push((table(), "client-ca", tls.client_ca.as_ref()));
        }
        let all = self.engine.tls.iter();
        let all = all.map(|tls| ("engine.tls".to_owned(), tls));
        let single = self.engine.tls_for.iter();
        let single = single.map(|(addr, tls)| (format!("engine.tls-for.\"{addr}\""), tls));
        for (table, tls) in all.chain(single) {
            named.push((table.clone(), "ca", tls.ca.as_ref()));
            named.push((table.clone(), "cert", tls.cert.as_ref()));
            named.push((table, "key", tls.key.as_ref()));
        }
        let files = named.into_iter();
        files
            .filter_map(|(table, key, path)| Some((format!("{table}.{key}"), path?.as_path())))
            .collect()
    }

    fn missing_plugins(&self) -> Vec<String> {
        let plugins = self.plugins.values();
        let plugins = plugins.map(|plugin| ("plugins", &plugin.name, &plugin.source));
        let drivers = self.volume_drivers.values();
        let drivers = drivers.map(|driver| ("volume-drivers", &driver.name, &driver.source));
        let missing = plugins.chain(drivers);
        missing
            .filter_map(|(table, name, source)| match source {
                Source::File(path) if !path.is_file() => {
                    Some(format!("{table}.{name}.path: no file `{}`", path.display()))
                }
                _ => None,
            })
            .collect()
    }

    /// Returns the configuration as a file with every key, which [`Config::parse`] reads back.
    ///
    /// # Errors
    ///
    /// If a path is not UTF-8.
    pub fn dump(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Checks that every name of a plugin has a plugin of the right kind behind it.
    fn check_names(&self, mistakes: &mut Mistakes) {
        let mut check = |path: &str, name: &str, kind| {
            if !self.has_plugin(name, kind) {
                mistakes.add(path, self.no_such_plugin(name, kind));
            }
        };
        check(
            "scheduler.strategy",
            &self.scheduler.strategy,
            PluginKind::Strategy,
        );
        for (index, name) in self.scheduler.filters.iter().enumerate() {
            check(
                &format!("scheduler.filters[{index}]"),
                name,
                PluginKind::Filter,
            );
        }
        if let Some(url) = &self.discovery.url {
            check("discovery.url", &url.scheme, PluginKind::Discovery);
        }
        for plugin in self.plugins.values() {
            if let Some(fallback) = &plugin.fallback {
                let path = format!("plugins.{}.fallback", plugin.name);
                if *fallback == plugin.name {
                    mistakes.add(&path, "a strategy cannot be its own fallback");
                } else if !self.has_plugin(fallback, PluginKind::Strategy) {
                    mistakes.add(&path, self.no_such_plugin(fallback, PluginKind::Strategy));
                }
            }
        }
    }

    fn no_such_plugin(&self, name: &str, kind: PluginKind) -> String {
        let kind_name = kind.as_str();
        if let Some(plugin) = self.plugin(name) {
            let actual = plugin.kind.as_str();
            return format!("plugin `{name}` is a {actual}, not a {kind_name}");
        }
        let names = self
            .plugins
            .values()
            .filter(|plugin| plugin.kind == kind)
            .map(|plugin| plugin.name.as_str());
        match closest(name, names) {
            Some(guess) => format!("no {kind_name} plugin `{name}`, did you mean `{guess}`?"),
            None => format!("no {kind_name} plugin `{name}`; define it in [plugins.{name}]"),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp("127.0.0.1:2375".to_owned())],
            grace_period: Duration::from_secs(10),
            log: Log::default(),
            api: Api::default(),
            engine: Engine::default(),
            scheduler: Scheduler::default(),
            discovery: Discovery::default(),
            store: Store::default(),
            replication: Replication::default(),
            reschedule: Reschedule::default(),
            rebalance: Rebalance::default(),
            volumes: Volumes::default(),
            plugin_host: PluginHost::default(),
            registries: BTreeMap::new(),
            agent: Agent::default(),
            volume_drivers: BTreeMap::new(),
            plugins: plugin::builtins(),
        }
    }
}

/// Reads the file at `path`; its relative paths start where it is.
fn load<T>(
    path: &Path,
    parse: impl FnOnce(&str, &Path) -> Result<T, Vec<Mistake>>,
) -> Result<T, ConfigError> {
    let read_error = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    let absolute = std::path::absolute(path).map_err(read_error)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    parse(&text, base).map_err(|mistakes| ConfigError::Mistakes {
        path: path.to_owned(),
        mistakes,
    })
}

fn list(path: &Path, mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes
        .iter()
        .map(|mistake| format!("{}: {mistake}", path.display()))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests;
