//! Certificates for tests: an authority, and whatever it signs, as PEM.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
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
    purpose: ExtendedKeyUsagePurpose,
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
        params.extended_key_usages = vec![wanted.purpose.clone()];
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

impl Certificate {
    /// A server's, for these names and IP addresses.
    pub fn server(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            expired: false,
        }
    }

    /// A client's.
    pub fn client() -> Self {
        Self {
            names: Vec::new(),
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            expired: false,
        }
    }

    /// The same, good until 1 February 2020 only.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }
}
