//! The default policies in plain Rust: what a daemon without plugins would do.

use skep::{
    model::{
        directive::Kind,
        expression::{Expression, Operator},
        pattern::Pattern,
        port::PortBinding,
    },
    scheduler::{
        Applies, Call, Filter, PolicyError, Ranked, Strategy,
        node_set::NodeSet,
        request::{Reference, Request},
        table::{Node, NodeStatus},
    },
};

/// Keeps the candidates whose node passes.
fn keep(call: &Call<'_>, candidates: &NodeSet, pass: impl Fn(u32, &Node) -> bool) -> NodeSet {
    let mut kept = candidates.clone();
    for slot in candidates.iter() {
        if !call.nodes.node(slot).is_some_and(|node| pass(slot, node)) {
            kept.remove(slot);
        }
    }
    kept
}

/// Narrows the candidates to those inside or outside of a set.
fn narrow(candidates: &mut NodeSet, set: &NodeSet, operator: Operator) {
    match operator {
        Operator::Equal => candidates.intersect_with(set),
        Operator::NotEqual => {
            for slot in set.iter() {
                candidates.remove(slot);
            }
        }
    }
}

fn applies(yes: bool) -> Result<Applies, PolicyError> {
    Ok(if yes { Applies::Yes } else { Applies::No })
}

/// Healthy nodes only.
pub struct Health;

impl Filter for Health {
    fn name(&self) -> &str {
        "health"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, _: &Request) -> Result<Applies, PolicyError> {
        applies(true)
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        Ok(keep(call, candidates, |_, node| {
            node.status == NodeStatus::Healthy && node.health > 0
        }))
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Nodes where the host ports are free.
#[derive(Default)]
pub struct Port {
    bindings: Vec<PortBinding>,
}

impl Filter for Port {
    fn name(&self) -> &str {
        "port"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.bindings.clone_from(&request.bindings);
        applies(!self.bindings.is_empty())
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        let mut kept = candidates.clone();
        for binding in &self.bindings {
            let taken = call.inventory.nodes_with_host_ports(
                &binding.host_ip,
                binding.first,
                binding.last,
                &binding.protocol,
            );
            narrow(&mut kept, &taken, Operator::NotEqual);
        }
        Ok(kept)
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Nodes with the containers that the request refers to.
#[derive(Default)]
pub struct Dependency {
    references: Vec<Reference>,
}

impl Filter for Dependency {
    fn name(&self) -> &str {
        "dependency"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.references.clone_from(&request.references);
        applies(!self.references.is_empty())
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        let mut kept = candidates.clone();
        for reference in &self.references {
            kept.intersect_with(&call.inventory.nodes_with_reference(&reference.container));
        }
        Ok(kept)
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Nodes with or without certain containers, images, or labels.
#[derive(Default)]
pub struct Affinity {
    wanted: Vec<Expression>,
}

impl Filter for Affinity {
    fn name(&self) -> &str {
        "affinity"
    }
    fn expressions(&self) -> &[Kind] {
        &[Kind::Affinity]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.wanted = request.expressions(Kind::Affinity).to_vec();
        applies(!self.wanted.is_empty())
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        let mut kept = candidates.clone();
        for wanted in &self.wanted {
            let pattern = Pattern::of_value(&wanted.value);
            let found = match wanted.key.as_str() {
                "container" => call.inventory.nodes_with_container(&pattern),
                "image" => call.inventory.nodes_with_image(&pattern),
                key => call.inventory.nodes_with_label(key, &pattern),
            };
            narrow(&mut kept, &found, wanted.operator);
        }
        Ok(kept)
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Nodes whose name or labels match.
#[derive(Default)]
pub struct Constraint {
    wanted: Vec<(String, Operator, Pattern)>,
}

impl Filter for Constraint {
    fn name(&self) -> &str {
        "constraint"
    }
    fn expressions(&self) -> &[Kind] {
        &[Kind::Constraint]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.wanted = request
            .expressions(Kind::Constraint)
            .iter()
            .map(|e| (e.key.clone(), e.operator, Pattern::of_value(&e.value)))
            .collect();
        applies(!self.wanted.is_empty())
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        Ok(keep(call, candidates, |_, node| {
            self.wanted.iter().all(|(key, operator, pattern)| {
                let matches = if key == "node" {
                    pattern.matches(&node.name) || pattern.matches(&node.id)
                } else {
                    let label = node.labels.iter().find(|(name, _)| name == key);
                    pattern.matches(label.map_or("", |(_, value)| value))
                };
                matches == (*operator == Operator::Equal)
            })
        }))
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Nodes with a free container slot.
pub struct ContainerSlots;

impl Filter for ContainerSlots {
    fn name(&self) -> &str {
        "containerslots"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, _: &Request) -> Result<Applies, PolicyError> {
        applies(true)
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        Ok(keep(call, candidates, |slot, node| {
            let label = node.labels.iter().find(|(key, _)| key == "containerslots");
            label
                .and_then(|(_, slots)| slots.parse::<i64>().ok())
                .is_none_or(|slots| i64::from(call.nodes.usage(slot).containers) < slots)
        }))
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Nodes whose names are listed.
#[derive(Default)]
pub struct Whitelist {
    wanted: Vec<Expression>,
}

impl Filter for Whitelist {
    fn name(&self) -> &str {
        "whitelist"
    }
    fn expressions(&self) -> &[Kind] {
        &[Kind::Whitelist]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.wanted = request.expressions(Kind::Whitelist).to_vec();
        applies(!self.wanted.is_empty())
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        Ok(keep(call, candidates, |_, node| {
            self.wanted.iter().all(|wanted| {
                let listed = wanted.value.split('|').any(|name| name == node.name);
                listed == (wanted.operator == Operator::Equal)
            })
        }))
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// The emptiest nodes first.
pub struct Spread;

impl Strategy for Spread {
    fn name(&self) -> &str {
        "spread"
    }
    fn rank(
        &mut self,
        call: &Call<'_>,
        request: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError> {
        let mut ranking: Vec<_> = candidates
            .iter()
            .filter_map(|slot| {
                let node = call.nodes.node(slot)?;
                let usage = call.nodes.usage(slot);
                let taken = usage.reserved + request.need;
                if taken.cpu_nano > node.total.cpu_nano
                    || taken.memory_bytes > node.total.memory_bytes
                {
                    return None;
                }
                let percent = |part: u64, whole: u64| (part * 100 / whole.max(1)) as i64;
                let cpu = match request.need.cpu_nano {
                    0 => 100,
                    _ => percent(taken.cpu_nano, node.total.cpu_nano),
                };
                let memory = match request.need.memory_bytes {
                    0 => 100,
                    _ => percent(taken.memory_bytes, node.total.memory_bytes),
                };
                let score = cpu + memory - 10 * i64::from(node.health);
                Some((score, usage.containers, &node.name, slot))
            })
            .collect();
        ranking.sort_unstable();
        Ok(ranking
            .into_iter()
            .take(limit)
            .map(|(score, _, _, slot)| Ranked { slot, score })
            .collect())
    }
}
