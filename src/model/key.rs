//! Keys of stores.

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is no key: {reason}")]
pub struct KeyError {
    /// The text.
    pub key: String,
    /// The rule it breaks.
    pub reason: &'static str,
}

/// Checks a key, or a prefix, against the rules that hold for every store.
///
/// # Errors
///
/// [`KeyError`] with the rule.
pub fn check_key(key: &str) -> Result<(), KeyError> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY {
        "it is longer than 512 bytes"
    } else if key.split('/').any(str::is_empty) {
        "it has an empty segment"
    } else if key.split('/').any(|segment| [".", ".."].contains(&segment)) {
        "it has a segment of dots"
    } else if key.chars().any(char::is_control) {
        "it has a control character"
    } else {
        return Ok(());
    };
    Err(KeyError {
        key: key.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_rules_that_hold_for_every_store() {
        for key in ["a", "a/b", "docker/swarm/nodes/10.0.0.1:2375", "ä/ö"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        for key in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/./b",
            "..",
            "a\0",
            &"x".repeat(513),
        ] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
    }
}
