//! The daemon over real Docker engines, driven by the real docker command.
//!
//! `tests/run --only e2e` runs these tests. Plain `cargo nextest run` leaves them out (see
//! `.config/nextest.toml`), so they never count as passed on a machine that cannot run engines.
//!
//! ```text
//! docker command -> Manager (target/release/skep) -> Fleet (config/engines): node-0, node-1, node-2
//! ```
//!
//! A test asks for a [`bed::Bed`] and gets a fleet that nobody else uses and that is empty, with a
//! daemon of its own. Tests need no cleaning up: the next one empties the fleet before it starts.

mod access;
mod bed;
mod docker;
mod fencing;
mod fleet;
mod http;
mod manager;
mod memory;
mod recorder;
mod stage;
mod watched;

mod build;
mod buildkit;
mod differences;
mod directives;
mod discovery;
mod drivers;
mod events;
mod explain;
mod failures;
mod images;
mod lifecycle;
mod lists;
mod mixed;
mod networks;
mod partition;
mod placement;
mod plugins;
mod prune;
mod races;
mod registry;
mod relay;
mod replication;
mod reschedule;
mod stores;
mod streams;
mod tls;
mod volumes;
