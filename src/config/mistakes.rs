//! Collects everything that is wrong with a configuration file, so that one run reports it all.

use std::collections::HashMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Full path of the key, for example `plugins.rack.limits.call`; empty for a syntax error.
    pub path: String,
    /// Line in the file, from 1. None if the key is not in the file.
    pub line: Option<usize>,
    /// What is wrong, lowercase and without full stop.
    pub text: String,
}

impl Mistake {
    /// The file is no TOML.
    pub(super) fn syntax(source: &str, error: &toml::de::Error) -> Self {
        Self {
            path: String::new(),
            line: error.span().map(|span| line_at(source, span.start)),
            text: error.message().trim_end().replace('\n', ", "),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// The mistakes found so far, and where each key of the file stands.
pub(super) struct Mistakes {
    found: Vec<Mistake>,
    lines: HashMap<String, usize>,
}

impl Mistakes {
    /// Remembers the line of every key of `root`, which was parsed from `source`.
    pub(super) fn new(source: &str, root: &DeTable<'_>) -> Self {
        let mut lines = HashMap::new();
        note_lines(source, "", root, &mut lines);
        Self {
            found: Vec::new(),
            lines,
        }
    }

    /// Records a mistake in the key at `path`.
    pub(super) fn add(&mut self, path: &str, text: impl Into<String>) {
        // A list item such as `listen[1]` has no line of its own unless it is a table; its list has
        // one.
        let list = path.rsplit_once('[').map_or(path, |(list, _)| list);
        let line = self.lines.get(path).or_else(|| self.lines.get(list));
        self.found.push(Mistake {
            path: path.to_owned(),
            line: line.copied(),
            text: text.into(),
        });
    }

    /// Returns the mistakes in the order of the file; those without a line come last.
    pub(super) fn into_sorted(mut self) -> Vec<Mistake> {
        self.found
            .sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
        self.found
    }
}

/// Returns the line, from 1, that holds the byte at `offset`.
pub(super) fn line_at(source: &str, offset: usize) -> usize {
    let end = offset.min(source.len());
    1 + source.as_bytes()[..end]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// Returns the entry of `known` that `name` is most likely a misspelling of.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Joins a table's path and a key of that table.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn note_lines(source: &str, path: &str, table: &DeTable<'_>, lines: &mut HashMap<String, usize>) {
    for (key, value) in table {
        let full: String = join(path, key.get_ref());
        lines.insert(full.clone(), line_at(source, Spanned::span(key).start));
        match value.get_ref() {
            DeValue::Table(inner) => note_lines(source, &full, inner, lines),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        let full = format!("{full}[{index}]");
                        lines.insert(full.clone(), line_at(source, item.span().start));
                        note_lines(source, &full, inner, lines);
                    }
                }
            }
            _ => {}
        }
    }
}
