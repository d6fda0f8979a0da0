//! The side of connections to stores.

use std::{fmt, path::Path, sync::Arc};

use rustls::ClientConfig;

use super::{TlsError, pem, web};
use crate::config::tls::StoreTls;

/// What the files for a store hold, checked.
#[derive(Clone)]
pub struct Pems {
    /// The CAs that servers' certificates must come from.
    pub ca: Vec<u8>,
    /// Our certificate and its key, for servers that ask.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    config: Arc<ClientConfig>,
}

impl Pems {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`] with the file and what is wrong with it.
    pub fn read(files: &StoreTls) -> Result<Self, TlsError> {
        let config = web::client(pem::read_cas(&files.ca)?, files.pair.as_ref())?;
        let identity = match &files.pair {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        };
        Ok(Self {
            ca: read(&files.ca)?,
            identity,
            config: Arc::new(config),
        })
    }

    /// The same for rustls.
    pub fn config(&self) -> ClientConfig {
        ClientConfig::clone(&self.config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    pem::read(path).map_err(TlsError::Ca)
}

/// Keys stay out of logs.
impl fmt::Debug for Pems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pems")
    }
}
