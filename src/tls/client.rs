//! The side of connections to engines.

use std::{collections::HashMap, fmt, io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ALPN_HTTP_1_1, TlsError, pem, provider,
    reason::{Sides, refuses_certificate},
};
use crate::{
    config::tls::{EngineTls, EngineTlsMode},
    model::address::EngineAddr,
};

/// Which engines are spoken to over TLS, and how. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Engines {
    all: Option<Client>,
    /// Engines that differ; `None` for one without TLS.
    single: Arc<HashMap<EngineAddr, Option<Client>>>,
}

impl Engines {
    /// Speaks to the engines in `single` as it says there, and to the others as `all` says.
    pub(super) fn new(all: Option<Client>, single: HashMap<EngineAddr, Option<Client>>) -> Self {
        Self {
            all,
            single: Arc::new(single),
        }
    }

    /// How the engine at `addr` is spoken to; `None` is without TLS, as over any Unix socket.
    pub fn client(&self, addr: &EngineAddr) -> Option<Client> {
        match (addr, self.single.get(addr)) {
            (EngineAddr::Unix(_), _) => None,
            (EngineAddr::Tcp { .. }, Some(single)) => single.clone(),
            (EngineAddr::Tcp { .. }, None) => self.all.clone(),
        }
    }
}

/// How engines are spoken to over TLS. Clones share what is in force.
#[derive(Clone)]
pub struct Client {
    files: Arc<EngineTls>,
    current: watch::Receiver<Arc<ClientConfig>>,
}

/// Why there is no TLS with an engine; the text is for operators.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct HandshakeError {
    /// Which side has to change what.
    pub reason: String,
}

impl Client {
    pub(super) fn new(files: EngineTls, current: watch::Receiver<Arc<ClientConfig>>) -> Self {
        Self {
            files: Arc::new(files),
            current,
        }
    }

    /// Makes a fresh connection to `host`, a name or an IP, a protected one.
    ///
    /// In TLS 1.3 an engine that does not accept Skep's certificate says so only after this
    /// succeeded, see [`Client::refusal`].
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]. There is no deadline here.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| HandshakeError {
            reason: format!("`{host}` is nothing that a certificate can be for"),
        })?;
        let config = Arc::clone(&self.current.borrow());
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| HandshakeError {
                reason: self
                    .sides()
                    .reason(&error)
                    .unwrap_or_else(|| format!("the TLS handshake broke off: {error}")),
            })
    }

    /// What an error on an open connection means if the engine refuses Skep's certificate; `None`
    /// if it says anything else.
    pub fn refusal(&self, error: &io::Error) -> Option<HandshakeError> {
        if !refuses_certificate(error) {
            return None;
        }
        let reason = self.sides().reason(error)?;
        Some(HandshakeError { reason })
    }

    fn sides(&self) -> Sides<'_> {
        Sides {
            peer: "engine",
            ca: self.files.ca.as_deref(),
            cert: self.files.cert.as_deref(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.files).finish()
    }
}

/// Reads the files for one or all engines.
///
/// # Errors
///
/// [`TlsError`].
pub(super) fn load(files: &EngineTls) -> Result<ClientConfig, TlsError> {
    // A file that is named is read, whether or not the mode needs it: a wrong path is a mistake.
    let roots = files.ca.as_deref().map(pem::read_cas).transpose()?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let builder = match (files.mode, roots) {
        (EngineTlsMode::Verify, Some(roots)) => builder.with_root_certificates(roots),
        (EngineTlsMode::Verify, None) => {
            return Err(TlsError::Setup("no CA to verify engines with".to_owned()));
        }
        (EngineTlsMode::Encrypt | EngineTlsMode::Off, _) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate)),
    };
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let key_pair = pem::read_key_pair(cert, key)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key_pair)))
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    Ok(config)
}

/// Takes any certificate, as classic Swarm does with `--tls` alone.
///
/// The signatures made with it are not looked at either. They would prove that the other side owns
/// the certificate it shows, which says nothing about a certificate that anybody could have made,
/// and engines with certificates too old or too odd for webpki would be lost.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
