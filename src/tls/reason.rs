//! Why a handshake failed, in an operator's words.
//!
//! An operator wants to know which side has to change what: the certificate of the other side, the
//! CAs it is checked against, or one's own certificate, and in which file that is.

use std::{io, path::Path};

use chrono::{DateTime, Utc};
use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

/// The two sides of a handshake as the texts name them.
pub(super) struct Sides<'a> {
    /// `engine` or `client`.
    pub peer: &'a str,
    /// The CAs the other side's certificate is checked against.
    pub ca: Option<&'a Path>,
    /// The certificate that is shown to the other side.
    pub cert: Option<&'a Path>,
}

impl Sides<'_> {
    /// Returns why a handshake failed, or `None` if TLS has nothing to do with it.
    pub(super) fn reason(&self, error: &io::Error) -> Option<String> {
        let peer = self.peer;
        if let Some(error) = tls_error(error) {
            return Some(self.explain(error));
        }
        (error.kind() == io::ErrorKind::UnexpectedEof)
            .then(|| format!("the {peer} hung up during the TLS handshake"))
    }

    fn explain(&self, error: &Error) -> String {
        let peer = self.peer;
        match error {
            Error::InvalidCertificate(problem) => self.certificate(problem),
            Error::NoCertificatesPresented => format!("the {peer} shows no certificate"),
            Error::AlertReceived(alert) => self.alert(*alert),
            Error::InvalidMessage(_) => format!("what the {peer} sends is not TLS"),
            Error::PeerIncompatible(problem) => {
                format!("the {peer} offers no TLS that Skep accepts: {problem:?}")
            }
            other => other.to_string(),
        }
    }

    fn certificate(&self, problem: &CertificateError) -> String {
        let whose = format!("the {}'s certificate", self.peer);
        match problem {
            // A CA of the same name and with another key makes a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match self.ca {
                Some(ca) => format!("{whose} is not signed by a CA in `{}`", ca.display()),
                None => format!("{whose} is not signed by a known CA"),
            },
            CertificateError::Expired => format!("{whose} has expired"),
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("{whose} expired on {}", format_unix_time(*not_after))
            }
            CertificateError::NotValidYet => format!("{whose} is not valid yet"),
            CertificateError::NotValidYetContext { not_before, .. } => format!(
                "{whose} is not valid before {}",
                format_unix_time(*not_before)
            ),
            CertificateError::NotValidForNameContext {
                expected,
                presented,
            } => {
                let names = match presented.as_slice() {
                    [] => "no name at all".to_owned(),
                    names => names.join(", "),
                };
                let expected = expected.to_str();
                format!("{whose} is not for `{expected}` but for {names}")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                format!("{whose} is not meant for a {}", self.role())
            }
            other => format!("{whose} is not accepted: {other}"),
        }
    }

    /// What the other side is in TLS, where an engine is a server.
    fn role(&self) -> &str {
        match self.peer {
            "client" => "client",
            _ => "server",
        }
    }

    fn alert(&self, alert: AlertDescription) -> String {
        let peer = self.peer;
        let said = words(alert);
        match self.cert {
            _ if !is_about_certificate(alert) => {
                format!("the {peer} ended the TLS handshake: {said}")
            }
            Some(cert) => format!(
                "the {peer} does not accept the certificate in `{}`: {said}",
                cert.display()
            ),
            None => format!("the {peer} asks for a certificate and none is configured: {said}"),
        }
    }
}

/// Whether the other side, by ending the connection, said something about one's certificate.
///
/// In TLS 1.3 a client sends its request before the server has looked at its certificate, so this
/// may come after the handshake; the request was not heard then.
pub(super) fn refuses_certificate(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(Error::AlertReceived(alert)) if is_about_certificate(*alert))
}

/// An instant as the texts show it.
pub(super) fn format_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn format_unix_time(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match DateTime::from_timestamp(seconds, 0) {
        Some(time) => format_time(time),
        None => format!("second {seconds}"),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// An alert's name as words: `BadCertificate` is `bad certificate`.
fn words(alert: AlertDescription) -> String {
    let name = format!("{alert:?}");
    let mut words = String::with_capacity(name.len() + 4);
    let mut after_lowercase = false;
    for c in name.chars() {
        if c.is_uppercase() && after_lowercase {
            words.push(' ');
        }
        after_lowercase = c.is_lowercase();
        words.push(c.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sides: &Sides<'_>, error: Error, expected: &str) {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        assert_eq!(sides.reason(&error).unwrap(), expected);
    }

    #[test]
    fn an_engines_refusal_names_the_certificate_or_its_absence() {
        let bare = Sides {
            peer: "engine",
            ca: None,
            cert: None,
        };
        let refusal = || Error::AlertReceived(AlertDescription::CertificateRequired);
        check(
            &bare,
            refusal(),
            "the engine asks for a certificate and none is configured: certificate required",
        );
        let armed = Sides {
            cert: Some(Path::new("cert.pem")),
            ..bare
        };
        check(
            &armed,
            Error::AlertReceived(AlertDescription::UnknownCA),
            "the engine does not accept the certificate in `cert.pem`: unknown ca",
        );
        check(
            &armed,
            Error::AlertReceived(AlertDescription::ProtocolVersion),
            "the engine ended the TLS handshake: protocol version",
        );
    }

    #[test]
    fn an_error_without_tls_has_no_reason() {
        let sides = Sides {
            peer: "client",
            ca: None,
            cert: None,
        };
        let error = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(sides.reason(&error), None);
        assert!(!refuses_certificate(&error));
    }
}
