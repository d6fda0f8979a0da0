//! Skep puts one Docker API endpoint in front of a fleet of Docker engines.
//!
//! A *core* talks to engines, keeps the inventory, serves the API, and acts. Every *policy* (which
//! node, which engines exist) is a sandboxed WASM component named in `config.toml`. This page is
//! the plan of the house; it changes in the same commit as the house does.
//!
//! # Two flows, one direction each
//!
//! ```text
//! request   api::router -> api::handlers -> cluster::placement -> scheduler (filters -> strategy, WASM)
//!                                        -> engine::client of the chosen node
//!                       -> api::proxy    -> engine::transport     bytes in, bytes out
//! state     discovery (WASM) -> cluster::membership -> engine::monitor -> engine::inventory
//!                       -> cluster::state -> cluster::placement and cluster::snapshot -> api
//!                                         -> cluster::memory -> store
//! ```
//!
//! Of several managers one leads ([`cluster::election`]); the others follow the same state, and
//! `api::primary` passes their requests on to it. Only the leader writes records, and every
//! request that changes an engine asks at its first byte whether this manager still leads. What a
//! leader read of the store holds for one term: after another one it is read again, even by the
//! manager that led before.
//!
//! # Layers: who may import whom
//!
//! A test reads `src/` and enforces this table.
//!
//! | layer | modules | may import |
//! |---|---|---|
//! | 0 | `model`, `signal`, `unix_socket`, `atomic_file`, `boot` | nothing of ours |
//! | 1 | `config`, `registry`, `tls`, `telemetry` | `model` (all but `config` also `config`) |
//! | 2 | `store`, `scheduler`, `discovery`, `engine`, `volume` | `model`, `config`, `tls`; `engine` also `registry`; `volume` also `unix_socket`, `atomic_file`, `boot`; `scheduler` only `model` |
//! | 3 | `cluster`, `plugin` | layers 0-2; never each other |
//! | 4 | `api`, `admin`, `agent`, `simulate` | `api`, `admin`, `simulate`: layers 0-2 and `cluster`; `agent`: layers 0-2 |
//! | 5 | `app` | everything: the one file where `cluster` and `plugin` meet |
//! | 6 | `cli`, `main` | `config`, `app`, `telemetry`, `signal` |
//!
//! `admin` is planned and not there yet. [`simulate`] drives [`cluster::placement`] and the scheduler
//! as the daemon does, with modelled nodes in the place of engines.
//!
//! Traits belong to their caller: [`scheduler::Filter`], [`scheduler::Strategy`], [`volume::Driver`],
//! [`discovery::Backend`]. `plugin` implements them from outside, so the scheduler never learns
//! that WASM exists and is tested with plain Rust doubles. The SDK and the plugins never depend on
//! this crate; the WIT files in `plugin-sdk/wit` are the only thing both sides share.
//!
//! # Invariants
//!
//! - One writer per piece of state; readers get immutable snapshots. No lock is held over an
//!   `.await`; no lock is shared between modules. A request reads one snapshot and passes it down.
//! - [`scheduler`] is pure: no clock, no I/O, no randomness that was not handed in. So a simulation
//!   that is started with the same seed gives the same placements.
//! - Choosing a node and reserving its room, ports, name, and volumes is one step: one thread does
//!   nothing else ([`cluster::placement`]). Plugins run on that thread, so a plugin that loops until its
//!   deadline holds up placements and nothing else.
//! - The engine's JSON is the truth and passes through ([`engine::raw`]): fields that a newer
//!   engine adds survive `inspect`, `ps`, and `create`. This is also why the daemon speaks to
//!   engines through hyper and not through an SDK with closed types; bollard is the client that
//!   the tests use against the daemon.
//! - Container labels carry the intent (`com.docker.swarm.*`), so a fleet run by classic Swarm can
//!   be taken over as it stands; the store adds what labels cannot: what ran on a node that is
//!   down, and the creates that were under way when a manager died ([`cluster::memory`]).
//! - A plugin can be wrong, slow, hungry, or malicious; the daemon stays up, answers, and says
//!   which plugin failed. A filter that fails refuses the request, it is never skipped silently.
//! - Where data is no policy decides: a container goes where its networks, its volumes, and their
//!   drivers are ([`scheduler::bounds`]), and only then filters are asked. No engine is asked for a
//!   driver that it was not seen to have ([`cluster::volumes`]).
//! - What a volume driver is about to do is written down before it is asked, so that nothing stays
//!   mounted for nobody, whoever dies in the middle ([`volume::service`]).
//! - Every wait ends: a deadline on each engine and plugin call; streams end with either peer or
//!   at shutdown.
//! - Errors are typed; only `api::error` knows HTTP statuses.
//!
//! # How it stays fast
//!
//! - **Resident mirror.** Each scheduling plugin keeps its own copy of the node table and receives
//!   changes before a call; the call itself carries the request and a bitset. Questions about
//!   containers and images are answered by the host from [`cluster::index`], one call each.
//! - **A filter that does not apply costs nothing**: it says so before any node is looked at.
//! - **Cost per create does not grow with containers**, and with nodes only by the bitset loop.
//! - **Lists are assembled, not built**: a container's list entry is kept as the engine encoded it.
//! - **Snapshots share**: a new one costs by what changed ([`cluster::snapshot`]).
//! - **Events drive, polls check**: one event stream per engine; a sparse, jittered re-list only
//!   repairs what an event missed. Connections per engine are bounded.

#![recursion_limit = "256"] // `docker info` has that many members

pub mod agent;
pub mod api;
pub mod app;
pub mod atomic_file;
pub mod boot;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod discovery;
pub mod engine;
pub mod model;
pub mod plugin;
pub mod registry;
pub mod scheduler;
pub mod signal;
pub mod simulate;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod unix_socket;
pub mod volume;

#[cfg(test)]
mod layers;
