//! The side of the API's listeners.

use std::{fmt, io, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};
use tokio::sync::watch;

use super::{ALPN_HTTP_1_1, TlsError, pem, provider, reason::Sides};
use crate::config::tls::ApiTls;

/// What a listener shows to its clients, and whom it lets in. Clones share what is in force.
#[derive(Clone)]
pub struct Server {
    files: Arc<ApiTls>,
    pub(super) current: watch::Receiver<Arc<ServerConfig>>,
}

impl Server {
    pub(super) fn new(files: ApiTls, current: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self {
            files: Arc::new(files),
            current,
        }
    }

    /// What is in force now, for one handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }

    /// Why a client's handshake failed, or `None` if TLS has nothing to do with it.
    pub fn explain(&self, error: &io::Error) -> Option<String> {
        let sides = Sides {
            peer: "client",
            ca: self.files.client_ca.as_deref(),
            cert: Some(&self.files.cert),
        };
        sides.reason(error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.files).finish()
    }
}

/// Reads the files of a listener.
///
/// # Errors
///
/// [`TlsError`].
pub(super) fn load(files: &ApiTls) -> Result<ServerConfig, TlsError> {
    let key_pair = pem::read_key_pair(&files.cert, &files.key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .with_client_cert_verifier(verifier(files.client_ca.as_deref())?)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key_pair)));
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    Ok(config)
}

fn verifier(ca: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(ca) = ca else {
        return Ok(Arc::new(NoClientAuth));
    };
    let roots = Arc::new(pem::read_cas(ca)?);
    // Without hints at the CAs, a client with a wrong certificate shows it and is told what is wrong
    // with it. With them it keeps it to itself, and is told to show one.
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| TlsError::Setup(error.to_string()))
}
