//! What the value of an expression matches.
//!
//! `/…/` is an unanchored regular expression; in anything else `*` stands for any text and every
//! other character for itself. Classic Swarm let the remaining regex metacharacters of a glob act
//! as such by accident; here they are literal.

use regex_lite::Regex;

/// A compiled expression value.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The text itself.
    Exact(String),
    /// Literal pieces with any text between them.
    Glob(String),
    /// An unanchored regular expression.
    Regex(Regex),
    /// A regular expression that does not compile: it matches nothing.
    Never,
}

impl Pattern {
    /// Compiles the value of an expression.
    pub fn of_value(value: &str) -> Self {
        if value.len() >= 2 && value.starts_with('/') && value.ends_with('/') {
            return Self::regex(&value[1..value.len() - 1]);
        }
        if value.contains('*') {
            return Self::Glob(value.to_owned());
        }
        Self::Exact(value.to_owned())
    }

    /// Compiles an unanchored regular expression; one that is not valid matches nothing.
    pub fn regex(text: &str) -> Self {
        Regex::new(text).map_or(Self::Never, Self::Regex)
    }

    /// Whether `text` as a whole matches a glob, or any part of it a regular expression.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Glob(glob) => glob_matches(glob, text),
            Self::Regex(regex) => regex.is_match(text),
            Self::Never => false,
        }
    }
}

/// Matches with one `*` remembered at a time: linear in practice, quadratic at worst.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if g < glob.len() && glob[g] == b'*' {
            retry = Some((g + 1, t));
            g += 1;
        } else if g < glob.len() && glob[g] == text[t] {
            g += 1;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            g = after_star;
            t = from + 1;
            retry = Some((after_star, t));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, text: &str, expected: bool) {
        assert_eq!(
            Pattern::of_value(value).matches(text),
            expected,
            "`{value}` against `{text}`"
        );
    }

    #[test]
    fn a_star_stands_for_any_text() {
        check("f*o", "foo", true);
        check("f*o", "fo", true);
        check("f*o", "foobar", false);
        check("*us*", "us-west", true);
        check("*", "", true);
        check("a*b*c", "a-b-b-c", true);
    }

    #[test]
    fn other_metacharacters_are_literal() {
        check("a.c", "abc", false);
        check("a.c", "a.c", true);
        check("a|b", "a", false);
        check("a+*", "aa", false);
    }

    #[test]
    fn slashes_make_a_regular_expression() {
        check(r"/node\d/", "my-node1", true);
        check("/(?i)abcdef/", "aBcDeF", true);
        check("/abcdef/", "aBcDeF", false);
        check("/(/", "(", false);
    }

    #[test]
    fn a_lone_slash_is_itself() {
        check("/", "/", true);
        check("/", "node", false);
    }

    proptest::proptest! {
        #[test]
        fn a_glob_matches_what_the_regular_expression_for_it_matches(
            glob in "[ab.*]{0,8}", text in "[ab.]{0,10}"
        ) {
            let regex = glob.replace('.', "[.]").replace('*', ".*");
            let expected = Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(&text);
            proptest::prop_assert_eq!(glob_matches(&glob, &text), expected);
        }
    }
}
