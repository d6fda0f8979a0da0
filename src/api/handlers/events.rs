//! `GET /events`: what happens in the cluster, as it happens.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Answer, Context, json_bytes};
use crate::{
    api::{event_filter::EventFilter, query::Query},
    engine::{event::Event, transport::BodyError},
};

/// A stream without an end in time.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One client that follows events.
struct Follower {
    past: std::vec::IntoIter<Arc<Event>>,
    future: broadcast::Receiver<Arc<Event>>,
    filter: EventFilter,
    until: Instant,
    shutdown: CancellationToken,
}

/// Streams events, one JSON object a line, until the client goes, `until` is reached, the daemon
/// stops, or the client has fallen too far behind.
pub fn follow(context: &Context, query: &Query) -> Answer {
    let now = Utc::now();
    let filter = EventFilter::parse(query, now)?;
    let subscription = context.cluster.subscribe();
    let past = if filter.wants_past() {
        subscription.past
    } else {
        Vec::new()
    };
    let follower = Follower {
        past: past.into_iter(),
        future: subscription.future,
        until: Instant::now() + filter.remaining(now).unwrap_or(FOR_EVER),
        filter,
        shutdown: context.shutdown.clone(),
    };
    let frames = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        let mut line = Vec::with_capacity(event.json.len() + 1);
        line.extend_from_slice(&event.json);
        line.push(b'\n');
        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(line)));
        Some((frame, follower))
    });
    let body = StreamBody::new(frames)
        .map_err(|never| -> BodyError { match never {} })
        .boxed_unsync();
    Ok(json_bytes(StatusCode::OK, body))
}

impl Follower {
    /// The next event that is wanted; `None` at the end.
    async fn next(&mut self) -> Option<Arc<Event>> {
        for event in self.past.by_ref() {
            if self.filter.wants(&event) {
                return Some(event);
            }
        }
        loop {
            let received = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                received = self.future.recv() => received,
                () = tokio::time::sleep_until(self.until) => return None,
            };
            match received {
                Ok(event) if self.filter.wants(&event) => return Some(event),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    warn!(
                        missed,
                        "a follower of events reads too slowly, cutting it off"
                    );
                    return None;
                }
            }
        }
    }
}
