//! Choosing a node and reserving its room, ports, and name, as one step.
//!
//! One thread owns the scheduler, the node table, the indexes, and the reservations, and does one
//! thing at a time. So two creates that arrive together can never both take the last place or the
//! same name. It is a thread and not a task because plugins run on it: a plugin that loops until
//! its deadline holds up placements, and nothing else.

pub mod desk;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::desk::Desk;
use crate::{
    cluster::{create::claims, nodes::Settings},
    engine::inventory::{Container, Inventory},
    model::address::EngineAddr,
    scheduler::{ScheduleError, Scheduler, explain::Explanation, request::Request},
};

/// How many commands may wait.
const QUEUE: usize = 1024;

/// A handle to the placement thread.
#[derive(Clone)]
pub struct Placement {
    commands: mpsc::Sender<Command>,
    troubles: Arc<Mutex<Vec<String>>>,
}

/// A container that is about to be created.
pub struct Wanted {
    /// What placement looks at.
    pub request: Request,
    /// How the container will look to other placements; its name is reserved with it.
    pub container: Arc<Container>,
    /// A container that is placed as if it were not there, and whose name this one takes.
    pub instead_of: Option<(EngineAddr, Arc<str>)>,
    /// Nodes to leave out if there is any other: a create failed there already.
    pub avoid: Vec<EngineAddr>,
}

/// A container that is somewhere, and what placement would look at if it were not.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Where it is.
    pub place: (EngineAddr, Arc<str>),
    /// What would be asked for.
    pub request: Request,
}

/// A container that would be better elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Where it is.
    pub place: (EngineAddr, Arc<str>),
    /// Where it would be better.
    pub to: EngineAddr,
    /// By how much the strategy's score of that node is better.
    pub score: u64,
    /// By how many containers the nodes differ where the score is the same.
    pub containers: u32,
}

/// Room, ports, and a name held on a node until the container is seen there or this is dropped.
#[derive(Debug)]
pub struct Reservation {
    /// The chosen node.
    pub addr: EngineAddr,
    key: u64,
    commands: mpsc::Sender<Command>,
}

/// A name held until this is dropped.
#[derive(Debug)]
pub struct NameReservation {
    key: u64,
    commands: mpsc::Sender<Command>,
}

/// Why nothing was reserved.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Another container, or a placement under way, has the name.
    #[error("the name `{0}` is taken")]
    NameTaken(String),
    /// No node will do.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The daemon is shutting down.
    #[error("the manager is shutting down")]
    ShuttingDown,
}

enum Command {
    Put(Arc<Inventory>),
    Remove(EngineAddr),
    Place(
        Box<Wanted>,
        oneshot::Sender<Result<(EngineAddr, u64), PlaceError>>,
    ),
    Rank(
        Box<Request>,
        oneshot::Sender<Result<Vec<EngineAddr>, PlaceError>>,
    ),
    Explain(
        Box<Request>,
        Option<(EngineAddr, Arc<str>)>,
        oneshot::Sender<Result<Explanation, PlaceError>>,
    ),
    BestShift(Vec<Shift>, Vec<Settled>, oneshot::Sender<Option<Shift>>),
    Set(EngineAddr, Settings),
    ReserveName(String, oneshot::Sender<Result<u64, PlaceError>>),
    HoldName(String, oneshot::Sender<u64>),
    Release(u64),
}

impl Placement {
    /// Starts the thread; it ends when `shutdown` is cancelled.
    ///
    /// # Errors
    ///
    /// The system has no more threads to give.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn start(
        scheduler: Scheduler,
        overcommit: f64,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let (commands, received) = mpsc::channel(QUEUE);
        let desk = Desk::new(scheduler, overcommit, StdRng::from_rng(&mut rand::rng()));
        let troubles = desk.troubles();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("placement".to_owned())
            .spawn(move || desk.run(&runtime, received, &shutdown))?;
        Ok(Self { commands, troubles })
    }

    /// Tells what is known of a node.
    pub async fn put(&self, inventory: Arc<Inventory>) {
        // At shutdown nobody needs to know any more; the same below.
        let _ = self.commands.send(Command::Put(inventory)).await;
    }

    /// Tells what an operator said of a node.
    pub async fn set(&self, addr: EngineAddr, settings: Settings) {
        let _ = self.commands.send(Command::Set(addr, settings)).await;
    }

    /// Tells that a node is gone.
    pub async fn remove(&self, addr: EngineAddr) {
        let _ = self.commands.send(Command::Remove(addr)).await;
    }

    /// Chooses a node and reserves what the container needs there.
    ///
    /// # Errors
    ///
    /// [`PlaceError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a reservation made meanwhile is released.
    pub async fn place(&self, wanted: Wanted) -> Result<Reservation, PlaceError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Place(Box::new(wanted), reply))
            .await
            .map_err(|_| PlaceError::ShuttingDown)?;
        let (addr, key) = answer.await.map_err(|_| PlaceError::ShuttingDown)??;
        Ok(Reservation {
            addr,
            key,
            commands: self.commands.clone(),
        })
    }

    /// Every node that passes the filters, best first; nothing is reserved.
    ///
    /// # Errors
    ///
    /// [`PlaceError::Schedule`] if there is none.
    pub async fn rank(&self, request: Request) -> Result<Vec<EngineAddr>, PlaceError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Rank(Box::new(request), reply))
            .await
            .map_err(|_| PlaceError::ShuttingDown)?;
        answer.await.map_err(|_| PlaceError::ShuttingDown)?
    }

    /// How a container would be placed now; nothing is reserved. With `instead_of`, as if that
    /// container were not there.
    ///
    /// # Errors
    ///
    /// [`PlaceError::NameTaken`], unless a container stands in for itself.
    pub async fn explain(
        &self,
        request: Request,
        instead_of: Option<(EngineAddr, Arc<str>)>,
    ) -> Result<Explanation, PlaceError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Explain(Box::new(request), instead_of, reply))
            .await
            .map_err(|_| PlaceError::ShuttingDown)?;
        answer.await.map_err(|_| PlaceError::ShuttingDown)?
    }

    /// The container among `settled` that gains most by going to another node, if `shifts` had
    /// been made before; `None` if none gains, or the strategy's choice is a matter of luck.
    ///
    /// Cost: a placement for each of them, one after the other, which others wait for.
    pub async fn best_shift(&self, shifts: Vec<Shift>, settled: Vec<Settled>) -> Option<Shift> {
        let (reply, answer) = oneshot::channel();
        let command = Command::BestShift(shifts, settled, reply);
        self.commands.send(command).await.ok()?;
        answer.await.ok()?
    }

    /// Reserves a name alone.
    ///
    /// # Errors
    ///
    /// [`PlaceError::NameTaken`].
    pub async fn reserve_name(&self, name: &str) -> Result<NameReservation, PlaceError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::ReserveName(name.to_owned(), reply))
            .await
            .map_err(|_| PlaceError::ShuttingDown)?;
        let key = answer.await.map_err(|_| PlaceError::ShuttingDown)??;
        Ok(NameReservation {
            key,
            commands: self.commands.clone(),
        })
    }

    /// Keeps a name from being given, also if something has it by now that may go.
    ///
    /// # Errors
    ///
    /// [`PlaceError::ShuttingDown`].
    pub async fn hold_name(&self, name: &str) -> Result<NameReservation, PlaceError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::HoldName(name.to_owned(), reply))
            .await
            .map_err(|_| PlaceError::ShuttingDown)?;
        let key = answer.await.map_err(|_| PlaceError::ShuttingDown)?;
        Ok(NameReservation {
            key,
            commands: self.commands.clone(),
        })
    }

    /// What is wrong with scheduling plugins, as of the last placement.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        release(&self.commands, self.key);
    }
}

impl Drop for NameReservation {
    fn drop(&mut self) {
        release(&self.commands, self.key);
    }
}

/// How the container that `request` asks for will look to other placements.
pub fn expected(request: &Request) -> Container {
    let labels = request.labels.iter();
    let exposed = request.exposed_ports.iter();
    Container {
        names: match request.name.is_empty() {
            true => Vec::new(),
            false => vec![Arc::from(request.name.as_str())],
        },
        swarm_id: Some(Arc::from(request.id.as_str())),
        image: request.image.as_str().into(),
        labels: labels.map(|(key, value)| (&**key, &**value)).collect(),
        reserved: request.need,
        network_mode: request.network_mode.as_str().into(),
        bindings: request.bindings.clone(),
        exposed_ports: exposed.map(|port| Arc::from(port.as_str())).collect(),
        mounts: claims(&request.volumes),
        ..Container::default()
    }
}

/// Sends a release without waiting, by a task if the queue is full.
fn release(commands: &mpsc::Sender<Command>, key: u64) {
    if let Err(mpsc::error::TrySendError::Full(command)) = commands.try_send(Command::Release(key))
    {
        let commands = commands.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = commands.send(command).await;
            });
        }
    }
}

#[cfg(test)]
mod tests;
