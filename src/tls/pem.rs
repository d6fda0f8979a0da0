//! Certificates and keys from PEM files, or what is wrong with the files.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tracing::warn;

use super::{provider, reason, validity};

/// The largest file that is read: hundreds of CAs fit.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why there is no TLS. The texts are classic Swarm's, spec 1.8.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or its key is of no use.
    #[error(
        "Couldn't load X509 key pair ({}, {}): {reason}. Key encrypted?",
        .cert.display(),
        .key.display()
    )]
    KeyPair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with which of the two.
        reason: FileError,
    },
    /// A file of CAs is of no use.
    #[error("Couldn't read CA certificate: {0}")]
    Ca(FileError),
    /// What the files hold does not make a configuration.
    #[error("cannot set up TLS: {0}")]
    Setup(String),
}

/// What is wrong with one file. The texts name it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum FileError {
    #[error("cannot read `{}`: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("`{}` is longer than {MAX_FILE_BYTES} bytes", .path.display())]
    TooLong { path: PathBuf },
    #[error("`{}` is not a PEM file: {problem}", .path.display())]
    NotPem { path: PathBuf, problem: String },
    #[error("`{}` holds no PEM certificate", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("`{}` holds no private key in PEM", .path.display())]
    NoKey { path: PathBuf },
    #[error("the key in `{}` is encrypted, and there is nobody to ask for its passphrase", .path.display())]
    EncryptedKey { path: PathBuf },
    #[error("the key in `{}` cannot be used: {problem}", .path.display())]
    Key { path: PathBuf, problem: String },
    #[error("a certificate in `{}` cannot be used: {problem}", .path.display())]
    Certificate { path: PathBuf, problem: String },
    #[error("the key in `{}` is not that of the certificate in `{}`", .key.display(), .cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
}

/// Reads a certificate, those between it and its CA, and its key.
///
/// A certificate that has expired is taken, with a warning: whoever sees it says so as well.
///
/// # Errors
///
/// [`TlsError::KeyPair`].
pub(super) fn read_key_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let key_pair = read_certified(cert, key).map_err(|reason| TlsError::KeyPair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        reason,
    })?;
    warn_if_expired(cert, &key_pair.cert);
    Ok(key_pair)
}

/// Reads the CAs that certificates of the other side must come from.
///
/// # Errors
///
/// [`TlsError::Ca`].
pub(super) fn read_cas(path: &Path) -> Result<RootCertStore, TlsError> {
    let certificates = read_certificates(path).map_err(TlsError::Ca)?;
    warn_if_expired(path, &certificates);
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| {
            TlsError::Ca(FileError::Certificate {
                path: path.to_owned(),
                problem: error.to_string(),
            })
        })?;
    }
    Ok(roots)
}

fn read_certified(cert: &Path, key: &Path) -> Result<CertifiedKey, FileError> {
    let chain = read_certificates(cert)?;
    let der = read_key(key)?;
    CertifiedKey::from_der(chain, der, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => FileError::Mismatch {
            cert: cert.to_owned(),
            key: key.to_owned(),
        },
        rustls::Error::InvalidCertificate(problem) => FileError::Certificate {
            path: cert.to_owned(),
            problem: problem.to_string(),
        },
        other => FileError::Key {
            path: key.to_owned(),
            problem: other.to_string(),
        },
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| FileError::NotPem {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    if certificates.is_empty() {
        return Err(FileError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read(path)?;
    // The two ways in which PEM marks a key that needs a passphrase: PKCS #8, and RFC 1421.
    let encrypted = [
        &b"BEGIN ENCRYPTED PRIVATE KEY"[..],
        b"Proc-Type: 4,ENCRYPTED",
    ];
    if encrypted.iter().any(|mark| contains(&text, mark)) {
        return Err(FileError::EncryptedKey {
            path: path.to_owned(),
        });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => FileError::NoKey {
            path: path.to_owned(),
        },
        other => FileError::NotPem {
            path: path.to_owned(),
            problem: other.to_string(),
        },
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| FileError::Read {
            path: path.to_owned(),
            error,
        })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(FileError::TooLong {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

fn contains(text: &[u8], mark: &[u8]) -> bool {
    text.windows(mark.len()).any(|window| window == mark)
}

/// The first certificate of a file that is no longer good, and since when.
fn expired(chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let ends = chain.iter().filter_map(|der| validity::not_after(der));
    ends.into_iter().find(|end| *end < now)
}

fn warn_if_expired(path: &Path, chain: &[CertificateDer<'_>]) {
    if let Some(end) = expired(chain, Utc::now()) {
        let since = reason::format_time(end);
        warn!(file = %path.display(), since, "a certificate has expired, TLS connections will fail");
    }
}

#[cfg(test)]
mod tests {
    use skep_fleet::certificates::{Authority, Certificate};

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn with(files: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
            Self(directory)
        }

        /// The error of a key pair, with the directory's name left out.
        fn refusal(&self, cert: &str, key: &str) -> String {
            let path = |name| self.0.path().join(name);
            let error = read_key_pair(&path(cert), &path(key)).unwrap_err();
            self.shortened(&error)
        }

        fn shortened(&self, error: &TlsError) -> String {
            let directory = format!("{}/", self.0.path().display());
            error.to_string().replace(&directory, "")
        }
    }

    #[test]
    fn a_bad_key_pair_is_refused_with_the_file_and_what_is_wrong() {
        let authority = Authority::new("CA");
        let one = authority.issue(&Certificate::server(&["localhost"]));
        let two = authority.issue(&Certificate::server(&["localhost"]));
        let broken = one.cert.replace("MII", "!!!");
        let files = Files::with(&[
            ("cert.pem", &one.cert),
            ("key.pem", &one.key),
            ("other-key.pem", &two.key),
            ("text.pem", "no PEM at all\n"),
            ("broken.pem", &broken),
            (
                "not-x509.pem",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ),
            (
                "encrypted.pem",
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            ),
        ]);
        let key_pair = read_key_pair(
            &files.0.path().join("cert.pem"),
            &files.0.path().join("key.pem"),
        );
        assert_eq!(key_pair.unwrap().cert.len(), 1);
        for (cert, key, problem) in [
            (
                "none.pem",
                "key.pem",
                "cannot read `none.pem`: No such file or directory (os error 2)",
            ),
            (
                "cert.pem",
                "none.pem",
                "cannot read `none.pem`: No such file or directory (os error 2)",
            ),
            ("text.pem", "key.pem", "`text.pem` holds no PEM certificate"),
            ("key.pem", "key.pem", "`key.pem` holds no PEM certificate"),
            (
                "cert.pem",
                "cert.pem",
                "`cert.pem` holds no private key in PEM",
            ),
            (
                "cert.pem",
                "other-key.pem",
                "the key in `other-key.pem` is not that of the certificate in `cert.pem`",
            ),
            (
                "cert.pem",
                "encrypted.pem",
                "the key in `encrypted.pem` is encrypted, and there is nobody to ask for its \
                 passphrase",
            ),
        ] {
            let expected =
                format!("Couldn't load X509 key pair ({cert}, {key}): {problem}. Key encrypted?");
            assert_eq!(files.refusal(cert, key), expected);
        }
        let error = files.refusal("broken.pem", "key.pem");
        assert!(
            error.contains("`broken.pem` is not a PEM file: "),
            "{error}"
        );
        let error = files.refusal("not-x509.pem", "key.pem");
        assert!(
            error.contains("a certificate in `not-x509.pem` cannot be used: "),
            "{error}"
        );
    }

    #[test]
    fn a_bad_file_of_cas_is_refused_with_what_is_wrong() {
        let files = Files::with(&[("empty.pem", "")]);
        for (name, expected) in [
            (
                "none.pem",
                "Couldn't read CA certificate: cannot read `none.pem`: No such file or directory \
                 (os error 2)",
            ),
            (
                "empty.pem",
                "Couldn't read CA certificate: `empty.pem` holds no PEM certificate",
            ),
        ] {
            let error = read_cas(&files.0.path().join(name)).unwrap_err();
            assert_eq!(files.shortened(&error), expected);
        }
    }

    #[test]
    fn an_expired_certificate_is_noticed() {
        let authority = Authority::new("CA");
        let old = authority.issue(&Certificate::server(&["localhost"]).expired());
        let new = authority.issue(&Certificate::server(&["localhost"]));
        let files = Files::with(&[("old.pem", &old.cert), ("new.pem", &new.cert)]);
        let end = |name: &str| {
            let chain = read_certificates(&files.0.path().join(name)).unwrap();
            expired(&chain, Utc::now()).map(reason::format_time)
        };
        assert_eq!(end("old.pem").unwrap(), "2020-02-01 00:00:00 UTC");
        assert_eq!(end("new.pem"), None);
    }
}
