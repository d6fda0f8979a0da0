//! The `[registries."HOST"]` tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::section::Section;

/// Who Skep is to one registry. Secrets are never in the file itself, so that the file, and
/// `--dump-config`, may be shown to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Credentials {
    /// A name and a password.
    #[serde(rename_all = "kebab-case")]
    Password {
        /// The user's name.
        username: String,
        /// Holds the password; one line break at its end does not count.
        password_file: PathBuf,
    },
    /// A token that the registry exchanges for others, as `docker login` keeps it.
    #[serde(rename_all = "kebab-case")]
    IdentityToken {
        /// Holds the token; one line break at its end does not count.
        identity_token_file: PathBuf,
    },
    /// A program that speaks the protocol of Docker's credential helpers.
    Helper {
        /// `docker-credential-pass`: a path, or a name in `PATH`.
        helper: String,
    },
}

impl Credentials {
    /// Reads all tables of `[registries]`; relative paths start at `base`.
    pub(super) fn read_all(section: &mut Section<'_, '_>, base: &Path) -> BTreeMap<String, Self> {
        let mut registries = BTreeMap::new();
        for host in section.remaining_keys() {
            if host.is_empty() || host.contains('/') {
                section.refuse(&host, "must be `host` or `host:port`, without a path");
            }
            match section.table(&host, |table| Self::read(table, base)) {
                Some(credentials) => {
                    registries.insert(host, credentials);
                }
                None => section.refuse(
                    &host,
                    "needs `username` and `password-file`, or `identity-token-file`, or `helper`",
                ),
            }
        }
        registries
    }

    fn read(section: &mut Section<'_, '_>, base: &Path) -> Option<Self> {
        let username = section.get::<Option<String>>("username", None);
        let password_file = section.get::<Option<PathBuf>>("password-file", None);
        let token_file = section.get::<Option<PathBuf>>("identity-token-file", None);
        let helper = section.get::<Option<String>>("helper", None);
        match (username, password_file, token_file, helper) {
            (Some(username), Some(file), None, None) => Some(Self::Password {
                username,
                password_file: base.join(file),
            }),
            (None, None, Some(file), None) => Some(Self::IdentityToken {
                identity_token_file: base.join(file),
            }),
            // A bare name is looked up in PATH; only a path is relative to the file.
            (None, None, None, Some(helper)) => Some(Self::Helper {
                helper: if helper.contains('/') {
                    base.join(helper).display().to_string()
                } else {
                    helper
                },
            }),
            _ => None,
        }
    }

    /// The file that holds the secret, if it is in a file.
    pub fn file(&self) -> Option<(&'static str, &Path)> {
        match self {
            Self::Password { password_file, .. } => Some(("password-file", password_file)),
            Self::IdentityToken {
                identity_token_file,
            } => Some(("identity-token-file", identity_token_file)),
            Self::Helper { .. } => None,
        }
    }
}
