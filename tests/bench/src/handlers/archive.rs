//! Files of containers: what was put comes back, byte for byte; nothing looks inside a tar.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::Call;
use crate::body::{self, Answer};

const TAR: Option<&str> = Some("application/x-tar");

pub(super) fn export(call: &Call) -> Result<Answer, Answer> {
    call.container()?;
    Ok(call.change(|state, at, now| {
        state.emit_container(at, "export", &[], now);
        body::with(
            StatusCode::OK,
            Some("application/octet-stream"),
            body::full(empty_tar()),
        )
    }))
}

pub(super) fn changes(call: &Call) -> Result<Answer, Answer> {
    call.container()?;
    Ok(body::json(
        StatusCode::OK,
        json!([{"Path": "/tmp", "Kind": 0}, {"Path": "/tmp/new", "Kind": 1}]).to_string(),
    ))
}

/// Answers HEAD too: the server leaves the body out by itself.
pub(super) fn read(call: &Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let path = path(call)?;
    let state = call.engine.state();
    let Some(tar) = state.files.get(&(container.id, path.to_owned())).cloned() else {
        let text = format!(
            "Could not find the file {path} in container {}",
            call.target
        );
        return Err(body::error(StatusCode::NOT_FOUND, &text));
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    // os.ModeDir | 0755, as Go encodes it.
    let stat = json!({"name": name, "size": 4096, "mode": 2_147_484_141_u32, "mtime": "2023-11-14T22:13:20Z", "linkTarget": ""});
    let answer = body::with(StatusCode::OK, TAR, body::full(tar));
    Ok(body::header(
        answer,
        "x-docker-container-path-stat",
        &base64(stat.to_string().as_bytes()),
    ))
}

pub(super) async fn write(mut call: Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let path = path(&call)?.to_owned();
    let tar = call.body().await;
    Ok(call.change(|state, at, now| {
        state.files.insert((container.id, path), tar);
        state.emit_container(at, "extract-to-dir", &[], now);
        body::empty(StatusCode::OK)
    }))
}

fn path(call: &Call) -> Result<&str, Answer> {
    let path = call.query.get("path").filter(|path| !path.is_empty());
    path.ok_or_else(|| super::bad_request("bad parameter: path cannot be empty"))
}

/// The two zero blocks that end a tar.
fn empty_tar() -> Bytes {
    Bytes::from_static(&[0; 1024])
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_base64() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }
}
