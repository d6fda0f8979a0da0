//! What went wrong in a guest, in words.

use std::time::Duration;

use wasmtime::Trap;

use super::quota::Exceeded;
use crate::scheduler::PolicyError;

/// Longest text taken over from a guest.
const MAX_TEXT_BYTES: usize = 4096;

/// Why a call of a guest has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The guest trapped, ran out of something, or answered nonsense: its instance is lost.
    Broken(String),
    /// The guest said no, in order.
    Refused(PolicyError),
}

/// Says why a guest stopped. `said` is the last error it logged in the call: a trap alone does
/// not carry the text of a panic.
pub(super) fn describe(error: &wasmtime::Error, limit: Duration, said: Option<String>) -> String {
    let mut text = if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        exceeded.to_string()
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        match trap {
            Trap::Interrupt => format!("ran longer than {limit:?}"),
            Trap::StackOverflow => "overflowed its stack".to_owned(),
            other => {
                let text = other.to_string();
                format!(
                    "trapped: {}",
                    text.strip_prefix("wasm trap: ").unwrap_or(&text)
                )
            }
        }
    } else {
        format!("stopped: {}", error.root_cause())
    };
    if let Some(said) = said {
        // The text of a panic spans two lines; this one ends up in a client's error message.
        text = format!("{text} ({})", said.replace('\n', " "));
    }
    clip(text)
}

/// Cuts a text that came from a guest.
pub(super) fn clip(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
    text
}
