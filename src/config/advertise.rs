//! The form of an advertised address.

/// Tells whether `text` is `host:port` in the form Go's `net.SplitHostPort` takes, with a port
/// from 1 to 65535.
///
/// The host is not looked at, it may even be empty; an IPv6 address stands in brackets.
pub fn is_advertisable(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once("]:") {
            Some(parts) => parts,
            None => return false,
        },
        None => match text.split_once(':') {
            Some(parts) => parts,
            None => return false,
        },
    };
    // `u16` would take a sign.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let bracketed = text.starts_with('[');
    let plain_host = !host.contains(['[', ']']) && (bracketed || !host.contains(':'));
    digits && plain_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // U-CLI-1
    #[test]
    fn an_advertised_address_is_a_host_and_a_port() {
        for text in [
            "1.1.1.1:1111",
            "hostname:1111",
            "host-name_42:1111",
            "1.1.1.1:65535",
            "[2001:db8:0:f101::3]:2375",
            ":2375",
        ] {
            assert!(is_advertisable(text), "{text}");
        }
        for text in [
            "",
            "1.1.1.1",
            "hostname",
            "1.1.1.1:",
            "hostname:",
            "1.1.1.1:111111",
            "hostname:111111",
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
            ":+80",
            ":65536",
            ": 4000",
            ":m2",
            "2001:db8:0:f101::3:2375",
            "[2001:db8:0:f101::3]:3:2375",
        ] {
            assert!(!is_advertisable(text), "{text}");
        }
    }
}
