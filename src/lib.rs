//! Skep puts one Docker API endpoint in front of a fleet of Docker engines.

pub mod discovery;
pub mod model;
pub mod plugin;
pub mod scheduler;
