//! TLS: certificates from PEM files, kept up to date, and what a failed handshake means.
//!
//! ```text
//! pem       files -> certificates and keys, or what is wrong with them
//! validity  until when a certificate is good
//! server    the side of the API's listeners
//! client    the side of connections to engines
//! store     the side of connections to stores
//! reload    files that change are read again
//! reason    why a handshake failed, in an operator's words
//! ```
//!
//! rustls alone, with TLS 1.2 and 1.3 and its default cipher suites; the protocol inside is always
//! HTTP/1.1. A [`Reloader`] reads the files once, at start, where a mistake in them is an error.
//! After that a mistake is logged and the last good files stay in force. A handshake takes what is
//! in force when it begins; a connection that is open keeps what it began with.
//!
//! Nothing here opens a socket.

mod client;
mod pem;
mod reason;
mod reload;
mod server;
mod store;
mod validity;
mod web;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use self::{
    client::{Client, Engines, HandshakeError},
    pem::{FileError, TlsError},
    reload::Reloader,
    server::Server,
    store::Pems,
    web::{connector, web},
};

/// The protocol inside, as clients and engines name it in their hello.
const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// The cryptography. Named here, so that no code elsewhere in the process can choose another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
