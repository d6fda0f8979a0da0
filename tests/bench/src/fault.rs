//! What can go wrong with an engine, on request.

use std::time::Duration;

/// A way in which an engine misbehaves. Several may be active; see [`Engine::set_fault`](crate::Engine::set_fault).
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Each call takes `base`, plus up to `jitter` more, before it is acted on.
    Latency {
        /// The least time.
        base: Duration,
        /// The most that is added to it.
        jitter: Duration,
    },
    /// Connections are reset as soon as they are accepted; open ones live on.
    RefuseConnections,
    /// New connections get a line that is not HTTP, then end.
    NotHttp,
    /// Calls are accepted and never answered, nor acted on.
    Hang,
    /// Calls are acted on and never answered.
    LoseAnswer,
    /// Calls are acted on; the connection is cut in the middle of the answer's body.
    ResetMidBody,
    /// Calls are answered 200 with bytes that are not JSON, and not acted on.
    Garbage,
    /// Calls are answered 500 with this message, and not acted on.
    Error500(String),
    /// Bodies trickle out, one byte per `per_byte`.
    SlowBody {
        /// Time between two bytes.
        per_byte: Duration,
    },
    /// Events happen and are told to nobody, as if the stream had missed them.
    SuppressEvents,
    /// Event streams end as soon as they begin; those that are open end now.
    DropEventStreams,
}

/// The active faults of one engine, each for one route or for all.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<(Option<Box<str>>, Fault)>);

impl Faults {
    /// Adds `fault`, replacing the one of the same kind on the same route.
    pub fn set(&mut self, route: Option<&str>, fault: Fault) {
        let kind = std::mem::discriminant(&fault);
        self.0
            .retain(|(on, old)| on.as_deref() != route || std::mem::discriminant(old) != kind);
        self.0.push((route.map(Into::into), fault));
    }

    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// The faults that apply to `route`, oldest first.
    pub fn on(&self, route: &str) -> Vec<Fault> {
        self.iter_on(route).cloned().collect()
    }

    pub fn has(&self, route: &str, fault: &Fault) -> bool {
        self.iter_on(route).any(|active| active == fault)
    }

    fn iter_on(&self, route: &str) -> impl Iterator<Item = &Fault> {
        self.0
            .iter()
            .filter(move |(on, _)| on.as_deref().is_none_or(|on| on == route))
            .map(|(_, fault)| fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_on_a_route_leaves_the_others_alone() {
        let mut faults = Faults::default();
        faults.set(Some("GET /info"), Fault::Hang);
        faults.set(Some("GET /info"), Fault::Hang);
        faults.set(None, Fault::Garbage);
        assert_eq!(faults.on("GET /info"), [Fault::Hang, Fault::Garbage]);
        assert_eq!(faults.on("GET /version"), [Fault::Garbage]);
    }
}
