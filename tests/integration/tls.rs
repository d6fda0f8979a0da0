//! TLS on both sides of the daemon, and listeners under strain.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{Method, StatusCode};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use skep::{
    api::Listener,
    config::{
        engine::Engine,
        tls::{ApiTls, EngineTls, EngineTlsMode},
    },
    tls::{Client, Engines, Reloader, Server},
};
use skep_fleet::{
    Fleet,
    certificates::{Authority, Certificate, Issued},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Daemon,
    cluster::{Bench, PATIENCE},
};

const PING: &[u8] = b"GET /_ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The authorities of all tests; nobody trusts the stranger.
static ENGINES: LazyLock<Authority> = LazyLock::new(|| Authority::new("engines"));
static CLIENTS: LazyLock<Authority> = LazyLock::new(|| Authority::new("clients"));
static STRANGER: LazyLock<Authority> = LazyLock::new(|| Authority::new("stranger"));

/// Files with certificates.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn write_pair(&self, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
        let cert = self.write(&format!("{name}.pem"), &issued.cert);
        (cert, self.write(&format!("{name}-key.pem"), &issued.key))
    }

    /// How engines are spoken to that `authority` signed for, showing `identity`.
    fn engine_tls(&self, authority: &Authority, identity: Option<&Issued>) -> EngineTls {
        let pair = identity.map(|issued| self.write_pair("client", issued));
        EngineTls {
            mode: EngineTlsMode::Verify,
            ca: Some(self.write("engines.pem", &authority.cert)),
            cert: pair.clone().map(|(cert, _)| cert),
            key: pair.map(|(_, key)| key),
        }
    }

    /// A listener that lets in the clients of [`CLIENTS`] alone.
    fn api_tls(&self) -> ApiTls {
        let (cert, key) = self.write_pair("server", &localhost(&ENGINES));
        ApiTls {
            cert,
            key,
            client_ca: Some(self.write("clients.pem", &CLIENTS.cert)),
        }
    }

    fn server(&self) -> Server {
        Reloader::default().server(&self.api_tls()).unwrap()
    }
}

fn localhost(authority: &Authority) -> Issued {
    authority.issue(&Certificate::server(&["127.0.0.1"]))
}

fn engines(tls: EngineTls) -> Engines {
    let config = Engine {
        tls: Some(tls),
        ..Engine::default()
    };
    Reloader::default().engines(&config).unwrap()
}

/// The same for the client of a test, which speaks to the daemon as the daemon does to engines.
fn client(tls: EngineTls) -> Client {
    let addr = "127.0.0.1:1".parse().unwrap();
    engines(tls).client(&addr).expect("it is for all")
}

/// One engine that wants a certificate from [`CLIENTS`] and shows `shown`.
async fn strict_fleet(shown: &Issued) -> Fleet {
    let tls = shown.server_config(Some(&CLIENTS));
    Fleet::builder().tls(tls).start().await.unwrap()
}

/// A daemon with TLS on both sides, and the good client for it.
async fn secure_daemon(files: &Files, change: impl FnOnce(&mut skep::api::Options)) -> Daemon {
    let identity = CLIENTS.issue(&Certificate::client());
    let tls = files.engine_tls(&ENGINES, Some(&identity));
    let fleet = strict_fleet(&localhost(&ENGINES)).await;
    let towards_engines = engines(tls.clone());
    let bench = Bench::over(fleet, |options| options.tls = towards_engines);
    bench
        .until("the engine is healthy", |snapshot| {
            snapshot.nodes().any(|node| node.inventory.is_healthy())
        })
        .await;
    let server = files.server();
    let listener = |socket| Listener::Tls(socket, server);
    Daemon::listening(bench, listener, Some(client(tls)), change).await
}

async fn plain_daemon(change: impl FnOnce(&mut skep::api::Options)) -> Daemon {
    let bench = Bench::start(1, 0).await;
    Daemon::listening(bench, Listener::Tcp, None, change).await
}

/// What a client shows and trusts.
struct Peer<'a> {
    shows: Option<&'a Issued>,
    trusts: &'a Authority,
    versions: &'a [&'static SupportedProtocolVersion],
}

impl<'a> Peer<'a> {
    fn showing(shows: Option<&'a Issued>) -> Self {
        Self {
            shows,
            trusts: &ENGINES,
            versions: rustls::ALL_VERSIONS,
        }
    }

    /// Pings over a connection of its own and returns all that is answered.
    async fn ping(&self, addr: SocketAddr) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.trusts.cert.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let cert = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        let exchange = async {
            let name = ServerName::from(addr.ip());
            let stream = TcpStream::connect(addr).await?;
            let connector = TlsConnector::from(Arc::new(config));
            let mut stream = connector.connect(name, stream).await?;
            stream.write_all(PING).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .expect("an answer or an end")
    }
}

/// Sends `bytes` over plain TCP and returns all that is answered.
async fn say(addr: SocketAddr, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("the connection ends")
}

/// Waits for what is wrong with the one engine of a bench.
async fn trouble(bench: &Bench) -> String {
    let error = |snapshot: &skep::cluster::snapshot::Snapshot| {
        let node = snapshot.nodes().next()?;
        node.inventory.error.clone()
    };
    let snapshot = bench
        .until("the engine's trouble", |s| error(s).is_some())
        .await;
    error(&snapshot).unwrap()
}

#[tokio::test]
async fn containers_run_and_are_attached_to_over_tls_on_both_sides() {
    let files = Files::new();
    let daemon = secure_daemon(&files, |_| {}).await;
    daemon.run("web").await;
    let (status, list) = daemon.json(Method::GET, "/containers/json", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(list.as_array().unwrap().len(), 1);
    // The end of the input has to pass through two TLS connections.
    let output = daemon.attach_and_say(b"hello").await;
    assert_eq!(output, b"\x01\0\0\0\0\0\0\x05hello");
}

#[tokio::test]
async fn an_engines_certificate_must_be_good() {
    let identity = CLIENTS.issue(&Certificate::client());
    let named = |name: &str| ENGINES.issue(&Certificate::server(&[name]));
    for (shown, problem) in [
        (
            localhost(&STRANGER),
            "the engine's certificate is not signed by a CA in ",
        ),
        (
            ENGINES.issue(&Certificate::server(&["127.0.0.1"]).expired()),
            "the engine's certificate expired on 2020-02-01 00:00:00 UTC",
        ),
        (
            named("other.example"),
            "the engine's certificate is not for `127.0.0.1` but for ",
        ),
        (
            ENGINES.issue(&Certificate::client()),
            "the engine's certificate is not ",
        ),
    ] {
        let files = Files::new();
        let fleet = strict_fleet(&shown).await;
        let tls = engines(files.engine_tls(&ENGINES, Some(&identity)));
        let error = trouble(&Bench::over(fleet, |options| options.tls = tls)).await;
        let expected = ["no TLS with the engine at tcp://127.0.0.1:", problem];
        for part in expected {
            assert!(error.contains(part), "`{part}` is not in `{error}`");
        }
    }
}

#[tokio::test]
async fn an_engine_that_refuses_the_certificate_is_understood() {
    let wrong = STRANGER.issue(&Certificate::client());
    let old = CLIENTS.issue(&Certificate::client().expired());
    for (identity, problem) in [
        (
            None,
            "the engine asks for a certificate and none is configured: ",
        ),
        (Some(wrong), "client.pem`: "),
        (Some(old), "client.pem`: certificate expired"),
    ] {
        let files = Files::new();
        let fleet = strict_fleet(&localhost(&ENGINES)).await;
        let tls = engines(files.engine_tls(&ENGINES, identity.as_ref()));
        let error = trouble(&Bench::over(fleet, |options| options.tls = tls)).await;
        assert!(error.contains(problem), "`{problem}` is not in `{error}`");
    }
}

#[tokio::test]
async fn an_engine_with_and_a_daemon_without_tls_are_told_apart_from_silence() {
    let files = Files::new();
    let fleet = Fleet::builder().start().await.unwrap();
    let tls = engines(files.engine_tls(&ENGINES, None));
    let error = trouble(&Bench::over(fleet, |options| options.tls = tls)).await;
    assert!(
        error.ends_with("what the engine sends is not TLS"),
        "{error}"
    );

    let fleet = strict_fleet(&localhost(&ENGINES)).await;
    let error = trouble(&Bench::over(fleet, |_| {})).await;
    assert!(
        error.ends_with("it speaks TLS, and no `[engine.tls]` is configured for it"),
        "{error}"
    );
}

#[tokio::test]
async fn one_engine_may_differ_from_the_others() {
    let files = Files::new();
    let plain = Fleet::builder().start().await.unwrap();
    let mut single = std::collections::BTreeMap::new();
    let mut off = files.engine_tls(&ENGINES, None);
    off.mode = EngineTlsMode::Off;
    single.insert(plain.engine(0).addr().to_string().parse().unwrap(), off);
    let config = Engine {
        tls: Some(files.engine_tls(&ENGINES, None)),
        tls_for: single,
        ..Engine::default()
    };
    let tls = Reloader::default().engines(&config).unwrap();
    Bench::over(plain, |options| options.tls = tls)
        .until("the engine is healthy", |snapshot| {
            snapshot.nodes().any(|node| node.inventory.is_healthy())
        })
        .await;
}

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let files = Files::new();
    let identity = CLIENTS.issue(&Certificate::client());
    let mut tls = files.engine_tls(&ENGINES, Some(&identity));
    tls.mode = EngineTlsMode::Encrypt;
    let shown = STRANGER.issue(&Certificate::server(&["other.example"]).expired());
    let (fleet, tls) = (strict_fleet(&shown).await, engines(tls));
    Bench::over(fleet, |options| options.tls = tls)
        .until("the engine is healthy", |snapshot| {
            snapshot.nodes().any(|node| node.inventory.is_healthy())
        })
        .await;
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let files = Files::new();
    let daemon = secure_daemon(&files, |_| {}).await;
    let good = CLIENTS.issue(&Certificate::client());
    for version in [&TLS12, &TLS13] {
        let peer = Peer {
            versions: &[version],
            ..Peer::showing(Some(&good))
        };
        let answer = peer.ping(daemon.addr).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn clients_without_a_good_certificate_are_told_so_and_kept_out() {
    let files = Files::new();
    let daemon = secure_daemon(&files, |_| {}).await;
    let wrong = STRANGER.issue(&Certificate::client());
    let old = CLIENTS.issue(&Certificate::client().expired());
    let server = localhost(&CLIENTS);
    for version in [&TLS12, &TLS13] {
        for (shows, alert) in [
            (None, "CertificateRequired"),
            (Some(&wrong), "UnknownCA"),
            (Some(&old), "CertificateExpired"),
            (Some(&server), "UnsupportedCertificate"),
        ] {
            let peer = Peer {
                versions: &[version],
                ..Peer::showing(shows)
            };
            let error = peer.ping(daemon.addr).await.unwrap_err();
            assert!(error.to_string().contains(alert), "{alert}: {error}");
        }
    }
    let good = CLIENTS.issue(&Certificate::client());
    let answer = Peer::showing(Some(&good)).ping(daemon.addr).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_without_tls_is_answered_in_words_it_understands() {
    let files = Files::new();
    let daemon = secure_daemon(&files, |_| {}).await;
    // A body that nobody reads must not cost the client the answer.
    let upload = [
        b"POST /images/load HTTP/1.1\r\n\r\n".as_slice(),
        &[b'x'; 8192],
    ]
    .concat();
    for request in [PING, &upload] {
        let answer = say(daemon.addr, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        assert!(
            answer.ends_with("\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"),
            "{answer}"
        );
    }
    let (status, _) = daemon.json(Method::GET, "/info", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn nonsense_on_a_tls_listener_harms_nobody() {
    let files = Files::new();
    let daemon = secure_daemon(&files, |_| {}).await;
    // A record that is cut short, one of a protocol nobody speaks, and no TLS at all.
    let cut = [22, 3, 1, 2, 0, 1];
    let strange = [22, 9, 9, 0, 4, 1, 2, 3, 4];
    for bytes in [&strange[..], &[0; 300], b"\xff\xff\xff\xff\xff\xff"] {
        let answer = say(daemon.addr, bytes).await;
        assert!(!answer.contains("HTTP"), "{answer}");
    }
    // Those who connect and say too little hold up nobody else.
    let mut silent = Vec::new();
    for bytes in [&b""[..], &cut] {
        let mut stream = TcpStream::connect(daemon.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        silent.push(stream);
    }
    let (status, _) = daemon.json(Method::GET, "/info", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn tls_on_a_plain_listener_is_refused_in_plain_http() {
    let daemon = plain_daemon(|_| {}).await;
    // Go's clients, the docker command among them, know an HTTP answer to their hello, and say so.
    let error = Peer::showing(None).ping(daemon.addr).await.unwrap_err();
    assert!(error.to_string().contains("InvalidContentType"), "{error}");
    let (status, _) = daemon.json(Method::GET, "/info", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_listener_shows_a_new_certificate_without_a_restart() {
    let files = Files::new();
    let listener = files.api_tls();
    let mut reloader = Reloader::default();
    let server = reloader.server(&listener).unwrap();
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let now = Arc::new(Notify::new());
    tokio::spawn(reloader.run(Duration::from_millis(20), now, stop));
    let bench = Bench::start(1, 0).await;
    let daemon =
        Daemon::listening(bench, |socket| Listener::Tls(socket, server), None, |_| {}).await;

    let good = CLIENTS.issue(&Certificate::client());
    let trusting = |trusts| Peer {
        trusts,
        ..Peer::showing(Some(&good))
    };
    trusting(&ENGINES).ping(daemon.addr).await.unwrap();
    files.write_pair("server", &localhost(&STRANGER));
    let changed = async {
        while trusting(&STRANGER).ping(daemon.addr).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed)
        .await
        .expect("the new certificate is shown");
    trusting(&ENGINES).ping(daemon.addr).await.unwrap_err();
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_for_a_place() {
    let daemon = plain_daemon(|options| options.max_connections = NonZeroUsize::MIN).await;
    let mut first = TcpStream::connect(daemon.addr).await.unwrap();
    first
        .write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    // Once the head is there, the stream has the only place.
    first.read_u8().await.unwrap();
    let mut second = TcpStream::connect(daemon.addr).await.unwrap();
    second.write_all(PING).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), second.read_u8()).await;
    assert!(early.is_err(), "the second client was served");
    drop(first);
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, second.read_to_string(&mut answer))
        .await
        .expect("the place is given on")
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_until_it_ends() {
    let daemon = plain_daemon(|options| options.max_connections = NonZeroUsize::new(2).unwrap());
    let daemon = daemon.await;
    daemon.run("web").await;
    let attach = async || {
        let mut stream = TcpStream::connect(daemon.addr).await.unwrap();
        let head = b"POST /containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n\
            host: x\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        stream
    };
    // The test's own client has the other place, on a connection that it keeps.
    let tunnel = attach().await;
    let mut waiting = TcpStream::connect(daemon.addr).await.unwrap();
    waiting.write_all(PING).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.read_u8()).await;
    assert!(early.is_err(), "the tunnel has given up its place");
    drop(tunnel);
    tokio::time::timeout(PATIENCE, waiting.read_u8())
        .await
        .expect("the place is given on")
        .unwrap();
}

#[tokio::test]
async fn a_half_sent_request_is_given_up_and_an_idle_connection_is_not() {
    let daemon = plain_daemon(|options| options.head_timeout = Duration::from_millis(300)).await;
    let mut idle = TcpStream::connect(daemon.addr).await.unwrap();
    idle.write_all(b"HEAD /_ping HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(idle.read_u8().await.unwrap());
    }
    assert_eq!(say(daemon.addr, b"GET /_pi").await, "");
    tokio::time::sleep(Duration::from_millis(500)).await;
    idle.write_all(PING).await.unwrap();
    let mut answer = String::new();
    idle.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
