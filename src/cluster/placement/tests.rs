use super::*;
use crate::{
    cluster::{
        create::claims,
        snapshot::tests::{container, node},
    },
    model::{directive::Kind, port::PortBinding},
    scheduler::{
        Applies, Call, Filter, PolicyError, Ranked, Strategy, node_set::NodeSet, request::VolumeUse,
    },
};

/// Keeps nodes with fewer containers than the limit and without the wanted ports.
struct Free {
    limit: u32,
    bindings: Vec<PortBinding>,
}

impl Filter for Free {
    fn name(&self) -> &str {
        "free"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.bindings.clone_from(&request.bindings);
        Ok(Applies::Yes)
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        let taken = |slot: u32| {
            self.bindings.iter().any(|binding| {
                call.inventory
                    .nodes_with_host_ports(
                        &binding.host_ip,
                        binding.first,
                        binding.last,
                        &binding.protocol,
                    )
                    .contains(slot)
            })
        };
        Ok(candidates
            .iter()
            .filter(|slot| call.nodes.usage(*slot).containers < self.limit && !taken(*slot))
            .collect())
    }
    fn explain(&mut self) -> Vec<String> {
        vec!["free".to_owned()]
    }
}

/// Fewest containers first.
struct Fewest;

impl Strategy for Fewest {
    fn name(&self) -> &str {
        "fewest"
    }
    fn rank(
        &mut self,
        call: &Call<'_>,
        _: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError> {
        let mut slots: Vec<_> = candidates.iter().collect();
        slots.sort_by_key(|slot| (call.nodes.usage(*slot).containers, *slot));
        Ok(slots
            .into_iter()
            .take(limit)
            .map(|slot| Ranked { slot, score: 0 })
            .collect())
    }
}

async fn placement(limit: u32, nodes: &[&str]) -> (Placement, CancellationToken) {
    let filter = Free {
        limit,
        bindings: Vec::new(),
    };
    let scheduler = Scheduler::new(vec![Box::new(filter)], Box::new(Fewest));
    let shutdown = CancellationToken::new();
    let placement = Placement::start(scheduler, 0.0, shutdown.clone()).unwrap();
    for addr in nodes {
        placement.put(node(addr, addr, &[]).inventory).await;
    }
    (placement, shutdown)
}

fn wanted(name: &str, port: Option<u16>) -> Wanted {
    let mut container = container("", &[name], &format!("swarm-{name}"));
    if let Some(port) = port {
        container.bindings.push(PortBinding {
            host_ip: String::new(),
            first: port,
            last: port,
            protocol: "tcp".to_owned(),
        });
    }
    let request = Request {
        name: name.to_owned(),
        bindings: container.bindings.clone(),
        ..Request::default()
    };
    Wanted {
        request,
        container: Arc::new(container),
        instead_of: None,
        avoid: Vec::new(),
    }
}

#[tokio::test]
async fn two_creates_never_both_take_the_last_place() {
    let (placement, _shutdown) = placement(1, &["a:1", "b:1"]).await;
    let first = placement.place(wanted("x", None)).await.unwrap();
    let second = placement.place(wanted("y", None)).await.unwrap();
    assert_ne!(first.addr, second.addr);
    let third = placement.place(wanted("z", None)).await;
    assert!(matches!(third, Err(PlaceError::Schedule(_))), "{third:?}");
    drop(first);
    placement.place(wanted("z", None)).await.unwrap();
}

#[tokio::test]
async fn a_port_is_reserved_with_the_place() {
    let (placement, _shutdown) = placement(100, &["a:1", "b:1"]).await;
    let first = placement.place(wanted("x", Some(80))).await.unwrap();
    let second = placement.place(wanted("y", Some(80))).await.unwrap();
    assert_ne!(first.addr, second.addr);
    assert!(placement.place(wanted("z", Some(80))).await.is_err());
    assert!(placement.place(wanted("z", Some(81))).await.is_ok());
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let (placement, _shutdown) = placement(100, &["a:1"]).await;
    let held = placement.place(wanted("web", None)).await.unwrap();
    let again = placement.place(wanted("web", None)).await;
    assert!(matches!(again, Err(PlaceError::NameTaken(name)) if name == "web"));
    assert!(placement.reserve_name("web").await.is_err());
    drop(held);
    let name = placement.reserve_name("web").await.unwrap();
    assert!(placement.place(wanted("web", None)).await.is_err());
    drop(name);
    placement.place(wanted("web", None)).await.unwrap();
}

#[tokio::test]
async fn a_reservation_ends_when_its_container_is_seen() {
    let (placement, _shutdown) = placement(2, &["a:1"]).await;
    let held = placement.place(wanted("web", None)).await.unwrap();
    let seen = node("a:1", "a:1", &[("id", &["web"], "swarm-web")]).inventory;
    placement.put(seen).await;
    // One container and no reservation: there is room for exactly one more.
    let second = placement.place(wanted("db", None)).await.unwrap();
    assert!(placement.place(wanted("x", None)).await.is_err());
    drop((held, second));
    let web = placement.place(wanted("web", None)).await;
    assert!(matches!(web, Err(PlaceError::NameTaken(_))), "{web:?}");
}

#[tokio::test]
async fn names_of_creates_on_a_vanished_node_stay_reserved() {
    let (placement, _shutdown) = placement(100, &["a:1"]).await;
    let held = placement.place(wanted("web", None)).await.unwrap();
    placement.remove("a:1".parse().unwrap()).await;
    assert!(placement.reserve_name("web").await.is_err());
    drop(held);
    placement.reserve_name("web").await.unwrap();
}

#[tokio::test]
async fn a_node_is_avoided_while_there_is_another() {
    let (placement, _shutdown) = placement(100, &["a:1", "b:1"]).await;
    let avoiding = |name: &str, nodes: &[&str]| Wanted {
        avoid: nodes.iter().map(|addr| addr.parse().unwrap()).collect(),
        ..wanted(name, None)
    };
    let first = placement.place(avoiding("x", &["a:1"])).await.unwrap();
    assert_eq!(first.addr.to_string(), "b:1");
    let second = placement
        .place(avoiding("y", &["a:1", "b:1"]))
        .await
        .unwrap();
    assert_eq!(
        second.addr.to_string(),
        "a:1",
        "the best of those there are"
    );
}

#[tokio::test]
async fn a_name_that_is_held_stays_taken_when_who_has_it_goes() {
    let (placement, _shutdown) = placement(9, &["a:1"]).await;
    let with = node("a:1", "a:1", &[("x", &["web"], "swarm-web")]);
    placement.put(with.inventory).await;
    let first = placement.hold_name("web").await.unwrap();
    let second = placement.hold_name("web").await.unwrap();
    placement.put(node("a:1", "a:1", &[]).inventory).await;
    drop(first);
    assert!(placement.reserve_name("web").await.is_err());
    drop(second);
    assert!(placement.reserve_name("web").await.is_ok());
}

fn with_volume(name: &str, volume: &str) -> Wanted {
    let mut wanted = wanted(name, None);
    wanted.request.volumes.push(VolumeUse {
        name: volume.to_owned(),
        is_pinned: true,
        ..VolumeUse::default()
    });
    let mut container = Container::clone(&wanted.container);
    container.mounts = claims(&wanted.request.volumes);
    wanted.container = Arc::new(container);
    wanted
}

#[tokio::test]
async fn a_volume_that_a_placement_will_make_is_followed_until_that_ends() {
    let (placement, _shutdown) = placement(100, &["a:1", "b:1"]).await;
    let first = placement.place(with_volume("x", "data")).await.unwrap();
    let second = placement.place(with_volume("y", "data")).await.unwrap();
    assert_eq!(first.addr, second.addr);
    let other = placement.place(with_volume("z", "other")).await.unwrap();
    assert_ne!(first.addr, other.addr);
    let addr = other.addr.clone();
    drop((first, second, other));
    // Nothing came of any of them.
    let elsewhere = Wanted {
        avoid: vec![addr],
        ..with_volume("z", "other")
    };
    let again = placement.place(elsewhere).await.unwrap();
    assert_eq!(again.addr.to_string(), "a:1");
}
