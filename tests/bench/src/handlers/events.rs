//! `GET /events`: what happened since, then what happens, until.

use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use http::StatusCode;

use super::{Call, bad_request};
use crate::body::{self, Answer};
use crate::fault::Fault;

pub(super) fn stream(call: Call) -> Result<Answer, Answer> {
    let time = |key| {
        call.query
            .get(key)
            .filter(|text| !text.is_empty())
            .map(parse_time)
            .transpose()
    };
    let (since, until) = (time("since")?, time("until")?);
    let filters = call.query.filters().map_err(bad_request)?;
    let now = call.engine.now();
    let dropped = call.engine.has_fault(call.route, &Fault::DropEventStreams);
    let mut state = call.engine.state();
    let past = match (since, until) {
        (None, None) => Default::default(),
        _ => state
            .events
            .between(since.unwrap_or(now), until.unwrap_or(i64::MAX), &filters),
    };
    let past = stream::iter((!past.is_empty()).then_some(Ok(past)));
    let ended = dropped || until.is_some_and(|until| until <= now);
    let body = if ended {
        body::streamed(past)
    } else {
        let receiver = state.events.follow(filters);
        let lines = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|line| (Ok(line), receiver))
        });
        let left = until.map(|until| Duration::from_nanos(u64::try_from(until - now).unwrap_or(0)));
        let end = async move {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => future::pending().await,
            }
        };
        body::streamed(past.chain(lines).take_until(Box::pin(end)))
    };
    drop(state);
    // Those who wait for somebody to listen must learn of it.
    call.engine.change(|_| ());
    Ok(body::with(StatusCode::OK, Some("application/json"), body))
}

/// Seconds since the epoch with an optional fraction, or RFC 3339; as nanoseconds.
fn parse_time(text: &str) -> Result<i64, Answer> {
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return time
            .timestamp_nanos_opt()
            .ok_or_else(|| bad_request("time out of range"));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(bad_request)?;
    let nanos: i64 = format!("{fraction:0<9}")
        .get(..9)
        .unwrap_or_default()
        .parse()
        .map_err(bad_request)?;
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_in_every_form_clients_send() {
        let read = |text| parse_time(text).ok();
        assert_eq!(read("12"), Some(12_000_000_000));
        assert_eq!(read("12.5"), Some(12_500_000_000));
        assert_eq!(read("12.000000001"), Some(12_000_000_001));
        assert_eq!(read("1970-01-01T00:00:12Z"), Some(12_000_000_000));
        assert_eq!(read("soon"), None);
    }
}
