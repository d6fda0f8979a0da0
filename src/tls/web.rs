//! The side of connections to servers on the web, Consul's among them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, sign::SingleCertAndKey};

use super::{TlsError, pem, provider};

/// A silent connection is checked this often.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How often in a row a check may go without an answer.
const KEEP_ALIVE_RETRIES: u32 = 2;

/// For servers on the web: certificates must come from the CAs in a file, or from those that the
/// system trusts. Servers that ask are shown a certificate, if its file and its key's are given.
///
/// # Errors
///
/// [`TlsError`] if a file cannot be used.
pub fn web(ca: Option<&Path>, pair: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(ca) => pem::read_cas(ca)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // One that rustls does not take is one that nobody can use.
            roots.add_parsable_certificates(found.certs);
            roots
        }
    };
    client(roots, pair)
}

/// Trusts `roots`, and shows the certificate of a pair of files.
pub(super) fn client(
    roots: RootCertStore,
    pair: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .with_root_certificates(roots);
    Ok(match pair {
        Some((cert, key)) => {
            let key_pair = SingleCertAndKey::from(pem::read_key_pair(cert, key)?);
            builder.with_client_cert_resolver(Arc::new(key_pair))
        }
        None => builder.with_no_client_auth(),
    })
}

/// Connects to `http` and `https` servers; to the latter in vain if there is no TLS.
pub fn connector(
    tls: Option<ClientConfig>,
    connect_timeout: Duration,
) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE));
    tcp.set_keepalive_retries(Some(KEEP_ALIVE_RETRIES));
    HttpsConnectorBuilder::new()
        .with_tls_config(tls.unwrap_or_else(no_roots))
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp)
}

/// For a client that is not to speak TLS, but has to be given something: trusts nobody.
fn no_roots() -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap_or_else(|_| unreachable!("the provider speaks all versions of TLS"))
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}
