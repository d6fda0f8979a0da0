//! What a process uses, as Linux tells it under `/proc`.

use std::{fs, time::Duration};

/// The time that a process has spent in user and kernel mode, to a hundredth of a second.
///
/// # Panics
///
/// There is no such process.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The second field is the name, in parentheses, and may hold spaces.
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Bytes of memory that a process holds now.
pub fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// The most bytes of memory that a process ever held.
pub fn peak(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
