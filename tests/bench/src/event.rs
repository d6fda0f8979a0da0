//! Events, as dockerd tells them, and the bounded log of one engine.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::query::Filters;

/// Events that wait for one slow reader before further ones are lost to it.
const READER_QUEUE: usize = 1024;

/// Something that happened to an object of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `network`, `volume` or `daemon`.
    pub kind: &'static str,
    /// What happened, such as `start` or `health_status: healthy`.
    pub action: String,
    /// The object: an ID, or a name for images and volumes.
    pub id: String,
    /// What is told about the object, such as `name`, `image` and its labels.
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event without attributes.
    pub fn new(kind: &'static str, action: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            kind,
            action: action.into(),
            id: id.into(),
            attributes: BTreeMap::new(),
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(key.to_owned(), value.into());
        self
    }

    fn encode(&self, nanos: i64) -> Bytes {
        let mut line = json!({
            "Type": self.kind, "Action": self.action, "scope": "local",
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "time": nanos.div_euclid(1_000_000_000), "timeNano": nanos,
        });
        if matches!(self.kind, "container" | "image") {
            line["status"] = self.action.as_str().into();
            line["id"] = self.id.as_str().into();
        }
        if let (Some(image), "container") = (self.attributes.get("image"), self.kind) {
            line["from"] = Value::from(image.as_str());
        }
        format!("{line}\n").into()
    }

    fn matches(&self, filters: &Filters) -> bool {
        let name = self.attributes.get("name").map(String::as_str);
        let is = |wanted: &str| self.id.starts_with(wanted) || name == Some(wanted);
        filters.any("type", |kind| kind == self.kind)
            && filters.any("event", |action| {
                self.action == action || self.action.split(':').next() == Some(action)
            })
            && filters.any("container", |wanted| self.kind == "container" && is(wanted))
            && filters.any("network", |wanted| self.kind == "network" && is(wanted))
            && filters.any("volume", |wanted| self.kind == "volume" && is(wanted))
            && filters.any("image", |wanted| {
                self.attributes
                    .get("image")
                    .is_some_and(|image| image == wanted)
                    || (self.kind == "image" && is(wanted))
            })
            && filters.labels(|key| self.attributes.get(key).map(String::as_str))
    }
}

struct Logged {
    event: Event,
    nanos: i64,
    line: Bytes,
}

struct Reader {
    filters: Filters,
    sender: mpsc::Sender<Bytes>,
}

/// The newest events of an engine, and who reads along. Takes no memory before the first event.
pub(crate) struct EventLog {
    kept: VecDeque<Arc<Logged>>,
    limit: usize,
    readers: Vec<Reader>,
    /// Events that a reader missed because it was slow.
    pub lost: u64,
}

impl EventLog {
    pub fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            limit,
            readers: Vec::new(),
            lost: 0,
        }
    }

    pub fn push(&mut self, event: Event, nanos: i64) {
        let line = event.encode(nanos);
        self.readers.retain(|reader| !reader.sender.is_closed());
        for reader in self
            .readers
            .iter()
            .filter(|reader| event.matches(&reader.filters))
        {
            if reader.sender.try_send(line.clone()).is_err() {
                self.lost += 1;
            }
        }
        if self.kept.len() >= self.limit {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::new(Logged { event, nanos, line }));
    }

    /// The kept events between two times, one line each.
    pub fn between(&self, since: i64, until: i64, filters: &Filters) -> Bytes {
        let wanted = self.kept.iter().filter(|logged| {
            (since..=until).contains(&logged.nanos) && logged.event.matches(filters)
        });
        wanted
            .flat_map(|logged| logged.line.iter().copied())
            .collect()
    }

    /// Starts telling a reader; one that falls behind loses events, as with dockerd.
    pub fn follow(&mut self, filters: Filters) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(READER_QUEUE);
        self.readers.retain(|reader| !reader.sender.is_closed());
        self.readers.push(Reader { filters, sender });
        receiver
    }

    /// Ends every open stream, after what is already queued for it.
    pub fn drop_readers(&mut self) {
        self.readers = Vec::new();
    }

    pub fn readers(&self) -> usize {
        self.readers
            .iter()
            .filter(|reader| !reader.sender.is_closed())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_events_only() {
        let mut log = EventLog::new(2);
        for at in 1..=3 {
            log.push(Event::new("container", "start", format!("c{at}")), at);
        }
        let text = log.between(0, i64::MAX, &Filters::default());
        let text = std::str::from_utf8(&text).expect("events are text");
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("\"c3\"") && !text.contains("\"c1\""));
    }

    #[test]
    fn a_slow_reader_loses_events_and_is_counted() {
        let mut log = EventLog::new(1);
        let receiver = log.follow(Filters::default());
        for _ in 0..READER_QUEUE + 5 {
            log.push(Event::new("container", "start", "c"), 1);
        }
        assert_eq!((log.lost, log.readers()), (5, 1));
        drop(receiver);
        assert_eq!(log.readers(), 0);
    }
}
