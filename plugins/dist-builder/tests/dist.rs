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

#[test]
fn components_use_and_offer_the_plugin_interface_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for plugin in skep_dist::plugins(&root).unwrap() {
        let component = std::fs::read(plugin.component(&root)).unwrap();
        let decoded = wit_component::decode(&component).unwrap();
        let wit_component::DecodedWasm::Component(resolve, world) = decoded else {
            panic!("`{}` is no component", plugin.name);
        };
        let world = &resolve.worlds[world];
        let imports: Vec<_> = world
            .imports
            .keys()
            .map(|key| resolve.name_world_key(key))
            .collect();
        let exports: Vec<_> = world
            .exports
            .keys()
            .map(|key| resolve.name_world_key(key))
            .collect();

        let (kind, _) = plugin.name.split_once('-').unwrap();
        let kinds = if plugin.group == skep_dist::Group::FirstParty {
            vec![kind]
        } else {
            vec!["filter", "strategy", "discovery", "volume"]
        };
        assert!(
            exports.contains(&"skep:plugin/plugin@0.1.0".to_owned()),
            "{plugin:?}: {exports:?}"
        );
        assert!(
            kinds
                .iter()
                .any(|kind| exports.contains(&format!("skep:plugin/{kind}@0.1.0"))),
            "{plugin:?}: {exports:?}"
        );
        // One guest is there because it imports WASI.
        if !plugin.name.starts_with("wasi-") {
            for import in imports {
                assert!(
                    import.starts_with("skep:plugin/"),
                    "{plugin:?} imports {import}"
                );
            }
        }
    }
}
