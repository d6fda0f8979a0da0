//! The `[api.tls]`, `[engine.tls]`, `[engine.tls-for."HOST:PORT"]`, and `[store.tls]` tables.
//!
//! The listener and the engines have certificates of their own. Whether the files exist and hold
//! what they should is asked at start, by `tls`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::section::Section;
use crate::model::address::EngineAddr;

/// What the API's TCP listeners show, and whom they let in. Unix sockets never speak TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ApiTls {
    /// The listener's certificate and those between it and its CA, PEM. Required.
    pub cert: PathBuf,
    /// The certificate's key, PEM. Required.
    pub key: PathBuf,
    /// Clients must show a certificate that a CA in this PEM file signed. Default: any client may
    /// connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// How engines are spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EngineTls {
    /// Default: `verify`.
    pub mode: EngineTlsMode,
    /// The CAs that engines' certificates must come from, PEM. Required with `verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// What Skep shows to engines that ask for a certificate, PEM. Default: nothing.
    // Invariant: there is a certificate if and only if there is a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The certificate's key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// How the servers of a store are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreTls {
    /// The CAs that servers' certificates must come from, PEM. Required.
    pub ca: PathBuf,
    /// What Skep shows to servers that ask for a certificate, and its key, PEM. Default: nothing.
    pub pair: Option<(PathBuf, PathBuf)>,
}

impl Serialize for StoreTls {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut files = BTreeMap::from([("ca", &self.ca)]);
        if let Some((cert, key)) = &self.pair {
            files.extend([("cert", cert), ("key", key)]);
        }
        files.serialize(to)
    }
}

/// Whether and how a connection to an engine is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineTlsMode {
    /// TLS; the engine's certificate must come from `ca` and name the address it is reached at.
    #[default]
    Verify,
    /// TLS; any certificate will do, as with classic Swarm's `--tls`. Keeps out listeners, not
    /// impostors.
    Encrypt,
    /// No TLS.
    Off,
}

impl ApiTls {
    /// Reads the table; `None` if it lacks a file it needs.
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Option<Self> {
        let (cert, key) = read_pair(section, base);
        let client_ca = read_path(section, "client-ca", base);
        let (Some(cert), Some(key)) = (cert, key) else {
            section.refuse("cert", "`cert` and `key` are both needed");
            return None;
        };
        Some(Self {
            cert,
            key,
            client_ca,
        })
    }
}

impl EngineTls {
    fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let mode = section.get("mode", EngineTlsMode::default());
        let ca = read_path(section, "ca", base);
        if mode == EngineTlsMode::Verify && ca.is_none() {
            section.refuse("ca", "missing, and needed to verify certificates");
        }
        let (cert, key) = read_pair(section, base);
        if cert.is_some() != key.is_some() {
            section.refuse("cert", "`cert` and `key` need each other");
        }
        Self {
            mode,
            ca,
            cert,
            key,
        }
    }

    /// Reads the table of all engines, if the file has one.
    pub(super) fn read_all(section: &mut Section<'_, '_>, key: &str, base: &Path) -> Option<Self> {
        section
            .has(key)
            .then(|| section.table(key, |table| Self::read(table, base)))
    }

    /// Reads the tables of engines that differ from the others.
    pub(super) fn read_each(
        section: &mut Section<'_, '_>,
        base: &Path,
    ) -> BTreeMap<EngineAddr, Self> {
        let mut engines = BTreeMap::new();
        for name in section.remaining_keys() {
            let tls = section.table(&name, |table| Self::read(table, base));
            match name.parse::<EngineAddr>() {
                Ok(EngineAddr::Unix(_)) => {
                    section.refuse(&name, "unix sockets never speak TLS");
                }
                Ok(addr) => {
                    engines.insert(addr, tls);
                }
                Err(error) => section.refuse(&name, error.to_string()),
            }
        }
        engines
    }
}

impl StoreTls {
    /// Reads the table; `None` if it lacks a file it needs.
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Option<Self> {
        let ca = read_path(section, "ca", base);
        let (cert, key) = read_pair(section, base);
        if cert.is_some() != key.is_some() {
            section.refuse("cert", "`cert` and `key` need each other");
        }
        let Some(ca) = ca else {
            section.refuse("ca", "missing, and needed to verify certificates");
            return None;
        };
        Some(Self {
            ca,
            pair: cert.zip(key),
        })
    }
}

fn read_pair(section: &mut Section<'_, '_>, base: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    let cert = read_path(section, "cert", base);
    (cert, read_path(section, "key", base))
}

fn read_path(section: &mut Section<'_, '_>, key: &str, base: &Path) -> Option<PathBuf> {
    let path = section.get::<Option<PathBuf>>(key, None);
    path.map(|path| base.join(path))
}

/// Serializes the tables of single engines under their addresses.
pub(super) fn serialize_each<S: Serializer>(
    engines: &BTreeMap<EngineAddr, EngineTls>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(engines.iter().map(|(addr, tls)| (addr.to_string(), tls)))
}
