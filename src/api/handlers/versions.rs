//! API versions: which the cluster speaks, which a client may ask for, which an engine gets.

use crate::{
    api::{DEFAULT_API_VERSION, MAX_API_VERSION, error::ApiError, query::Query},
    cluster::snapshot::{Node, Snapshot},
};

/// The oldest API version that is accepted; every engine since 2016 speaks it.
const MIN_API_VERSION: (u32, u32) = (1, 24);

/// Refuses a version that not every healthy engine speaks.
///
/// # Errors
///
/// Status 400, in the words of dockerd's version middleware. While no engine is healthy there is
/// nobody to ask, and the newest version known here is the limit.
pub fn check(snapshot: &Snapshot, version: Option<&str>) -> Result<(), ApiError> {
    let Some(text) = version else {
        return Ok(());
    };
    let (oldest, newest) = (
        oldest(snapshot),
        newest(snapshot).unwrap_or(MAX_API_VERSION),
    );
    // The router lets digits and one dot pass; what does not fit a number is newer than anything.
    let asked = parse_version(text).unwrap_or((u32::MAX, u32::MAX));
    if asked > newest {
        return Err(ApiError::bad_request(format!(
            "client version {text} is too new. Maximum supported API version is {}",
            version_text(newest)
        )));
    }
    if asked < oldest {
        return Err(ApiError::bad_request(format!(
            "client version {text} is too old. Minimum supported API version is {}, please upgrade \
             your client to a newer version",
            version_text(oldest)
        )));
    }
    Ok(())
}

/// The oldest version that every healthy engine speaks, or the newest one they have in common if
/// they have none.
pub fn oldest(snapshot: &Snapshot) -> (u32, u32) {
    let oldest = snapshot.api_versions().map(|versions| *versions.start());
    oldest
        .unwrap_or(MIN_API_VERSION)
        .max(MIN_API_VERSION)
        .min(newest(snapshot).unwrap_or(MAX_API_VERSION))
}

/// The newest version that every healthy engine speaks, as far as it is known here.
fn newest(snapshot: &Snapshot) -> Option<(u32, u32)> {
    let versions = snapshot.api_versions()?;
    Some((*versions.end()).min(MAX_API_VERSION))
}

/// The path for the engine of `node`, with the version the client used, or the nearest one that
/// this engine speaks: a client knows what the whole cluster speaks, which an engine may not yet,
/// or no longer.
pub fn engine_path(node: &Node, version: Option<&str>, path: &str, query: &Query) -> String {
    let spoken = node
        .inventory
        .specs
        .as_ref()
        .map(|specs| (specs.min_api_version, specs.api_version));
    let prefix = match (version, spoken) {
        (None, _) => String::new(),
        (Some(asked), Some((oldest, newest))) if oldest <= newest => parse_version(asked)
            .map_or_else(
                || format!("/v{asked}"),
                |asked| format!("/v{}", version_text(asked.clamp(oldest, newest))),
            ),
        (Some(asked), _) => format!("/v{asked}"),
    };
    format!("{prefix}{path}{}", query.suffix())
}

/// What is advertised: the newest version that every healthy engine speaks.
pub fn api_version(snapshot: &Snapshot) -> (u32, u32) {
    newest(snapshot).unwrap_or(DEFAULT_API_VERSION)
}

/// `1.41` as numbers.
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `1.41`
pub fn version_text((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}
