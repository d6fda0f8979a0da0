//! Volumes that are records: what they were created with, kept on the node.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Info, no_such_volume};
use crate::{Error, Result, host, log};

/// A volume as it was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<T> {
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// What it is made of.
    pub volume: T,
}

impl<T> Record<T> {
    /// What there is to say of the volume.
    pub fn info(&self, name: &str) -> Info {
        Info {
            name: name.to_owned(),
            created_at_ms: Some(self.created_at_ms),
            status: Vec::new(),
        }
    }
}

/// Keeps a new volume; one that is there with the same content stays as it is.
///
/// # Errors
///
/// [`Error::Denied`] if there is another one of that name, or it cannot be kept.
pub fn create<T>(name: &str, volume: T) -> Result<()>
where
    T: Serialize + DeserializeOwned + PartialEq,
{
    if let Some(there) = find::<T>(name)? {
        return if there.volume == volume {
            Ok(())
        } else {
            Err(Error::Denied(format!(
                "volume {name} is there with other options"
            )))
        };
    }
    put(name, volume)
}

/// Keeps a volume, whatever was there.
///
/// # Errors
///
/// It cannot be kept.
pub fn put<T: Serialize>(name: &str, volume: T) -> Result<()> {
    let created_at_ms = u64::try_from(host::now().as_millis()).unwrap_or(u64::MAX);
    let record = Record {
        created_at_ms,
        volume,
    };
    let bytes = serde_json::to_vec(&record).map_err(|error| Error::Other(error.to_string()))?;
    host::keep_record(name, &bytes)
}

/// Returns a volume, if it is there.
///
/// # Errors
///
/// It cannot be read.
pub fn find<T: DeserializeOwned>(name: &str) -> Result<Option<Record<T>>> {
    let Some(bytes) = host::record(name)? else {
        return Ok(None);
    };
    let record = serde_json::from_slice(&bytes);
    record.map(Some).map_err(|error| {
        Error::Other(format!(
            "the record of volume {name} cannot be read: {error}"
        ))
    })
}

/// Returns a volume that is there.
///
/// # Errors
///
/// [`Error::NotFound`] if it is not.
pub fn get<T: DeserializeOwned>(name: &str) -> Result<Record<T>> {
    find(name)?.ok_or_else(|| no_such_volume(name))
}

/// Returns all volumes by name. A record that cannot be read is left out, with a line in the log.
///
/// # Errors
///
/// The records cannot be read.
pub fn all<T: DeserializeOwned>() -> Result<Vec<(String, Record<T>)>> {
    let mut all = Vec::new();
    for (name, bytes) in host::records()? {
        match serde_json::from_slice(&bytes) {
            Ok(record) => all.push((name, record)),
            Err(error) => log::warn(
                "a record cannot be read, left alone",
                &[("volume", &name), ("error", &error.to_string())],
            ),
        }
    }
    Ok(all)
}
