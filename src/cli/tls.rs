//! The TLS options of `skep manage`, classic Swarm's.
//!
//! There one certificate serves clients and engines alike. So do these options, unless the
//! configuration file gives engines a table of their own.

use std::path::Path;

use crate::cli::parse_bool;
use crate::config::Config;
use crate::config::tls::{ApiTls, EngineTls, EngineTlsMode};

#[derive(Debug, Default, clap::Args)]
pub(super) struct TlsArgs {
    /// Use TLS towards clients and engines, without verifying anybody
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    tls: Option<bool>,

    /// CA that clients' and engines' certificates must come from, PEM
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<String>,

    /// Certificate shown to clients and engines, PEM
    #[arg(long, value_name = "FILE")]
    tlscert: Option<String>,

    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE")]
    tlskey: Option<String>,

    /// Use TLS, and verify clients and engines
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    tlsverify: Option<bool>,
}

/// Why the TLS options make no sense. The texts are classic Swarm's.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum TlsOptionError {
    #[error("--tlscert and --tlskey must be provided when using --tls")]
    NoKeyPair,
    #[error("--tlscacert must be provided when using --tlsverify")]
    NoCa,
    #[error("--tlscert, --tlskey and --tlscacert require the use of either --tls or --tlsverify")]
    NoMode,
}

impl TlsArgs {
    /// Puts the options on top of `config`; relative paths start at `here`.
    ///
    /// # Errors
    ///
    /// The first [`TlsOptionError`] in the order of classic Swarm's checks.
    pub(super) fn apply(&self, here: &Path, config: &mut Config) -> Result<(), TlsOptionError> {
        let given = |file: &Option<String>| {
            let file = file.as_ref().filter(|file| !file.is_empty());
            file.map(|file| here.join(file))
        };
        let (ca, cert, key) = (
            given(&self.tlscacert),
            given(&self.tlscert),
            given(&self.tlskey),
        );
        let verify = self.tlsverify == Some(true);
        if !verify && self.tls != Some(true) {
            return match (ca, cert, key) {
                (None, None, None) => Ok(()),
                _ => Err(TlsOptionError::NoMode),
            };
        }
        let (Some(cert), Some(key)) = (cert, key) else {
            return Err(TlsOptionError::NoKeyPair);
        };
        if verify && ca.is_none() {
            return Err(TlsOptionError::NoCa);
        }
        config.api.tls = Some(ApiTls {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: ca.clone().filter(|_| verify),
        });
        config.engine.tls.get_or_insert(EngineTls {
            mode: if verify {
                EngineTlsMode::Verify
            } else {
                EngineTlsMode::Encrypt
            },
            ca,
            cert: Some(cert),
            key: Some(key),
        });
        Ok(())
    }
}
