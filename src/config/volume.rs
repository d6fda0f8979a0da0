//! The `[agent]` and `[volume-drivers.NAME]` tables: what `skep join` does on its node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::plugin::{Limits, PluginKind, Source, parse_origin, parse_sha256, table_to_json};
use super::section::Section;
use super::store;

/// Every driver that is embedded in the binary.
const BUILTINS: [&str; 6] = ["local", "tmpfs", "nfs", "cifs", "shared", "snapshot"];

/// Where engines look for the sockets of plugins.
const PLUGIN_DIRECTORY: &str = "/run/docker/plugins";

/// Options that are harmless with any file system.
const COMMON_OPTIONS: [&str; 14] = [
    "ro",
    "rw",
    "nosuid",
    "nodev",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "strictatime",
];

/// Those of tmpfs.
const TMPFS_OPTIONS: [&str; 5] = ["size", "nr_inodes", "mode", "uid", "gid"];

/// Those of NFS.
const NFS_OPTIONS: [&str; 26] = [
    "vers",
    "nfsvers",
    "minorversion",
    "proto",
    "port",
    "mountport",
    "mountproto",
    "hard",
    "soft",
    "softerr",
    "timeo",
    "retrans",
    "retry",
    "rsize",
    "wsize",
    "ac",
    "noac",
    "actimeo",
    "lookupcache",
    "lock",
    "nolock",
    "sec",
    "cto",
    "nocto",
    "nconnect",
    "resvport",
];

/// Those of SMB.
const CIFS_OPTIONS: [&str; 21] = [
    "username",
    "password",
    "domain",
    "vers",
    "sec",
    "seal",
    "port",
    "uid",
    "gid",
    "forceuid",
    "forcegid",
    "file_mode",
    "dir_mode",
    "cache",
    "rsize",
    "wsize",
    "actimeo",
    "iocharset",
    "nobrl",
    "mfsymlinks",
    "noperm",
];

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Agent {
    /// Where this node's engine looks for the sockets of plugins. Default: `/run/docker/plugins`.
    pub plugin_directory: PathBuf,
    /// Where the agent keeps what has to outlive it. Default: beside the manager's store.
    pub state_directory: PathBuf,
    /// How long a volume stays mounted at least that no container uses, when its engine does not
    /// say so; after twice that it is unmounted. Default: 1 min.
    #[serde(serialize_with = "duration::serialize")]
    pub unused_grace: Duration,
}

/// One volume driver of the node's engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VolumeDriver {
    /// NAME of the table: what the engine calls it.
    #[serde(skip)]
    pub name: String,
    /// Key `driver` for a built-in, `path` for a file. Default: the built-in called NAME.
    #[serde(flatten, serialize_with = "serialize_source")]
    pub source: Source,
    /// Digest the component file must have. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The directory for its volumes. Default: `volumes/NAME` in the state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Handed to the driver as JSON; Skep never looks inside. Default: empty.
    pub settings: toml::Table,
    /// Files with secrets, by the names that the driver knows. Default: none.
    pub secrets: BTreeMap<String, PathBuf>,
    /// What the driver may reach.
    pub allow: VolumeAllow,
    /// What the driver may use up.
    pub limits: Limits,
}

/// What a volume driver may reach. Built-in drivers may mount by default what they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VolumeAllow {
    /// Types of file systems that it may mount.
    pub mounts: Vec<String>,
    /// What it may mount, with `*` for any text.
    pub mount_sources: Vec<String>,
    /// The mount options that it may give, without values.
    pub mount_options: Vec<String>,
    /// Servers that it may ask, as `https://host:port`.
    pub http: Vec<String>,
    /// Whether it may hold directories to a size, where the file system can.
    pub quotas: bool,
    /// Whether directories of volumes are subvolumes where the root is on btrfs.
    pub subvolumes: bool,
}

impl Agent {
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        Self {
            plugin_directory: base.join(section.get("plugin-directory", default.plugin_directory)),
            state_directory: base.join(section.get("state-directory", default.state_directory)),
            unused_grace: section.duration("unused-grace", default.unused_grace),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            plugin_directory: PLUGIN_DIRECTORY.into(),
            state_directory: store::default_directory(),
            unused_grace: Duration::from_secs(60),
        }
    }
}

impl VolumeDriver {
    /// Reads all tables of `[volume-drivers]`; relative paths start at `base`.
    pub(super) fn read_all(section: &mut Section<'_, '_>, base: &Path) -> BTreeMap<String, Self> {
        let mut drivers = BTreeMap::new();
        for name in section.remaining_keys() {
            if let Some(reason) = wrong_name(&name) {
                section.refuse(&name, reason);
            }
            let read = section.table(&name, |table| Self::read(&name, table, base));
            if let Some(driver) = read {
                drivers.insert(name, driver);
            }
        }
        drivers
    }

    fn read(name: &str, section: &mut Section<'_, '_>, base: &Path) -> Option<Self> {
        let has_driver = section.has("driver");
        let builtin = section.text("driver", None, |text| match builtin(text) {
            Some(driver) => Ok(Some(driver)),
            None => Err(format!("is none of {}", BUILTINS.join(", "))),
        });
        let path = section.get::<Option<PathBuf>>("path", None);
        let source = match (path, builtin) {
            (Some(_), Some(_)) => {
                section.refuse(
                    "driver",
                    "is the built-in to use, and `path` names a file instead",
                );
                None
            }
            (Some(path), None) => Some(Source::File(base.join(path))),
            (None, Some(builtin)) => Some(Source::Builtin(builtin)),
            (None, None) => {
                let own = self::builtin(name).map(Source::Builtin);
                if own.is_none() && !has_driver {
                    let text = "missing, and the name is not that of a built-in driver";
                    section.refuse("driver", text);
                }
                own
            }
        };
        let sha256 = section.text("sha256", None, |text| parse_sha256(text).map(Some));
        let root = section.get::<Option<PathBuf>>("root", None);
        let settings = section.get("settings", toml::Table::new());
        let secrets = section.get("secrets", BTreeMap::<String, PathBuf>::new());
        let usual = VolumeAllow::usual(source.as_ref(), &settings);
        let allow = section.table("allow", |allow| VolumeAllow::read(allow, usual));
        let limits = section.table("limits", |limits| Limits::read(limits, PluginKind::Volume));
        let secrets = secrets.into_iter();
        Some(Self {
            name: name.to_owned(),
            source: source?,
            sha256,
            root: root.map(|root| base.join(root)),
            settings,
            secrets: secrets
                .map(|(name, path)| (name, base.join(path)))
                .collect(),
            allow,
            limits,
        })
    }

    /// Returns the directory for its volumes.
    pub fn root(&self, agent: &Agent) -> PathBuf {
        let usual = || agent.state_directory.join("volumes").join(&self.name);
        self.root.clone().unwrap_or_else(usual)
    }

    /// Returns the settings as the JSON object that the driver's `configure` takes.
    pub fn settings_json(&self) -> serde_json::Value {
        table_to_json(&self.settings)
    }
}

impl VolumeAllow {
    fn read(section: &mut Section<'_, '_>, usual: Self) -> Self {
        Self {
            mounts: section.get("mounts", usual.mounts),
            mount_sources: section.texts("mount-sources", usual.mount_sources, |text| {
                match glob::Pattern::new(text) {
                    Ok(_) => Ok(text.to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }),
            mount_options: section.get("mount-options", usual.mount_options),
            http: section.texts("http", usual.http, parse_origin),
            quotas: section.get("quotas", usual.quotas),
            subvolumes: section.get("subvolumes", usual.subvolumes),
        }
    }

    /// What a built-in driver needs to do what it is for. What it may mount from a server is what
    /// its settings name.
    fn usual(source: Option<&Source>, settings: &toml::Table) -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let with = |own: &[&str]| {
            let all: Vec<_> = [&COMMON_OPTIONS[..], own].concat();
            texts(&all)
        };
        let share = settings.get("share").and_then(toml::Value::as_str);
        let share = share.map(|share| share.trim_end_matches('/'));
        // A share is a text, and no pattern.
        let below = share.map(|share| format!("{}/*", glob::Pattern::escape(share)));
        let sources = || below.clone().into_iter().collect();
        let Some(Source::Builtin(driver)) = source else {
            return Self::default();
        };
        match *driver {
            "tmpfs" => Self {
                mounts: texts(&["tmpfs"]),
                mount_sources: texts(&["tmpfs"]),
                mount_options: with(&TMPFS_OPTIONS),
                ..Self::default()
            },
            "nfs" => Self {
                mounts: texts(&["nfs"]),
                mount_sources: sources(),
                mount_options: with(&NFS_OPTIONS),
                ..Self::default()
            },
            "cifs" => Self {
                mounts: texts(&["cifs"]),
                mount_sources: sources(),
                mount_options: with(&CIFS_OPTIONS),
                ..Self::default()
            },
            "local" => Self {
                quotas: true,
                ..Self::default()
            },
            "snapshot" => Self {
                subvolumes: true,
                ..Self::default()
            },
            _ => Self::default(),
        }
    }
}

fn builtin(name: &str) -> Option<&'static str> {
    BUILTINS.into_iter().find(|builtin| *builtin == name)
}

/// Why an engine could not know a driver by a name.
fn wrong_name(name: &str) -> Option<&'static str> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name == "local" {
        Some("is the engine's own driver: choose another name and `driver = \"local\"`")
    } else if !name.starts_with(|first: char| first.is_ascii_alphanumeric())
        || !name.chars().all(is_known)
        || name.len() > 64
    {
        Some(
            "must be letters, digits, `_`, `.` and `-`, at most 64, and begin with one of the first two",
        )
    } else {
        None
    }
}

fn serialize_source<S: serde::Serializer>(source: &Source, to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;

    let mut map = to.serialize_map(Some(1))?;
    match source {
        Source::Builtin(name) => map.serialize_entry("driver", name)?,
        Source::File(path) => map.serialize_entry("path", path)?,
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn driver(text: &str) -> VolumeDriver {
        let config = Config::parse(text, Path::new("/etc/skep")).unwrap();
        config.volume_drivers.into_values().next().unwrap()
    }

    fn mistakes(text: &str) -> Vec<String> {
        let mistakes = Config::parse(text, Path::new("/etc/skep")).unwrap_err();
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_built_in_driver_needs_little() {
        let driver = driver("[volume-drivers.tmpfs]");
        assert_eq!(driver.source, Source::Builtin("tmpfs"));
        let agent = Agent {
            state_directory: "/state".into(),
            ..Agent::default()
        };
        assert_eq!(driver.root(&agent), Path::new("/state/volumes/tmpfs"));
        assert_eq!(driver.allow.mounts, ["tmpfs"]);
        assert!(driver.allow.mount_options.contains(&"size".to_owned()));
    }

    #[test]
    fn what_is_mounted_from_servers_is_what_the_configuration_names() {
        let of = |text: &str| driver(text).allow.mount_sources;
        assert!(of("[volume-drivers.nfs]").is_empty());
        let with_share = "[volume-drivers.nfs]\nsettings = { share = \"nas:/exports/\" }";
        assert_eq!(of(with_share), ["nas:/exports/*"]);
        let both = format!("{with_share}\nallow = {{ mount-sources = [\"other:/*\"] }}");
        assert_eq!(of(&both), ["other:/*"]);
    }

    #[test]
    fn a_driver_of_ones_own_gets_what_its_table_names() {
        let driver = driver(
            "[volume-drivers.mine]\npath = \"mine.wasm\"\nroot = \"data\"\n\
             secrets = { key = \"key\" }\nallow = { mounts = [\"ext4\"] }",
        );
        assert_eq!(driver.source, Source::File("/etc/skep/mine.wasm".into()));
        assert_eq!(driver.root.as_deref(), Some(Path::new("/etc/skep/data")));
        assert_eq!(driver.secrets["key"], Path::new("/etc/skep/key"));
        assert_eq!(driver.allow.mounts, ["ext4"]);
        assert!(driver.allow.mount_options.is_empty());
        assert!(!driver.allow.quotas && !driver.allow.subvolumes);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("[volume-drivers.local]", "the engine's own driver"),
            ("[volume-drivers.mine]", "not that of a built-in driver"),
            (
                "[volume-drivers.\"a/b\"]\ndriver = \"local\"",
                "must be letters",
            ),
            ("[volume-drivers.a]\ndriver = \"zfs\"", "is none of local"),
            (
                "[volume-drivers.a]\ndriver = \"nfs\"\npath = \"x\"",
                "names a file instead",
            ),
            ("[volume-drivers.nfs]\nroots = \"x\"", "roots"),
            (
                "[volume-drivers.nfs]\nallow = { mount-sources = [\"[\"] }",
                "mount-sources",
            ),
        ] {
            let found = mistakes(text);
            assert!(found[0].contains(part), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_is_dumped_is_read_back() {
        let text = "[volume-drivers.data]\ndriver = \"local\"\n[volume-drivers.mine]\npath = \"x\"";
        let config = Config::parse(text, Path::new("/etc/skep")).unwrap();
        let again = Config::parse(&config.dump().unwrap(), Path::new("/")).unwrap();
        assert_eq!(config, again);
    }
}
