//! Plugins that tell which engines exist.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::DeserializeOwned;

pub use crate::bindings::discovery::exports::skep::plugin::discovery::{Batch, Change, Entry};
pub use crate::bindings::plugin::exports::skep::plugin::plugin::{Description, Expressions, Feeds};

use crate::{Error, Result, settings};

/// Tells which engines exist.
///
/// The daemon drives [`next`](Discovery::next) in a loop and keeps the last good list when it
/// fails, so a backend returns errors freely and holds no connection it cannot lose.
pub trait Discovery: Sized + 'static {
    /// The plugin's table in `config.toml`; [`NoSettings`](crate::NoSettings) if it has none.
    type Settings: DeserializeOwned;

    /// JSON Schema of the settings, for documentation. Default: none.
    const SETTINGS_SCHEMA: Option<&'static str> = None;

    /// Makes the backend from its settings, once, when the daemon starts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the settings make no sense: the daemon then does not start.
    fn new(settings: Self::Settings) -> Result<Self>;

    /// Returns the next changes. Without a cursor: the whole list, at once. With the cursor of the
    /// batch before: when something changed, or after `max_wait` with no changes.
    ///
    /// # Errors
    ///
    /// The list could not be had; the daemon asks again later with the same cursor.
    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch>;

    /// Announces an engine for `ttl` and returns a lease. Default: not supported.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], or the list could not be changed.
    fn register(&mut self, me: &Entry, ttl: Duration) -> Result<Vec<u8>> {
        let _ = (me, ttl);
        Err(unsupported())
    }

    /// Keeps an announcement for another time to live. Default: not supported.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], or the lease is over.
    fn heartbeat(&mut self, lease: &[u8]) -> Result<()> {
        let _ = lease;
        Err(unsupported())
    }

    /// Takes an announcement back. Default: not supported.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], or the list could not be changed.
    fn deregister(&mut self, lease: &[u8]) -> Result<()> {
        let _ = lease;
        Err(unsupported())
    }
}

/// Returns a batch that is the whole membership.
pub fn whole_list(addresses: impl IntoIterator<Item = String>, cursor: Vec<u8>) -> Batch {
    let changes = addresses
        .into_iter()
        .map(|address| {
            Change::Put(Entry {
                address,
                meta: Vec::new(),
            })
        })
        .collect();
    Batch {
        full: true,
        changes,
        cursor,
        retry_after_ms: None,
    }
}

/// Returns a batch that says nothing changed; the daemon waits `retry_after` before it asks again.
pub fn unchanged(cursor: &[u8], retry_after: Option<Duration>) -> Batch {
    let retry_after_ms =
        retry_after.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
    Batch {
        full: false,
        changes: Vec::new(),
        cursor: cursor.to_vec(),
        retry_after_ms,
    }
}

/// Returns the batch of a backend that asks again and again: the whole list, or that nothing
/// changed if `cursor` is that of the same list. The daemon waits `retry_after` before it asks
/// again.
pub fn polled(addresses: &BTreeSet<String>, cursor: Option<&[u8]>, retry_after: Duration) -> Batch {
    let list: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let own = list.join("\n").into_bytes();
    let again = unchanged(&own, Some(retry_after));
    if cursor == Some(&*own) {
        return again;
    }
    Batch {
        retry_after_ms: again.retry_after_ms,
        ..whole_list(addresses.iter().cloned(), own)
    }
}

fn unsupported() -> Error {
    Error::Unsupported("not implemented in this discovery service".into())
}

/// Keeps the compiler from calling a plugin unused where nothing is exported.
#[doc(hidden)]
pub const fn used<P: Discovery>() {}

/// Makes a type that implements [`Discovery`] the plugin that this crate builds.
///
/// Expands to the exports of a discovery component for WebAssembly, and to nothing elsewhere. The
/// plugin's name and version are the crate's.
#[macro_export]
macro_rules! export_discovery {
    ($backend:ty) => {
        #[cfg(not(target_family = "wasm"))]
        const _: () = $crate::discovery::used::<$backend>();
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::core::time::Duration;
            use $crate::bindings::discovery::exports::skep::plugin::discovery as kind;
            use $crate::bindings::plugin::exports::skep::plugin::plugin;
            use $crate::discovery::{Batch, Description, Discovery, Entry, Expressions, Feeds};

            ::std::thread_local! {
                static BACKEND: ::core::cell::RefCell<Option<$backend>> =
                    const { ::core::cell::RefCell::new(None) };
            }

            fn backend<T>(
                call: impl FnOnce(&mut $backend) -> $crate::Result<T>,
            ) -> $crate::Result<T> {
                BACKEND.with_borrow_mut(|backend| match backend {
                    Some(backend) => call(backend),
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
                        settings_schema: <$backend as Discovery>::SETTINGS_SCHEMA.map(Into::into),
                        extra: Vec::new(),
                    }
                }

                fn configure(settings: String) -> $crate::Result<()> {
                    $crate::log::log_panics();
                    let configured =
                        <$backend as Discovery>::new($crate::settings::parse(&settings)?)?;
                    BACKEND.set(Some(configured));
                    Ok(())
                }
            }

            impl kind::Guest for Exports {
                fn next(cursor: Option<Vec<u8>>, max_wait_ms: u32) -> $crate::Result<Batch> {
                    let max_wait = Duration::from_millis(max_wait_ms.into());
                    backend(|backend| backend.next(cursor.as_deref(), max_wait))
                }

                fn register(me: Entry, ttl_ms: u32) -> $crate::Result<Vec<u8>> {
                    backend(|backend| backend.register(&me, Duration::from_millis(ttl_ms.into())))
                }

                fn heartbeat(lease: Vec<u8>) -> $crate::Result<()> {
                    backend(|backend| backend.heartbeat(&lease))
                }

                fn deregister(lease: Vec<u8>) -> $crate::Result<()> {
                    backend(|backend| backend.deregister(&lease))
                }
            }

    $crate::bindings::plugin::export!(Exports with_types_in $crate::bindings::plugin);
    $crate::bindings::discovery::export!(Exports with_types_in $crate::bindings::discovery);
        };
    };
}

/// Reads settings as the export macro does; for native tests of a backend.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the reason.
pub fn configure<D: Discovery>(json: &str) -> Result<D> {
    D::new(settings::parse(json)?)
}
