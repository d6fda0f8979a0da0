//! The `[log]` table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use tracing_subscriber::EnvFilter;

use super::section::Section;

/// What is logged, and how. Logs go to standard error.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Log {
    /// Default: `info`.
    pub level: LogLevel,
    /// Default: `text`.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// A level name, or `target=level` directives as `tracing_subscriber::EnvFilter` reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

/// Why a text is not a log level.
///
/// The text is the one classic Swarm prints; its tests and scripts look for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid logrus Level: \"{0}\"")]
pub struct LogLevelError(String);

impl Log {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        Self {
            level: section.text("level", default.level, str::parse),
            format: section.get("format", default.format),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel("info".to_owned()),
            format: LogFormat::Text,
        }
    }
}

impl LogLevel {
    /// Returns the level that `--debug` sets.
    pub fn debug() -> Self {
        Self("debug".to_owned())
    }

    /// Returns the directives, valid for `EnvFilter`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogLevel {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, LogLevelError> {
        let level = match text.to_ascii_lowercase().as_str() {
            "trace" | "debug" | "info" | "error" => text.to_ascii_lowercase(),
            "warn" | "warning" => "warn".to_owned(),
            // Skep logs nothing above `error`.
            "fatal" | "panic" => "error".to_owned(),
            _ if text.contains('=') && EnvFilter::builder().parse(text).is_ok() => text.to_owned(),
            _ => return Err(LogLevelError(text.to_owned())),
        };
        Ok(Self(level))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for LogLevel {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}
