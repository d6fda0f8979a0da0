//! A simulated fleet: N stand-in Docker engines in one process, each with M containers.
//!
//! Every engine answers the HTTP API of dockerd 20.10 over real TCP and keeps real state: a
//! container that is created appears in the list, `start` fails with 304 the second time, `events`
//! reports both. Nothing runs behind it. Faults (latency, hangs, cut connections, lost events,
//! a changed engine ID, a crooked clock) are switched per engine while it serves.
//!
//! ```no_run
//! # async fn example() -> Result<(), skep_fleet::FleetError> {
//! use skep_fleet::{Fault, Fleet};
//!
//! let fleet = Fleet::builder().engines(3).containers(5).start().await?;
//! let engine = fleet.engine(0);
//! println!("tcp://{}", engine.addr());
//! engine.set_fault(Fault::Hang);
//! engine.clear_faults();
//! assert_eq!(engine.requests("POST /containers/create"), 0);
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! fleet (listeners) -> server (connection, faults, counters) -> route -> handlers -> engine
//!                                                                          render  <-  state
//! ```
//!
//! Small enough for 10,000 engines of 50 containers: seeded containers of one engine share one
//! [spec](container::Spec) with its JSON already encoded, engines share images and networks until
//! they change, and event queues, logs and counters take memory only once used.
//!
//! What it does not do: run processes (a few commands such as `echo` and `false` are acted out),
//! check resources, build images, or run Swarm mode.

#![recursion_limit = "256"]

mod body;
pub mod certificates;
pub mod client;
pub mod container;
pub mod control;
pub mod daemon;
mod engine;
mod event;
mod fault;
mod fleet;
mod handlers;
mod ident;
pub mod image;
pub mod island;
pub mod ledger;
pub mod process;
mod query;
mod render;
mod route;
mod server;
mod state;
pub mod stores;
mod volume;

pub use engine::{Engine, Shape};
pub use event::Event;
pub use fault::Fault;
pub use fleet::{Builder, Fleet, FleetError};
pub use volume::VolumeDriver;
