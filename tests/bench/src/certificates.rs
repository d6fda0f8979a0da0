//! Certificates for tests: an authority, and whatever it signs, as PEM.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};

/// A CA of its own, not known to anybody.
pub struct Authority {
    /// Its certificate, PEM.
    pub cert: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What is to be in a certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    names: Vec<String>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    expired: bool,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A fresh authority called `name`.
    ///
    /// # Panics
    ///
    /// If the system has no randomness.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.self_signed(&key).expect("a CA can sign itself");
        Self {
            cert: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Makes a key and signs a certificate for it.
    ///
    /// # Panics
    ///
    /// If a name is nothing that a certificate can be for.
    pub fn issue(&self, wanted: &Certificate) -> Issued {
        let mut params =
            CertificateParams::new(wanted.names.clone()).expect("names and addresses only");
        params
            .distinguished_name
            .push(DnType::CommonName, "skep test");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = wanted.purposes.clone();
        if wanted.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params
            .signed_by(&key, &self.issuer)
            .expect("the CA can sign");
        Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    /// What a server needs to show this certificate, and to let in nobody but the clients of
    /// `clients` if it is given: dockerd's `--tlsverify`.
    ///
    /// # Panics
    ///
    /// If this was not made here.
    pub fn server_config(&self, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ClientCertVerifier> = match clients {
            None => Arc::new(NoClientAuth),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(certificate(&authority.cert))
                    .expect("a CA's certificate is one");
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .expect("there is a CA")
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key is one");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate(&self.cert)], key)
            .expect("key and certificate belong together");
        Arc::new(config)
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate is one")
}

impl Certificate {
    /// A server's, for these names and IP addresses.
    pub fn server(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
            expired: false,
        }
    }

    /// A client's.
    pub fn client() -> Self {
        Self {
            names: Vec::new(),
            purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
            expired: false,
        }
    }

    /// The same, good for the other side as well.
    #[must_use]
    pub fn both_ways(mut self) -> Self {
        self.purposes = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self
    }

    /// The same, good until 1 February 2020 only.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }
}
