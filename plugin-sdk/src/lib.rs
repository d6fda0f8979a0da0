//! Write plugins for Skep in Rust.
//!
//! A plugin is a WebAssembly component that the daemon loads from `config.toml`. Implement the
//! trait of its kind, name the type in the matching macro, and build the crate for
//! `wasm32-unknown-unknown`:
//!
//! | kind | trait | macro |
//! |---|---|---|
//! | narrows the nodes a container may run on | [`Filter`] | [`export_filter!`] |
//! | orders the nodes that are left | [`Strategy`] | [`export_strategy!`] |
//! | tells which engines exist | [`Discovery`] | [`export_discovery!`] |
//! | makes volumes and mounts them | [`Volume`] | [`export_volume!`] |
//!
//! The README beside this crate walks through a whole plugin. What the SDK does for you:
//!
//! - [`Nodes`] is the copy of the node table that the daemon keeps up to date inside the plugin,
//!   with an index over labels: a pattern is compared once with each distinct value, not once
//!   with each node.
//! - [`NodeSet`] is a set of nodes as the daemon passes them: one bit for each slot.
//! - [`Pattern`] gives `*` and `/regex/` the meaning they have in every expression.
//! - [`settings`] turns the plugin's table in `config.toml` into your type, and [`log`] writes to
//!   the daemon's log. A panic is logged with its text before the daemon replaces the instance.
//! - [`host`] asks the daemon what runs where. Natively, in unit tests, `testing::Host` answers.
//!
//! The macros expand to nothing on other targets, so a plugin crate is an ordinary workspace
//! member with ordinary unit tests.

// The code that `wit_bindgen` generates names the SDK by the path that plugin crates use.
extern crate self as skep_plugin_sdk;

pub mod address;
pub mod bindings;
pub mod discovery;
mod export;
pub mod filter;
pub mod host;
pub mod log;
pub mod node_set;
pub mod nodes;
pub mod pattern;
pub mod settings;
pub mod strategy;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod volume;

pub use bindings::imports::skep::plugin::types::{
    Amount, Attr, Error, Expression, Node, NodeStatus, Operator, PortBinding, Reference, Request,
};
pub use discovery::Discovery;
pub use filter::Filter;
pub use node_set::NodeSet;
pub use nodes::Nodes;
pub use pattern::Pattern;
pub use settings::NoSettings;
pub use strategy::Strategy;
pub use volume::Volume;

/// What every fallible function of a plugin returns.
pub type Result<T, E = Error> = core::result::Result<T, E>;

#[doc(hidden)]
pub use wit_bindgen;
