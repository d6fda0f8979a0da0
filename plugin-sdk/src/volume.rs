//! Plugins that say where volume data lives.
//!
//! The interface is fixed, but the daemon has no host side for it yet and refuses a volume driver
//! with a clear error.

use serde::de::DeserializeOwned;

pub use crate::bindings::imports::skep::plugin::{mounts, state};
pub use crate::bindings::plugin::exports::skep::plugin::plugin::{Description, Expressions, Feeds};
pub use crate::bindings::volume::exports::skep::plugin::volume::{Capability, Info, Scope};

use crate::{Attr, Result};

/// Docker's volume plugin protocol, one function for each of its calls.
///
/// Every function may fail with any [`Error`](crate::Error); Docker shows its text.
pub trait Volume: Sized + 'static {
    /// The plugin's table in `config.toml`; [`NoSettings`](crate::NoSettings) if it has none.
    type Settings: DeserializeOwned;

    /// JSON Schema of the settings, for documentation. Default: none.
    const SETTINGS_SCHEMA: Option<&'static str> = None;

    /// Makes the driver from its settings, once, when the daemon starts.
    fn new(settings: Self::Settings) -> Result<Self>;

    /// Creates a volume with the options of `docker volume create -o`.
    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()>;

    /// Removes a volume and its data.
    fn remove(&mut self, name: &str) -> Result<()>;

    /// Makes the volume usable by the container `id` and returns its path on the host.
    fn mount(&mut self, name: &str, id: &str) -> Result<String>;

    /// Tells that the container `id` no longer uses the volume.
    fn unmount(&mut self, name: &str, id: &str) -> Result<()>;

    /// Returns where the volume is mounted, if it is.
    fn path(&mut self, name: &str) -> Result<Option<String>>;

    /// Returns what is known about one volume.
    fn get(&mut self, name: &str) -> Result<Info>;

    /// Returns all volumes.
    fn list(&mut self) -> Result<Vec<Info>>;

    /// Tells whether a volume exists on one node or on all of them.
    fn capabilities(&self) -> Capability;
}

/// Keeps the compiler from calling a plugin unused where nothing is exported.
#[doc(hidden)]
pub const fn used<P: Volume>() {}

/// Makes a type that implements [`Volume`] the plugin that this crate builds.
///
/// Expands to the exports of a volume component for WebAssembly, and to nothing elsewhere. The
/// plugin's name and version are the crate's.
#[macro_export]
macro_rules! export_volume {
    ($driver:ty) => {
        #[cfg(not(target_family = "wasm"))]
        const _: () = $crate::volume::used::<$driver>();
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::plugin::exports::skep::plugin::plugin;
            use $crate::bindings::volume::exports::skep::plugin::volume as kind;
            use $crate::volume::{Capability, Description, Expressions, Feeds, Info, Volume};
            use $crate::{Attr, Result};

            ::std::thread_local! {
                static DRIVER: ::core::cell::RefCell<Option<$driver>> =
                    const { ::core::cell::RefCell::new(None) };
            }

            fn driver<T>(call: impl FnOnce(&mut $driver) -> Result<T>) -> Result<T> {
                DRIVER.with_borrow_mut(|driver| match driver {
                    Some(driver) => call(driver),
                    None => Err($crate::Error::Other(
                        "the plugin was called before `configure`".into(),
                    )),
                })
            }

            struct Exports;

            impl plugin::Guest for Exports {
                fn describe() -> Description {
                    Description {
                        name: env!("CARGO_PKG_NAME").into(),
                        version: env!("CARGO_PKG_VERSION").into(),
                        feeds: Feeds::empty(),
                        expressions: Expressions::empty(),
                        settings_schema: <$driver as Volume>::SETTINGS_SCHEMA.map(Into::into),
                        extra: Vec::new(),
                    }
                }

                fn configure(settings: String) -> Result<()> {
                    $crate::log::log_panics();
                    let configured = <$driver as Volume>::new($crate::settings::parse(&settings)?)?;
                    DRIVER.set(Some(configured));
                    Ok(())
                }
            }

            impl kind::Guest for Exports {
                fn create(name: String, options: Vec<Attr>) -> Result<()> {
                    driver(|driver| driver.create(&name, &options))
                }

                fn remove(name: String) -> Result<()> {
                    driver(|driver| driver.remove(&name))
                }

                fn mount(name: String, id: String) -> Result<String> {
                    driver(|driver| driver.mount(&name, &id))
                }

                fn unmount(name: String, id: String) -> Result<()> {
                    driver(|driver| driver.unmount(&name, &id))
                }

                fn path(name: String) -> Result<Option<String>> {
                    driver(|driver| driver.path(&name))
                }

                fn get(name: String) -> Result<Info> {
                    driver(|driver| driver.get(&name))
                }

                fn list() -> Result<Vec<Info>> {
                    driver(|driver| driver.list())
                }

                fn capabilities() -> Capability {
                    DRIVER.with_borrow(|driver| match driver {
                        Some(driver) => driver.capabilities(),
                        None => panic!("the plugin was called before `configure`"),
                    })
                }
            }

    $crate::bindings::plugin::export!(Exports with_types_in $crate::bindings::plugin);
    $crate::bindings::volume::export!(Exports with_types_in $crate::bindings::volume);
        };
    };
}
