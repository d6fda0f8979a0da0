//! Volumes that are directories of other machines, mounted while they are used.

use serde::{Deserialize, Serialize};

use super::{Info, Options, records};
use crate::{Attr, Error, Result, host};

/// What a volume is made of: what is mounted, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// What is mounted: `nas:/exports/data`, `//nas/data`.
    pub share: String,
    /// As mount(8) knows them: `vers=4.2`.
    pub options: Vec<String>,
    /// The secret with which it is mounted, if one is needed.
    pub credentials: Option<String>,
}

/// What volumes are made of for which nothing else is said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Defaults {
    /// A volume without a share of its own is the directory of its name in this one.
    #[serde(default)]
    pub share: Option<String>,
    /// Comma list, as mount(8) knows it.
    #[serde(default)]
    pub options: Option<String>,
    /// The name of a secret.
    #[serde(default)]
    pub credentials: Option<String>,
}

impl Remote {
    /// Takes the options `share`, `options` and `credentials` of a volume.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if there is no share.
    pub fn take(name: &str, options: &mut Options, defaults: &Defaults) -> Result<Self> {
        let beside = |share: &String| format!("{}/{name}", share.trim_end_matches('/'));
        let share = options.text("share");
        let share = share.or_else(|| defaults.share.as_ref().map(beside));
        let share = share.ok_or_else(|| {
            Error::InvalidRequest("option `share` must say what is to be mounted".into())
        })?;
        let given = options.text("options").or(defaults.options.clone());
        let given = given.unwrap_or_default();
        let given = given.split(',').map(str::trim);
        Ok(Self {
            share,
            options: given
                .filter(|one| !one.is_empty())
                .map(str::to_owned)
                .collect(),
            credentials: options.text("credentials").or(defaults.credentials.clone()),
        })
    }

    /// What there is to say of the volume.
    fn info(record: &records::Record<Self>, name: &str) -> Info {
        let mut info = record.info(name);
        info.status.push(Attr {
            key: "share".into(),
            value: record.volume.share.clone(),
        });
        info
    }
}

/// Mounts a volume on the directory of its name, which is made if need be.
///
/// # Errors
///
/// It is not allowed, or the system refuses.
pub fn mount(kind: &str, name: &str, share: &str, options: &[String]) -> Result<String> {
    host::make_directory(name, 0o700, 0, 0)?;
    host::mount(kind, share, name, options)?;
    Ok(name.to_owned())
}

/// Takes away what is mounted for a volume, and the directory.
///
/// # Errors
///
/// Somebody uses it.
pub fn unmount(name: &str) -> Result<()> {
    host::unmount(name)?;
    host::remove_directory(name)
}

/// Forgets a volume; what is in its share stays.
///
/// # Errors
///
/// Somebody uses it, or its record cannot be deleted.
pub fn remove(name: &str) -> Result<()> {
    unmount(name)?;
    host::forget_record(name)
}

/// Returns what is known of a volume.
///
/// # Errors
///
/// [`Error::NotFound`] if it is not there.
pub fn get(name: &str) -> Result<Info> {
    Ok(Remote::info(&records::get(name)?, name))
}

/// Returns all volumes.
///
/// # Errors
///
/// The records cannot be read.
pub fn list() -> Result<Vec<Info>> {
    let all = records::all()?;
    let infos = all.iter().map(|(name, record)| Remote::info(record, name));
    Ok(infos.collect())
}
