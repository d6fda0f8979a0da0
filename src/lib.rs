//! Skep puts one Docker API endpoint in front of a fleet of Docker engines.

pub mod cluster;
pub mod discovery;
pub mod engine;
pub mod model;
pub mod scheduler;
