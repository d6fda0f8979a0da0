//! Plugins that make volumes, on every node that runs `skep join`.
//!
//! The daemon speaks Docker's volume plugin protocol with the engine. It counts which containers
//! have a volume mounted and keeps that across restarts, so a driver only says how a volume is
//! made, mounted, unmounted and removed. What a driver may do it does through [`host`]: keep
//! records, make directories below its root, and mount there what the configuration allows.
//!
//! [`host`]: crate::host

pub mod directories;
mod options;
pub mod records;
pub mod remote;

use serde::de::DeserializeOwned;

pub use crate::bindings::plugin::exports::skep::plugin::plugin::{Description, Expressions, Feeds};
pub use crate::bindings::volume::exports::skep::plugin::volume::{Capability, Info, Scope};

pub use self::options::{Options, parse_size};
use crate::{Attr, Error, Result, settings};

/// Makes volumes and mounts them.
///
/// The daemon runs as many instances as it needs at once and ends them when it likes, so nothing
/// but the settings belongs into memory. Calls for one volume come one at a time. Any call may come again after one that failed or was cut off, also in
/// a later life of the daemon, so what is done already is done well: creating a volume that is
/// there, unmounting one that is not mounted, removing one that is gone. Docker shows the text of
/// errors.
pub trait Volume: Sized + 'static {
    /// The driver's settings in `config.toml`; [`NoSettings`](crate::NoSettings) if it has none.
    type Settings: DeserializeOwned;

    /// JSON Schema of the settings, for documentation. Default: none.
    const SETTINGS_SCHEMA: Option<&'static str> = None;

    /// Whether a volume is on one node, or the same on all of them.
    const SCOPE: Scope;

    /// Makes the driver from its settings, once, when the daemon starts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the settings make no sense: the daemon then does not start.
    fn new(settings: Self::Settings) -> Result<Self>;

    /// Makes a volume with the options of `docker volume create -o`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] for options that make no sense, and whatever else went wrong.
    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()>;

    /// Removes a volume that is not mounted, and its data if they are its own.
    ///
    /// # Errors
    ///
    /// It could not be removed, and is still there.
    fn remove(&mut self, name: &str) -> Result<()>;

    /// Makes the data of a volume reachable and returns where, below the driver's root.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such volume, and whatever else went wrong.
    fn mount(&mut self, name: &str) -> Result<String>;

    /// The last user of a volume is gone. Default: nothing is to be done.
    ///
    /// # Errors
    ///
    /// It is still mounted.
    fn unmount(&mut self, name: &str) -> Result<()> {
        let _ = name;
        Ok(())
    }

    /// Returns where [`mount`](Volume::mount) makes the data reachable, if that is known before.
    /// Default: it is not.
    ///
    /// # Errors
    ///
    /// As [`get`](Volume::get).
    fn path(&mut self, name: &str) -> Result<Option<String>> {
        let _ = name;
        Ok(None)
    }

    /// Returns what is known about one volume.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such volume.
    fn get(&mut self, name: &str) -> Result<Info>;

    /// Returns all volumes.
    ///
    /// # Errors
    ///
    /// They cannot be told at the moment.
    fn list(&mut self) -> Result<Vec<Info>>;
}

/// Returns the error for a volume that is not there.
pub fn no_such_volume(name: &str) -> Error {
    Error::NotFound(format!("no such volume: {name}"))
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
                fn capabilities() -> Capability {
                    Capability {
                        scope: <$driver as Volume>::SCOPE,
                    }
                }

                fn create(name: String, options: Vec<Attr>) -> Result<()> {
                    driver(|driver| driver.create(&name, &options))
                }

                fn remove(name: String) -> Result<()> {
                    driver(|driver| driver.remove(&name))
                }

                fn mount(name: String) -> Result<String> {
                    driver(|driver| driver.mount(&name))
                }

                fn unmount(name: String) -> Result<()> {
                    driver(|driver| driver.unmount(&name))
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
            }

    $crate::bindings::plugin::export!(Exports with_types_in $crate::bindings::plugin);
    $crate::bindings::volume::export!(Exports with_types_in $crate::bindings::volume);
        };
    };
}

/// Reads settings as the export macro does; for native tests of a driver.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the reason.
pub fn configure<D: Volume>(json: &str) -> Result<D> {
    D::new(settings::parse(json)?)
}
