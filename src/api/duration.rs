//! How long something took, in the words of `docker ps`, and sizes in those of `docker info`.

use chrono::TimeDelta;

/// `Less than a second`, `About a minute`, `3 hours`.
pub fn words(duration: TimeDelta) -> String {
    let seconds = duration.num_seconds().max(0);
    let minutes = seconds / 60;
    // Docker rounds hours to the nearest.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., ..48) => format!("{hours} hours"),
        (.., hours) if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        (.., hours) if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        (.., hours) if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        (.., hours) => format!("{} years", hours / 24 / 365),
    }
}

/// 1024-based, four significant digits: `8.4 GiB`, `10 MiB`, `0 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 40 * MINUTE, "2 hours"),
            (47 * HOUR, "47 hours"),
            (48 * HOUR, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (60 * DAY, "2 months"),
            (2 * 365 * DAY, "2 years"),
        ] {
            assert_eq!(words(TimeDelta::seconds(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn sizes_have_four_significant_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (10 << 20, "10 MiB"),
            (9_019_431_321, "8.4 GiB"),
            (1023, "1023 B"),
            (1_649_267_441_664, "1.5 TiB"),
            (123_456_789, "117.7 MiB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }
}
