//! What the stores that are servers share: how they are reached, and which of them is asked.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Store, StoreError, consul::Consul, etcd::Etcd, zookeeper::ZooKeeper};
use crate::{
    config::store::Access,
    model::servers::{ServerKind, ServersUrl},
    tls::{Pems, TlsError},
};

/// How long a call to a store may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Files that no connection can be made with.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum AccessError {
    #[error("cannot read `{}`: {error}", .path.display())]
    Secret { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store at these servers, which are asked when it is.
///
/// # Errors
///
/// [`AccessError`] for files that cannot be used; servers that are away are no error.
pub fn open(url: &ServersUrl, access: &Access) -> Result<Arc<dyn Store>, AccessError> {
    let credentials = match (&access.user, &access.password_file, &access.token_file) {
        (Some(name), Some(file), _) => Some(Credentials::User {
            name: name.clone(),
            password: secret(file)?,
        }),
        (_, _, Some(file)) => Some(Credentials::Token(secret(file)?)),
        _ => None,
    };
    let options = Options {
        endpoints: url.endpoints.clone(),
        credentials,
        tls: access.tls.as_ref().map(Pems::read).transpose()?,
        timeout: TIMEOUT,
    };
    Ok(match url.kind {
        ServerKind::Etcd => Arc::new(Etcd::new(options)),
        ServerKind::Consul => Arc::new(Consul::new(options)),
        ServerKind::ZooKeeper => Arc::new(ZooKeeper::new(options)?),
    })
}

/// A secret is the file's text without the line end that editors put there.
fn secret(path: &Path) -> Result<String, AccessError> {
    let text = fs::read_to_string(path).map_err(|error| AccessError::Secret {
        path: path.to_owned(),
        error,
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// How the servers of a store are reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` each; any of them will do.
    pub endpoints: Vec<String>,
    /// Who we are.
    pub credentials: Option<Credentials>,
    /// TLS, and with which files' contents.
    pub tls: Option<Pems>,
    /// A call ends after this time.
    pub timeout: Duration,
}

/// Who we are to a store.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and its password: etcd, ZooKeeper.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token: Consul.
    Token(String),
}

/// Secrets stay out of logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => f.debug_struct("User").field("name", name).finish(),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// Several servers, of which one is asked until it fails.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<String>,
    current: AtomicUsize,
}

impl Endpoints {
    /// There must be one at least.
    pub(super) fn new(all: Vec<String>) -> Self {
        Self {
            all,
            current: AtomicUsize::new(0),
        }
    }

    /// The one that is asked now, and which it is.
    pub(super) fn current(&self) -> (usize, &str) {
        let at = self.current.load(Ordering::Relaxed) % self.all.len();
        (at, &self.all[at])
    }

    /// The one at `at` has failed; the next one takes over, if that has not happened yet.
    pub(super) fn failed(&self, at: usize) {
        let next = (at + 1) % self.all.len();
        let _ = self
            .current
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The part of `timeout` that one server gets, so that others can be asked within the rest.
    pub(super) fn share(&self, timeout: Duration) -> Duration {
        let servers = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        timeout / servers.min(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_twice_is_left_once() {
        let endpoints = Endpoints::new(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        assert_eq!(endpoints.current(), (0, "a"));
        endpoints.failed(0);
        endpoints.failed(0);
        assert_eq!(endpoints.current(), (1, "b"));
        endpoints.failed(1);
        endpoints.failed(2);
        assert_eq!(endpoints.current(), (0, "a"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let user = Credentials::User {
            name: "ann".to_owned(),
            password: "hunter2".to_owned(),
        };
        let printed = format!("{user:?} {:?}", Credentials::Token("hunter2".to_owned()));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
