//! The control endpoint of the binary: turns the switches of a running fleet over HTTP.
//!
//! ```text
//! GET  /engines                     addresses, counts, connections
//! POST /engines/WHICH/fault?kind=hang[&route=GET%20/info][&ms=5][&jitter=2]
//! POST /engines/WHICH/clear | die | return | drop-events | set-id?id=X | skew?seconds=-5
//! ```
//!
//! `WHICH` is the number of an engine or `all`. Fault kinds: latency, refuse, not-http, hang,
//! lose-answer, reset, garbage, error500, slow, suppress-events, drop-events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::body::{self, Answer};
use crate::engine::Engine;
use crate::fault::Fault;
use crate::fleet::Fleet;
use crate::query::Query;

/// Serves the control endpoint until cancelled.
///
/// # Cancel safety
///
/// Safe; connections that are open are served to their end.
pub async fn serve(listener: TcpListener, fleet: &Fleet) {
    let engines: Arc<[Arc<Engine>]> = fleet.engines().into();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let engines = Arc::clone(&engines);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(&engines, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away is no error worth telling.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn answer(engines: &[Arc<Engine>], request: &Request<Incoming>) -> Answer {
    let query = Query::parse(request.uri().query());
    let segments: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let done = match (request.method(), segments.as_slice()) {
        (&Method::GET, ["engines"]) => {
            return body::json(StatusCode::OK, describe(engines).to_string());
        }
        (&Method::POST, ["engines", "all", action]) => engines
            .iter()
            .try_for_each(|engine| act(engine, action, &query)),
        (&Method::POST, ["engines", which, action]) => {
            match which.parse().ok().and_then(|at: usize| engines.get(at)) {
                Some(engine) => act(engine, action, &query),
                None => Err("no such engine"),
            }
        }
        _ => Err("no such route"),
    };
    match done {
        Ok(()) => body::empty(StatusCode::NO_CONTENT),
        Err(text) => body::error(StatusCode::BAD_REQUEST, text),
    }
}

fn act(engine: &Engine, action: &str, query: &Query) -> Result<(), &'static str> {
    match action {
        "fault" => {
            let fault = fault(query)?;
            match query.get("route") {
                Some(route) => engine.set_fault_on(route, fault),
                None => engine.set_fault(fault),
            }
        }
        "clear" => engine.clear_faults(),
        "die" => engine.die(),
        "return" => engine.come_back(),
        "drop-events" => engine.drop_event_streams(),
        "set-id" => engine.set_id(query.get("id").ok_or("set-id needs id")?),
        "skew" => {
            let seconds = query.get("seconds").and_then(|text| text.parse().ok());
            engine.set_clock_skew(seconds.ok_or("skew needs seconds")?);
        }
        _ => return Err("no such action"),
    }
    Ok(())
}

fn fault(query: &Query) -> Result<Fault, &'static str> {
    let millis = |key, default| match query.get(key) {
        Some(text) => text
            .parse()
            .map(Duration::from_millis)
            .map_err(|_| "not a number of milliseconds"),
        None => Ok(Duration::from_millis(default)),
    };
    Ok(match query.get("kind").unwrap_or_default() {
        "latency" => Fault::Latency {
            base: millis("ms", 1)?,
            jitter: millis("jitter", 0)?,
        },
        "refuse" => Fault::RefuseConnections,
        "not-http" => Fault::NotHttp,
        "hang" => Fault::Hang,
        "lose-answer" => Fault::LoseAnswer,
        "reset" => Fault::ResetMidBody,
        "garbage" => Fault::Garbage,
        "error500" => Fault::Error500("broken on request".to_owned()),
        "slow" => Fault::SlowBody {
            per_byte: millis("ms", 10)?,
        },
        "suppress-events" => Fault::SuppressEvents,
        "drop-events" => Fault::DropEventStreams,
        _ => return Err("no such fault"),
    })
}

fn describe(engines: &[Arc<Engine>]) -> Value {
    let one = |engine: &Arc<Engine>| {
        json!({
            "addr": engine.addr().to_string(), "name": engine.name(), "id": engine.id(),
            "containers": engine.state().containers.len(), "requests": engine.total_requests(),
            "open": engine.open_connections(), "peak": engine.peak_connections(),
            "events-lost": engine.state().events.lost,
        })
    };
    engines.iter().map(one).collect()
}
