use super::*;
use crate::{
    model::{directive::Directives, resource::Amount},
    scheduler::{
        request::VolumeUse,
        table::{Node, NodeStatus},
    },
};

/// Nothing runs anywhere; there may be volumes, and drivers by slot.
#[derive(Default)]
struct Stock {
    volumes: Vec<(&'static str, VolumeHolder)>,
    drivers: Vec<(&'static str, u32)>,
}

impl Inventory for Stock {
    fn nodes_with_reference(&self, _: &str) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_container(&self, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_label(&self, _: &str, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_image(&self, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_host_ports(&self, _: &str, _: u16, _: u16, _: &str) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_volume_driver(&self, driver: &str) -> NodeSet {
        let drivers = self.drivers.iter().filter(|(name, _)| *name == driver);
        drivers.map(|(_, slot)| *slot).collect()
    }
    fn volumes(&self, name: &str) -> Vec<VolumeHolder> {
        let volumes = self.volumes.iter().filter(|(own, _)| *own == name);
        volumes.map(|(_, holder)| holder.clone()).collect()
    }
    fn nodes_with_host_mode_port(&self, _: &str) -> NodeSet {
        NodeSet::default()
    }
}

/// Keeps the nodes whose name is the value of every constraint.
#[derive(Default)]
struct ByName {
    wanted: Vec<(String, bool)>,
}

impl Filter for ByName {
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
            .map(|e| (e.value.clone(), e.softness == Softness::Soft))
            .collect();
        Ok(Applies::Yes)
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        Ok(candidates
            .iter()
            .filter(|slot| {
                let name = &call.nodes.node(*slot).unwrap().name;
                self.wanted
                    .iter()
                    .all(|(value, _)| Pattern::of_value(value).matches(name))
            })
            .collect())
    }
    fn explain(&mut self) -> Vec<String> {
        self.wanted
            .iter()
            .map(|(value, soft)| format!("node=={value} (soft={soft})"))
            .collect()
    }
}

/// Says no in its own words.
struct Denying;

impl Filter for Denying {
    fn name(&self) -> &str {
        "denying"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, _: &Request) -> Result<Applies, PolicyError> {
        Ok(Applies::Yes)
    }
    fn filter(&mut self, _: &Call<'_>, _: &NodeSet) -> Result<NodeSet, PolicyError> {
        Err(PolicyError::Denied("all are ill".to_owned()))
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Fails whenever it is asked.
struct Broken;

impl Filter for Broken {
    fn name(&self) -> &str {
        "broken"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, _: &Request) -> Result<Applies, PolicyError> {
        Err(PolicyError::Failed("trapped".to_owned()))
    }
    fn filter(&mut self, _: &Call<'_>, _: &NodeSet) -> Result<NodeSet, PolicyError> {
        unreachable!("prepare failed")
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Ranks by slot; a node named `full…` has no room.
struct InOrder;

impl Strategy for InOrder {
    fn name(&self) -> &str {
        "in-order"
    }
    fn rank(
        &mut self,
        call: &Call<'_>,
        _: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError> {
        Ok(candidates
            .iter()
            .filter(|slot| !call.nodes.node(*slot).unwrap().name.starts_with("full"))
            .take(limit)
            .map(|slot| Ranked { slot, score: 0 })
            .collect())
    }
}

fn table(names: &[&str]) -> NodeTable {
    let mut nodes = NodeTable::default();
    for name in names {
        nodes.insert(Node {
            id: format!("{name}-id"),
            name: (*name).to_owned(),
            address: String::new(),
            status: if name.starts_with("gone") {
                NodeStatus::Disconnected
            } else {
                NodeStatus::Healthy
            },
            health: 100,
            total: Amount::default(),
            labels: Vec::new(),
        });
    }
    nodes
}

fn constrained(constraints: &[&str]) -> Request {
    let mut directives = Directives::default();
    for text in constraints {
        directives.push(Kind::Constraint, *text);
    }
    let mut request = Request::default();
    request.set_directives(&directives);
    request
}

fn place(
    filters: Vec<Box<dyn Filter>>,
    names: &[&str],
    constraints: &[&str],
) -> Result<Vec<String>, String> {
    let nodes = table(names);
    let inventory: Arc<dyn Inventory> = Arc::new(Stock::default());
    let call = Call {
        nodes: &nodes,
        inventory: &inventory,
        seed: 0,
    };
    Scheduler::new(filters, Box::new(InOrder))
        .schedule(&constrained(constraints), &call, 10)
        .map(|ranking| {
            ranking
                .iter()
                .map(|r| nodes.node(r.slot).unwrap().name.clone())
                .collect()
        })
        .map_err(|error| error.to_string())
}

/// The lines of an explanation: closed nodes, steps, full nodes, outcome.
fn explained(names: &[&str], constraints: &[&str]) -> Vec<String> {
    let nodes = table(names);
    let inventory: Arc<dyn Inventory> = Arc::new(Stock::default());
    let call = Call {
        nodes: &nodes,
        inventory: &inventory,
        seed: 0,
    };
    let filters: Vec<Box<dyn Filter>> = vec![Box::new(ByName::default())];
    let explanation =
        Scheduler::new(filters, Box::new(InOrder)).explain(&constrained(constraints), &call);
    let list = |nodes: &[Arc<Node>]| {
        let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
        names.join(",")
    };
    let mut lines = vec![format!("closed {}", list(&explanation.closed))];
    for step in &explanation.steps {
        lines.push(format!(
            "{} {:?} {:?} refuses {}{}",
            step.filter,
            step.softness,
            step.conditions,
            list(&step.refused),
            if step.left_none { ", all" } else { "" }
        ));
    }
    lines.push(format!("full {}", list(&explanation.full)));
    lines.push(match &explanation.outcome {
        Ok(ranking) => {
            let nodes: Vec<_> = ranking.iter().map(|(node, _)| Arc::clone(node)).collect();
            format!("left {}", list(&nodes))
        }
        Err(error) => error.to_string().lines().next().unwrap().to_owned(),
    });
    lines
}

#[test]
fn a_decision_is_explained_step_by_step() {
    let lines = explained(
        &["a1", "a2", "b1", "full-a", "gone-a"],
        &["node==*a*", "node==~nowhere", "node==~*2"],
    );
    assert_eq!(
        lines,
        [
            "closed gone-a",
            r#"constraint Hard ["node==*a* (soft=false)"] refuses b1"#,
            r#"constraint Soft ["node==nowhere (soft=true)"] refuses a1,a2, all"#,
            r#"constraint Soft ["node==*2 (soft=true)"] refuses a1"#,
            "full full-a",
            "left a2",
        ]
    );
}

#[test]
fn a_refusal_is_explained_with_the_step_that_left_none() {
    assert_eq!(
        explained(&["a", "b"], &["node==x"]),
        [
            "closed ",
            r#"constraint Hard ["node==x (soft=false)"] refuses a,b, all"#,
            "full ",
            "Unable to find a node that satisfies the following conditions ",
        ]
    );
    assert_eq!(
        explained(&["full-a", "full-b"], &[]),
        [
            "closed ",
            "full full-a,full-b",
            "no resources available to schedule container",
        ]
    );
}

fn check(names: &[&str], constraints: &[&str], expected: Result<&[&str], &str>) {
    let placed = place(vec![Box::new(ByName::default())], names, constraints);
    let expected = expected
        .map(|names| names.iter().map(|n| (*n).to_owned()).collect())
        .map_err(str::to_owned);
    assert_eq!(placed, expected, "{constraints:?}");
}

#[test]
fn keeps_what_every_filter_passes() {
    check(&["a", "b"], &[], Ok(&["a", "b"]));
    check(&["a", "b"], &["node==b"], Ok(&["b"]));
}

#[test]
fn names_the_conditions_when_nothing_is_left() {
    check(
        &["a"],
        &["node==x", "node==~y"],
        Err(
            "Unable to find a node that satisfies the following conditions \n\
             [node==x (soft=false) node==y (soft=true)]",
        ),
    );
}

#[test]
fn a_malformed_expression_is_reported_by_its_filter() {
    check(
        &["a"],
        &["node=x"],
        Err(
            "Unable to find a node that satisfies the following conditions \n\
             error from constraint filter: One of operator ==, != is expected",
        ),
    );
}

#[test]
fn soft_expressions_are_dropped_one_by_one() {
    check(
        &["a1", "a2", "b1"],
        &["node==~nowhere", "node==~a*", "node==~*2"],
        Ok(&["a2"]),
    );
}

#[test]
fn a_soft_expression_never_beats_room() {
    check(&["full-a", "b"], &["node==~full*"], Ok(&["b"]));
    check(
        &["full-a", "full-b"],
        &["node==~full-a"],
        Err("no resources available to schedule container"),
    );
}

#[test]
fn a_filter_that_fails_refuses_the_request() {
    let placed = place(vec![Box::new(Broken)], &["a"], &[]);
    assert_eq!(
        placed.unwrap_err(),
        "filter plugin `broken` failed: trapped"
    );
}

/// Nodes for a container with a volume `data` of node `b`, and one `files` that `a` shows and `c`
/// could, by its driver.
fn place_with_volume(volume: (&str, &str, bool), constraints: &[&str]) -> Result<String, String> {
    place_with_volume_by(Box::new(ByName::default()), volume, constraints)
}

fn place_with_volume_by(
    filter: Box<dyn Filter>,
    (name, driver, is_pinned): (&str, &str, bool),
    constraints: &[&str],
) -> Result<String, String> {
    let holder = |slot, driver: &str, is_shared| VolumeHolder {
        slot,
        driver: driver.to_owned(),
        is_shared,
    };
    let stock = Stock {
        volumes: vec![
            ("data", holder(1, "local", false)),
            ("files", holder(0, "nfs", true)),
        ],
        drivers: vec![("nfs", 0), ("nfs", 2)],
    };
    let nodes = table(&["a", "b", "c"]);
    let inventory: Arc<dyn Inventory> = Arc::new(stock);
    let call = Call {
        nodes: &nodes,
        inventory: &inventory,
        seed: 0,
    };
    let mut request = constrained(constraints);
    request.volumes.push(VolumeUse {
        name: name.to_owned(),
        driver: driver.to_owned(),
        is_pinned,
    });
    Scheduler::new(vec![filter], Box::new(InOrder))
        .schedule(&request, &call, 10)
        .map(|ranking| {
            let names = ranking.iter().map(|one| nodes.node(one.slot).unwrap());
            names.map(|node| node.name.as_str()).collect()
        })
        .map_err(|error| error.to_string())
}

#[test]
fn a_container_goes_where_its_volumes_and_their_drivers_are() {
    for (volume, constraints, expected) in [
        (("data", "", true), &[][..], "b"),
        (("data", "local", true), &[], "b"),
        (("data", "", false), &[], "abc"),
        (("new", "", true), &[], "abc"),
        (("files", "", true), &[], "ac"),
        (("files", "", false), &[], "ac"),
        (("new", "nfs", true), &[], "ac"),
        (("", "nfs", true), &[], "ac"),
        // That one has the same name and is another.
        (("data", "nfs", true), &[], "ac"),
        // Who insists on a node wants a volume there.
        (("data", "", true), &["node==c"], "c"),
        (("data", "", true), &["node==b"], "b"),
        (("data", "", true), &["node==~c"], "b"),
    ] {
        let placed = place_with_volume(volume, constraints);
        assert_eq!(
            placed.as_deref(),
            Ok(expected),
            "{volume:?} {constraints:?}"
        );
    }
}

#[test]
fn a_filter_speaks_of_those_nodes_that_were_left_to_it() {
    let deny = |volume| place_with_volume_by(Box::new(Denying), volume, &[]).unwrap_err();
    assert_eq!(deny(("new", "", true)), "all are ill");
    assert_eq!(
        deny(("new", "nfs", true)),
        "Unable to find a node that satisfies the following conditions \n\
         [volume driver nfs]\n[all are ill]"
    );
}

#[test]
fn what_a_volume_asks_for_is_a_condition_among_others() {
    let refusal =
        |volume, constraints: &[&str]| place_with_volume(volume, constraints).unwrap_err();
    assert_eq!(
        refusal(("new", "nfs", true), &["node==b"]),
        "Unable to find a node that satisfies the following conditions \n\
         [volume driver nfs]\n[node==b (soft=false)]"
    );
    assert_eq!(
        refusal(("data", "", true), &["node==b", "node==c"]),
        "Unable to find a node that satisfies the following conditions \n\
         [node==b (soft=false) node==c (soft=false)]"
    );
    assert_eq!(
        refusal(("new", "cifs", true), &[]),
        "error looking up volume plugin cifs: plugin \"cifs\" not found on a, b, c"
    );
}
