//! Host ports.

/// A host port asked for or taken; a range when `last` is above `first`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortBinding {
    /// The host address, as written; empty means all.
    pub host_ip: String,
    /// The lowest port that will do.
    pub first: u16,
    /// The highest port that will do.
    pub last: u16,
    /// `tcp`, `udp`, or `sctp`.
    pub protocol: String,
}

/// Whether an address as written stands for all addresses of a host.
pub fn is_unspecified(ip: &str) -> bool {
    matches!(ip, "" | "0.0.0.0" | "::" | "[::]")
}
