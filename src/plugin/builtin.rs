//! The first-party plugins, embedded so that the binary alone makes a working daemon.

/// Names and components, in the order of the default filter chain.
const BUILTINS: [(&str, &[u8]); 21] = [
    builtin!("filter-health"),
    builtin!("filter-port"),
    builtin!("filter-containerslots"),
    builtin!("filter-dependency"),
    builtin!("filter-affinity"),
    builtin!("filter-constraint"),
    builtin!("filter-whitelist"),
    builtin!("strategy-spread"),
    builtin!("strategy-binpack"),
    builtin!("strategy-random"),
    builtin!("discovery-nodes"),
    builtin!("discovery-file"),
    builtin!("discovery-kv"),
    builtin!("discovery-token"),
    builtin!("discovery-dns"),
    builtin!("volume-local"),
    builtin!("volume-tmpfs"),
    builtin!("volume-nfs"),
    builtin!("volume-cifs"),
    builtin!("volume-shared"),
    builtin!("volume-snapshot"),
];

/// The bytes of a built-in component.
pub(super) fn bytes(name: &str) -> Option<&'static [u8]> {
    let (_, bytes) = BUILTINS.iter().find(|(known, _)| *known == name)?;
    Some(bytes)
}

/// The names of all built-ins.
pub(super) fn names() -> [&'static str; BUILTINS.len()] {
    BUILTINS.map(|(name, _)| name)
}

/// Pairs a name with the file built from the crate of that name.
macro_rules! builtin {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../plugins/dist/", $name, ".wasm")),
        )
    };
}
use builtin;
