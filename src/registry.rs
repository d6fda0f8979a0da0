//! Credentials for registries, where a client sends none.
//!
//! Engines take credentials with each request: `X-Registry-Auth` for a pull or a push,
//! `X-Registry-Config` for a build. The docker command sends none with a create, and what it sends
//! otherwise is the login of whoever sits there; the configuration's credentials fill the gap. What
//! a client does send always wins.
//!
//! Secrets are read when they are needed and not kept, so that a changed file or a token that a
//! helper renews counts at once.

use std::{collections::BTreeMap, io, path::PathBuf, process::Stdio, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_URL_SAFE,
};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};
use tracing::warn;

use crate::config::registries::Credentials;

/// The header with the credentials of one registry, as clients send it.
pub const REGISTRY_AUTH: &str = "x-registry-auth";

/// The header with the credentials of several registries, by their addresses.
pub const REGISTRY_CONFIG: &str = "x-registry-config";

/// The registry of images that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// How clients and credential helpers call the default registry.
const DEFAULT_SERVER: &str = "https://index.docker.io/v1/";

/// How long a helper may take; it may ask a key server, never a person.
const HELPER_TIME: Duration = Duration::from_secs(10);

/// The longest secret, and the longest answer of a helper.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// What a helper says in the place of a name if its secret is an identity token.
const TOKEN_NAME: &str = "<token>";

/// What helpers say if they know no credentials for a server.
const NOT_KNOWN: &str = "credentials not found";

/// Clients write the alphabet for URLs, with padding or without.
const READ: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credentials of the configuration.
#[derive(Debug, Default)]
pub struct Registries {
    by_host: BTreeMap<String, Credentials>,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("no credentials for the registry `{registry}`: {reason}")]
pub struct RegistryError {
    registry: String,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("cannot read `{}`: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot run `{helper}`: {source}")]
    Start { helper: String, source: io::Error },
    #[error(
        "`{helper}` did not answer within {}",
        humantime::format_duration(HELPER_TIME)
    )]
    Silent { helper: String },
    #[error("`{helper}` failed: {message}")]
    Failed { helper: String, message: String },
    #[error("`{helper}` answered what is not a credential: {source}")]
    Odd {
        helper: String,
        source: serde_json::Error,
    },
}

/// `AuthConfig` of the engine's API.
#[derive(Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
struct AuthConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    identitytoken: String,
    serveraddress: String,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    secret: String,
}

impl Registries {
    /// Takes the configured credentials, by the registries' hosts.
    pub fn new(by_host: BTreeMap<String, Credentials>) -> Self {
        let by_host = by_host
            .into_iter()
            .map(|(host, credentials)| (canonical(&host).to_owned(), credentials))
            .collect();
        Self { by_host }
    }

    /// The header for a request about `image`: what the client sent if that holds credentials, the
    /// configured ones otherwise.
    ///
    /// # Errors
    ///
    /// The registry is configured and its credentials cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends a helper that runs.
    pub async fn auth_for(
        &self,
        image: &str,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let host = host_of(image);
        match self.by_host.get(host) {
            Some(credentials) if !sent.is_some_and(holds_credentials) => {
                let auth = look_up(host, credentials).await?;
                Ok(auth.map(|auth| header(&auth)).or_else(|| sent.cloned()))
            }
            _ => Ok(sent.cloned()),
        }
    }

    /// The header for a build: what the client sent, and the configured credentials of every
    /// registry that it does not speak of. Credentials that cannot be had are logged and left out,
    /// for the build may not need them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends a helper that runs.
    pub async fn auth_for_build(&self, sent: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.by_host.is_empty() {
            return sent.cloned();
        }
        let mut all: Map<String, Value> = match sent.map(decode) {
            None => Map::new(),
            Some(Some(all)) => all,
            // The engine shall refuse what cannot be read.
            Some(None) => return sent.cloned(),
        };
        for (host, credentials) in &self.by_host {
            if all.keys().any(|server| canonical(server) == host) {
                continue;
            }
            match look_up(host, credentials).await {
                Ok(Some(auth)) => {
                    let server = auth.serveraddress.clone();
                    all.insert(server, serde_json::json!(auth));
                }
                Ok(None) => {}
                Err(error) => warn!(%error, "the build goes on without"),
            }
        }
        Some(header(&all))
    }
}

/// The registry that an image's name begins with. A first part is a host if it has a dot or a
/// colon, is `localhost`, or has capitals, which no repository has; the rule is the engine's.
fn host_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _))
            if host.contains(['.', ':'])
                || host == "localhost"
                || host.contains(|letter: char| letter.is_ascii_uppercase()) =>
        {
            canonical(host)
        }
        _ => DEFAULT_REGISTRY,
    }
}

/// The host of a server's address; the default registry has several names.
fn canonical(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    match host {
        "index.docker.io" => DEFAULT_REGISTRY,
        host => host,
    }
}

fn server_of(host: &str) -> &str {
    match host {
        DEFAULT_REGISTRY => DEFAULT_SERVER,
        host => host,
    }
}

/// Whether a header holds more than an empty form, which the docker command sends when nobody is
/// logged in.
fn holds_credentials(header: &HeaderValue) -> bool {
    let Some(form) = decode(header) else {
        return true;
    };
    [
        "username",
        "password",
        "auth",
        "identitytoken",
        "registrytoken",
    ]
    .iter()
    .any(|member| {
        form.get(*member)
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    })
}

fn decode(header: &HeaderValue) -> Option<Map<String, Value>> {
    let json = READ.decode(header.as_bytes()).ok()?;
    serde_json::from_slice(&json).ok()
}

fn header(content: &impl Serialize) -> HeaderValue {
    // Texts with text keys can always be written, and the alphabet is fit for a header.
    let json = serde_json::to_vec(content).unwrap_or_default();
    let text = BASE64_URL_SAFE.encode(json);
    let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

async fn look_up(
    host: &str,
    credentials: &Credentials,
) -> Result<Option<AuthConfig>, RegistryError> {
    let server = server_of(host);
    let found = match credentials {
        Credentials::Password {
            username,
            password_file,
        } => read_secret(password_file).await.map(|password| {
            Some(AuthConfig {
                username: username.clone(),
                password,
                ..AuthConfig::default()
            })
        }),
        Credentials::IdentityToken {
            identity_token_file,
        } => read_secret(identity_token_file).await.map(|identitytoken| {
            Some(AuthConfig {
                identitytoken,
                ..AuthConfig::default()
            })
        }),
        Credentials::Helper { helper } => ask_helper(helper, server).await,
    };
    match found {
        Ok(found) => Ok(found.map(|auth| AuthConfig {
            serveraddress: server.to_owned(),
            ..auth
        })),
        Err(reason) => Err(RegistryError {
            registry: host.to_owned(),
            reason,
        }),
    }
}

async fn read_secret(path: &std::path::Path) -> Result<String, Reason> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(MAX_SECRET_BYTES)
            .read_to_string(&mut text)
            .await?;
        Ok(text)
    };
    let text = read.await.map_err(|source| Reason::File {
        path: path.to_owned(),
        source,
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Asks a helper, which reads a server's address and prints a credential, or says why it has none.
/// The protocol is that of Docker's credential helpers: argument `get`, address on standard input,
/// JSON on standard output.
async fn ask_helper(helper: &str, server: &str) -> Result<Option<AuthConfig>, Reason> {
    let start = |source| Reason::Start {
        helper: helper.to_owned(),
        source,
    };
    let mut child = Command::new(helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not care to read says so in its answer.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut printed = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_SECRET_BYTES)
                .read_to_end(&mut printed)
                .await?;
        }
        Ok((printed, child.wait().await?))
    };
    let (printed, status) = tokio::time::timeout(HELPER_TIME, talk)
        .await
        .map_err(|_| Reason::Silent {
            helper: helper.to_owned(),
        })?
        .map_err(start)?;
    if !status.success() {
        let message = String::from_utf8_lossy(&printed).trim().to_owned();
        if message.contains(NOT_KNOWN) {
            return Ok(None);
        }
        return Err(Reason::Failed {
            helper: helper.to_owned(),
            message: if message.is_empty() {
                status.to_string()
            } else {
                message
            },
        });
    }
    let answer: HelperAnswer = serde_json::from_slice(&printed).map_err(|source| Reason::Odd {
        helper: helper.to_owned(),
        source,
    })?;
    Ok(Some(if answer.username == TOKEN_NAME {
        AuthConfig {
            identitytoken: answer.secret,
            ..AuthConfig::default()
        }
    } else {
        AuthConfig {
            username: answer.username,
            password: answer.secret,
            ..AuthConfig::default()
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sent(json: &str) -> HeaderValue {
        HeaderValue::try_from(BASE64_URL_SAFE.encode(json)).unwrap()
    }

    fn decoded(header: Option<HeaderValue>) -> Value {
        Value::Object(decode(&header.unwrap()).unwrap())
    }

    fn registries(credentials: Credentials) -> Registries {
        Registries::new(BTreeMap::from([("reg.test:5000".to_owned(), credentials)]))
    }

    fn password(directory: &tempfile::TempDir) -> Registries {
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, "se cret\n").unwrap();
        registries(Credentials::Password {
            username: "joe".to_owned(),
            password_file,
        })
    }

    fn helper(directory: &tempfile::TempDir, script: &str) -> Registries {
        let path = directory.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        registries(Credentials::Helper {
            helper: path.display().to_string(),
        })
    }

    #[test]
    fn an_image_names_its_registry_or_means_the_default_one() {
        for (image, host) in [
            ("busybox", DEFAULT_REGISTRY),
            ("library/busybox:1", DEFAULT_REGISTRY),
            ("index.docker.io/library/busybox", DEFAULT_REGISTRY),
            ("reg.test/a/b", "reg.test"),
            ("reg:5000/a@sha256:0", "reg:5000"),
            ("localhost/a", "localhost"),
            ("Team/a", "Team"),
        ] {
            assert_eq!(host_of(image), host, "{image}");
        }
    }

    #[tokio::test]
    async fn configured_credentials_go_where_the_client_sends_none() {
        let directory = tempfile::tempdir().unwrap();
        let registries = password(&directory);
        for empty in [
            None,
            Some(sent("{}")),
            Some(sent(r#"{"username":"","serveraddress":"x"}"#)),
        ] {
            let auth = registries
                .auth_for("reg.test:5000/app", empty.as_ref())
                .await
                .unwrap();
            assert_eq!(
                decoded(auth),
                serde_json::json!({"username": "joe", "password": "se cret", "serveraddress": "reg.test:5000"})
            );
        }
        let elsewhere = registries.auth_for("other.test/app", None).await.unwrap();
        assert_eq!(elsewhere, None);
        for own in [
            sent(r#"{"username":"ann","password":"x"}"#),
            HeaderValue::from_static("%%"),
        ] {
            let auth = registries
                .auth_for("reg.test:5000/app", Some(&own))
                .await
                .unwrap();
            assert_eq!(auth, Some(own));
        }
    }

    #[tokio::test]
    async fn a_build_gets_all_credentials_that_it_does_not_bring() {
        let directory = tempfile::tempdir().unwrap();
        let registries = password(&directory);
        let auth = registries
            .auth_for_build(Some(&sent(r#"{"other.test":{"username":"ann"}}"#)))
            .await;
        let auth = decoded(auth);
        assert_eq!(auth["other.test"]["username"], "ann");
        assert_eq!(auth["reg.test:5000"]["username"], "joe");
        let own = sent(r#"{"https://reg.test:5000/v1/":{"username":"ann"}}"#);
        let auth = decoded(registries.auth_for_build(Some(&own)).await);
        assert_eq!(auth.as_object().unwrap().len(), 1, "{auth}");
    }

    #[tokio::test]
    async fn a_helper_is_asked_as_docker_asks_it() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"[ "$1" = get ] || exit 9; read -r server; printf '{"Username":"%s","Secret":"s"}' "$server""#;
        let auth = helper(&directory, script)
            .auth_for("reg.test:5000/app", None)
            .await
            .unwrap();
        assert_eq!(decoded(auth)["username"], "reg.test:5000");

        let script = r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}'"#;
        let auth = helper(&directory, script)
            .auth_for("reg.test:5000/app", None)
            .await
            .unwrap();
        assert_eq!(
            decoded(auth),
            serde_json::json!({"identitytoken": "t", "serveraddress": "reg.test:5000"})
        );

        let script = "echo credentials not found in native keychain; exit 1";
        let auth = helper(&directory, script)
            .auth_for("reg.test:5000/app", None)
            .await
            .unwrap();
        assert_eq!(auth, None);
    }

    #[tokio::test]
    async fn credentials_that_cannot_be_had_name_their_registry_and_why() {
        let directory = tempfile::tempdir().unwrap();
        for (script, expected) in [
            ("echo vault is sealed; exit 1", "failed: vault is sealed"),
            ("echo no json", "answered what is not a credential"),
        ] {
            let error = helper(&directory, script)
                .auth_for("reg.test:5000/app", None)
                .await;
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("`reg.test:5000`") && error.contains(expected),
                "{error}"
            );
        }
        let registries = password(&directory);
        std::fs::remove_file(directory.path().join("password")).unwrap();
        let error = registries
            .auth_for("reg.test:5000/app", None)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("password`: No such file"),
            "{error}"
        );
        // A build may not need them.
        let auth = registries.auth_for_build(None).await;
        assert_eq!(decoded(auth), serde_json::json!({}));
    }
}
