//! Lists of engines, each under a token: what classic Swarm's hosted discovery served.
//!
//! ```text
//! POST   /v1/clusters                    a new token
//! GET    /v1/clusters/<token>            the engines, as a JSON array of addresses
//! POST   /v1/clusters/<token>?ttl=180    adds the engine in the body, for so many seconds
//! DELETE /v1/clusters/<token>/<engine>   takes it back
//! ```
//!
//! A token is its list's only protection: whoever knows it may read and change the list, and
//! nobody can ask which tokens there are. Any token will do, so that `skep create` needs to ask
//! nobody for one.

use std::{fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{Answer, Context, json, no_content, read_body};
use crate::{
    api::{error::ApiError, query::Query},
    engine::transport,
    model::address::EngineAddr,
    store::{Entry, Store, StoreError},
};

/// The shortest token: one that is shorter could be guessed.
const MIN_TOKEN: usize = 16;

/// The longest token.
const MAX_TOKEN: usize = 64;

/// The most engines under one token.
const MAX_ENGINES: usize = 10_000;

/// The most engines under all tokens.
const MAX_ENTRIES: usize = 100_000;

/// How long an engine is listed unless the request says otherwise, in seconds.
const TTL: u64 = 180;

/// The longest that a request may say, in seconds.
const MAX_TTL: u64 = 24 * 3600;

/// Where the lists are kept.
#[derive(Clone)]
pub struct Tokens {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Everything is kept below this key.
    pub prefix: String,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store.name(), self.prefix)
    }
}

/// What is kept of an engine, under its address.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    expires_at: DateTime<Utc>,
}

/// A token that nobody can guess.
pub fn new_token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Answers what is asked below `/v1/clusters`, with `rest` of the path.
pub(super) async fn answer(
    context: &Context,
    rest: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let Some(tokens) = &context.options.tokens else {
        return Err(ApiError::not_found("page not found"));
    };
    let (token, engine) = rest.split_once('/').unwrap_or((rest, ""));
    match (request.method(), token, engine) {
        (&Method::POST, "", "") => Ok(text(StatusCode::CREATED, new_token())),
        (_, "", _) => Err(ApiError::not_found("page not found")),
        (&Method::GET, token, "") => tokens.list(check(token)?).await,
        (&Method::POST, token, "") => {
            let token = check(token)?;
            let body = read_body(context, request.into_body()).await?;
            let engine = engine_in(&String::from_utf8_lossy(&body))?;
            tokens.add(token, &engine, ttl(query)?).await
        }
        (&Method::DELETE, token, engine) if !engine.is_empty() => {
            let engine = engine_in(engine)?;
            tokens.remove(check(token)?, &engine).await
        }
        _ => Err(ApiError::not_found("page not found")),
    }
}

impl Tokens {
    async fn list(&self, token: &str) -> Answer {
        let prefix = format!("{}/{token}", self.prefix);
        let listing = self.store.list(&prefix).await.map_err(away)?;
        let now = Utc::now();
        let live = listing.entries.iter().filter(|entry| !is_over(entry, now));
        let engines = live.filter_map(|entry| entry.key.rsplit('/').next());
        Ok(json(&engines.collect::<Vec<_>>()))
    }

    async fn add(&self, token: &str, engine: &str, ttl: TimeDelta) -> Answer {
        let key = format!("{}/{token}/{engine}", self.prefix);
        if self.store.get(&key).await.map_err(away)?.is_none() {
            self.make_room(token).await?;
        }
        let listed = Listed {
            expires_at: Utc::now() + ttl,
        };
        let value = serde_json::to_vec(&listed).unwrap_or_default();
        self.store.put(&key, value.into()).await.map_err(away)?;
        Ok(text(StatusCode::OK, "OK".to_owned()))
    }

    async fn remove(&self, token: &str, engine: &str) -> Answer {
        let key = format!("{}/{token}/{engine}", self.prefix);
        self.store.delete(&key, None).await.map_err(away)?;
        Ok(no_content())
    }

    /// Deletes what is over, and sees that there is room for one more.
    async fn make_room(&self, token: &str) -> Result<(), ApiError> {
        let all = self.store.list(&self.prefix).await.map_err(away)?;
        let now = Utc::now();
        let (over, live): (Vec<_>, Vec<_>) = all
            .entries
            .into_iter()
            .partition(|entry| is_over(entry, now));
        for entry in over {
            // Whoever put it again in the meantime has a newer one.
            match self.store.delete(&entry.key, Some(entry.revision)).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(away(error)),
            }
        }
        let own = format!("{}/{token}", self.prefix);
        let is_own = |entry: &&Entry| crate::store::is_below(&entry.key, &own);
        if live.len() >= MAX_ENTRIES || live.iter().filter(is_own).count() >= MAX_ENGINES {
            return Err(ApiError::unavailable("there are too many engines listed"));
        }
        Ok(())
    }
}

/// Whether an engine's time is over. What cannot be read is nobody's, and stays.
fn is_over(entry: &Entry, now: DateTime<Utc>) -> bool {
    serde_json::from_slice::<Listed>(&entry.value).is_ok_and(|listed| listed.expires_at < now)
}

fn check(token: &str) -> Result<&str, ApiError> {
    let fits = (MIN_TOKEN..=MAX_TOKEN).contains(&token.len())
        && token
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if fits {
        Ok(token)
    } else {
        Err(ApiError::bad_request(format!(
            "a token has {MIN_TOKEN} to {MAX_TOKEN} letters and digits"
        )))
    }
}

/// An address that managers may connect to; no socket of their own machines.
fn engine_in(text: &str) -> Result<String, ApiError> {
    match text.trim().parse::<EngineAddr>() {
        Ok(addr) if !addr.to_string().contains('/') => Ok(addr.to_string()),
        _ => Err(ApiError::bad_request(format!(
            "`{}` is not of the form host:port",
            text.trim()
        ))),
    }
}

fn ttl(query: &Query) -> Result<TimeDelta, ApiError> {
    let seconds = match query.get("ttl") {
        "" => TTL,
        text => text
            .parse()
            .ok()
            .filter(|seconds| (1..=MAX_TTL).contains(seconds))
            .ok_or_else(|| {
                ApiError::bad_request(format!(
                    "`ttl` must be 1 to {MAX_TTL} seconds, not `{text}`"
                ))
            })?,
    };
    Ok(TimeDelta::seconds(
        i64::try_from(seconds).unwrap_or(i64::MAX),
    ))
}

fn away(error: StoreError) -> ApiError {
    ApiError::unavailable(error.to_string())
}

fn text(status: StatusCode, text: String) -> Response<transport::Body> {
    let mut response = Response::new(transport::full(text.into_bytes()));
    *response.status_mut() = status;
    response
}
