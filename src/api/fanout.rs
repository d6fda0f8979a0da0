//! One question to many engines: bounded, each answer kept apart, none waiting for another.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use http::StatusCode;

use super::error::ApiError;
use crate::{
    cluster::{
        Cluster,
        snapshot::{Node, Snapshot},
    },
    engine::client::ClientError,
};

/// How many nodes are asked at a time.
pub const CONCURRENT_NODES: usize = 32;

/// What one node answered.
pub struct Outcome<T> {
    /// Who was asked.
    pub node: Arc<Node>,
    /// Its answer.
    pub result: Result<T, ClientError>,
}

/// The nodes that can be asked something, for what needs at least one of them.
///
/// # Errors
///
/// Status 500 if there is none.
pub fn some_healthy(snapshot: &Snapshot) -> Result<Vec<Arc<Node>>, ApiError> {
    let nodes = snapshot.healthy();
    if nodes.is_empty() {
        return Err(ApiError::internal(
            "No healthy node available in the cluster",
        ));
    }
    Ok(nodes)
}

/// Asks every node, at most [`CONCURRENT_NODES`] at a time, and returns the answers in the order
/// of `nodes`; a slow node keeps no other waiting. A node that cannot be reached is noted, so that
/// its health shows it.
///
/// There is no deadline here: each call has its own. Dropping the future drops the calls.
pub async fn on_each<T, F, Call>(
    cluster: &Cluster,
    nodes: Vec<Arc<Node>>,
    ask: F,
) -> Vec<Outcome<T>>
where
    F: Fn(Arc<Node>) -> Call,
    Call: Future<Output = Result<T, ClientError>>,
{
    let mut outcomes: Vec<(usize, Outcome<T>)> = stream::iter(nodes.into_iter().enumerate())
        .map(|(position, node)| {
            let call = ask(Arc::clone(&node));
            async move {
                let result = call.await;
                if let Err(error) = &result
                    && error.is_contact_failure()
                {
                    cluster.report_failure(&node.inventory.addr, error);
                }
                (position, Outcome { node, result })
            }
        })
        .buffer_unordered(CONCURRENT_NODES)
        .collect()
        .await;
    outcomes.sort_by_key(|(position, _)| *position);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// All answers, or one error that names each node that failed, a line each.
///
/// # Errors
///
/// The status is the engines' own if all that failed gave the same one, and 500 otherwise. What the
/// other nodes did stays done.
pub fn all<T>(outcomes: Vec<Outcome<T>>) -> Result<Vec<(Arc<Node>, T)>, ApiError> {
    let mut answers = Vec::with_capacity(outcomes.len());
    let mut failures = Vec::new();
    for Outcome { node, result } in outcomes {
        match result {
            Ok(answer) => answers.push((node, answer)),
            Err(error) => failures.push((node, error)),
        }
    }
    let Some((_, first)) = failures.first() else {
        return Ok(answers);
    };
    let status = first.status().filter(|status| {
        failures
            .iter()
            .all(|(_, error)| error.status() == Some(*status))
    });
    let lines: Vec<String> = failures
        .iter()
        .map(|(node, error)| format!("{}: {error}", node.inventory.name()))
        .collect();
    Err(ApiError::with_status(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        lines.join("\n"),
    ))
}
