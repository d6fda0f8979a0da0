//! The order of names: runs of digits compare as numbers.

use std::cmp::Ordering;

/// Compares names so that `node9` comes before `node10`.
///
/// Names that differ in leading zeros alone (`n1`, `n01`) are ordered as texts, so that only equal
/// names are equal.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, left_rest) = number(left);
                let (y, right_rest) = number(right);
                // Without leading zeros the longer number is the larger one.
                let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
                if order.is_ne() {
                    return order;
                }
                (left, right) = (left_rest, right_rest);
            }
            (Some(x), Some(y)) if x != y => return x.cmp(y),
            _ => (left, right) = (&left[1..], &right[1..]),
        }
    }
}

/// Splits off the leading digits, without their leading zeros.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sorted: &[&str]) {
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    #[test]
    fn digit_runs_compare_as_numbers() {
        check(&["", "machine1", "machine9", "machine10", "machine11"]);
        check(&["a1b2", "a1b10", "a2b1"]);
        check(&["n", "n1", "na"]);
        check(&["n99999999999999999999", "n100000000000000000000"]);
    }

    #[test]
    fn leading_zeros_decide_last() {
        check(&["n01", "n1", "n02"]);
        assert_eq!(compare("n1", "n1"), Ordering::Equal);
    }
}
