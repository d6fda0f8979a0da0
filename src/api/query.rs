//! The query of a request.

use percent_encoding::percent_decode_str;

/// Decoded parameters, and the text they came from.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    raw: String,
}

impl Query {
    /// Takes a query apart: `a=1&b=two+words`.
    pub fn parse(raw: Option<&str>) -> Self {
        let raw = raw.unwrap_or_default();
        let pairs = raw
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self {
            pairs,
            raw: raw.to_owned(),
        }
    }

    /// The first value of a parameter; empty if it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.pairs
            .iter()
            .find(|(own, _)| own == name)
            .map_or("", |(_, value)| value)
    }

    /// All values of a parameter, in the order given.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    /// A parameter as the Docker API reads booleans: absent, empty, `0`, `no`, `false`, `none`
    /// are false, anything else is true.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.get(name).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A parameter as a number; 0 if it is none.
    pub fn number(&self, name: &str) -> i64 {
        self.get(name).trim().parse().unwrap_or(0)
    }

    /// The query as it came, with a leading `?` if there is one.
    pub fn suffix(&self) -> String {
        if self.raw.is_empty() {
            String::new()
        } else {
            format!("?{}", self.raw)
        }
    }

    /// The query as it came, without one parameter.
    pub fn without(&self, name: &str) -> String {
        let kept: Vec<&str> = self
            .raw
            .split('&')
            .filter(|pair| !pair.is_empty() && decode(pair.split('=').next().unwrap_or("")) != name)
            .collect();
        kept.join("&")
    }
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read_as_docker_does() {
        for (value, expected) in [
            ("", false),
            ("0", false),
            ("no", false),
            ("False", false),
            ("none", false),
            ("1", true),
            ("yes", true),
            ("true", true),
            ("one", true),
            ("100", true),
        ] {
            let query = Query::parse(Some(&format!("all={value}")));
            assert_eq!(query.flag("all"), expected, "`{value}`");
        }
    }

    #[test]
    fn what_is_no_number_is_zero() {
        let query = Query::parse(Some("a=&b=asdf&c=7"));
        assert_eq!(
            (query.number("a"), query.number("b"), query.number("c")),
            (0, 0, 7)
        );
    }

    #[test]
    fn values_are_decoded_and_the_rest_kept_as_written() {
        let query = Query::parse(Some("name=n0%2Fweb&platform=linux%2Famd64&x=a+b"));
        assert_eq!(query.get("name"), "n0/web");
        assert_eq!(query.get("x"), "a b");
        assert_eq!(query.without("name"), "platform=linux%2Famd64&x=a+b");
    }
}
