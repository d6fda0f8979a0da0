//! The options of `docker volume create -o`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::{Attr, Error, Result};

/// The options of a volume, each to be taken once.
///
/// ```
/// use skep_plugin_sdk::Attr;
/// use skep_plugin_sdk::volume::Options;
///
/// let given = [Attr { key: "uid".into(), value: "1000".into() }];
/// let mut options = Options::new(&given)?;
/// assert_eq!(options.number("uid")?, Some(1000));
/// options.finish()?;
/// # Ok::<(), skep_plugin_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Options {
    left: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Options {
    /// Takes the options of a volume.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if one is given twice.
    pub fn new(given: &[Attr]) -> Result<Self> {
        let mut left = BTreeMap::new();
        for option in given {
            let before = left.insert(option.key.clone(), option.value.clone());
            if before.is_some() {
                return Err(invalid(format!("option `{}` is given twice", option.key)));
            }
        }
        Ok(Self {
            left,
            known: Vec::new(),
        })
    }

    /// Takes an option as it is.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.left.remove(key)
    }

    /// Takes an option that is a decimal number.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if it is none.
    pub fn number(&mut self, key: &'static str) -> Result<Option<u32>> {
        self.parsed(key, "must be a number", |text| u32::from_str(text).ok())
    }

    /// Takes an option that is a file mode, octal: `0750`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if it is none.
    pub fn mode(&mut self, key: &'static str) -> Result<Option<u32>> {
        let mode = |text: &str| u32::from_str_radix(text, 8).ok();
        self.parsed(key, "must be an octal mode such as 0750", |text| {
            mode(text).filter(|mode| *mode <= 0o7777)
        })
    }

    /// Takes an option that is a size in bytes, or in units of 1024: `512k`, `64m`, `10g`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if it is none, or zero.
    pub fn size(&mut self, key: &'static str) -> Result<Option<u64>> {
        self.parsed(key, "must be a size such as 64m or 10g", parse_size)
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if there are options that nobody took.
    pub fn finish(self) -> Result<()> {
        match self.left.into_keys().next() {
            None => Ok(()),
            Some(key) if self.known.is_empty() => Err(invalid(format!(
                "option `{key}` is not known: there are none"
            ))),
            Some(key) => Err(invalid(format!(
                "option `{key}` is not known: there are `{}`",
                self.known.join("`, `")
            ))),
        }
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        demand: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(invalid(format!("option `{key}` {demand}, not `{text}`"))),
        }
    }
}

/// Parses a size in bytes or in units of 1024; `None` if it is none, or zero.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text
        .strip_suffix("ib")
        .or(text.strip_suffix('b'))
        .unwrap_or(&text);
    let (digits, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).filter(|size| *size > 0)
}

fn invalid(text: String) -> Error {
    Error::InvalidRequest(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, &str)]) -> Options {
        let given: Vec<_> = given
            .iter()
            .map(|(key, value)| Attr {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        Options::new(&given).unwrap()
    }

    #[test]
    fn what_nobody_takes_is_refused_by_name() {
        let mut given = options(&[("uid", "1"), ("sise", "2")]);
        given.number("uid").unwrap();
        given.size("size").unwrap();
        let error = given.finish().unwrap_err();
        let text = "option `sise` is not known: there are `uid`, `size`";
        assert_eq!(error, Error::InvalidRequest(text.to_owned()));
    }

    #[test]
    fn values_are_what_they_must_be() {
        let mut given = options(&[("mode", "0750"), ("uid", "-1"), ("gid", "0x1"), ("m", "9")]);
        assert_eq!(given.mode("mode").unwrap(), Some(0o750));
        assert!(given.number("uid").is_err());
        assert!(given.number("gid").is_err());
        assert!(given.mode("m").is_err());
        assert_eq!(given.mode("absent").unwrap(), None);
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, size) in [
            ("1", Some(1)),
            ("64m", Some(64 << 20)),
            ("64M", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1gb", Some(1 << 30)),
            ("0", None),
            ("", None),
            ("m", None),
            ("1.5g", None),
            ("99999999999t", None),
        ] {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }
}
