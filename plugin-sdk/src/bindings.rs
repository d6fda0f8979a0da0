//! The code generated from `wit/plugin.wit`.
//!
//! Plugins that use the traits never look in here. It is public for the export macros, and for
//! plugins that want the plain interface without the SDK's node table.
//!
//! [`imports`] holds the types and everything a plugin may import; each other module holds one
//! interface that a plugin exports. A plugin exports the interfaces of its world in the WIT file
//! one by one, because the interfaces that worlds share can be generated only once in a crate; the
//! encoder joins them into one component. An import that a plugin does not use is not in its
//! component.

#![allow(missing_docs, reason = "the WIT file documents every item")]

pub mod imports {
    wit_bindgen::generate!({
        inline: "
            package skep:sdk;
            world imports {
                import skep:plugin/types@0.1.0;
                import skep:plugin/log@0.1.0;
                import skep:plugin/inventory@0.1.0;
                import skep:plugin/clock@0.1.0;
                import skep:plugin/random@0.1.0;
                import skep:plugin/files@0.1.0;
                import skep:plugin/store@0.1.0;
                import skep:plugin/http@0.1.0;
                import skep:plugin/names@0.1.0;
                import skep:plugin/state@0.1.0;
                import skep:plugin/secrets@0.1.0;
                import skep:plugin/directories@0.1.0;
                import skep:plugin/mounts@0.1.0;
            }
        ",
        path: "wit",
        additional_derives: [PartialEq, Eq],
        generate_all,
    });
}

/// Generates one exported interface; the types come from [`imports`].
macro_rules! exported {
    ($module:ident, $inline:literal, $path:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                inline: $inline,
                path: "wit",
                pub_export_macro: true,
                runtime_path: "skep_plugin_sdk::wit_bindgen::rt",
                default_bindings_module: $path,
                additional_derives: [PartialEq, Eq],
                with: {
                    "skep:plugin/types@0.1.0": skep_plugin_sdk::bindings::imports::skep::plugin::types,
                },
                generate_all,
            });
        }
    };
}

exported!(
    plugin,
    "package skep:sdk; world plugin-export { export skep:plugin/plugin@0.1.0; }",
    "skep_plugin_sdk::bindings::plugin"
);
exported!(
    mirror,
    "package skep:sdk; world mirror-export { export skep:plugin/mirror@0.1.0; }",
    "skep_plugin_sdk::bindings::mirror"
);
exported!(
    filter,
    "package skep:sdk; world filter-export { export skep:plugin/filter@0.1.0; }",
    "skep_plugin_sdk::bindings::filter"
);
exported!(
    strategy,
    "package skep:sdk; world strategy-export { export skep:plugin/strategy@0.1.0; }",
    "skep_plugin_sdk::bindings::strategy"
);
exported!(
    discovery,
    "package skep:sdk; world discovery-export { export skep:plugin/discovery@0.1.0; }",
    "skep_plugin_sdk::bindings::discovery"
);
exported!(
    volume,
    "package skep:sdk; world volume-export { export skep:plugin/volume@0.1.0; }",
    "skep_plugin_sdk::bindings::volume"
);
