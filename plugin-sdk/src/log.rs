//! Lines in the daemon's log, under the plugin's name.
//!
//! The daemon limits rate and length. Each function asks for the level first, so a line that would
//! not be kept costs one call; ask [`enabled`] yourself before formatting much.

pub use crate::bindings::imports::skep::plugin::log::Level;

use crate::{Attr, host};

/// Tells whether a line of this level would be kept.
pub fn enabled(level: Level) -> bool {
    host::log_enabled(level)
}

/// Logs a line; data goes into `fields`, as names and values.
pub fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    if enabled(level) {
        let fields: Vec<_> = fields
            .iter()
            .map(|(key, value)| Attr {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        host::log(level, message, &fields);
    }
}

/// Logs that someone must act.
pub fn error(message: &str, fields: &[(&str, &str)]) {
    log(Level::Error, message, fields);
}

/// Logs that something was wrong and the plugin goes on.
pub fn warn(message: &str, fields: &[(&str, &str)]) {
    log(Level::Warn, message, fields);
}

/// Logs a change of state.
pub fn info(message: &str, fields: &[(&str, &str)]) {
    log(Level::Info, message, fields);
}

/// Logs what helps to follow one request.
pub fn debug(message: &str, fields: &[(&str, &str)]) {
    log(Level::Debug, message, fields);
}

/// Makes a panic write its text to the daemon's log: a WebAssembly trap alone does not carry it.
///
/// The export macros do this for you. Native tests keep their own hook.
pub fn log_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| {
        host::log(Level::Error, &panic.to_string(), &[]);
    }));
}
