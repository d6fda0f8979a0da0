//! The engines' own plugins, which have nothing to do with those of Skep.

use http::Method;

use super::{Answer, Context, engine_path, json};
use crate::{
    api::{fanout, query::Query},
    engine::raw::RawObject,
};

/// `GET /plugins`: the plugins of all healthy engines, in natural order of the nodes' names. The
/// entries are the engines' own, so that a plugin of several engines is there several times.
pub async fn list(context: &Context, version: Option<&str>, query: &Query) -> Answer {
    let nodes = context.cluster.snapshot().healthy();
    let outcomes = fanout::on_each(&context.cluster, nodes, |node| {
        let path = engine_path(&node, version, "/plugins", query);
        async move {
            let list = node
                .client
                .json_at::<Option<Vec<RawObject>>>(Method::GET, &path);
            Ok(list.await?.unwrap_or_default())
        }
    })
    .await;
    let lists = fanout::all(outcomes)?;
    let entries: Vec<RawObject> = lists.into_iter().flat_map(|(_, list)| list).collect();
    Ok(json(&entries))
}
