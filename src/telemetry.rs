//! Sets up logging: to standard error, so that what a command prints stays clean.

use tracing_subscriber::EnvFilter;

use crate::config::log::{Log, LogFormat};

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level does not parse; `config` has checked it, so this is not expected.
    #[error("invalid log level `{level}`")]
    Level {
        /// As configured.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is already set up")]
    Installed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Installs the process-wide log subscriber. Call it once.
///
/// # Errors
///
/// [`TelemetryError`] if the level is invalid or a subscriber is already there.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder()
        .parse(log.level.as_str())
        .map_err(|source| TelemetryError::Level {
            level: log.level.to_string(),
            source,
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Told on the very standard error that nobody reads, which would end the daemon.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).try_init()
        }
    }
    .map_err(TelemetryError::Installed)
}
