//! The `filters` parameter of lists and events.
//!
//! Two forms are in use: `{"label":["a","b"]}` and the older `{"label":{"a":true}}`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::ApiError;

/// Filters by name, each with the values given.
#[derive(Clone, Debug, Default)]
pub struct ListFilters {
    values: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    List(Vec<String>),
    Map(BTreeMap<String, bool>),
}

impl ListFilters {
    /// Parses the parameter and refuses names that are not `known`: a filter that is ignored would
    /// return more than was asked for, to a script that may delete it.
    ///
    /// # Errors
    ///
    /// The text is not JSON of one of the two forms, or a name is unknown.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, ApiError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let wire: BTreeMap<String, Wire> = serde_json::from_str(text)
            .map_err(|error| ApiError::bad_request(format!("invalid filters: {error}")))?;
        let mut values = BTreeMap::new();
        for (name, wire) in wire {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad_request(format!("invalid filter '{name}'")));
            }
            let list = match wire {
                Wire::List(list) => list,
                Wire::Map(map) => map
                    .into_iter()
                    .filter_map(|(value, set)| set.then_some(value))
                    .collect(),
            };
            if !list.is_empty() {
                values.insert(name, list);
            }
        }
        Ok(Self { values })
    }

    /// The values of one filter.
    pub fn get(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether one of the values passes, or none was given.
    pub fn any(&self, name: &str, pass: impl Fn(&str) -> bool) -> bool {
        let values = self.get(name);
        values.is_empty() || values.iter().any(|value| pass(value))
    }

    /// Whether every value is a label that is there: `key` or `key=value`.
    pub fn labels<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.get(name)
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => label(key) == Some(value),
                None => label(wanted).is_some(),
            })
    }

    /// A filter whose value is true or false; `None` if it was not given.
    ///
    /// # Errors
    ///
    /// The value is neither.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            [] => Ok(None),
            [value] => match value.as_str() {
                "1" | "t" | "true" | "True" | "TRUE" => Ok(Some(true)),
                "0" | "f" | "false" | "False" | "FALSE" => Ok(Some(false)),
                other => Err(ApiError::bad_filter(name, other)),
            },
            [.., last] => Err(ApiError::bad_filter(name, last)),
        }
    }
}

/// Whether a text equals a filter's value or contains a match of it as a regular expression.
pub fn matches_name(pattern: &str, text: &str) -> bool {
    pattern == text || regex_lite::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_understood() {
        for text in [
            r#"{"label":["a","b"]}"#,
            r#"{"label":{"a":true,"b":true,"c":false}}"#,
        ] {
            let filters = ListFilters::parse(text, &["label"]).unwrap();
            assert_eq!(filters.get("label"), ["a", "b"]);
        }
        assert!(ListFilters::parse("", &[]).unwrap().get("label").is_empty());
    }

    #[test]
    fn an_unknown_filter_is_an_error() {
        let error = ListFilters::parse(r#"{"nonsense":["x"]}"#, &["label"]).unwrap_err();
        assert_eq!(error.message(), "invalid filter 'nonsense'");
        assert!(ListFilters::parse("{", &["label"]).is_err());
    }

    #[test]
    fn all_labels_must_be_there() {
        let label = |key: &str| (key == "a").then_some("1");
        for (text, expected) in [
            (r#"{"label":["a"]}"#, true),
            (r#"{"label":["a=1"]}"#, true),
            (r#"{"label":["a=2"]}"#, false),
            (r#"{"label":["a","b"]}"#, false),
        ] {
            let filters = ListFilters::parse(text, &["label"]).unwrap();
            assert_eq!(filters.labels("label", label), expected, "{text}");
        }
    }
}
