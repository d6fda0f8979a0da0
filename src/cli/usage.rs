//! Words for a command line that does not parse. The texts are classic Swarm's.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ErrorKind};

/// Returns the name the program was started by, without its directory.
pub(super) fn program(args: &[OsString]) -> String {
    args.first()
        .and_then(|path| Path::new(path).file_name())
        .map_or_else(|| "skep".to_owned(), |name| name.to_string_lossy().into())
}

/// Says what is wrong with the command line.
pub(super) fn mistake(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            if let Some(name) = context(ContextKind::InvalidSubcommand) {
                return format!("No help topic for '{name}'");
            }
        }
        ErrorKind::UnknownArgument => {
            if let Some(word) = context(ContextKind::InvalidArg).filter(|w| w.starts_with('-')) {
                let name = word.trim_start_matches('-');
                let name = name.split('=').next().unwrap_or(name);
                return format!("flag provided but not defined: -{name}");
            }
        }
        _ => {}
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.trim_end().to_owned()
}
