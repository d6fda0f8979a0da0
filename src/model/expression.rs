//! `key==value` and `key!=value`: constraints, affinities, and whitelists.
//!
//! The grammar is classic Swarm's. The operator is the first `==` if there is one, else the first
//! `!=`. A key has at least two characters: a letter or `_`, then letters, digits, `-`, `_`, `.`.
//! A leading `~` in the value makes the expression soft: it is a wish, not a condition.

use std::fmt;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// What is looked at: `node`, `image`, a label.
    pub key: String,
    /// How the value compares.
    pub operator: Operator,
    /// The value without the `~` that made it soft.
    pub value: String,
    /// A wish, dropped when it cannot be met.
    pub softness: Softness,
}

/// How an expression compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// Whether an expression must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softness {
    /// It must hold.
    Hard,
    /// It is dropped when it cannot be met.
    Soft,
}

/// Why a text is not an expression; the messages are classic Swarm's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Neither `==` nor `!=` occurs.
    #[error("One of operator ==, != is expected")]
    MissingOperator,
    /// The text before the operator is not a key.
    #[error("Key '{0}' is invalid")]
    Key(String),
    /// The text after the operator is empty or has a character that is not allowed.
    #[error("Value '{0}' is invalid")]
    Value(String),
}

impl Expression {
    /// Parses one expression.
    ///
    /// # Errors
    ///
    /// [`ExpressionError`] with the text classic Swarm's clients know.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let (key, operator, value) = if let Some((key, value)) = text.split_once("==") {
            (key, Operator::Equal, value)
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Operator::NotEqual, value)
        } else {
            return Err(ExpressionError::MissingOperator);
        };
        if !is_key(key) {
            return Err(ExpressionError::Key(key.to_owned()));
        }
        let (value, softness) =
            split_softness(value).ok_or_else(|| ExpressionError::Value(value.to_owned()))?;
        Ok(Self {
            key: key.to_owned(),
            operator,
            value,
            softness,
        })
    }

    /// Whether this names the node it wants and insists on it.
    pub fn is_hard_node(&self) -> bool {
        self.key == "node" && self.operator == Operator::Equal && self.softness == Softness::Hard
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
        })
    }
}

fn is_key(key: &str) -> bool {
    let mut chars = key.chars();
    let starts_well = chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    let rest = chars.as_str();
    starts_well
        && !rest.is_empty()
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Splits `[=!/]?(~)?rest` and checks `rest`: at least one allowed character.
fn split_softness(value: &str) -> Option<(String, Softness)> {
    // One `=`, `!` or `/` may stand before the `~`; only the first two are not value characters
    // themselves.
    let lead = value
        .chars()
        .next()
        .filter(|c| matches!(c, '=' | '!' | '/'));
    let after_lead = &value[lead.map_or(0, char::len_utf8)..];
    let (softness, rest) = match after_lead.strip_prefix('~') {
        Some(rest) => (Softness::Soft, rest),
        None => (Softness::Hard, after_lead),
    };
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":-_.*/()?+[]\\^$|".contains(c)
    };
    // A lone `/` satisfies the classic pattern by being the value itself.
    let enough = !rest.is_empty() || (lead == Some('/') && softness == Softness::Hard);
    if !enough || !rest.chars().all(allowed) {
        return None;
    }
    let mut kept = String::with_capacity(value.len());
    kept.extend(lead);
    kept.push_str(rest);
    Some((kept, softness))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, Operator, &str, Softness), ExpressionError>) {
        let expected = expected.map(|(key, operator, value, softness)| Expression {
            key: key.to_owned(),
            operator,
            value: value.to_owned(),
            softness,
        });
        assert_eq!(Expression::parse(text), expected, "`{text}`");
    }

    #[test]
    fn parses_hard_and_soft_expressions() {
        use Operator::{Equal, NotEqual};
        check("node==n0", Ok(("node", Equal, "n0", Softness::Hard)));
        check("node==~n0", Ok(("node", Equal, "n0", Softness::Soft)));
        check("group!=~a*", Ok(("group", NotEqual, "a*", Softness::Soft)));
        check(
            "node==/(?i)^[a-b]+c*(n|b)$/",
            Ok(("node", Equal, "/(?i)^[a-b]+c*(n|b)$/", Softness::Hard)),
        );
        check(
            "node==node 1",
            Ok(("node", Equal, "node 1", Softness::Hard)),
        );
        check(
            "_node==_node1",
            Ok(("_node", Equal, "_node1", Softness::Hard)),
        );
        check("no.de==x", Ok(("no.de", Equal, "x", Softness::Hard)));
    }

    #[test]
    fn a_lone_slash_is_a_value() {
        check(
            "node==/",
            Ok(("node", Operator::Equal, "/", Softness::Hard)),
        );
    }

    #[test]
    fn refuses_with_the_classic_messages() {
        for (text, message) in [
            ("node", "One of operator ==, != is expected"),
            ("node=x", "One of operator ==, != is expected"),
            ("1node==x", "Key '1node' is invalid"),
            ("node ==node1", "Key 'node ' is invalid"),
            ("no*de==x", "Key 'no*de' is invalid"),
            ("no$de==x", "Key 'no$de' is invalid"),
            ("n==x", "Key 'n' is invalid"),
            ("a!=b==c", "Key 'a!=b' is invalid"),
            ("node==", "Value '' is invalid"),
            ("node==~", "Value '~' is invalid"),
            ("image==a@b", "Value 'a@b' is invalid"),
            ("region==~us~", "Value '~us~' is invalid"),
            ("node=!a", "One of operator ==, != is expected"),
        ] {
            assert_eq!(Expression::parse(text).unwrap_err().to_string(), message);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_parses_can_be_written_down_and_parsed_again(
            text in "[a-z_=!~/ .*-]{0,12}(==|!=)[a-z0-9=!~/|. *-]{0,12}|\\PC*"
        ) {
            if let Ok(parsed) = Expression::parse(&text) {
                let soft = if parsed.softness == Softness::Soft { "~" } else { "" };
                // The `~` stands behind a leading `=`, `!` or `/`, if there is one.
                let lead = parsed.value.len() - parsed.value.trim_start_matches(['=', '!', '/']).len();
                let (lead, rest) = parsed.value.split_at(lead.min(1));
                let written = format!("{}{}{lead}{soft}{rest}", parsed.key, parsed.operator);
                proptest::prop_assert_eq!(Expression::parse(&written).unwrap(), parsed);
            }
        }
    }
}
