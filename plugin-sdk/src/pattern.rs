//! What the value of an expression matches.

use regex_lite::Regex;

use crate::bindings::imports::skep::plugin::inventory;
use crate::log;

/// The value of an expression, ready to be compared with names and labels.
///
/// - `/inside/` is a regular expression, not anchored.
/// - With a `*` in it, a glob: `*` stands for any text, every other character for itself, and the
///   whole text must match.
/// - Anything else, a lone `/` included, must be equal.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Equal texts match.
    Exact(String),
    /// The texts between the asterisks, in order; at least two.
    Glob(Vec<String>),
    /// Texts with a match anywhere.
    Regex(Regex),
    /// Nothing matches: the regular expression was not valid.
    Nothing,
}

impl Pattern {
    /// Reads the value of an expression.
    ///
    /// A regular expression that does not compile matches nothing; a warning is logged.
    pub fn parse(value: &str) -> Self {
        match kind(value) {
            Kind::Exact => Self::Exact(value.to_owned()),
            Kind::Glob => Self::Glob(value.split('*').map(str::to_owned).collect()),
            Kind::Regex(inside) => Regex::new(inside).map_or_else(
                |error| {
                    let fields = [("pattern", value), ("error", &error.to_string())];
                    log::warn(
                        "regular expression does not compile, it matches nothing",
                        &fields,
                    );
                    Self::Nothing
                },
                Self::Regex,
            ),
        }
    }

    /// Tells whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Glob(parts) => glob_matches(parts, text),
            Self::Regex(regex) => regex.is_match(text),
            Self::Nothing => false,
        }
    }
}

/// Turns the value of an expression into a pattern for the daemon's indexes ([`crate::host`]),
/// where a regular expression is compiled by the daemon.
pub fn query(value: &str) -> inventory::Pattern {
    match kind(value) {
        Kind::Exact => inventory::Pattern::Exact(value.to_owned()),
        Kind::Glob => inventory::Pattern::Glob(value.to_owned()),
        Kind::Regex(inside) => inventory::Pattern::Regex(inside.to_owned()),
    }
}

enum Kind<'a> {
    Exact,
    Glob,
    Regex(&'a str),
}

fn kind(value: &str) -> Kind<'_> {
    // Stripping twice makes a lone `/` an ordinary text.
    match value
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'))
    {
        Some(inside) => Kind::Regex(inside),
        None if value.contains('*') => Kind::Glob,
        None => Kind::Exact,
    }
}

fn glob_matches(parts: &[String], text: &str) -> bool {
    let [first, middle @ .., last] = parts else {
        return false;
    };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else {
        return false;
    };
    // The leftmost match of each part leaves the most text for the parts that follow.
    for part in middle {
        match rest.find(part.as_str()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Host;

    #[track_caller]
    fn check(value: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::parse(value);
        for text in yes {
            assert!(pattern.matches(text), "`{value}` should match `{text}`");
        }
        for text in no {
            assert!(
                !pattern.matches(text),
                "`{value}` should not match `{text}`"
            );
        }
    }

    #[test]
    fn plain_text_must_be_equal() {
        check("foo", &["foo"], &["", "fo", "fooo", "FOO"]);
        check("us.west", &["us.west"], &["us-west"]);
        check("a|b", &["a|b"], &["a", "b"]);
    }

    #[test]
    fn an_asterisk_stands_for_any_text_and_the_rest_for_itself() {
        check("f*o", &["fo", "foo", "f--o"], &["f", "foob", "xfo"]);
        check("*", &["", "anything"], &[]);
        check("us*", &["us", "us-west"], &["eus"]);
        check("*us*", &["us", "aus-1"], &["u"]);
        check("a*b*a", &["aba", "axbya"], &["aa", "ab", "ba"]);
        check("a*a", &["aa"], &["a"]);
        check("1.0*", &["1.0.3"], &["110"]);
        check("n(1)*", &["n(1)", "n(1)x"], &["n1"]);
    }

    #[test]
    fn slashes_make_an_unanchored_regular_expression() {
        check(r"/node\d/", &["node1", "my-node7x"], &["node"]);
        check("/abcdef/", &["abcdef"], &["aBcDeF"]);
        check("/(?i)abcdef/", &["aBcDeF"], &["abcde"]);
        check("/^a|b$/", &["ax", "xb"], &["xax"]);
        check("//", &["", "anything"], &[]);
    }

    #[test]
    fn a_lone_slash_is_a_slash() {
        check("/", &["/"], &["", "a", "//"]);
    }

    #[test]
    fn a_broken_regular_expression_matches_nothing_and_is_logged() {
        let host = Host::install();
        check("/(/", &[], &["", "(", "/(/"]);
        assert!(
            host.log()[0].contains("does not compile"),
            "{:?}",
            host.log()
        );
    }
}
