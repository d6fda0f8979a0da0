//! The one writer of the cluster's snapshot.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{
        feed::Feed,
        memory::Memory,
        placement::Placement,
        reschedule::Board,
        snapshot::{Node, Snapshot},
    },
    engine::{
        event::Event,
        inventory::Inventory,
        monitor::{Unheard, Update},
    },
};

/// How many updates are made public with one snapshot.
const BATCH: usize = 256;

/// How many updates may wait; monitors wait beyond that.
const QUEUE: usize = 1024;

/// Takes what monitors find, and makes it public in this order: placement, snapshot, events,
/// whoever waits.
pub struct State {
    snapshot: Snapshot,
    public: watch::Sender<Arc<Snapshot>>,
    updates: mpsc::Receiver<Update>,
    placement: Placement,
    feed: Arc<Feed>,
    memory: Option<Memory>,
    board: Arc<Board>,
}

impl State {
    /// An empty cluster, and where its monitors send what they find.
    pub fn new(
        placement: Placement,
        feed: Arc<Feed>,
        memory: Option<Memory>,
        board: Arc<Board>,
    ) -> (Self, mpsc::Sender<Update>) {
        let (sender, updates) = mpsc::channel(QUEUE);
        let state = Self {
            snapshot: Snapshot::default(),
            public: watch::Sender::new(Arc::default()),
            updates,
            placement,
            feed,
            memory,
            board,
        };
        (state, sender)
    }

    /// Where snapshots appear.
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.public.subscribe()
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let count = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                count = self.updates.recv_many(&mut batch, BATCH) => count,
            };
            if count == 0 {
                return;
            }
            let mut events: Vec<Event> = Vec::new();
            let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
            let mut heard: Vec<Unheard> = Vec::new();
            let is_same = |update: &Update| matches!(update, Update::Same { .. });
            let is_new = !batch.iter().all(is_same);
            for mut update in batch.drain(..) {
                if let Update::Changed { unheard, .. } = &mut update {
                    heard.extend(unheard.take());
                }
                self.apply(update, &mut events, &mut waiting).await;
            }
            if is_new {
                self.public.send_replace(Arc::new(self.snapshot.clone()));
            }
            drop(heard);
            for event in events {
                self.feed.publish(event);
            }
            for done in waiting {
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }

    /// The inventory as it shall be seen: what was made again elsewhere is not in it.
    fn without_superseded(&self, mut inventory: Arc<Inventory>) -> Arc<Inventory> {
        for id in self.board.superseded_on(&inventory.addr).into_keys() {
            if inventory.containers.contains_key(&id) {
                Arc::make_mut(&mut inventory).containers.remove(&id);
            }
        }
        inventory
    }

    async fn apply(
        &mut self,
        update: Update,
        events: &mut Vec<Event>,
        waiting: &mut Vec<oneshot::Sender<()>>,
    ) {
        match update {
            Update::Changed {
                inventory,
                client,
                events: new,
                done,
                documents,
                unheard: _,
            } => {
                let inventory = self.without_superseded(inventory);
                if let Some(memory) = &self.memory {
                    memory.note(&inventory, documents);
                }
                self.placement.put(Arc::clone(&inventory)).await;
                self.snapshot.put(Node { inventory, client });
                events.extend(new);
                waiting.extend(done);
            }
            Update::Same { events: new, done } => {
                events.extend(new);
                waiting.extend(done);
            }
            Update::Removed { addr, event } => {
                if let Some(memory) = &self.memory {
                    memory.drop_node(&addr);
                }
                self.placement.remove(addr.clone()).await;
                if let Some(node) = self.snapshot.remove(&addr) {
                    self.board.departed(node);
                }
                events.extend(event);
            }
        }
    }
}
