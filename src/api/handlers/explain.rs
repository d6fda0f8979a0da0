//! Why a container goes where it goes, or nowhere.

use std::sync::Arc;

use http::{Method, Request};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Answer, Context, containers, json, read_object};
use crate::{
    api::{error::ApiError, query::Query},
    cluster::create::CreateRequest,
    model::expression::Softness,
    scheduler::{
        explain::{Explanation, Step},
        table::{Node, NodeStatus},
    },
};

/// `GET /skep/explain?container=NAME`, or `POST /skep/explain?name=NAME` with the body of a create.
pub async fn explain(context: &Context, query: &Query, request: Request<Incoming>) -> Answer {
    let cluster = &context.cluster;
    let explanation = if *request.method() == Method::GET {
        let name = query.get("container");
        if name.is_empty() {
            let reason = "the parameter `container` is missing; a create is explained with POST";
            return Err(ApiError::bad_request(reason));
        }
        let found = cluster.snapshot().container(name);
        let found = found.ok_or_else(|| ApiError::no_container_plain(name))?;
        let all = Query::default();
        let document = containers::document(context, None, name, &found, &all).await?;
        cluster.explain_container(&found, &document).await?
    } else {
        let create = CreateRequest {
            name: query.get("name").to_owned(),
            body: read_object(context, request.into_body()).await?,
            version: None,
            query: String::new(),
            auth: None,
        };
        cluster.explain(&create).await?
    };
    Ok(json(&shown(&explanation)))
}

fn shown(explanation: &Explanation) -> Value {
    let ranking = explanation.outcome.as_deref().unwrap_or_default();
    let scored = |(node, score): &(Arc<Node>, i64)| {
        let mut shown = shown_node(node);
        shown["Score"] = json!(score);
        shown
    };
    let closed = explanation.closed.iter().map(|node| {
        let mut shown = shown_node(node);
        shown["Status"] = json!(status(node.status));
        shown
    });
    json!({
        "Chosen": ranking.first().map(|(node, _)| shown_node(node)),
        "Error": explanation.outcome.as_ref().err().map(ToString::to_string),
        "Closed": closed.collect::<Vec<_>>(),
        "Filters": explanation.steps.iter().map(shown_step).collect::<Vec<_>>(),
        "Full": explanation.full.iter().map(|node| shown_node(node)).collect::<Vec<_>>(),
        "Ranking": ranking.iter().map(scored).collect::<Vec<_>>(),
    })
}

fn shown_step(step: &Step) -> Value {
    let is_wish = step.softness == Softness::Soft;
    let mut refused: Vec<_> = step.refused.iter().collect();
    refused.sort_by(|a, b| natord::compare(&a.name, &b.name));
    json!({
        "Filter": step.filter,
        "Conditions": step.conditions,
        "Soft": is_wish,
        "Dropped": is_wish && step.left_none,
        "Refused": refused.into_iter().map(|node| shown_node(node)).collect::<Vec<_>>(),
    })
}

fn shown_node(node: &Node) -> Value {
    let id = node.id.split('|').next().unwrap_or_default();
    json!({"Name": node.name, "ID": id, "Addr": node.address})
}

fn status(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Pending => "Pending",
        NodeStatus::Healthy => "Healthy",
        NodeStatus::Unhealthy => "Unhealthy",
        NodeStatus::Disconnected => "Disconnected",
        NodeStatus::Draining => "Draining",
    }
}
