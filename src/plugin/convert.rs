//! From the scheduler's types to those of the plugin interface, borrowing every text.

use super::{
    bindings::scheduling::{
        exports::skep::plugin::plugin::Expressions, skep::plugin::types as wit,
    },
    fault::clip,
};
use crate::{
    model::{
        directive::Kind,
        expression::{Expression, Operator, Softness},
        resource::Amount,
    },
    scheduler::{
        PolicyError,
        request::Request,
        table::{Node, NodeStatus, Usage},
    },
};

/// The lists of a request, kept while a guest reads them.
pub(super) struct RequestParts<'a> {
    request: &'a Request,
    bindings: Vec<wit::PortBinding<'a>>,
    exposed_ports: Vec<&'a str>,
    references: Vec<wit::Reference<'a>>,
    constraints: Vec<wit::Expression<'a>>,
    affinities: Vec<wit::Expression<'a>>,
    whitelists: Vec<wit::Expression<'a>>,
    labels: Vec<wit::AttrParam<'a>>,
}

impl<'a> RequestParts<'a> {
    pub(super) fn of(request: &'a Request) -> Self {
        let expressions = |kind| request.expressions(kind).iter().map(expression).collect();
        Self {
            request,
            bindings: request
                .bindings
                .iter()
                .map(|binding| wit::PortBinding {
                    host_ip: &binding.host_ip,
                    first: binding.first,
                    last: binding.last,
                    protocol: &binding.protocol,
                })
                .collect(),
            exposed_ports: request.exposed_ports.iter().map(String::as_str).collect(),
            references: request
                .references
                .iter()
                .map(|reference| wit::Reference {
                    container: &reference.container,
                    text: &reference.text,
                })
                .collect(),
            constraints: expressions(Kind::Constraint),
            affinities: expressions(Kind::Affinity),
            whitelists: expressions(Kind::Whitelist),
            labels: attrs(&request.labels),
        }
    }

    pub(super) fn view(&self) -> wit::Request<'_> {
        let request = self.request;
        wit::Request {
            id: &request.id,
            name: &request.name,
            image: &request.image,
            need: amount(request.need),
            network_mode: &request.network_mode,
            bindings: &self.bindings,
            exposed_ports: &self.exposed_ports,
            references: &self.references,
            constraints: &self.constraints,
            affinities: &self.affinities,
            whitelists: &self.whitelists,
            labels: &self.labels,
            extra: &[],
        }
    }
}

pub(super) fn node<'a>(
    slot: u32,
    node: &'a Node,
    labels: &'a [wit::AttrParam<'a>],
) -> wit::Node<'a> {
    wit::Node {
        slot,
        id: &node.id,
        name: &node.name,
        address: &node.address,
        status: match node.status {
            NodeStatus::Pending => wit::NodeStatus::Pending,
            NodeStatus::Healthy => wit::NodeStatus::Healthy,
            NodeStatus::Unhealthy => wit::NodeStatus::Unhealthy,
            NodeStatus::Disconnected => wit::NodeStatus::Disconnected,
            NodeStatus::Draining => wit::NodeStatus::Draining,
        },
        health: node.health,
        total: amount(node.total),
        labels,
        extra: &[],
    }
}

pub(super) fn usage(slot: u32, usage: Usage) -> wit::Usage {
    wit::Usage {
        slot,
        reserved: amount(usage.reserved),
        containers: usage.containers,
    }
}

pub(super) fn attrs(pairs: &[(String, String)]) -> Vec<wit::AttrParam<'_>> {
    pairs
        .iter()
        .map(|(key, value)| wit::AttrParam { key, value })
        .collect()
}

/// The kinds of expression a filter is there for.
pub(super) fn kinds(expressions: Expressions) -> Vec<Kind> {
    [
        (Expressions::CONSTRAINTS, Kind::Constraint),
        (Expressions::AFFINITIES, Kind::Affinity),
        (Expressions::WHITELISTS, Kind::Whitelist),
    ]
    .into_iter()
    .filter_map(|(flag, kind)| expressions.contains(flag).then_some(kind))
    .collect()
}

/// What an error of a guest means to the scheduler. A stale mirror is handled before this.
pub(super) fn refusal(error: wit::Error) -> PolicyError {
    match error {
        wit::Error::InvalidRequest(text) => PolicyError::InvalidRequest(clip(text)),
        wit::Error::Denied(text) => PolicyError::Denied(clip(text)),
        other => PolicyError::Failed(clip(error_text(other))),
    }
}

/// An error of a guest in words.
pub(super) fn error_text(error: wit::Error) -> String {
    match error {
        wit::Error::InvalidConfig(text)
        | wit::Error::InvalidRequest(text)
        | wit::Error::Denied(text)
        | wit::Error::Other(text) => text,
        wit::Error::Stale(generation) => {
            format!("its node table stays at generation {generation}")
        }
        wit::Error::NotFound(text) => format!("not found: {text}"),
        wit::Error::Unavailable(text) => format!("unavailable: {text}"),
        wit::Error::Timeout => "a wait of its own ran out".to_owned(),
        wit::Error::Unsupported(text) => format!("unsupported: {text}"),
    }
}

fn amount(amount: Amount) -> wit::Amount {
    wit::Amount {
        cpu_nano: amount.cpu_nano,
        memory_bytes: amount.memory_bytes,
    }
}

fn expression(expression: &Expression) -> wit::Expression<'_> {
    wit::Expression {
        key: &expression.key,
        operator: match expression.operator {
            Operator::Equal => wit::Operator::Equal,
            Operator::NotEqual => wit::Operator::NotEqual,
        },
        value: &expression.value,
        soft: expression.softness == Softness::Soft,
    }
}
