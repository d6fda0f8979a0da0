//! What is to be placed.

use std::collections::BTreeSet;

use crate::model::{
    address::EngineAddr,
    directive::{Directives, Kind},
    expression::{Expression, ExpressionError},
    port::PortBinding,
    resource::Amount,
};

/// The part of a create request that placement looks at.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The cluster-wide ID the container will carry.
    pub id: String,
    /// The name asked for, without a slash; empty if the engine shall invent one.
    pub name: String,
    /// The image as written.
    pub image: String,
    /// Processor time and memory to set aside.
    pub need: Amount,
    /// `bridge`, `host`, `container:web`, a network's name.
    pub network_mode: String,
    /// Host ports asked for by number.
    pub bindings: Vec<PortBinding>,
    /// `80/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Containers that must be on the same node.
    pub references: Vec<Reference>,
    /// Volumes that it uses.
    pub volumes: Vec<VolumeUse>,
    /// What it uses besides that not every node has.
    pub bounds: Vec<Bound>,
    /// The container's labels.
    pub labels: Vec<(String, String)>,
    /// `constraint:`
    pub(crate) constraints: Expressions,
    /// `affinity:`
    pub(crate) affinities: Expressions,
    /// `whitelist:`
    pub(crate) whitelists: Expressions,
}

/// Another container that must be on the same node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The container's name or ID.
    pub container: String,
    /// How the user wrote it: `--link=db:db`.
    pub text: String,
}

/// A volume that a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    /// Empty if the engine shall invent one: then the volume is new.
    pub name: String,
    /// Empty if the request names none: then it is that of the volume there is, or the default.
    pub driver: String,
    /// Whether a volume of this name that one node alone has keeps the container there.
    pub is_pinned: bool,
}

/// Nodes that will do, and why no other does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What it is for, in one word: `network`.
    pub about: &'static str,
    /// The nodes.
    pub nodes: BTreeSet<EngineAddr>,
    /// A sentence without an end.
    pub reason: String,
}

impl VolumeUse {
    /// Whether the request names a driver that not every engine has.
    pub fn needs_driver(&self) -> bool {
        !matches!(self.driver.as_str(), "" | "local")
    }
}

/// The expressions of one kind, and the first text that is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expressions {
    parsed: Vec<Expression>,
    malformed: Option<ExpressionError>,
}

impl Request {
    /// What takes no room and goes where these say.
    pub fn of_directives(directives: &Directives) -> Self {
        let mut request = Self::default();
        request.set_directives(directives);
        request
    }

    /// Reads the expressions out of the directives. A text that does not parse is remembered and
    /// refused by the filter it is for, as classic Swarm did.
    pub fn set_directives(&mut self, directives: &Directives) {
        for kind in [Kind::Constraint, Kind::Affinity, Kind::Whitelist] {
            let mut expressions = Expressions::default();
            for text in directives.texts(kind) {
                match Expression::parse(text) {
                    Ok(expression) => expressions.parsed.push(expression),
                    Err(error) => {
                        expressions.malformed.get_or_insert(error);
                    }
                }
            }
            if let Some(slot) = self.slot(kind) {
                *slot = expressions;
            }
        }
    }

    /// Leaves only the nodes of a bound; the same one again changes nothing.
    pub fn bind(&mut self, bound: Bound) {
        if !self.bounds.contains(&bound) {
            self.bounds.push(bound);
        }
    }

    /// Adds an expression that no directive carries.
    pub fn add_expression(&mut self, kind: Kind, expression: Expression) {
        if let Some(slot) = self.slot(kind) {
            slot.parsed.push(expression);
        }
    }

    /// The expressions of one kind, in the order given.
    pub fn expressions(&self, kind: Kind) -> &[Expression] {
        match kind {
            Kind::Constraint => &self.constraints.parsed,
            Kind::Affinity => &self.affinities.parsed,
            Kind::Whitelist => &self.whitelists.parsed,
            Kind::Reschedule => &[],
        }
    }

    /// The first text of these kinds that is not an expression.
    pub fn malformed(&self, kinds: &[Kind]) -> Option<&ExpressionError> {
        kinds.iter().find_map(|kind| match kind {
            Kind::Constraint => self.constraints.malformed.as_ref(),
            Kind::Affinity => self.affinities.malformed.as_ref(),
            Kind::Whitelist => self.whitelists.malformed.as_ref(),
            Kind::Reschedule => None,
        })
    }

    /// The same request with only the expressions that `keep` wants.
    pub fn retain_expressions(&self, keep: impl Fn(&Expression) -> bool) -> Self {
        let mut request = self.clone();
        for kind in [Kind::Constraint, Kind::Affinity, Kind::Whitelist] {
            if let Some(slot) = request.slot(kind) {
                slot.parsed.retain(&keep);
            }
        }
        request
    }

    /// The same request with this expression alone.
    pub fn only_expression(&self, kind: Kind, expression: &Expression) -> Self {
        let mut request = self.retain_expressions(|_| false);
        request.add_expression(kind, expression.clone());
        request
    }

    fn slot(&mut self, kind: Kind) -> Option<&mut Expressions> {
        match kind {
            Kind::Constraint => Some(&mut self.constraints),
            Kind::Affinity => Some(&mut self.affinities),
            Kind::Whitelist => Some(&mut self.whitelists),
            Kind::Reschedule => None,
        }
    }
}
