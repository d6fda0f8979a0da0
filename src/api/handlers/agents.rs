//! What agents tell managers: that they are there, and what they did while they were alone.

use http::{Request, Response};
use hyper::body::Incoming;

use super::{Answer, Context, json, read_body};
use crate::{
    api::error::ApiError,
    engine::transport,
    model::address::EngineAddr,
    store::agents::{FencedContainer, Lease},
};

/// `POST /skep/agents/{addr}/lease`
pub async fn lease(context: &Context, addr: &str, request: Request<Incoming>) -> Answer {
    let addr = parse(addr)?;
    let body = read_body(context, request.into_body()).await?;
    let lease = Lease::parse(&body)
        .map_err(|error| ApiError::bad_request(format!("this is no lease: {error}")))?;
    let answer = context.cluster.renew_lease(&addr, &lease).await;
    let answer = answer.ok_or_else(|| {
        ApiError::unavailable("this manager has no store, and so keeps no leases")
    })?;
    Ok(json(&answer))
}

/// `POST /skep/agents/{addr}/fenced`
pub async fn fenced(context: &Context, addr: &str, request: Request<Incoming>) -> Answer {
    let addr = parse(addr)?;
    let body = read_body(context, request.into_body()).await?;
    let containers: Vec<FencedContainer> = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("this is no list of containers: {error}"))
    })?;
    context.cluster.note_fenced(&addr, containers);
    Ok(Response::new(transport::empty()))
}

fn parse(addr: &str) -> Result<EngineAddr, ApiError> {
    addr.parse()
        .map_err(|error| ApiError::bad_request(format!("`{addr}` is no address: {error}")))
}
