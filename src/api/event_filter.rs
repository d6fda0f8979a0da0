//! Which events a client wants: `since`, `until`, and `filters`.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{error::ApiError, list_filters::ListFilters, query::Query};
use crate::{
    config::duration,
    engine::{event::Event, inventory::resources::split_reference},
};

/// The filters that events know.
const KNOWN: [&str; 15] = [
    "type",
    "event",
    "action",
    "container",
    "image",
    "label",
    "node",
    "network",
    "volume",
    "daemon",
    "scope",
    "plugin",
    "service",
    "secret",
    "config",
];

/// What a client of `/events` asked for.
#[derive(Debug)]
pub struct EventFilter {
    since_nano: Option<i64>,
    until_nano: Option<i64>,
    filters: ListFilters,
}

impl EventFilter {
    /// Reads the query as of `now`.
    ///
    /// # Errors
    ///
    /// A time or a filter cannot be understood.
    pub fn parse(query: &Query, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let until_nano = time(query.get("until"), now)?.filter(|nano| *nano > 0);
        Ok(Self {
            since_nano: time(query.get("since"), now)?,
            until_nano,
            filters: ListFilters::parse(query.get("filters"), &KNOWN)?,
        })
    }

    /// Whether past events are wanted.
    pub fn wants_past(&self) -> bool {
        self.since_nano.is_some()
    }

    /// How long from `now` on events are wanted; `None` is for ever.
    pub fn remaining(&self, now: DateTime<Utc>) -> Option<Duration> {
        let until = self.until_nano?;
        let now = now.timestamp_nanos_opt()?;
        Some(Duration::from_nanos(
            u64::try_from(until - now).unwrap_or(0),
        ))
    }

    /// Whether the event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
        let is_kind = |kind: &str| event.kind == kind;
        let of_kind = |filter: &str, kind: &str| {
            self.filters.any(filter, |value| {
                is_kind(kind)
                    && (event.actor_id == value
                        || attribute("name") == value
                        || (value.len() >= 4 && event.actor_id.starts_with(value)))
            })
        };
        self.since_nano.is_none_or(|since| event.time_nano >= since)
            && self.until_nano.is_none_or(|until| event.time_nano <= until)
            && self.filters.any("type", is_kind)
            && self.wants_action(event)
            && of_kind("container", "container")
            && of_kind("network", "network")
            && of_kind("volume", "volume")
            && of_kind("daemon", "daemon")
            && of_kind("plugin", "plugin")
            && of_kind("service", "service")
            && of_kind("secret", "secret")
            && of_kind("config", "config")
            && self.filters.any("image", |value| {
                let own = if is_kind("image") {
                    [event.actor_id.as_str(), attribute("name")]
                } else {
                    [attribute("image"), ""]
                };
                own.iter()
                    .any(|own| *own == value || split_reference(own).0 == value)
            })
            && self
                .filters
                .labels("label", |key| event.attributes.get(key).map(String::as_str))
            && self.filters.any("scope", |value| event.scope == value)
            && self.filters.any("node", |value| {
                attribute("node.name") == value || attribute("node.id") == value
            })
    }

    /// `event` and `action` mean the same; `exec_create` means any command.
    fn wants_action(&self, event: &Event) -> bool {
        let pass = |value: &str| event.action == value || event.verb() == value;
        self.filters.any("event", pass) && self.filters.any("action", pass)
    }
}

/// A time: seconds since 1970 with or without a fraction, RFC 3339, or a duration before now.
pub fn time(text: &str, now: DateTime<Utc>) -> Result<Option<i64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(nano) = unix_nano(text) {
        return Ok(Some(nano));
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_nanos_opt());
    }
    if let Ok(duration) = duration::parse(text) {
        let before = chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX);
        return Ok(now
            .checked_sub_signed(before)
            .and_then(|t| t.timestamp_nanos_opt()));
    }
    Err(ApiError::bad_request(format!(
        "invalid time `{text}`: it must be seconds since 1970, an RFC 3339 time, or a duration"
    )))
}

/// Parses `1479131107.000000001` exactly; a float would lose the nanoseconds.
fn unix_nano(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(digits.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn event() -> Event {
        Event {
            kind: "container".to_owned(),
            action: "exec_create: ls".to_owned(),
            actor_id: "abcdef".to_owned(),
            attributes: BTreeMap::from([
                ("name".to_owned(), "web".to_owned()),
                ("image".to_owned(), "busybox:1".to_owned()),
                ("node.name".to_owned(), "n0".to_owned()),
            ]),
            scope: "local".to_owned(),
            time_nano: 5_000_000_000,
            json: bytes::Bytes::new(),
        }
    }

    fn check(query: &str, expected: bool) {
        let filter = EventFilter::parse(&Query::parse(Some(query)), Utc::now()).unwrap();
        assert_eq!(filter.wants(&event()), expected, "{query}");
    }

    #[test]
    fn filters_are_honoured() {
        check("", true);
        check(r#"filters={"type":["container"]}"#, true);
        check(r#"filters={"type":["network"]}"#, false);
        check(r#"filters={"event":["exec_create"]}"#, true);
        check(r#"filters={"event":["start","exec_create: ls"]}"#, true);
        check(r#"filters={"event":["start"]}"#, false);
        check(r#"filters={"container":["web"]}"#, true);
        check(r#"filters={"container":["abcd"]}"#, true);
        check(r#"filters={"container":["db"]}"#, false);
        check(r#"filters={"image":["busybox"]}"#, true);
        check(r#"filters={"node":["n1"]}"#, false);
        check(r#"filters={"label":["name=web"]}"#, true);
        check(r#"filters={"network":["web"]}"#, false);
    }

    #[test]
    fn since_and_until_bound_the_time() {
        check("since=5", true);
        check("since=5.000000001", false);
        check("until=4", false);
        check("until=0", true);
        check("since=1970-01-01T00:00:04Z", true);
        check("since=10m", false);
        check("since=1.5h", false);
    }

    #[test]
    fn an_image_filter_does_not_take_a_port_for_a_tag() {
        let mut event = event();
        let image = event.attributes.entry("image".to_owned()).or_default();
        *image = "reg:5000/app:1".to_owned();
        for (value, expected) in [
            ("reg:5000/app", true),
            ("reg:5000/app:1", true),
            ("reg", false),
        ] {
            let query = Query::parse(Some(&format!(r#"filters={{"image":["{value}"]}}"#)));
            let filter = EventFilter::parse(&query, Utc::now()).unwrap();
            assert_eq!(filter.wants(&event), expected, "{value}");
        }
    }

    #[test]
    fn an_odd_time_is_an_error() {
        assert!(EventFilter::parse(&Query::parse(Some("until=abc")), Utc::now()).is_err());
    }
}
