//! The side of connections to stores and other servers.

use std::{fmt, path::Path, sync::Arc};

use rustls::{ClientConfig, sign::SingleCertAndKey};

use super::{TlsError, pem, provider};
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
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .with_root_certificates(pem::read_cas(&files.ca)?);
        let (config, identity) = match &files.pair {
            Some((cert, key)) => {
                let key_pair = Arc::new(SingleCertAndKey::from(pem::read_key_pair(cert, key)?));
                let identity = (read(cert)?, read(key)?);
                (builder.with_client_cert_resolver(key_pair), Some(identity))
            }
            None => (builder.with_no_client_auth(), None),
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

/// For servers on the web: certificates must come from the CAs in a file, or from those that the
/// system trusts.
///
/// # Errors
///
/// [`TlsError`] if the file cannot be used.
pub fn web(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(ca) => pem::read_cas(ca)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = rustls::RootCertStore::empty();
            // One that rustls does not take is one that nobody can use.
            roots.add_parsable_certificates(found.certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// For a client that is not to speak TLS, but has to be given something: trusts nobody.
pub fn no_roots() -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap_or_else(|_| unreachable!("the provider speaks all versions of TLS"))
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
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
