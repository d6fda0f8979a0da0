//! Answers: the body type, and the few shapes every handler uses.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderName, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

/// The body of every answer. An `Err` frame cuts the connection.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A whole answer.
pub type Answer = Response<Body>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body made of the chunks of `stream`.
pub fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// An answer with no body.
pub fn empty(status: StatusCode) -> Answer {
    with(status, None, full(Bytes::new()))
}

/// A JSON answer from bytes that are JSON already.
pub fn json(status: StatusCode, encoded: impl Into<Bytes>) -> Answer {
    with(status, Some("application/json"), full(encoded))
}

/// dockerd's error shape.
pub fn error(status: StatusCode, message: &str) -> Answer {
    json(
        status,
        serde_json::json!({ "message": message }).to_string(),
    )
}

/// An answer of any content type.
pub fn with(status: StatusCode, content_type: Option<&'static str>, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    if let Some(kind) = content_type {
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    }
    answer
}

/// Adds a header; a value that is no valid header text is left out.
pub fn header(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    if let Ok(value) = http::HeaderValue::from_str(value) {
        answer
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    answer
}

/// Wraps `payload` in the frame of stream `kind` (1 stdout, 2 stderr) of a container without a terminal.
pub fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(8 + payload.len());
    framed.extend_from_slice(&[kind, 0, 0, 0]);
    framed.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    framed.extend_from_slice(payload);
    framed.into()
}
