//! Addresses of engines as users list them, with ranges.

use crate::{Error, Result};

/// More addresses than this from one pattern are taken for a mistake.
const LIMIT: usize = 100_000;

/// Expands every `[from:to]` of a pattern, lowest first: `10.0.0.[9:11]:2375` gives three
/// addresses. Numbers are padded with zeros to the width of `from` if that starts with one. What
/// stands in brackets and is not two numbers, such as an IPv6 address, is left alone.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if a range is empty or the result is unreasonably long.
pub fn expand(pattern: &str) -> Result<Vec<String>> {
    let mut expanded = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, range, after)) = next_range(rest) {
        let numbers = range.numbers(pattern)?;
        if expanded.len() * numbers.len() > LIMIT {
            return Err(Error::InvalidConfig(format!(
                "`{pattern}` stands for more than {LIMIT} addresses"
            )));
        }
        expanded = expanded
            .iter()
            .flat_map(|start| {
                numbers
                    .iter()
                    .map(move |number| format!("{start}{before}{number}"))
            })
            .collect();
        rest = after;
    }
    for address in &mut expanded {
        address.push_str(rest);
    }
    Ok(expanded)
}

/// Checks that an address is `host:port`, with an IPv6 host in brackets, or `unix:///path`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] that names the address.
pub fn validate(address: &str) -> Result<()> {
    if is_valid(address) {
        return Ok(());
    }
    Err(Error::InvalidConfig(format!(
        "address `{address}` is not of the form host:port"
    )))
}

/// Expands a pattern and checks each address.
///
/// # Errors
///
/// [`Error::InvalidConfig`], as [`expand`] and [`validate`].
pub fn parse(pattern: &str) -> Result<Vec<String>> {
    let addresses = expand(pattern)?;
    for address in &addresses {
        validate(address)?;
    }
    Ok(addresses)
}

struct Range<'a> {
    from: &'a str,
    to: &'a str,
}

impl Range<'_> {
    fn numbers(&self, pattern: &str) -> Result<Vec<String>> {
        let Self { from, to } = self;
        let refuse =
            |why| Error::InvalidConfig(format!("range `[{from}:{to}]` of `{pattern}` {why}"));
        let (Ok(first), Ok(last)) = (from.parse::<u64>(), to.parse::<u64>()) else {
            return Err(refuse("has a number that is too large"));
        };
        if first > last {
            return Err(refuse("is empty"));
        }
        if last - first >= LIMIT as u64 {
            return Err(refuse("is too long"));
        }
        let width = if from.starts_with('0') { from.len() } else { 0 };
        Ok((first..=last)
            .map(|number| format!("{number:0width$}"))
            .collect())
    }
}

/// Splits at the first `[from:to]` of two numbers.
fn next_range(text: &str) -> Option<(&str, Range<'_>, &str)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.match_indices('[').find_map(|(start, _)| {
        let inside = &text[start + 1..];
        let end = inside.find(']')?;
        let (from, to) = inside[..end].split_once(':')?;
        (is_number(from) && is_number(to))
            .then(|| (&text[..start], Range { from, to }, &inside[end + 1..]))
    })
}

fn is_valid(address: &str) -> bool {
    if let Some(path) = address.strip_prefix("unix://") {
        return path.len() > 1 && path.starts_with('/');
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return false;
    }
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, expected: &[&str]) {
        assert_eq!(expand(pattern).unwrap(), expected);
    }

    #[test]
    fn a_range_stands_for_each_number() {
        check(
            "10.0.0.[9:11]:2375",
            &["10.0.0.9:2375", "10.0.0.10:2375", "10.0.0.11:2375"],
        );
        check(
            "192.168.1.2:[2:4]375",
            &["192.168.1.2:2375", "192.168.1.2:3375", "192.168.1.2:4375"],
        );
        check("a[7:7]", &["a7"]);
    }

    #[test]
    fn several_ranges_multiply() {
        check("r[1:2]n[1:2]", &["r1n1", "r1n2", "r2n1", "r2n2"]);
    }

    #[test]
    fn zero_padding_is_kept() {
        check("node[08:10]", &["node08", "node09", "node10"]);
        check("node[0:1]", &["node0", "node1"]);
        check("node[8:10]", &["node8", "node9", "node10"]);
    }

    #[test]
    fn what_is_not_a_range_is_left_alone() {
        check("plain:2375", &["plain:2375"]);
        check("[2001:db8:0:f101::3]:2375", &["[2001:db8:0:f101::3]:2375"]);
        check("[::1]:[1:2]", &["[::1]:1", "[::1]:2"]);
        check("a[b:c]", &["a[b:c]"]);
        check("a[1:", &["a[1:"]);
    }

    #[test]
    fn an_empty_or_endless_range_is_an_error_that_names_it() {
        for (pattern, part) in [
            ("n[3:2]", "`[3:2]` of `n[3:2]` is empty"),
            ("n[0:99999999]", "is too long"),
            ("n[1:99999999999999999999999]", "too large"),
            ("n[1:1000][1:1000]", "more than"),
        ] {
            let Err(Error::InvalidConfig(text)) = expand(pattern) else {
                panic!("`{pattern}` was accepted");
            };
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in [
            "1.1.1.1:1111",
            "hostname:1111",
            "host-name_42:1111",
            "1.1.1.1:65535",
            "[2001:db8:0:f101::3]:2375",
            "unix:///var/run/docker.sock",
        ] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "1.1.1.1",
            "hostname",
            "1.1.1.1:",
            "hostname:",
            "1.1.1.1:111111",
            "http://1.1.1.1",
            "http://1.1.1.1:1",
            "http://hostname",
            "http://hostname:1",
            ":1.1.1.1",
            ":hostname",
            ":1.1.1.1:1",
            ":hostname:1",
            ":-1",
            ":0",
            ":65536",
            ": 4000",
            "a: 4000",
            ":m2",
            "a:0",
            "a:+1",
            "2001:db8:0:f101::3:2375",
            "[2001:db8:0:f101::3]:3:2375",
            "[x]:1",
            "unix://a",
        ] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }
}
