//! The words everything else speaks: addresses, amounts, expressions, directives.
//!
//! Plain values without I/O, clocks, or serialisation. What is read from JSON or TOML is converted
//! at the edge that reads it, so a wire format can change without touching a decision.

pub mod address;
pub mod cause;
pub mod directive;
pub mod expression;
pub mod key;
pub mod pairs;
pub mod pattern;
pub mod port;
pub mod resource;
pub mod servers;
pub mod shared;
