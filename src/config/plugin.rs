//! The `[plugins.NAME]` tables, and the plugins that need no table.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::section::Section;
use super::{duration, size};
use crate::model::servers::{ServersUrl, ServersUrlError};

/// Every plugin that is embedded in the binary: its name, its kind, and its component's name.
const BUILTINS: [(&str, PluginKind, &str); 17] = [
    ("health", PluginKind::Filter, "health"),
    ("port", PluginKind::Filter, "port"),
    ("containerslots", PluginKind::Filter, "containerslots"),
    ("dependency", PluginKind::Filter, "dependency"),
    ("affinity", PluginKind::Filter, "affinity"),
    ("constraint", PluginKind::Filter, "constraint"),
    ("whitelist", PluginKind::Filter, "whitelist"),
    ("spread", PluginKind::Strategy, "spread"),
    ("binpack", PluginKind::Strategy, "binpack"),
    ("random", PluginKind::Strategy, "random"),
    ("nodes", PluginKind::Discovery, "nodes"),
    ("file", PluginKind::Discovery, "file"),
    ("etcd", PluginKind::Discovery, "kv"),
    ("consul", PluginKind::Discovery, "kv"),
    ("zk", PluginKind::Discovery, "kv"),
    ("token", PluginKind::Discovery, "token"),
    ("dns", PluginKind::Discovery, "dns"),
];

/// One WASM component, its settings and what it may do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plugin {
    /// NAME of the table: what `[scheduler]`, `[discovery]`, logs and errors call it.
    #[serde(skip)]
    pub name: String,
    /// Default: that of the built-in called NAME; required for any other name.
    pub kind: PluginKind,
    /// Key `path`, relative to the config file. Default: the built-in called NAME.
    #[serde(
        rename = "path",
        skip_serializing_if = "Source::is_builtin",
        serialize_with = "serialize_path"
    )]
    pub source: Source,
    /// Digest the component file must have, 64 lowercase hex digits. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Always set for filters, never for another kind. Default: `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// For strategies: the strategy that ranks while this one is out. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Handed to the plugin as JSON; Skep never looks inside. Default: empty.
    pub settings: toml::Table,
    /// What the plugin may reach. Default: nothing.
    pub allow: Allow,
    /// What the plugin may use up.
    pub limits: Limits,
}

/// What a plugin decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginKind {
    /// Narrows the nodes a container may run on.
    Filter,
    /// Ranks the nodes that are left.
    Strategy,
    /// Says which engines exist.
    Discovery,
    /// Makes volumes and mounts them.
    Volume,
}

/// Where a component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Embedded in the binary under this name.
    Builtin(&'static str),
    /// A file of its own.
    File(PathBuf),
}

/// What happens to a request while a filter is out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The request is refused and the error names the plugin.
    #[default]
    Deny,
    /// The filter is left out of the decision.
    Skip,
}

/// What a plugin may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allow {
    /// Absolute paths of files it may read.
    pub files: Vec<PathBuf>,
    /// The part of a store that it may see and change: everything below the URL's path.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_servers"
    )]
    pub store: Option<ServersUrl>,
    /// Servers that it may ask, as `https://host:port`.
    pub http: Vec<String>,
    /// Names that it may look up, as `name` or `*.domain`.
    pub names: Vec<String>,
}

/// What a plugin may use up. The defaults depend on its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// Longest one call may compute. Default: 100ms; discovery and volumes 1s.
    #[serde(serialize_with = "duration::serialize")]
    pub call: Duration,
    /// Longest time to describe and configure itself. Default: 5s; discovery and volumes 15s.
    #[serde(serialize_with = "duration::serialize")]
    pub startup: Duration,
    /// Largest linear memory. Default: 128MiB; discovery and volumes 64MiB.
    #[serde(rename = "memory", serialize_with = "size::serialize")]
    pub memory_bytes: u64,
    /// Most bytes one call may return. Default: 8MiB; discovery and volumes 16MiB.
    #[serde(rename = "output", serialize_with = "size::serialize")]
    pub output_bytes: u64,
    /// Most linear memories. Default: 8.
    pub memories: NonZeroU32,
    /// Most tables. Default: 64.
    pub tables: NonZeroU32,
    /// Most entries of one table. Default: 100000.
    pub table_elements: NonZeroU32,
    /// Most core instances within the component. Default: 200.
    pub instances: NonZeroU32,
    /// Log lines let through per second; the rest is counted. Default: 100.
    pub log_lines_per_second: NonZeroU32,
}

impl Plugin {
    /// Reads all tables of `[plugins]`; relative paths start at `base`.
    ///
    /// Built-ins without a table are in the result as well, with their defaults.
    pub(super) fn read_all(section: &mut Section<'_, '_>, base: &Path) -> BTreeMap<String, Self> {
        let mut plugins = builtins();
        for name in section.remaining_keys() {
            let read = section.table(&name, |table| Self::read(&name, table, base));
            if let Some(plugin) = read {
                plugins.insert(name, plugin);
            }
        }
        plugins
    }

    fn read(name: &str, section: &mut Section<'_, '_>, base: &Path) -> Option<Self> {
        let builtin = BUILTINS.iter().find(|(builtin, ..)| *builtin == name);
        let has_kind = section.has("kind");
        let kind_in_file = section.get::<Option<PluginKind>>("kind", None);
        match (builtin, kind_in_file) {
            (Some((_, kind, _)), Some(other)) if other != *kind => {
                section.refuse("kind", format!("`{name}` is a built-in {}", kind.as_str()));
            }
            (None, None) if !has_kind => {
                section.refuse(
                    "kind",
                    "missing, and the name is not that of a built-in plugin",
                );
            }
            (_, Some(PluginKind::Volume)) => {
                section.refuse(
                    "kind",
                    format!("a volume driver belongs into [volume-drivers.{name}]"),
                );
            }
            _ => {}
        }
        // The other keys are read in any case: their mistakes belong in the same report.
        let kind = builtin
            .map(|(_, kind, _)| *kind)
            .or(kind_in_file)
            .unwrap_or(PluginKind::Filter);

        let has_path = section.has("path");
        let path = section.get::<Option<PathBuf>>("path", None);
        let source = match (path, builtin) {
            (Some(path), _) => Some(Source::File(base.join(path))),
            (None, Some((.., component))) => Some(Source::Builtin(component)),
            (None, None) => {
                if !has_path {
                    section.refuse(
                        "path",
                        "missing, and the name is not that of a built-in plugin",
                    );
                }
                None
            }
        };
        let sha256 = section.text("sha256", None, |text| parse_sha256(text).map(Some));
        let on_failure = section.get::<Option<OnFailure>>("on-failure", None);
        if on_failure.is_some() && kind != PluginKind::Filter {
            section.refuse("on-failure", "only filters have it");
        }
        let fallback = section.get::<Option<String>>("fallback", None);
        if fallback.is_some() && kind != PluginKind::Strategy {
            section.refuse("fallback", "only strategies have it");
        }
        let settings = section.get("settings", toml::Table::new());
        let allow = section.table("allow", |allow| Allow::read(allow, base));
        let limits = section.table("limits", |limits| Limits::read(limits, kind));
        Some(Self {
            name: name.to_owned(),
            kind,
            source: source?,
            sha256,
            on_failure: (kind == PluginKind::Filter).then(|| on_failure.unwrap_or_default()),
            fallback,
            settings,
            allow,
            limits,
        })
    }

    /// Returns the settings as the JSON object that the plugin's `configure` takes.
    ///
    /// Dates become text, since JSON has none, and so do numbers that are not finite.
    pub fn settings_json(&self) -> serde_json::Value {
        table_to_json(&self.settings)
    }
}

impl PluginKind {
    /// Returns the word for the kind in `config.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Strategy => "strategy",
            Self::Discovery => "discovery",
            Self::Volume => "volume",
        }
    }
}

impl Source {
    fn is_builtin(&self) -> bool {
        matches!(self, Self::Builtin(_))
    }
}

impl Allow {
    fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let files = section.get("files", Vec::<PathBuf>::new());
        let store = section.text("store", None, |text| {
            let url: ServersUrl = text
                .parse()
                .map_err(|error: ServersUrlError| error.to_string())?;
            match url.path.as_str() {
                "" => Err("must have a path: what is below it is what the plugin gets".to_owned()),
                _ => Ok(Some(url)),
            }
        });
        Self {
            files: files.into_iter().map(|file| base.join(file)).collect(),
            store,
            http: section.texts("http", Vec::new(), parse_origin),
            names: section.get("names", Vec::new()),
        }
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_, '_>, kind: PluginKind) -> Self {
        let default = Self::of_kind(kind);
        Self {
            call: section.duration("call", default.call),
            startup: section.duration("startup", default.startup),
            memory_bytes: section.text("memory", default.memory_bytes, size::parse),
            output_bytes: section.text("output", default.output_bytes, size::parse),
            memories: section.get("memories", default.memories),
            tables: section.get("tables", default.tables),
            table_elements: section.get("table-elements", default.table_elements),
            instances: section.get("instances", default.instances),
            log_lines_per_second: section.get("log-lines-per-second", default.log_lines_per_second),
        }
    }

    /// Returns the default limits of a plugin of this kind.
    pub fn of_kind(kind: PluginKind) -> Self {
        // Scheduling plugins answer while a client waits, the others wait for a network.
        let schedules = matches!(kind, PluginKind::Filter | PluginKind::Strategy);
        Self {
            call: Duration::from_millis(if schedules { 100 } else { 1_000 }),
            startup: Duration::from_secs(if schedules { 5 } else { 15 }),
            memory_bytes: if schedules { 128 << 20 } else { 64 << 20 },
            output_bytes: if schedules { 8 << 20 } else { 16 << 20 },
            memories: const { NonZeroU32::new(8).unwrap() },
            tables: const { NonZeroU32::new(64).unwrap() },
            table_elements: const { NonZeroU32::new(100_000).unwrap() },
            instances: const { NonZeroU32::new(200).unwrap() },
            log_lines_per_second: const { NonZeroU32::new(100).unwrap() },
        }
    }
}

/// Returns the built-in plugins by name, with their defaults.
pub(super) fn builtins() -> BTreeMap<String, Plugin> {
    BUILTINS
        .into_iter()
        .map(|(name, kind, component)| {
            let plugin = Plugin {
                name: name.to_owned(),
                kind,
                source: Source::Builtin(component),
                sha256: None,
                on_failure: (kind == PluginKind::Filter).then(OnFailure::default),
                fallback: None,
                settings: toml::Table::new(),
                allow: Allow::default(),
                limits: Limits::of_kind(kind),
            };
            (name.to_owned(), plugin)
        })
        .collect()
}

/// Checks that a text is a scheme with a host and nothing else.
pub(super) fn parse_origin(text: &str) -> Result<String, &'static str> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or_default();
    if host.is_empty() || host.contains(['/', '@', '?', '#']) {
        return Err("must be of the form https://host:port");
    }
    Ok(text.to_owned())
}

pub(super) fn parse_sha256(text: &str) -> Result<String, &'static str> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("must be 64 hexadecimal digits")
    }
}

pub(super) fn table_to_json(table: &toml::Table) -> serde_json::Value {
    table
        .iter()
        .map(|(key, value)| (key.clone(), value_to_json(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn value_to_json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) if number.is_finite() => (*number).into(),
        toml::Value::Float(number) => number.to_string().into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.iter().map(value_to_json).collect(),
        toml::Value::Table(table) => table_to_json(table),
    }
}

fn serialize_servers<S: Serializer>(url: &Option<ServersUrl>, to: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => to.collect_str(url),
        None => to.serialize_none(),
    }
}

fn serialize_path<S: Serializer>(source: &Source, to: S) -> Result<S::Ok, S::Error> {
    match source {
        Source::Builtin(name) => to.serialize_str(name),
        Source::File(path) => path.serialize(to),
    }
}
