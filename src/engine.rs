//! One Docker engine: how it is reached, what it holds, whether it is well.
//!
//! ```text
//! transport  bytes to and from the engine
//! pool       its connections, reused, and bounded over all engines
//! client     the manager's own calls, each with a deadline
//! inventory  what the engine holds, as parsed from its answers
//! health     the state machine: pending, healthy, unhealthy
//! monitor    the one task that keeps an inventory true: events drive, sparse re-lists check
//! ```
//!
//! The engine's JSON is the truth: what is passed on to clients is kept as the engine wrote it
//! ([`raw`]), and only what a decision needs is parsed. Nothing here knows other engines.

pub mod client;
pub mod event;
pub mod health;
pub mod inventory;
pub mod lines;
pub mod monitor;
pub mod pool;
pub mod raw;
pub mod stream;
pub mod transport;
