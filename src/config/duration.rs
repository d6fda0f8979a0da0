//! Durations as text, in Go's syntax, which Docker users know: `300ms`, `1.5s`, `1m30s`, `2h`.

use std::time::Duration;

use serde::Serializer;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration `{0}`: write for example `300ms`, `1m30s` or `2h`")]
pub struct DurationError(String);

/// Parses a duration that is not negative.
///
/// # Errors
///
/// [`DurationError`] if `text` is negative, too long, or not of the form above.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let nanos = u64::try_from(parse_nanos(text)?).map_err(|_| error())?;
    Ok(Duration::from_nanos(nanos))
}

/// Parses a duration as Go does, sign included, and returns nanoseconds.
///
/// # Errors
///
/// [`DurationError`] if `text` is not a duration or does not fit 63 bits of nanoseconds.
pub fn parse_nanos(text: &str) -> Result<i128, DurationError> {
    let error = || DurationError(text.to_owned());
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(error());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(error)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        total += part_nanos(number, unit).ok_or_else(error)?;
        if total > i128::from(i64::MAX) {
            return Err(error());
        }
        rest = tail;
    }
    Ok(sign * total)
}

/// Formats a duration so that [`parse`] returns it again.
pub fn format(duration: Duration) -> String {
    let units = [
        ("h", 3600 * NANOS_PER_SECOND),
        ("m", 60 * NANOS_PER_SECOND),
        ("s", NANOS_PER_SECOND),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let mut rest = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    let mut text = String::new();
    // "60s" and "90s" read better than "1m" and "1m30s" and are what Swarm's documentation shows.
    if rest % NANOS_PER_SECOND == 0 && rest < 120 * NANOS_PER_SECOND {
        return format!("{}s", rest / NANOS_PER_SECOND);
    }
    for (unit, nanos) in units {
        if rest >= nanos {
            text.push_str(&format!("{}{unit}", rest / nanos));
            rest %= nanos;
        }
    }
    text
}

/// Serializes a duration as text.
pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format(*value))
}

/// Serializes a duration that may be absent.
pub(super) fn serialize_some<S: Serializer>(
    value: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serialize(value, to),
        None => to.serialize_none(),
    }
}

fn part_nanos(number: &str, unit: &str) -> Option<i128> {
    let scale = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        i128::from(whole.parse::<u64>().ok()?)
    };
    // Digits below a nanosecond of the largest unit are cut off, as Go does.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits: i128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let power = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole * scale + digits * scale / power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_durations() {
        for (text, millis) in [
            ("300ms", 300),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1.s", 1_000),
            ("0", 0),
            ("1000us", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "5",
            "s",
            "-",
            ".s",
            "1.2.3s",
            "1x",
            "1 s",
            "99999999999999h",
            "1m30",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse_nanos("-1us"), Ok(-1_000));
        assert!(parse("-1us").is_err());
    }

    #[test]
    fn formats_what_it_can_read_back() {
        for text in [
            "0s",
            "60s",
            "90s",
            "2m",
            "100ms",
            "1h30m",
            "2m1s500ms",
            "7ns",
        ] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
