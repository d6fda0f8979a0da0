//! Containers are moved to better nodes, or it is told which would be.

use serde_json::{Value, json};

use super::{Answer, Context, json};
use crate::{
    api::{error::ApiError, query::Query},
    cluster::rebalance::Move,
};

/// Moves unless the client says how many.
const DEFAULT_MOVES: usize = 10;

/// More than that takes too long for one request.
const MAX_MOVES: usize = 1000;

/// `POST /skep/rebalance?dry-run=BOOL&max-moves=N`: answers when all is done.
pub async fn rebalance(context: &Context, query: &Query) -> Answer {
    let max_moves = match query.get("max-moves") {
        "" => DEFAULT_MOVES,
        text => text
            .parse()
            .ok()
            .filter(|count| (1..=MAX_MOVES).contains(count))
            .ok_or_else(|| {
                let text = format!("max-moves is a number from 1 to {MAX_MOVES}, not `{text}`");
                ApiError::bad_request(text)
            })?,
    };
    let moves = if query.flag("dry-run") {
        context.cluster.plan_rebalance(max_moves).await
    } else {
        context.cluster.rebalance(max_moves).await
    };
    let snapshot = context.cluster.snapshot();
    let shown = moves.iter().map(
        |Move {
             found,
             shift,
             error,
         }| {
            let to = snapshot.node(&shift.to);
            let to = to.map_or_else(
                || shift.to.to_string(),
                |node| node.inventory.name().to_owned(),
            );
            json!({
                "Id": &*found.container.id,
                "Name": found.container.name(),
                "From": found.node.inventory.name(),
                "To": to,
                "Score": shift.score,
                "Containers": shift.containers,
                "Error": error,
            })
        },
    );
    Ok(json(&shown.collect::<Vec<Value>>()))
}
