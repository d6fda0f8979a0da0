//! The committed components are those of the tree.

use std::path::Path;

#[test]
fn no_component_is_stale() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let stale = skep_dist::stale(&root).unwrap();
    assert!(
        stale.is_empty(),
        "stale: {stale:#?}\nbuild them with `cargo run --release -p skep-dist -- --guests`"
    );
}
