//! The daemon's parts, in this process, against a simulated fleet.

mod alone;
mod api;
mod cluster;
mod conformance;
mod explain;
mod faults;
mod hostile;
mod kills;
mod leases;
mod mass_failure;
mod memory;
mod moves;
mod nodes;
mod objects;
mod reload;
mod reschedule;
mod simulate;
mod storms;
mod tls;
mod volumes;
