//! The code generated from `plugin-sdk/wit/plugin.wit`.
//!
//! Values that go to a guest are borrowed (`Request<'_>`, `Delta<'_>`), so a call copies them once,
//! into the guest's memory. A type that travels both ways exists twice, as `…Param` and `…Result`.

/// Filters and strategies: calls are synchronous, on the thread that places containers.
pub mod scheduling {
    wasmtime::component::bindgen!({
        path: "plugin-sdk/wit",
        inline: "
            package skep:host;
            world scheduling {
                import skep:plugin/log@0.1.0;
                import skep:plugin/clock@0.1.0;
                import skep:plugin/random@0.1.0;
                import skep:plugin/inventory@0.1.0;
                export skep:plugin/plugin@0.1.0;
                export skep:plugin/mirror@0.1.0;
                export skep:plugin/filter@0.1.0;
                export skep:plugin/strategy@0.1.0;
            }
        ",
        world: "skep:host/scheduling",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Discovery backends and volume drivers: calls are asynchronous and may wait.
pub mod waiting {
    wasmtime::component::bindgen!({
        path: "plugin-sdk/wit",
        inline: "
            package skep:host;
            world waiting {
                import skep:plugin/log@0.1.0;
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
                export skep:plugin/plugin@0.1.0;
                export skep:plugin/discovery@0.1.0;
                export skep:plugin/volume@0.1.0;
            }
        ",
        world: "skep:host/waiting",
        with: {
            "skep:plugin/clock@0.1.0": super::scheduling::skep::plugin::clock,
            "skep:plugin/random@0.1.0": super::scheduling::skep::plugin::random,
        },
        imports: {
            "skep:plugin/files": async,
            "skep:plugin/store": async,
            "skep:plugin/http": async,
            "skep:plugin/names": async,
            "skep:plugin/state": async,
            "skep:plugin/secrets": async,
            "skep:plugin/directories": async,
            "skep:plugin/mounts.mount": async,
            "skep:plugin/mounts.unmount": async,
            "skep:plugin/mounts.is-mounted": async,
        },
        exports: { default: async },
    });
}
