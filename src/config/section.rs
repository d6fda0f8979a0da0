//! Reads one table of the file key by key.
//!
//! Serde stops at the first error; a [`Section`] does not. Each `read` function asks for its keys
//! in turn, gets the default where a key is absent or wrong, and the mistake is noted. A key that
//! nobody asked for is unknown.

use std::fmt::Display;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::duration;
use super::mistakes::{Mistakes, closest, join};

/// A table of the file that is being read.
pub(super) struct Section<'t, 'm> {
    path: String,
    rest: DeTable<'t>,
    known: Vec<String>,
    mistakes: &'m mut Mistakes,
}

impl<'t, 'm> Section<'t, 'm> {
    /// Starts reading the table at `path`; the root's path is empty.
    pub(super) fn new(path: String, table: DeTable<'t>, mistakes: &'m mut Mistakes) -> Self {
        Self {
            path,
            rest: table,
            known: Vec::new(),
            mistakes,
        }
    }

    /// Returns the value of `key`, or `default` if it is absent or of the wrong type.
    pub(super) fn get<T: Deserialize<'t>>(&mut self, key: &str, default: T) -> T {
        let Some(value) = self.take(key) else {
            return default;
        };
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => value,
            Err(error) => {
                self.refuse(key, error.message().trim_end().replace('\n', " "));
                default
            }
        }
    }

    /// Returns the text at `key` as `parse` understands it, or `default`.
    pub(super) fn text<T, E: Display>(
        &mut self,
        key: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        match self
            .get::<Option<String>>(key, None)
            .map(|text| parse(&text))
        {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                self.refuse(key, error.to_string());
                default
            }
        }
    }

    /// Returns the list of texts at `key`, each as `parse` understands it, or `default`.
    pub(super) fn texts<T, E: Display>(
        &mut self,
        key: &str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let Some(texts) = self.get::<Option<Vec<String>>>(key, None) else {
            return default;
        };
        let mut values = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(error) => self.refuse(&format!("{key}[{index}]"), error.to_string()),
            }
        }
        values
    }

    /// Returns the duration at `key`, or `default`. Zero is a mistake.
    pub(super) fn duration(&mut self, key: &str, default: Duration) -> Duration {
        let value = self.text(key, default, duration::parse);
        if value.is_zero() {
            self.refuse(key, "must be longer than zero");
        }
        value
    }

    /// Reads the table at `key`, an empty one if it is absent, and reports its unknown keys.
    pub(super) fn table<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> T {
        let table = match self.take(key).map(Spanned::into_inner) {
            None => DeTable::new(),
            Some(DeValue::Table(table)) => table,
            Some(other) => {
                self.refuse(key, format!("must be a table, not {}", other.type_str()));
                DeTable::new()
            }
        };
        let mut inner = Section::new(join(&self.path, key), table, self.mistakes);
        let value = read(&mut inner);
        inner.finish();
        value
    }

    /// Reads each table of the list at `key`, and reports their unknown keys.
    pub(super) fn tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Section<'t, '_>) -> T,
    ) -> Vec<T> {
        let items = match self.take(key).map(Spanned::into_inner) {
            None => return Vec::new(),
            Some(DeValue::Array(items)) => items,
            Some(other) => {
                let text = format!("must be a list of tables, not {}", other.type_str());
                self.refuse(key, text);
                return Vec::new();
            }
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let key = format!("{key}[{index}]");
            match item.into_inner() {
                DeValue::Table(table) => {
                    let mut inner = Section::new(join(&self.path, &key), table, self.mistakes);
                    values.push(read(&mut inner));
                    inner.finish();
                }
                other => self.refuse(&key, format!("must be a table, not {}", other.type_str())),
            }
        }
        values
    }

    /// Records that the table itself is wrong.
    pub(super) fn refuse_table(&mut self, text: impl Into<String>) {
        self.mistakes.add(&self.path, text);
    }

    /// Returns the names of the keys nobody has asked for yet, for tables with free names.
    pub(super) fn remaining_keys(&self) -> Vec<String> {
        self.rest
            .keys()
            .map(|key| key.get_ref().to_string())
            .collect()
    }

    /// Returns whether the file has `key` and nobody has asked for it yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.rest.keys().any(|name| name.get_ref() == key)
    }

    /// Records that the value of `key` is wrong.
    pub(super) fn refuse(&mut self, key: &str, text: impl Into<String>) {
        self.mistakes.add(&join(&self.path, key), text);
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.rest.keys() {
            let name: &str = key.get_ref();
            let guess = closest(name, self.known.iter().map(String::as_str));
            let text = match guess {
                Some(guess) => format!("unknown key, did you mean `{guess}`?"),
                None => "unknown key".to_owned(),
            };
            self.mistakes.add(&join(&self.path, name), text);
        }
    }

    fn take(&mut self, key: &str) -> Option<Spanned<DeValue<'t>>> {
        self.known.push(key.to_owned());
        let name = self.rest.keys().find(|name| name.get_ref() == key)?.clone();
        self.rest.remove(&name)
    }
}
