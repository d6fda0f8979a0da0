//! The plugin's table in `config.toml`, as the type the author declared.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The settings of a plugin that has none; any key is refused.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Reads settings from the JSON text that the daemon made of the table.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if the text does not fit the type; it names the key.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let mut reason = error.into_inner().to_string();
        // The position is one in the JSON text, which the author of config.toml never sees.
        if let Some(at) = reason.rfind(" at line ") {
            reason.truncate(at);
        }
        Error::InvalidConfig(match path.as_str() {
            "." => reason,
            _ => format!("`{path}`: {reason}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Settings {
        rack_label: String,
        #[serde(default)]
        limit: u32,
    }

    fn refusal(json: &str) -> String {
        match parse::<Settings>(json) {
            Err(Error::InvalidConfig(reason)) => reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn reads_the_authors_type() {
        let settings: Settings = parse(r#"{"rack-label":"rack"}"#).unwrap();
        assert_eq!(
            settings,
            Settings {
                rack_label: "rack".into(),
                limit: 0
            }
        );
    }

    #[test]
    fn no_text_is_an_empty_table() {
        assert!(parse::<NoSettings>("").is_ok());
        assert_eq!(refusal(""), "missing field `rack-label`");
    }

    #[test]
    fn a_refusal_names_the_key() {
        assert!(refusal(r#"{"rack-label":"r","lable":1}"#).contains("`lable`"));
        let wrong_type = refusal(r#"{"rack-label":"r","limit":"many"}"#);
        assert!(
            wrong_type.starts_with("`limit`: invalid type"),
            "{wrong_type}"
        );
        assert!(!wrong_type.contains("line"), "{wrong_type}");
    }
}
