//! What the export macros of filters and strategies share.

/// Expands to the instance of the plugin and to the exports `plugin` and `mirror` for it.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_instance {
    ($plugin:ty, $instance:ident, $expressions:expr) => {
        ::std::thread_local! {
            static INSTANCE: ::core::cell::RefCell<$instance<$plugin>> =
                ::core::cell::RefCell::new($instance::new());
        }

        struct Exports;

        impl $crate::bindings::plugin::exports::skep::plugin::plugin::Guest for Exports {
            fn describe() -> Description {
                Description {
                    name: env!("CARGO_PKG_NAME").into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    feeds: <$plugin>::FEEDS,
                    expressions: $expressions,
                    settings_schema: <$plugin>::SETTINGS_SCHEMA.map(Into::into),
                    extra: Vec::new(),
                }
            }

            fn configure(settings: String) -> $crate::Result<()> {
                $crate::log::log_panics();
                INSTANCE.with_borrow_mut(|instance| instance.configure(&settings))
            }
        }

        impl $crate::bindings::mirror::exports::skep::plugin::mirror::Guest for Exports {
            fn reset(expected_nodes: u32) {
                INSTANCE.with_borrow_mut(|instance| instance.reset(expected_nodes));
            }

            fn apply(
                generation: u64,
                deltas: Vec<$crate::bindings::mirror::exports::skep::plugin::mirror::Delta>,
            ) {
                let changes = deltas.into_iter().map(Into::into);
                INSTANCE.with_borrow_mut(|instance| instance.apply(generation, changes));
            }
        }

        $crate::bindings::plugin::export!(Exports with_types_in $crate::bindings::plugin);
        $crate::bindings::mirror::export!(Exports with_types_in $crate::bindings::mirror);
    };
}
