//! What the service has to know of the engine that uses its driver.

use std::fs;

use async_trait::async_trait;

/// An engine's containers.
#[async_trait]
pub trait Containers: Send + Sync {
    /// Whether a container that is not at rest has a volume of this name: one that runs, is frozen,
    /// is about to be started again, or is being removed.
    ///
    /// # Errors
    ///
    /// The reason why that is not known.
    async fn use_volume(&self, name: &str) -> Result<bool, String>;
}

/// What tells a process from every other one of this boot: its ID and when it was started.
///
/// `None` if it is gone, or in a PID namespace that is not ours.
pub(super) fn identity(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the second field is the name in parentheses, which may have any in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let started = fields.split(' ').nth(19)?;
    Some(format!("{pid}:{started}"))
}

/// Whether the process of an [`identity`] is gone for sure.
pub(super) fn is_gone(identity: &str) -> bool {
    let pid = identity
        .split_once(':')
        .and_then(|(pid, _)| pid.parse().ok());
    pid.is_some_and(|pid| self::identity(pid).as_deref() != Some(identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_the_one_that_had_its_number_before() {
        let own = identity(std::process::id().cast_signed()).unwrap();
        assert!(!is_gone(&own));
        assert!(is_gone(&format!("{own}0")));
        assert!(is_gone("999999999:1"));
        assert!(
            !is_gone("0123456789abcdef"),
            "no number, so nobody can tell"
        );
    }
}
