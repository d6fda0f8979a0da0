//! Which run of the machine this is, and how long it has lasted.

use std::{fs, io, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Returns what tells this boot of the machine from every other one.
///
/// # Errors
///
/// The system does not say.
pub fn id() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// Returns the time since the machine booted, suspended or not.
pub fn elapsed() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // It counts from zero, upwards.
    Duration::new(
        now.tv_sec.try_into().unwrap_or_default(),
        now.tv_nsec.try_into().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_boot_is_the_uptime() {
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(elapsed().as_secs_f64() >= uptime);
        assert!(elapsed() <= elapsed());
        assert_eq!(id().unwrap(), id().unwrap());
    }
}
