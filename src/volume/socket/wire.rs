//! What is said on a plugin's socket: Docker's volume plugin protocol.

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::volume::{
    Scope,
    service::{CallError, Service, Volume},
};

/// The type of all bodies, both ways.
pub(super) const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Whether a body of this type can be read. Versions differ in nothing that is read here.
pub(super) fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    [
        MEDIA_TYPE,
        "application/vnd.docker.plugins.v1.1+json",
        "application/vnd.docker.plugins.v1+json",
        "application/json",
    ]
    .iter()
    .any(|known| essence.eq_ignore_ascii_case(known))
}

/// What an engine can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Activate,
    Create,
    Remove,
    Mount,
    Unmount,
    Path,
    Get,
    List,
    Capabilities,
}

/// What an engine sends along; which of it depends on the call.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Arguments {
    name: String,
    #[serde(rename = "ID", default)]
    id: String,
    /// Engines send `null` if there are none.
    #[serde(default)]
    opts: Option<BTreeMap<String, String>>,
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, text: String) -> Self {
        Self { status, text }
    }

    pub(super) fn body(&self) -> Bytes {
        json!({ "Err": self.text }).to_string().into()
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let status = match error {
            CallError::Name(_) | CallError::Id => StatusCode::BAD_REQUEST,
            // Not 404 for a volume that is not there: that is a call that is not there.
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl Call {
    /// The call of a path.
    pub(super) fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "/Plugin.Activate" => Self::Activate,
            "/VolumeDriver.Create" => Self::Create,
            "/VolumeDriver.Remove" => Self::Remove,
            "/VolumeDriver.Mount" => Self::Mount,
            "/VolumeDriver.Unmount" => Self::Unmount,
            "/VolumeDriver.Path" => Self::Path,
            "/VolumeDriver.Get" => Self::Get,
            "/VolumeDriver.List" => Self::List,
            "/VolumeDriver.Capabilities" => Self::Capabilities,
            _ => return None,
        })
    }

    /// Makes the call, and returns the body of the answer. `engine` is the process that asks.
    pub(super) async fn answer(
        self,
        service: &Service,
        engine: Option<String>,
        body: &[u8],
    ) -> Result<Bytes, Failure> {
        let answer = match self {
            Self::Activate => {
                service.activate(engine).await?;
                json!({ "Implements": ["VolumeDriver"] })
            }
            Self::Create => {
                let Arguments { name, opts, .. } = parse(body)?;
                service.create(&name, opts.unwrap_or_default()).await?;
                json!({ "Err": "" })
            }
            Self::Remove => {
                service.remove(&parse(body)?.name).await?;
                json!({ "Err": "" })
            }
            Self::Mount => {
                let Arguments { name, id, .. } = parse(body)?;
                let path = service.mount(&name, &id).await?;
                json!({ "Mountpoint": text(Some(&path)), "Err": "" })
            }
            Self::Unmount => {
                let Arguments { name, id, .. } = parse(body)?;
                service.unmount(&name, &id).await?;
                json!({ "Err": "" })
            }
            Self::Path => {
                let path = service.path(&parse(body)?.name).await?;
                json!({ "Mountpoint": text(path.as_deref()), "Err": "" })
            }
            Self::Get => {
                let found = service.get(&parse(body)?.name).await?;
                json!({ "Volume": volume(&found), "Err": "" })
            }
            Self::List => {
                let found = service.list().await?;
                json!({ "Volumes": found.iter().map(volume).collect::<Vec<_>>(), "Err": "" })
            }
            Self::Capabilities => {
                json!({ "Capabilities": { "Scope": scope(service.scope()) }, "Err": "" })
            }
        };
        Ok(answer.to_string().into())
    }
}

fn parse(body: &[u8]) -> Result<Arguments, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let text = format!("cannot read the request: {error}");
        Failure::new(StatusCode::BAD_REQUEST, text)
    })
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Local => "local",
        Scope::Global => "global",
    }
}

fn volume(volume: &Volume) -> Value {
    let mut value = json!({
        "Name": volume.info.name,
        "Mountpoint": text(volume.mountpoint.as_deref()),
        "Status": volume.info.status,
    });
    // Not an empty one, which an engine cannot read.
    if let Some(time) = volume.info.created_at.and_then(rfc3339) {
        value["CreatedAt"] = time.into();
    }
    value
}

/// A time as engines read it; `None` for one that would keep them from reading the whole answer.
fn rfc3339(time: SystemTime) -> Option<String> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    let time = DateTime::<Utc>::from_timestamp(seconds, since.subsec_nanos())?;
    (time.year() <= 9999).then(|| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// A path as JSON has it: empty if there is none.
fn text(path: Option<&Path>) -> String {
    // Drivers give paths as text, so nothing is lost.
    path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_told_if_an_engine_can_read_them() {
        let check = |seconds: u64, nanos: u32, expected: Option<&str>| {
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
            assert_eq!(time.and_then(rfc3339).as_deref(), expected, "{seconds}");
        };
        check(0, 0, Some("1970-01-01T00:00:00Z"));
        check(1_700_000_000, 5_000_000, Some("2023-11-14T22:13:20.005Z"));
        check(253_402_300_799, 0, Some("9999-12-31T23:59:59Z"));
        check(253_402_300_800, 0, None);
        check(u64::MAX / 4, 0, None);
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            None
        );
    }

    #[test]
    fn bodies_of_each_version_are_read() {
        for known in [
            MEDIA_TYPE,
            "application/vnd.docker.plugins.v1+json",
            "Application/JSON; charset=utf-8",
        ] {
            assert!(is_media_type(known), "{known}");
        }
        for unknown in ["text/plain", "", "application/vnd.docker.plugins.v2+json"] {
            assert!(!is_media_type(unknown), "{unknown}");
        }
    }
}
