//! Skep: one Docker API endpoint over a fleet of Docker engines.

pub mod app;
pub mod cli;
pub mod config;
pub mod signal;
pub mod telemetry;
