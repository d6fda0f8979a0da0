//! Until when a certificate is good.
//!
//! rustls says so of the other side's certificate only, and only when it is too late. This reads
//! just enough of DER (X.690) to find one date in a certificate (RFC 5280, section 4.1).

use chrono::{DateTime, NaiveDateTime, Utc};

const TAG_VERSION: u8 = 0xa0;
const TAG_UTC_TIME: u8 = 0x17;
const TAG_GENERALIZED_TIME: u8 = 0x18;

/// Returns the last moment at which a certificate is good, or `None` if it is no certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let (certificate, _) = contents(certificate)?;
    let (mut fields, _) = contents(certificate)?;
    if fields.first() == Some(&TAG_VERSION) {
        (_, fields) = contents(fields)?;
    }
    // Before the validity stand the serial number, the signature's algorithm, and the issuer.
    for _ in 0..3 {
        (_, fields) = contents(fields)?;
    }
    let (validity, _) = contents(fields)?;
    let (_, end) = contents(validity)?;
    let tag = *end.first()?;
    let (text, _) = contents(end)?;
    let text = std::str::from_utf8(text).ok()?;
    let century = match tag {
        TAG_GENERALIZED_TIME => "",
        // Two digits of a year mean 1950 to 2049.
        TAG_UTC_TIME if text >= "50" => "19",
        TAG_UTC_TIME => "20",
        _ => return None,
    };
    let time = NaiveDateTime::parse_from_str(&format!("{century}{text}"), "%Y%m%d%H%M%SZ").ok()?;
    Some(time.and_utc())
}

/// Splits the contents of the first DER element off what follows it.
fn contents(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.get(1..)?.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The low bits count the bytes of the length. No certificate needs more than four.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |length, digit| (length << 8) | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate's outline with this end of its validity.
    fn certificate(tag: u8, end: &str) -> Vec<u8> {
        let element = |tag: u8, contents: &[u8]| {
            let mut bytes = vec![tag, 0x81, u8::try_from(contents.len()).unwrap()];
            bytes.extend(contents);
            bytes
        };
        let begin = element(TAG_UTC_TIME, b"700101000000Z");
        let end = element(tag, end.as_bytes());
        let fields = [
            element(TAG_VERSION, &[2, 1, 2]),
            element(2, &[1]),
            element(0x30, &[]),
            element(0x30, &[]),
            element(0x30, &[begin, end].concat()),
        ];
        element(0x30, &element(0x30, &fields.concat()))
    }

    #[test]
    fn finds_the_end_in_both_notations() {
        for (tag, end, expected) in [
            (TAG_UTC_TIME, "491231235959Z", "2049-12-31T23:59:59Z"),
            (TAG_UTC_TIME, "500101000000Z", "1950-01-01T00:00:00Z"),
            (
                TAG_GENERALIZED_TIME,
                "40960101000000Z",
                "4096-01-01T00:00:00Z",
            ),
        ] {
            let found = not_after(&certificate(tag, end)).unwrap();
            assert_eq!(found, expected.parse::<DateTime<Utc>>().unwrap());
        }
    }

    #[test]
    fn a_certificate_cut_anywhere_has_no_end() {
        let whole = certificate(TAG_UTC_TIME, "300101000000Z");
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None, "{length}");
        }
        assert_eq!(not_after(&certificate(TAG_UTC_TIME, "tomorrow")), None);
        assert_eq!(not_after(&[0x30, 0x88, 0xff, 0xff, 0xff]), None);
    }
}
