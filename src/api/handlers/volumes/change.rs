//! Volumes made and removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use rand::RngExt;
use tracing::warn;

use super::{
    super::{
        Answer, Context, candidates, compose, engine_path, json_bytes, no_content, read_object,
        split_node,
    },
    is_used,
};
use crate::{
    api::{
        error::ApiError,
        fanout::{self, Outcome},
        query::Query,
    },
    cluster::{
        create::CreateError,
        placement::Reservation,
        snapshot::{Node, Snapshot},
    },
    config::volumes::Copies,
    engine::{
        client::{ClientError, encode},
        inventory::{Volume, container::parse_time},
        monitor::Refresh,
        raw::RawObject,
        transport,
    },
    model::{
        address::EngineAddr,
        directive::{Directives, Kind},
    },
    scheduler::request::{Bound, Request as PlacementRequest, VolumeUse},
};

/// How far a volume's time of creation may be off.
const CLOCK_TOLERANCE: chrono::TimeDelta = chrono::TimeDelta::seconds(3);

/// A volume that is to be made.
struct Order<'a> {
    context: &'a Context,
    version: Option<&'a str>,
    query: &'a Query,
    name: String,
    body: Bytes,
    /// When it was asked for.
    at: chrono::DateTime<chrono::Utc>,
    /// The nodes that had it before.
    before: BTreeSet<EngineAddr>,
}

/// `POST /volumes/create`: under the same name on the node before the slash, on the nodes that a
/// whitelist label leaves, or else on as many as the configuration says. Only nodes that have the
/// driver are asked, and of a driver of global scope one.
pub async fn create(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let mut body = read_object(context, request.into_body()).await?;
    let full_name: String = body.parsed("Name")?.unwrap_or_default();
    let (pinned, name) = split_node(&full_name);
    let name = if name.is_empty() {
        random_name()
    } else {
        name.to_owned()
    };
    body.set("Name", &name);
    let labels: BTreeMap<String, String> = body.parsed("Labels")?.unwrap_or_default();
    let directives = whitelists(&labels)?;
    let snapshot = context.cluster.snapshot();
    let mut nodes = fanout::some_healthy(&snapshot)?;
    let holders = snapshot.volumes(&name);
    let mut volume = VolumeUse {
        name: name.clone(),
        driver: body.parsed("Driver")?.unwrap_or_default(),
        is_pinned: false,
    };
    if volume.driver.is_empty()
        && let Some((_, shared)) = holders.iter().find(|(_, volume)| volume.is_shared())
    {
        // An engine without it would make a volume of its own driver instead.
        volume.driver.clone_from(&shared.driver);
    }
    let is_whitelisted = !directives.texts(Kind::Whitelist).is_empty();
    let is_one = context.cluster.options().volume_copies == Copies::One;
    let mut wanted = PlacementRequest::of_directives(&directives);
    wanted.volumes.push(volume.clone());
    let mut reservation = None;
    if pinned.is_none() && is_one {
        wanted.volumes[0].is_pinned = true;
        let place = place_one(context, &snapshot, &labels, wanted).await?;
        nodes.retain(|node| node.inventory.addr == place.addr);
        reservation = Some(place);
    } else if pinned.is_some() || is_whitelisted {
        nodes = candidates(context, pinned, wanted).await?;
        nodes.retain(|node| node.inventory.is_healthy());
    } else {
        nodes = context.cluster.nodes_with_driver(&volume.driver).await?;
    }
    let order = Order {
        context,
        version,
        query,
        name,
        body: body.to_bytes().into(),
        at: chrono::Utc::now(),
        before: holders
            .iter()
            .map(|(node, _)| node.inventory.addr.clone())
            .collect(),
    };
    // Those that have it go first: whether it is shared is known there.
    nodes.sort_by_key(|node| !order.before.contains(&node.inventory.addr));
    let answer = order.make(nodes, volume.needs_driver()).await?;
    drop(reservation);
    Ok(json_bytes(StatusCode::CREATED, transport::full(answer)))
}

/// Chooses the node of a volume that is made on one alone, with the rest of its Compose project if
/// that can be.
async fn place_one(
    context: &Context,
    snapshot: &Snapshot,
    labels: &BTreeMap<String, String>,
    wanted: PlacementRequest,
) -> Result<Reservation, CreateError> {
    let home = compose::home(snapshot, labels);
    if !home.is_empty() {
        let mut close = wanted.clone();
        close.bind(Bound {
            about: "project",
            nodes: home,
            reason: "the rest of its project".to_owned(),
        });
        match context.cluster.place_volume(close).await {
            Err(CreateError::Schedule(_)) => {}
            placed => return placed,
        }
    }
    context.cluster.place_volume(wanted).await
}

impl Order<'_> {
    /// Makes the volume on all nodes, or on the first if it `may_be_shared` and is. Returns what
    /// one engine said.
    ///
    /// # Errors
    ///
    /// What the nodes said that failed; on the others nothing stays that was not there before.
    async fn make(
        &self,
        mut nodes: Vec<Arc<Node>>,
        may_be_shared: bool,
    ) -> Result<Bytes, ApiError> {
        let rest = match may_be_shared && !nodes.is_empty() {
            true => nodes.split_off(1),
            false => Vec::new(),
        };
        let mut outcomes = self.make_on(nodes).await;
        let made = outcomes.first().and_then(|outcome| {
            let answer = outcome.result.as_ref().ok()?;
            Some(Volume::parse(RawObject::parse(answer).ok()?))
        });
        if made.is_some_and(|volume| !volume.is_shared()) {
            outcomes.extend(self.make_on(rest).await);
        }
        let made = outcomes.iter().filter_map(|outcome| {
            let answer = outcome.result.as_ref().ok()?;
            self.is_new(&outcome.node, answer)
                .then(|| Arc::clone(&outcome.node))
        });
        let made: Vec<_> = made.collect();
        match fanout::all(outcomes) {
            Ok(answers) => match answers.into_iter().next() {
                Some((_, answer)) => Ok(answer),
                None => Err(ApiError::internal(
                    "No healthy node available in the cluster",
                )),
            },
            Err(error) => Err(self.undo(made, error).await),
        }
    }

    async fn make_on(&self, nodes: Vec<Arc<Node>>) -> Vec<Outcome<Bytes>> {
        let cluster = &self.context.cluster;
        let make = |node: Arc<Node>| async move {
            let path = engine_path(&node, self.version, "/volumes/create", self.query);
            let answer = node.client.post_at(&path, self.body.clone()).await;
            let addr = &node.inventory.addr;
            cluster.refresh(addr, Refresh::Volumes).await;
            answer
        };
        fanout::on_each(cluster, nodes, make).await
    }

    /// Whether an engine made the volume just now, and did not find it there.
    fn is_new(&self, node: &Node, answer: &Bytes) -> bool {
        let created = RawObject::parse(answer)
            .ok()
            .and_then(|answer| answer.parsed::<String>("CreatedAt").ok().flatten())
            .and_then(|text| parse_time(&text));
        let specs = node.inventory.specs.as_ref();
        let delta = specs.map_or(chrono::TimeDelta::zero(), |specs| specs.clock_delta());
        let is_older = created.is_some_and(|at| at + delta < self.at - CLOCK_TOLERANCE);
        !self.before.contains(&node.inventory.addr) && !is_older
    }

    /// Removes what was made, and adds to the error what could not be.
    async fn undo(&self, nodes: Vec<Arc<Node>>, error: ApiError) -> ApiError {
        let removal = Removal {
            context: self.context,
            path: format!("/volumes/{}", encode(&self.name)),
            version: self.version,
            query: &Query::default(),
        };
        let outcomes = removal.run(nodes).await.into_iter();
        outcomes.fold(error, |error, Outcome { node, result }| match result {
            Ok(_) => error,
            Err(reason) => {
                let name = node.inventory.name();
                error.with_line(&format!("{name}: the volume was made and stays: {reason}"))
            }
        })
    }
}

/// `DELETE /volumes/{name}`: on every healthy node that has it, those first where a container uses
/// it: if one of them refuses, the others keep theirs. Holders that cannot be reached are logged, and
/// keep it.
pub async fn remove(context: &Context, version: Option<&str>, name: &str, query: &Query) -> Answer {
    let holders = context.cluster.snapshot().volumes(name);
    if holders.is_empty() {
        if query.flag("force") {
            return Ok(no_content());
        }
        return Err(ApiError::not_found(format!("No such volume {name}")));
    }
    let (reachable, lost): (Vec<_>, Vec<_>) = holders
        .into_iter()
        .partition(|(node, _)| node.inventory.is_healthy());
    for (node, volume) in &lost {
        warn!(
            node = node.inventory.name(),
            volume = volume.name,
            "the node is down and keeps its volume"
        );
    }
    let Some((_, volume)) = reachable.first() else {
        let nodes: Vec<_> = lost.iter().map(|(node, _)| node.inventory.name()).collect();
        return Err(ApiError::internal(format!(
            "Volume {name} is on unhealthy node {}",
            nodes.join(", ")
        )));
    };
    let is_shared = volume.is_shared();
    if is_shared && !query.flag("force") {
        // Its own engine would refuse, and cannot be asked.
        let user = lost.iter().find(|(node, volume)| is_used(node, volume));
        if let Some((node, _)) = user {
            return Err(ApiError::with_status(
                StatusCode::CONFLICT,
                format!(
                    "remove {name}: volume is in use on unhealthy node {}",
                    node.inventory.name()
                ),
            ));
        }
    }
    let removal = Removal {
        context,
        path: format!("/volumes/{}", encode(&volume.name)),
        version,
        query,
    };
    let (used, mut unused): (Vec<_>, Vec<_>) = reachable
        .into_iter()
        .partition(|(node, volume)| is_used(node, volume));
    let mut used: Vec<_> = used.into_iter().map(|(node, _)| node).collect();
    if is_shared && used.is_empty() {
        // The first node removes it for all.
        used.extend(unused.pop().map(|(node, _)| node));
    }
    fanout::all(removal.run(used).await)?;
    let unused = unused.into_iter().map(|(node, _)| node).collect();
    let mut outcomes = removal.run(unused).await;
    if is_shared {
        outcomes.retain(|outcome| !is_gone(&outcome.result));
    }
    fanout::all(outcomes)?;
    Ok(no_content())
}

fn is_gone<T>(result: &Result<T, ClientError>) -> bool {
    let status = result.as_ref().err().and_then(ClientError::status);
    status == Some(StatusCode::NOT_FOUND)
}

/// A volume that is to be removed.
struct Removal<'a> {
    context: &'a Context,
    path: String,
    version: Option<&'a str>,
    query: &'a Query,
}

impl Removal<'_> {
    async fn run(&self, nodes: Vec<Arc<Node>>) -> Vec<Outcome<Bytes>> {
        let cluster = &self.context.cluster;
        let remove = |node: Arc<Node>| async move {
            let path = engine_path(&node, self.version, &self.path, self.query);
            let answer = node.client.call_at(Method::DELETE, &path).await;
            let addr = &node.inventory.addr;
            cluster.refresh(addr, Refresh::Volumes).await;
            answer
        };
        fanout::on_each(cluster, nodes, remove).await
    }
}

/// The whitelist that a volume's label carries.
fn whitelists(labels: &BTreeMap<String, String>) -> Result<Directives, ApiError> {
    let mut directives = Directives::default();
    if let Some(label) = labels.get(Kind::Whitelist.label()) {
        let texts: Vec<String> = serde_json::from_str(label).map_err(|error| {
            ApiError::bad_request(format!(
                "label {} is no JSON array of texts: {error}",
                Kind::Whitelist.label()
            ))
        })?;
        for text in texts {
            directives.push(Kind::Whitelist, text);
        }
    }
    Ok(directives)
}

/// 64 random hexadecimal digits, as an engine would invent.
fn random_name() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
