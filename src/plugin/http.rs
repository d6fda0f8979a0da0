//! Requests of a discovery backend to the servers that the configuration names.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, uri::Authority};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{
    bindings::waiting::skep::plugin::{
        http::{Host as HttpHost, Request as Asked, Response},
        types::{Attr, Error},
    },
    host::Host,
};
use crate::{model::cause::innermost, tls};

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// The most time for one request.
const MAX_WAIT: Duration = Duration::from_secs(60);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Servers, and how they are reached.
#[derive(Clone, Default)]
pub struct HttpGrant {
    /// `https://host:port` each.
    pub origins: Vec<String>,
    /// TLS; required if one of them is `https`.
    pub tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpGrant").field(&self.origins).finish()
    }
}

/// A grant in use. Clones share connections.
#[derive(Clone)]
pub(super) struct Http {
    origins: Arc<[String]>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Http {
    pub(super) fn new(grant: &HttpGrant) -> Self {
        let connector = tls::connector(grant.tls.as_deref().cloned(), CONNECT_TIMEOUT);
        let origins = grant.origins.iter();
        Self {
            origins: origins
                .filter_map(|text| origin(&text.parse().ok()?))
                .collect(),
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    async fn send(&self, asked: Asked) -> Result<Response, Error> {
        let invalid = |error: &dyn fmt::Display| Error::InvalidRequest(error.to_string());
        let uri: Uri = asked.url.parse().map_err(|error| invalid(&error))?;
        let wanted = origin(&uri);
        if !wanted.is_some_and(|wanted| self.origins.contains(&wanted)) {
            return Err(Error::Unavailable(format!(
                "`{}` is not among the servers allowed",
                asked.url
            )));
        }
        let method: Method = asked.method.parse().map_err(|error| invalid(&error))?;
        let mut request = Request::builder().method(method).uri(uri);
        for Attr { key, value } in &asked.headers {
            request = request.header(key, value);
        }
        let request = request
            .body(Full::new(asked.body.into()))
            .map_err(|error| invalid(&error))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| Error::Unavailable(innermost(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| Error::Unavailable(error.to_string()))?;
        let headers = head.headers.iter().map(|(key, value)| Attr {
            key: key.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        });
        Ok(Response {
            status: head.status.as_u16(),
            headers: headers.collect(),
            body: body.to_bytes().into(),
        })
    }
}

impl HttpHost for Host {
    async fn send(&mut self, request: Asked, max_wait_ms: u32) -> Result<Response, Error> {
        let http = self.granted_http()?;
        let max_wait = Duration::from_millis(max_wait_ms.into()).min(MAX_WAIT);
        timeout(max_wait, http.send(request))
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {max_wait:?}"))))
    }
}

/// Scheme, host and port in one spelling; `None` if it is no server on the web.
fn origin(uri: &Uri) -> Option<String> {
    let port = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority: &Authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let port = authority.port_u16().unwrap_or(port);
    let host = authority.host().to_ascii_lowercase();
    Some(format!("{}://{host}:{port}", uri.scheme_str()?))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::plugin::{
        Allow, Kind, Limits,
        grants::Grants,
        quota::{Pool, Quota},
    };

    fn host(origins: &[&str]) -> Host {
        let allow = Allow {
            http: HttpGrant {
                origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
                tls: None,
            },
            ..Allow::default()
        };
        let quota = Quota::new(Limits::for_kind(Kind::Discovery), Pool::new(0));
        let mut host = Host::new("fetcher".into(), quota, Grants::new(&allow));
        host.is_configured = true;
        host
    }

    fn get(url: &str) -> Asked {
        Asked {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A server that sends these bytes to whoever comes first.
    async fn server(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
        });
        format!("http://{addr}")
    }

    #[test]
    fn an_origin_has_one_spelling() {
        let of = |url: &str| origin(&url.parse().unwrap());
        assert_eq!(of("https://A.example/x"), of("https://a.example:443"));
        assert_ne!(of("http://a.example"), of("https://a.example"));
        assert_eq!(of("https://a.example@b.example/"), None);
        assert_eq!(of("ftp://a.example/"), None);
    }

    #[tokio::test]
    async fn only_the_servers_allowed_are_asked() {
        let answer = b"HTTP/1.1 418 x\r\nServer: pot\r\nContent-Length: 3\r\n\r\ntea".to_vec();
        let url = server(answer).await;
        let mut host = host(&[&url]);
        for refused in ["http://127.0.0.1:1/", "https://127.0.0.1/", "/etc/passwd"] {
            let answer = host.send(get(refused), 5000).await;
            assert!(matches!(answer, Err(Error::Unavailable(_))), "{refused}");
        }
        let answer = host.send(get(&format!("{url}/x")), 5000).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (418, &b"tea"[..]));
        assert!(answer.headers.iter().any(|header| header.value == "pot"));
    }

    #[tokio::test]
    async fn a_server_that_is_slow_or_sends_too_much_is_an_error() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let answer = host(&[&url]).send(get(&url), 50).await;
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
        let mut much = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        much.resize(MAX_ANSWER + 100, b'x');
        let url = server(much).await;
        let answer = host(&[&url]).send(get(&url), 30_000).await;
        assert!(matches!(answer, Err(Error::Unavailable(_))));
    }
}
