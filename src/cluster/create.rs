//! The life of one create request.
//!
//! ```text
//! body -> directives -> request -> place (node reserved) -> engine create
//!                          ^                                   | 404: image is missing
//!                          |                                   v
//!                          '--- retry <--- failed <--- pull, engine create again
//! ```
//!
//! The body goes to the engine as the client sent it, but for the directives, which become labels,
//! for CPU shares, which are scaled to the engine, and for names that were prefixed with a node.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    Cluster,
    election::Term,
    memory::{CreateRecord, intents::Intention},
    placement::{PlaceError, Reservation, Wanted},
    reschedule::{Place, remake::Remake},
    snapshot::{Found, Node, Snapshot},
};
use crate::{
    engine::{
        client::{ClientError, encode},
        inventory::resources::Tag,
        monitor::Refresh,
        raw::{MemberError, RawObject},
    },
    model::{address::EngineAddr, directive::PolicyError, resource::Amount},
    registry::RegistryError,
    scheduler::{
        ScheduleError,
        explain::Explanation,
        request::{Bound, Request},
    },
    store::StoreError,
};

mod draft;
mod network;
mod volumes;

use self::draft::{Draft, with_tag};
pub(super) use self::volumes::claims;

/// A create request as it came from the client.
#[derive(Debug)]
pub struct CreateRequest {
    /// The name asked for, with or without a slash; empty if none.
    pub name: String,
    /// The body; members unknown to this program stay.
    pub body: RawObject,
    /// The API version the client used, `1.41`; `None` if its path had none.
    pub version: Option<String>,
    /// Other query parameters, encoded, without `name`: `platform=linux%2Famd64`.
    pub query: String,
    /// Registry credentials for a pull.
    pub auth: Option<HeaderValue>,
}

/// What a container is made in place of, and what comes with that.
#[derive(Debug, Default)]
pub(super) struct Instead {
    /// The container whose name it takes.
    pub place: Option<Place>,
    /// What other containers will need on the same node.
    pub companions: Amount,
    /// Networks that it joins later.
    pub networks: Vec<String>,
    /// Nodes to leave out if there is any other.
    pub avoid: Vec<EngineAddr>,
    /// The nodes that will do, if not all do.
    pub only: Option<Bound>,
}

/// A container that was created.
#[derive(Debug)]
pub struct Created {
    /// The engine's answer: `Id` and `Warnings`.
    pub body: Bytes,
    /// The node it is on.
    pub addr: EngineAddr,
}

/// Why no container was created or renamed.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Another container, or a create under way, has the name.
    #[error(
        "Conflict: The name {0} is already assigned. You have to delete (or rename) that container to be able to assign {0} to a container again."
    )]
    NameTaken(String),
    /// The reschedule policies make no sense.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A member of the body has the wrong type.
    #[error(transparent)]
    Body(#[from] MemberError),
    /// No node will do.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The engine refused, or could not be reached.
    #[error(transparent)]
    Engine(#[from] ClientError),
    /// The image has to be pulled, and the engine could not; no container was asked for.
    #[error(transparent)]
    Pull(ClientError),
    /// The image has to be pulled, and the credentials for that cannot be had.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The chosen node left the cluster meanwhile.
    #[error("Engine no longer exists")]
    NodeGone,
    /// The daemon is shutting down.
    #[error("the manager is shutting down")]
    ShuttingDown,
    /// Another manager may lead by now.
    #[error("this manager is not the primary any more")]
    NotPrimary,
    /// So many engines are down, and what they held cannot be read yet: names may be taken there.
    #[error("{0} engines do not answer, and what they held is not known yet: names may be taken")]
    Unheard(usize),
    /// The container cannot be remembered, so there shall be none.
    #[error("no container is created without a record of it: {0}")]
    Store(#[from] StoreError),
}

/// How long a create waits for engines to be heard of, after a start.
const HEARING: Duration = Duration::from_secs(10);

/// Wait before an engine is asked for its containers again, to learn what became of a create.
pub(super) const LISTING_PAUSE: Duration = Duration::from_secs(1);

impl CreateError {
    /// What an engine answered, or why it did not.
    fn of_engine(&self) -> Option<&ClientError> {
        match self {
            Self::Engine(error) | Self::Pull(error) => Some(error),
            _ => None,
        }
    }
}

impl From<PlaceError> for CreateError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::NameTaken(name) => Self::NameTaken(name),
            PlaceError::Schedule(error) => Self::Schedule(error),
            PlaceError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl Cluster {
    /// Chooses a node, creates the container there, and returns when the snapshot shows it.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing stays reserved.
    ///
    /// # Cancel safety
    ///
    /// A create that was started is finished even if the future is dropped, so that the container
    /// is never left unknown.
    pub async fn create(&self, request: CreateRequest) -> Result<Created, CreateError> {
        self.create_instead(request, Instead::default()).await
    }

    /// As [`Cluster::create`], in place of a container of another node.
    pub(super) async fn create_instead(
        &self,
        request: CreateRequest,
        instead: Instead,
    ) -> Result<Created, CreateError> {
        let cluster = self.clone();
        let create = async move { cluster.create_here(request, instead).await };
        let work = self.inner.tasks.spawn(create);
        work.await.unwrap_or(Err(CreateError::ShuttingDown))
    }

    /// How the container of a create request would be placed now. Nothing is reserved.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; a request that no node can meet is none, but an outcome.
    pub async fn explain(&self, request: &CreateRequest) -> Result<Explanation, CreateError> {
        let draft = self.draft(request, &self.snapshot())?;
        self.explain_request(draft.request, None).await
    }

    /// How a container would be placed now if it were not there; `document` is what its engine
    /// says of it.
    ///
    /// # Errors
    ///
    /// [`CreateError::Body`] for a document that makes no sense.
    pub async fn explain_container(
        &self,
        found: &Found,
        document: &RawObject,
    ) -> Result<Explanation, CreateError> {
        let (place, request) = self.request_of(found, document)?;
        self.explain_request(request, Some(place)).await
    }

    async fn explain_request(
        &self,
        request: Request,
        instead_of: Option<Place>,
    ) -> Result<Explanation, CreateError> {
        let placement = &self.inner.placement;
        let explained = placement.explain(request.clone(), instead_of.clone());
        let explained = explained.await?;
        if explained.outcome.is_err() && self.look_again(&request).await {
            return Ok(placement.explain(request, instead_of).await?);
        }
        Ok(explained)
    }

    fn draft(&self, request: &CreateRequest, snapshot: &Snapshot) -> Result<Draft, CreateError> {
        let options = self.options();
        Draft::new(request, snapshot, options.cpu_shares, options.volume_copies)
    }

    /// What placement would look at if a container were not there.
    pub(super) fn request_of(
        &self,
        found: &Found,
        document: &RawObject,
    ) -> Result<(Place, Request), CreateError> {
        let Found { node, container } = found;
        let shares = self.options().cpu_shares;
        let gone = self.inner.board.superseded_on(&node.inventory.addr);
        let remake = Remake::read(document, container, &node.inventory, &gone, shares)?;
        let request = CreateRequest {
            name: container.name().to_owned(),
            body: remake.body,
            version: None,
            query: String::new(),
            auth: None,
        };
        let snapshot = self.snapshot();
        let mut draft = self.draft(&request, &snapshot)?;
        let place = (node.inventory.addr.clone(), Arc::clone(&container.id));
        let networks = remake.networks.into_iter();
        let instead = Instead {
            place: Some(place.clone()),
            networks: networks.map(|(name, _)| name).collect(),
            ..Instead::default()
        };
        draft.take_place(&instead, &snapshot);
        Ok((place, draft.request))
    }

    async fn create_here(
        &self,
        request: CreateRequest,
        instead: Instead,
    ) -> Result<Created, CreateError> {
        let term = self.names_known().await?;
        let snapshot = self.snapshot();
        let mut draft = self.draft(&request, &snapshot)?;
        draft.take_place(&instead, &snapshot);
        let mut retries = 0;
        let mut looked_again = false;
        let mut failed_on = instead.avoid;
        loop {
            let error = match self.attempt(&request, &draft, term, &mut failed_on).await {
                Ok(created) => return Ok(created),
                Err(error) => error,
            };
            if matches!(error, CreateError::Schedule(_))
                && !std::mem::replace(&mut looked_again, true)
                && self.look_again(&draft.request).await
            {
                continue;
            }
            let missing = error_is_missing_image(&error);
            if missing && !draft.wants_holder && !draft.directives.has_hard_node_constraint() {
                // Some node may hold an image that no registry has.
                let snapshot = self.snapshot();
                if snapshot.holds_image(&draft.request.image) {
                    draft.insist_on_holder();
                    retries += 1;
                    continue;
                }
            }
            // An engine whose answer was lost may still make the container: never make two.
            let retriable = match &error {
                CreateError::Engine(error) => !error.is_answer_lost(),
                other => matches!(other, CreateError::Pull(_) | CreateError::NodeGone),
            };
            if !retriable || retries >= self.options().create_retries {
                return Err(error);
            }
            retries += 1;
            warn!(%error, retries, "create failed, trying again");
        }
    }

    /// Waits until all names that were given are known, those on engines that are down included: a
    /// manager that has just started must not give them again. They are known as long as the term
    /// lasts that is returned.
    ///
    /// # Errors
    ///
    /// [`CreateError::NotPrimary`] or [`CreateError::Store`].
    pub(super) async fn names_known(&self) -> Result<Term, CreateError> {
        let term = self.leadership().term().ok_or(CreateError::NotPrimary)?;
        tokio::select! {
            known = self.names_known_in(term) => known?,
            () = self.leadership().over(term) => return Err(CreateError::NotPrimary),
        }
        Ok(term)
    }

    async fn names_known_in(&self, term: Term) -> Result<(), CreateError> {
        let Some(memory) = &self.inner.memory else {
            return Ok(());
        };
        memory.ready(term).await?;
        if memory.trouble().is_none() {
            // Without news of any engine there is nothing to choose from, which will be the answer.
            let heard = tokio::time::timeout(HEARING, self.inner.monitors.heard()).await;
            let unheard = self.inner.monitors.unheard_count();
            if heard.is_err() && unheard > 0 && !memory.is_optional() {
                return Err(CreateError::Unheard(unheard));
            }
        }
        Ok(())
    }

    /// Places and creates once; pulls the image if the node lacks it. Adds the node to `failed_on`
    /// if that failed there.
    async fn attempt(
        &self,
        request: &CreateRequest,
        draft: &Draft,
        term: Term,
        failed_on: &mut Vec<EngineAddr>,
    ) -> Result<Created, CreateError> {
        let reservation = self
            .inner
            .placement
            .place(Wanted {
                request: draft.request.clone(),
                container: Arc::clone(&draft.container),
                instead_of: draft.instead_of.clone(),
                avoid: failed_on.clone(),
            })
            .await?;
        let addr = reservation.addr.clone();
        let node = self
            .snapshot()
            .node(&addr)
            .cloned()
            .ok_or(CreateError::NodeGone)?;
        self.check_term(term)?;
        let intention = self.intend(&addr, draft).await?;
        if let Err(error) = self.check_term(term) {
            // Nobody was asked.
            if let Some(intention) = intention {
                intention.failed();
            }
            return Err(error);
        }
        let outcome = self.create_on(&node, request, draft).await;
        if outcome.is_err() {
            failed_on.push(addr.clone());
        }
        if let Some(error) = outcome.as_ref().err().and_then(CreateError::of_engine)
            && error.is_contact_failure()
        {
            self.report_failure(&addr, error);
            // Whatever comes next shall know how the engine is and what it holds.
            self.refresh(&addr, Refresh::Containers).await;
        }
        let body = match outcome {
            Err(CreateError::Engine(error)) if error.is_answer_lost() => {
                let Some(body) = self.find_created(&addr, &draft.request.id) else {
                    self.keep_until_known(reservation);
                    return Err(error.into());
                };
                body
            }
            Err(error) => {
                if let Some(intention) = intention {
                    intention.failed();
                }
                return Err(error);
            }
            Ok(body) => body,
        };
        if let Some(id) = RawObject::parse(&body)
            .ok()
            .and_then(|answer| answer.parsed::<String>("Id").ok().flatten())
        {
            info!(
                container = id,
                node = node.inventory.name(),
                "created container"
            );
            let id: Arc<str> = Arc::from(id);
            // Others that name a volume made just now must find it when the claim to it ends,
            // which is when the container shows.
            if draft.has_new_volumes(&node) {
                self.refresh(&addr, Refresh::Volumes).await;
            }
            self.refresh(&addr, Refresh::Made(Arc::clone(&id))).await;
            if let Some(intention) = intention
                && self.snapshot().container(&id).is_some()
            {
                intention.made();
            }
        }
        drop(reservation);
        Ok(Created { body, addr })
    }

    /// Whoever led in between may have given the same name.
    fn check_term(&self, term: Term) -> Result<(), CreateError> {
        if self.leadership().is_current(term) {
            Ok(())
        } else {
            Err(CreateError::NotPrimary)
        }
    }

    /// Keeps the name and the room of a container that may still come, until its engine has
    /// answered for a while without it, or is no longer of the cluster.
    fn keep_until_known(&self, reservation: Reservation) {
        let cluster = self.clone();
        self.inner.tasks.spawn(async move {
            let lost_at = Instant::now();
            if cluster
                .listed_after(&reservation.addr, lost_at)
                .await
                .is_some()
            {
                let settled_at = Instant::now() + cluster.options().settle_after;
                cluster.listed_after(&reservation.addr, settled_at).await;
            }
            drop(reservation);
        });
    }

    /// Waits until an engine has listed its containers after a moment; `None` if it never will.
    async fn listed_after(&self, addr: &EngineAddr, moment: Instant) -> Option<()> {
        let mut snapshots = self.watch();
        loop {
            let is_healthy = {
                let snapshot = snapshots.borrow_and_update();
                let inventory = &snapshot.node(addr)?.inventory;
                if inventory.listed_at.is_some_and(|at| at >= moment) {
                    return Some(());
                }
                inventory.is_healthy()
            };
            let now = Instant::now();
            if is_healthy && now >= moment {
                self.refresh(addr, Refresh::Containers).await;
            }
            tokio::select! {
                changed = snapshots.changed() => changed.ok()?,
                () = tokio::time::sleep_until(moment.max(now + LISTING_PAUSE)) => {}
            }
        }
    }

    /// Has the create on record before an engine is asked; `None` if there is no memory.
    async fn intend(
        &self,
        addr: &EngineAddr,
        draft: &Draft,
    ) -> Result<Option<Intention>, StoreError> {
        let Some(memory) = &self.inner.memory else {
            return Ok(None);
        };
        let create = CreateRecord {
            name: draft.request.name.clone(),
            body: draft.body.clone(),
        };
        memory
            .intend(&draft.request.id, addr, &create)
            .await
            .map(Some)
    }

    /// Creates the container on one node, which pulls the image first if it has to.
    async fn create_on(
        &self,
        node: &Node,
        request: &CreateRequest,
        draft: &Draft,
    ) -> Result<Bytes, CreateError> {
        let body = Bytes::from(draft.body_for(node).to_bytes());
        let mut query = Vec::new();
        if !draft.request.name.is_empty() {
            query.push(format!("name={}", encode(&draft.request.name)));
        }
        if !request.query.is_empty() {
            query.push(request.query.clone());
        }
        let query = if query.is_empty() {
            String::new()
        } else {
            format!("?{}", query.join("&"))
        };
        let version = request.version.as_deref();
        let first = node.client.create(version, &query, body.clone()).await;
        match first {
            Err(error) if is_missing_image(&error) => {
                debug!(image = draft.request.image, "image is missing, pulling");
                let image = &draft.request.image;
                let registries = &self.options().registries;
                let auth = registries.auth_for(image, request.auth.as_ref()).await?;
                let pulled = node.client.pull(image, auth.as_ref()).await;
                pulled.map_err(CreateError::Pull)?;
                Ok(node.client.create(version, &query, body).await?)
            }
            other => Ok(other?),
        }
    }

    /// What the engine would have answered, if it made the container and only its answer was lost.
    fn find_created(&self, addr: &EngineAddr, swarm_id: &str) -> Option<Bytes> {
        let snapshot = self.snapshot();
        let containers = &snapshot.node(addr)?.inventory.containers;
        let made = containers
            .values()
            .find(|container| container.swarm_id.as_deref() == Some(swarm_id))?;
        let mut answer = RawObject::default();
        answer.set("Id", &&*made.id);
        answer.set("Warnings", &Vec::<String>::new());
        Some(answer.to_bytes().into())
    }
}

/// Gives a container another name that nobody in the cluster has.
pub(super) async fn rename(
    cluster: &Cluster,
    found: &Found,
    name: &str,
) -> Result<(), CreateError> {
    let name = name.strip_prefix('/').unwrap_or(name);
    // A create may take another container's ID for its name, a rename may not: as in classic Swarm.
    if let Some(other) = cluster.snapshot().container(name)
        && *other.container.id == *name
    {
        return Err(CreateError::NameTaken(name.to_owned()));
    }
    let term = cluster.names_known().await?;
    let held = cluster.inner.placement.reserve_name(name).await?;
    cluster.check_term(term)?;
    let path = format!(
        "/containers/{}/rename?name={}",
        found.container.id,
        encode(name)
    );
    let node = &found.node;
    node.client.call(Method::POST, &path).await?;
    let addr = &node.inventory.addr;
    cluster
        .refresh(addr, Refresh::Container(Arc::clone(&found.container.id)))
        .await;
    drop(held);
    Ok(())
}

/// Whether an engine refused because it has no such image. A 404 may also mean a network or a
/// volume driver, and engines tell them apart by their text alone.
fn is_missing_image(error: &ClientError) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    let speaks_of = |word: &str| text.contains(word);
    error.status() == Some(StatusCode::NOT_FOUND)
        && (speaks_of("no such image")
            || speaks_of("manifest unknown")
            || speaks_of("repository does not exist")
            || (speaks_of("image") && speaks_of("not found")))
}

/// Whether a create failed for want of an image, on the node and in the registry.
fn error_is_missing_image(error: &CreateError) -> bool {
    let Some(error) = error.of_engine() else {
        return false;
    };
    let text = error.to_string();
    // A registry that cannot be asked, or denies, does not have it for us either.
    error.status().is_some()
        && (is_missing_image(error)
            || [
                "not found",
                "does not exist",
                "access denied",
                "pull",
                "lookup",
                "dial",
            ]
            .iter()
            .any(|sign| text.contains(sign)))
}

impl Snapshot {
    /// Whether some healthy node has an image of this name, tag included.
    fn holds_image(&self, image: &str) -> bool {
        self.nodes()
            .filter(|node| node.inventory.is_healthy())
            .flat_map(|node| node.inventory.images.iter())
            .any(|held| held.matches(&with_tag(image), Tag::Counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_image_is_told_from_other_things_that_are_missing() {
        for (status, text, expected) in [
            (404, "No such image: busybox:latest", true),
            (404, "manifest unknown: manifest unknown", true),
            (404, "image busybox:latest not found", true),
            (404, "network front not found", false),
            (500, "No such image: busybox:latest", false),
        ] {
            let error = ClientError::Engine {
                status: StatusCode::from_u16(status).unwrap(),
                message: text.to_owned(),
            };
            assert_eq!(is_missing_image(&error), expected, "{text}");
        }
    }
}
