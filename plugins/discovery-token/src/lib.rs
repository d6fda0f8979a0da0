//! Engines listed by a server, under a token that whoever knows it may read and add to.
//!
//! The protocol is that of classic Swarm's hosted service, which a Skep manager can serve. The list
//! is asked for once each heartbeat, with `GET <base>/clusters/<token>`, which answers with a JSON
//! array of addresses; an address that is sent with `POST` to the same URL is added for `ttl` seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use skep_plugin_sdk::discovery::{Batch, Entry, polled};
use skep_plugin_sdk::host::{Request, Response};
use skep_plugin_sdk::{Discovery, Error, Result, address, host};

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// `host[:port][/path]/token`.
    location: String,
    /// `token.scheme`: `https` or `http`; others are for the daemon. Default: none.
    #[serde(default)]
    options: BTreeMap<String, String>,
}

struct Token {
    url: String,
}

impl Discovery for Token {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"required":["location"],"properties":{"location":{"type":"string"},"options":{"type":"object","additionalProperties":{"type":"string"}}}}"#,
    );

    fn new(settings: Settings) -> Result<Self> {
        let refuse = |reason: &str| Err(Error::InvalidConfig(reason.into()));
        let Some((base, token)) = settings.location.rsplit_once('/') else {
            return refuse(
                "the service that kept tokens was shut down: \
                 name a server of your own, token://host:port/v1/<token>",
            );
        };
        if token.is_empty() {
            return refuse("token is empty");
        }
        if !token
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        {
            return refuse("the token has a character that no token has");
        }
        let scheme = match settings.options.get("token.scheme").map(String::as_str) {
            None | Some("https") => "https",
            Some("http") => "http",
            Some(_) => return refuse("`token.scheme` is https or http"),
        };
        Ok(Self {
            url: format!("{scheme}://{base}/clusters/{token}"),
        })
    }

    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch> {
        let answer = self.send("GET", "", b"")?;
        if answer.status != 200 {
            return Err(Error::Unavailable(format!(
                "Failed to fetch entries, Discovery service returned {} HTTP status code",
                answer.status
            )));
        }
        let listed: BTreeSet<String> = serde_json::from_slice(&answer.body)
            .map_err(|error| Error::Unavailable(format!("the server sent no list: {error}")))?;
        for entry in &listed {
            // A socket of the manager's own machine is not for a server to name.
            if entry.contains("://") || address::validate(entry).is_err() {
                let reason = format!("`{entry}` is not of the form host:port");
                return Err(Error::Unavailable(reason));
            }
        }
        Ok(polled(&listed, cursor, max_wait))
    }

    fn register(&mut self, me: &Entry, ttl: Duration) -> Result<Vec<u8>> {
        let lease = format!("{} {}", ttl.as_secs(), me.address).into_bytes();
        self.heartbeat(&lease)?;
        Ok(lease)
    }

    fn heartbeat(&mut self, lease: &[u8]) -> Result<()> {
        let (ttl, address) = parse(lease)?;
        let answer = self.send("POST", &format!("?ttl={ttl}"), address.as_bytes())?;
        succeeded(&answer)
    }

    fn deregister(&mut self, lease: &[u8]) -> Result<()> {
        let (_, address) = parse(lease)?;
        let address = address.replace('[', "%5B").replace(']', "%5D");
        let answer = self.send("DELETE", &format!("/{address}"), b"")?;
        succeeded(&answer)
    }
}

skep_plugin_sdk::export_discovery!(Token);

impl Token {
    fn send(&self, method: &str, rest: &str, body: &[u8]) -> Result<Response> {
        let request = Request {
            method: method.into(),
            url: format!("{}{rest}", self.url),
            headers: Vec::new(),
            body: body.to_vec(),
        };
        host::send(&request, TIMEOUT)
    }
}

fn succeeded(answer: &Response) -> Result<()> {
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.body);
    Err(Error::Unavailable(format!(
        "Discovery service returned {} HTTP status code: {}",
        answer.status,
        said.trim()
    )))
}

/// The lease is what has to be sent again.
fn parse(lease: &[u8]) -> Result<(u64, &str)> {
    let parsed = str::from_utf8(lease).ok().and_then(|lease| {
        let (ttl, address) = lease.split_once(' ')?;
        Some((ttl.parse().ok()?, address))
    });
    parsed.ok_or_else(|| Error::NotFound("no such lease".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::discovery::configure;
    use skep_plugin_sdk::testing::{Host, addresses};

    const WAIT: Duration = Duration::from_secs(60);
    const URL: &str = "https://h:1/v1/clusters/7f";

    fn token() -> Token {
        configure(r#"{"location":"h:1/v1/7f"}"#).unwrap()
    }

    fn answers(host: &Host, status: u16, body: &'static str) {
        host.serve(URL, move |_| {
            Ok(Response {
                status,
                headers: Vec::new(),
                body: body.into(),
            })
        });
    }

    #[test]
    fn lists_what_the_server_has_once_each_heartbeat() {
        let host = Host::install();
        answers(&host, 200, r#"["b:1","a:1"]"#);
        let mut token = token();
        let first = token.next(None, WAIT).unwrap();
        assert!(first.full);
        assert_eq!(addresses(&first), ["a:1", "b:1"]);
        assert_eq!(first.retry_after_ms, Some(60_000));
        let same = token.next(Some(&first.cursor), WAIT).unwrap();
        assert!(!same.full && same.changes.is_empty());
        assert_eq!(same.retry_after_ms, Some(60_000));
        answers(&host, 200, "[]");
        let none = token.next(Some(&same.cursor), WAIT).unwrap();
        assert!(none.full && none.changes.is_empty());
    }

    #[test]
    fn an_answer_that_is_no_list_is_an_error() {
        let host = Host::install();
        let fails = |part: &str| match token().next(None, WAIT) {
            Err(Error::Unavailable(reason)) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{other:?}"),
        };
        fails("no server answers");
        answers(&host, 404, "");
        fails("Failed to fetch entries, Discovery service returned 404 HTTP status code");
        answers(&host, 200, "<html>");
        fails("no list");
        answers(&host, 200, r#"["a"]"#);
        fails("`a` is not of the form host:port");
        answers(&host, 200, r#"["unix:///run/docker.sock"]"#);
        fails("`unix:///run/docker.sock` is not of the form host:port");
    }

    #[test]
    fn an_engine_is_announced_kept_and_taken_back() {
        let host = Host::install();
        answers(&host, 200, "");
        let mut token = token();
        let me = Entry {
            address: "a:1".into(),
            meta: Vec::new(),
        };
        let lease = token.register(&me, Duration::from_secs(180)).unwrap();
        token.heartbeat(&lease).unwrap();
        token.deregister(&lease).unwrap();
        let sent: Vec<_> = host
            .sent()
            .into_iter()
            .map(|request| (request.method, request.url, request.body))
            .collect();
        let post = || ("POST".to_owned(), format!("{URL}?ttl=180"), b"a:1".to_vec());
        let delete = ("DELETE".to_owned(), format!("{URL}/a:1"), Vec::new());
        assert_eq!(sent, [post(), post(), delete]);
        answers(&host, 429, "too many");
        assert!(token.heartbeat(&lease).is_err());
    }

    #[test]
    fn the_location_names_a_server_and_a_token() {
        for (settings, part) in [
            (r#"{"location":"7f"}"#, "was shut down"),
            (r#"{"location":"h/v1/"}"#, "token is empty"),
            (r#"{"location":"h/a?b"}"#, "character"),
            (
                r#"{"location":"h/7f","options":{"token.scheme":"ftp"}}"#,
                "https or http",
            ),
        ] {
            match configure::<Token>(settings) {
                Err(Error::InvalidConfig(reason)) => assert!(reason.contains(part), "{reason}"),
                _ => panic!("{settings}"),
            }
        }
        let plain: Token =
            configure(r#"{"location":"h/7f","options":{"token.scheme":"http"}}"#).unwrap();
        assert_eq!(plain.url, "http://h/clusters/7f");
    }
}
