//! Modelled nodes: what placement sees of a fleet, and nothing else of it.
//!
//! A container that is placed is seen on its node at once, as if its engine had answered in no time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    cluster::placement::{PlaceError, Wanted, desk::Desk, expected},
    config::workload::{NodeClass, Workload},
    engine::{
        health::Status,
        inventory::{Container, Inventory, Specs},
    },
    model::{address::EngineAddr, resource::Amount},
    scheduler::{ScheduleError, Scheduler, request::Request},
};

/// The health of a node that never failed.
const FULL_HEALTH: u32 = 100;

/// Every node of a workload, and the desk that places on them.
pub(super) struct Fleet {
    desk: Desk,
    nodes: Vec<Arc<Inventory>>,
    numbers: HashMap<EngineAddr, usize>,
    strategy: String,
    /// How many containers were wanted.
    serial: u64,
}

/// Where a container runs.
pub(super) struct Place {
    /// The node's number.
    pub node: usize,
    /// What the container set aside.
    pub need: Amount,
    id: Arc<str>,
}

/// Who refused a container, and in which words.
pub(super) type Refused = (String, String);

impl Fleet {
    pub fn new(
        workload: &Workload,
        strategy: &str,
        scheduler: Scheduler,
        overcommit: f64,
        seed: u64,
    ) -> Self {
        let mut fleet = Self {
            desk: Desk::new(scheduler, overcommit, StdRng::seed_from_u64(seed)),
            nodes: Vec::new(),
            numbers: HashMap::new(),
            strategy: strategy.to_owned(),
            serial: 0,
        };
        for class in &workload.nodes {
            for index in 0..class.count {
                let inventory = Arc::new(inventory(class, index));
                fleet.desk.put(&inventory);
                let number = fleet.nodes.len();
                fleet.numbers.insert(inventory.addr.clone(), number);
                fleet.nodes.push(inventory);
            }
        }
        fleet
    }

    /// What may be given away on each node.
    pub fn capacities(&self, overcommit: f64) -> Vec<Amount> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| node.total().overcommitted(overcommit))
            .collect()
    }

    /// Places a container of a class, and tells how long the decision took.
    pub fn place(&mut self, class: &str, asked: &Request) -> (Result<Place, Refused>, Duration) {
        self.serial += 1;
        let mut request = Request::clone(asked);
        request.id = format!("{:064x}", self.serial);
        request.name = format!("{class}-{}", self.serial);
        let id: Arc<str> = Arc::from(request.id.as_str());
        let container = Arc::new(Container {
            id: Arc::clone(&id),
            ..expected(&request)
        });
        let wanted = Wanted {
            container: Arc::clone(&container),
            request,
            instead_of: None,
            avoid: Vec::new(),
        };
        let started = Instant::now();
        let outcome = self.desk.place(&wanted);
        let took = started.elapsed();
        let place = match outcome {
            Ok((addr, _)) => {
                let node = self.numbers[&addr];
                self.change(node, |node| {
                    node.containers.insert(Arc::clone(&id), container);
                });
                let need = asked.need;
                Ok(Place { node, need, id })
            }
            Err(error) => Err(self.blame(&wanted.request, error)),
        };
        (place, took)
    }

    /// Takes a container away.
    pub fn remove(&mut self, place: &Place) {
        self.change(place.node, |node| _ = node.containers.remove(&place.id));
    }

    fn change(&mut self, node: usize, change: impl FnOnce(&mut Inventory)) {
        let mut inventory = Inventory::clone(&self.nodes[node]);
        change(&mut inventory);
        let inventory = Arc::new(inventory);
        self.desk.put(&inventory);
        self.nodes[node] = inventory;
    }

    /// Finds out who refused a container.
    fn blame(&mut self, request: &Request, error: PlaceError) -> Refused {
        let message = error.to_string();
        let PlaceError::Schedule(error) = error else {
            return ("the name".to_owned(), message);
        };
        match error {
            ScheduleError::NoRoom => (format!("strategy {}", self.strategy), message),
            ScheduleError::Plugin { role, name, .. } => (format!("failed {role} {name}"), message),
            ScheduleError::Denied(_) => ("a plugin, in its own words".to_owned(), message),
            ScheduleError::NoNodes | ScheduleError::NoDriver { .. } => {
                ("the fleet".to_owned(), message)
            }
            ScheduleError::Unsatisfiable(_) => {
                let explained = self.desk.explain(request, None).ok();
                let steps = explained.map(|explained| explained.steps);
                let last = steps.into_iter().flatten().rfind(|step| step.left_none);
                match last {
                    Some(step) => {
                        let asked = step.conditions.join(" ");
                        (format!("filter {}", step.filter), asked)
                    }
                    None => ("a filter".to_owned(), message),
                }
            }
        }
    }
}

fn inventory(class: &NodeClass, index: u32) -> Inventory {
    let name = format!("{}-{}", class.name, index + 1);
    let labels = class.labels.iter().map(|(key, values)| {
        let value = &values[index as usize % values.len()];
        (key.clone(), value.clone())
    });
    let addr = EngineAddr::Tcp {
        host: name.as_str().into(),
        port: 2375,
    };
    Inventory {
        status: Status::Healthy,
        health: FULL_HEALTH,
        specs: Some(Arc::new(Specs {
            id: name.clone(),
            name,
            cpus: class.cpus,
            memory_bytes: class.memory_bytes,
            labels: labels.collect(),
            os_type: "linux".to_owned(),
            ..Specs::default()
        })),
        ..Inventory::pending(addr)
    }
}
