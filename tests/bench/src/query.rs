//! The query part of a request, decoded.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::Value;

/// Decoded query parameters, in the order they were sent.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes `raw`; a parameter without `=` gets an empty value.
    pub fn parse(raw: Option<&str>) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = raw
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(key, value)| (decode(key), decode(value)))
                .collect(),
        )
    }

    /// The first value sent for `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Reads `key` as dockerd reads a flag: everything but empty, `0`, `no`, `false` and `none` is set.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| {
            !matches!(
                value.trim().to_ascii_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            )
        })
    }

    /// The `filters` parameter, in both forms clients send: `{"k":["v"]}` and `{"k":{"v":true}}`.
    ///
    /// # Errors
    ///
    /// `Err` if it is not JSON of either form; dockerd answers 400 then.
    pub fn filters(&self) -> Result<Filters, InvalidFilter> {
        let Some(text) = self.get("filters").filter(|text| !text.is_empty()) else {
            return Ok(Filters::default());
        };
        let parsed: BTreeMap<String, Value> = serde_json::from_str(text)?;
        let values = parsed.into_iter().map(|(key, value)| {
            let values = match value {
                Value::Array(list) => list
                    .into_iter()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect(),
                Value::Object(set) => set.into_iter().map(|(value, _)| value).collect(),
                _ => Vec::new(),
            };
            (key, values)
        });
        Ok(Filters(values.collect()))
    }
}

/// The `filters` parameter is not JSON of a known form.
#[derive(Debug, thiserror::Error)]
#[error("invalid filter")]
pub struct InvalidFilter(#[from] serde_json::Error);

/// List filters: values of one key are alternatives, keys must all match.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Whether `key` is absent or one of its values satisfies `test`.
    pub fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.iter().any(|value| test(value)))
    }

    /// Whether every label filter matches; `key` or `key=value`, where `lookup` finds a label.
    pub fn labels<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.get("label").is_none_or(|values| {
            values.iter().all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => lookup(key) == Some(value),
                None => lookup(wanted).is_some(),
            })
        })
    }

    /// Whether the client sent `key`.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_filters() {
        for raw in [
            "filters=%7B%22name%22%3A%5B%22web%22%5D%7D",
            "filters=%7B%22name%22%3A%7B%22web%22%3Atrue%7D%7D",
        ] {
            let filters = Query::parse(Some(raw))
                .filters()
                .expect("both forms are valid");
            assert!(filters.any("name", |name| name == "web"));
            assert!(!filters.any("name", |name| name == "db"));
            assert!(filters.any("id", |_| false), "an absent key matches all");
        }
        assert!(Query::parse(Some("filters=nonsense")).filters().is_err());
    }

    #[test]
    fn reads_flags_like_dockerd() {
        let query = Query::parse(Some("a=1&b=0&c=false&d=True&e"));
        assert_eq!(
            ["a", "b", "c", "d", "e", "f"].map(|key| query.flag(key)),
            [true, false, false, true, false, false]
        );
    }
}
