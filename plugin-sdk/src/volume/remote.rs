//! Volumes that are directories of other machines, mounted while they are used.
//!
//! [`Shares`] is a whole driver, but for what a protocol of file servers has of its own.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::{Info, Options, Scope, Volume, records};
use crate::{Attr, Error, Result, host};

/// A protocol of file servers.
pub trait Protocol: 'static {
    /// The type of its file systems, as mount(8) knows it.
    const KIND: &'static str;

    /// Whether a volume may name a secret with which it is mounted.
    const HAS_CREDENTIALS: bool;

    /// Checks that a share says what to mount.
    ///
    /// # Errors
    ///
    /// What it must look like.
    fn check_share(share: &str) -> Result<(), String>;

    /// Checks the options of a volume before it is made. Default: all are good.
    ///
    /// # Errors
    ///
    /// Why one must not be given.
    fn check_options(options: &[String]) -> Result<(), String> {
        let _ = options;
        Ok(())
    }

    /// Returns the mount options that the content of a secret stands for. Default: none.
    ///
    /// # Errors
    ///
    /// It is not what it must be.
    fn credentials(secret: &str) -> Result<Vec<String>> {
        let _ = secret;
        Ok(Vec::new())
    }
}

/// The driver of a protocol's shares: each volume is one, or a directory in one.
///
/// Options of a volume: `share`, `options` and, where the protocol has them, `credentials`. With a
/// `share` in the settings a volume without one of its own is the directory of its name in that one.
/// What is in a share stays when its volume is removed.
#[derive(Debug)]
pub struct Shares<P> {
    defaults: Defaults,
    protocol: PhantomData<P>,
}

impl<P: Protocol> Volume for Shares<P> {
    type Settings = Defaults;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(if P::HAS_CREDENTIALS {
        r#"{"type":"object","additionalProperties":false,"properties":{"share":{"type":"string"},"options":{"type":"string"},"credentials":{"type":"string"}}}"#
    } else {
        r#"{"type":"object","additionalProperties":false,"properties":{"share":{"type":"string"},"options":{"type":"string"}}}"#
    });
    const SCOPE: Scope = Scope::Global;

    fn new(defaults: Defaults) -> Result<Self> {
        if let Some(share) = &defaults.share {
            P::check_share(share).map_err(Error::InvalidConfig)?;
        }
        check_credentials::<P>(defaults.credentials.as_ref()).map_err(Error::InvalidConfig)?;
        Ok(Self {
            defaults,
            protocol: PhantomData,
        })
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let volume = Remote::take(name, &mut options, &self.defaults)?;
        options.finish()?;
        P::check_share(&volume.share)
            .and_then(|()| P::check_options(&volume.options))
            .and_then(|()| check_credentials::<P>(volume.credentials.as_ref()))
            .map_err(Error::InvalidRequest)?;
        records::create(name, volume)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        unmount(name)?;
        host::forget_record(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        let mut volume: Remote = records::get(name)?.volume;
        if let Some(secret) = &volume.credentials {
            volume
                .options
                .extend(P::credentials(&host::secret(secret)?)?);
        }
        mount(P::KIND, name, &volume.share, &volume.options)
    }

    fn unmount(&mut self, name: &str) -> Result<()> {
        unmount(name)
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        Ok(Remote::info(&records::get(name)?, name))
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        let all = records::all()?;
        let infos = all.iter().map(|(name, record)| Remote::info(record, name));
        Ok(infos.collect())
    }
}

fn check_credentials<P: Protocol>(named: Option<&String>) -> Result<(), String> {
    if named.is_some() && !P::HAS_CREDENTIALS {
        return Err(format!("`credentials` has no meaning for {}", P::KIND));
    }
    Ok(())
}

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
    host::make_directory(name, 0o700, 0, 0, None)?;
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
