//! Errors that stand for other errors.

use std::error::Error;

/// The cause at the bottom, which says most.
pub fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("above")]
    struct Above(#[source] std::fmt::Error);

    #[test]
    fn the_innermost_cause_is_told() {
        assert_eq!(
            innermost(&Above(std::fmt::Error)),
            std::fmt::Error.to_string()
        );
        assert_eq!(innermost(&std::fmt::Error), std::fmt::Error.to_string());
    }
}
