//! Sizes in bytes as text: `512B`, `64KiB`, `128MiB`, `1GiB`; or `512m`, as the docker command has
//! them.

use serde::Serializer;

const UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid size `{0}`: write for example `512B`, `64KiB`, `128MiB` or `1GiB`, above zero")]
pub struct SizeError(String);

/// Parses a size above zero and returns bytes.
///
/// # Errors
///
/// [`SizeError`] if `text` is zero, too large, or not a whole number with a unit.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    UNITS
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?.trim_end(), scale)))
        .and_then(|(number, scale)| number.parse::<u64>().ok()?.checked_mul(*scale))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| SizeError(text.to_owned()))
}

/// Parses a size as the docker command does, and returns bytes: a number with nothing, `b`, or one
/// of `k`, `m`, `g`, `t`, `p`, and `b` or `ib` behind that.
///
/// # Errors
///
/// What the docker command says.
pub fn parse_docker(text: &str) -> Result<i64, String> {
    let odd = || format!("invalid size: '{text}'");
    let is_number = |byte: char| byte.is_ascii_digit() || byte == '.';
    let end = text.rfind(is_number).ok_or_else(odd)? + 1;
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| odd())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let bad_unit = || format!("invalid suffix: '{unit}'");
    let shift = match unit.as_bytes() {
        [] | [b'b'] => 0,
        [letter] | [letter, b'b'] | [letter, b'i', b'b'] => {
            let place = b"kmgtp".iter().position(|known| known == letter);
            10 * (place.ok_or_else(bad_unit)? + 1)
        }
        _ => return Err(bad_unit()),
    };
    let bytes = number * (1_u64 << shift) as f64;
    match bytes.is_finite() && bytes >= 0.0 && bytes < i64::MAX as f64 {
        true => Ok(bytes as i64),
        false => Err(odd()),
    }
}

/// Formats `bytes` with the largest unit that loses nothing.
pub fn format(bytes: u64) -> String {
    let (unit, scale) = UNITS
        .into_iter()
        .find(|(_, scale)| bytes.is_multiple_of(*scale))
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// Serializes a number of bytes as text.
pub(super) fn serialize<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_binary_units() {
        for text in ["512B", "64KiB", "128MiB", "1GiB", "1025KiB"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        for text in [
            "",
            "12",
            "0MiB",
            "-1MiB",
            "1.5GiB",
            "1MB",
            "99999999999999GiB",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
