//! One suite for all stores, on real servers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use skep::{
    config::{store::Access, tls::StoreTls},
    model::servers::ServersUrl,
    store::{Change, Expected, Listing, Store, StoreError, Watch, embedded::Embedded, servers},
};
use skep_fleet::{
    certificates::{Authority, Certificate},
    stores::{Extra, Kind, Server},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store, and what it needs to live.
struct Bench {
    store: Arc<dyn Store>,
    _server: Option<Server>,
    _directory: TempDir,
}

impl Bench {
    fn start(kind: Option<Kind>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = kind.map(Server::start);
        let store: Arc<dyn Store> = match &server {
            Some(server) => open(&server.url(), &Access::default()),
            None => Arc::new(Embedded::open(&directory.path().join("store.redb")).unwrap()),
        };
        Self {
            store,
            _server: server,
            _directory: directory,
        }
    }
}

pub(crate) fn open(url: &str, access: &Access) -> Arc<dyn Store> {
    // What the daemon does at start.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url: ServersUrl = url.parse().unwrap();
    servers::open(&url, access).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

fn keys(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| &*entry.key).collect()
}

/// Follows a watch until a copy of what it tells is as wanted.
async fn follow(
    watch: &mut dyn Watch,
    copy: &mut BTreeMap<String, String>,
    wanted: &[(&str, &str)],
) {
    let wanted: BTreeMap<String, String> = wanted
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let told = timeout(PATIENCE, async {
        while *copy != wanted {
            for change in watch.next().await.unwrap() {
                match change {
                    Change::Put(entry) => {
                        let value = String::from_utf8(entry.value.to_vec()).unwrap();
                        copy.insert(entry.key, value);
                    }
                    Change::Deleted(key) => {
                        assert!(copy.remove(&key).is_some(), "{key} was not there");
                    }
                }
            }
        }
    });
    if told.await.is_err() {
        panic!("told: {copy:?}, wanted: {wanted:?}");
    }
}

async fn await_value(store: &dyn Store, key: &str, wanted: Option<&str>, patience: Duration) {
    let end = Instant::now() + patience;
    loop {
        let now = value(store, key).await;
        if now.as_deref() == wanted {
            return;
        }
        assert!(Instant::now() < end, "{key} is {now:?}, not {wanted:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn keys_have_values_and_revisions_that_grow(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let store = &*bench.store;
    assert_eq!(store.get("t/a").await.unwrap(), None);
    assert!(keys(&store.list("t").await.unwrap()).is_empty());
    let first = store.put("t/a", bytes("1")).await.unwrap();
    let second = store.put("t/a", bytes("2")).await.unwrap();
    assert!(second > first);
    let entry = store.get("t/a").await.unwrap().unwrap();
    assert_eq!((entry.revision, &*entry.value), (second, &b"2"[..]));
    assert!(store.delete("t/a", None).await.unwrap());
    assert!(!store.delete("t/a", None).await.unwrap());
    assert_eq!(store.get("t/a").await.unwrap(), None);
    let third = store.put("t/a", bytes("3")).await.unwrap();
    assert!(third > second, "a key that is made again goes on counting");
    let empty = store.put("t/empty", Bytes::new()).await.unwrap();
    let entry = store.get("t/empty").await.unwrap().unwrap();
    assert_eq!((entry.revision, entry.value.len()), (empty, 0));
}

async fn a_prefix_is_listed_in_order_with_all_depths(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let store = &*bench.store;
    for key in [
        "p/b",
        "p/a/x y",
        "p/a/10.0.0.1:2375",
        "pp/a",
        "p/c/d/ä",
        "p",
    ] {
        store.put(key, bytes(key)).await.unwrap();
    }
    let listing = store.list("p").await.unwrap();
    let expected = ["p/a/10.0.0.1:2375", "p/a/x y", "p/b", "p/c/d/ä"];
    assert_eq!(keys(&listing), expected);
    assert_eq!(listing.prefix, "p");
    for entry in &listing.entries {
        assert_eq!(entry.value, bytes(&entry.key));
        assert_eq!(store.get(&entry.key).await.unwrap().as_ref(), Some(entry));
    }
    // A key above others can have a value, and lose it alone.
    store.put("p/a", bytes("above")).await.unwrap();
    assert_eq!(value(store, "p/a").await.as_deref(), Some("above"));
    assert!(store.delete("p/a", None).await.unwrap());
    assert_eq!(value(store, "p/a").await, None);
    assert_eq!(keys(&store.list("p").await.unwrap()), expected);
}

async fn swaps_happen_if_the_key_is_as_expected(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let store = &*bench.store;
    let conflict =
        |error: StoreError| matches!(error, StoreError::Conflict { key } if key == "s/a");
    let at = store
        .swap("s/a", Expected::Absent, bytes("1"))
        .await
        .unwrap();
    let error = store.swap("s/a", Expected::Absent, bytes("2")).await;
    assert!(conflict(error.unwrap_err()));
    let next = store
        .swap("s/a", Expected::At(at), bytes("2"))
        .await
        .unwrap();
    let error = store.swap("s/a", Expected::At(at), bytes("3")).await;
    assert!(conflict(error.unwrap_err()));
    assert!(conflict(store.delete("s/a", Some(at)).await.unwrap_err()));
    assert_eq!(value(store, "s/a").await.as_deref(), Some("2"));
    assert!(store.delete("s/a", Some(next)).await.unwrap());
    assert!(!store.delete("s/a", Some(next)).await.unwrap());
    let error = store.swap("s/a", Expected::At(next), bytes("3")).await;
    assert!(conflict(error.unwrap_err()));
    assert_eq!(value(store, "s/a").await, None);
}

async fn swaps_of_many_lose_nothing(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let (tasks, rounds) = (8, 10);
    bench.store.put("n/a", bytes("0")).await.unwrap();
    let adders = (0..tasks).map(|_| {
        let store = Arc::clone(&bench.store);
        tokio::spawn(async move {
            let mut added = 0;
            while added < rounds {
                let entry = store.get("n/a").await.unwrap().unwrap();
                let number: u32 = str::from_utf8(&entry.value).unwrap().parse().unwrap();
                let next = bytes(&(number + 1).to_string());
                match store.swap("n/a", Expected::At(entry.revision), next).await {
                    Ok(_) => added += 1,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for adder in adders.collect::<Vec<_>>() {
        adder.await.unwrap();
    }
    let sum = (tasks * rounds).to_string();
    assert_eq!(value(&*bench.store, "n/a").await, Some(sum));
}

async fn a_watch_tells_what_changes_after_its_listing(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let store = &*bench.store;
    store.put("w/old", bytes("1")).await.unwrap();
    store.put("w/gone", bytes("1")).await.unwrap();
    let listing = store.list("w").await.unwrap();
    let mut copy: BTreeMap<_, _> = listing
        .entries
        .iter()
        .map(|entry| (entry.key.clone(), "1".to_owned()))
        .collect();
    // Between the listing and the watch.
    store.put("w/new/a", bytes("1")).await.unwrap();
    store.delete("w/gone", None).await.unwrap();
    let mut watch = store.watch(listing).await.unwrap();
    let watch = &mut *watch;
    follow(watch, &mut copy, &[("w/old", "1"), ("w/new/a", "1")]).await;
    // A wait that is dropped loses nothing.
    assert!(
        timeout(Duration::from_millis(50), watch.next())
            .await
            .is_err()
    );
    store.put("ww/other", bytes("1")).await.unwrap();
    store.put("w/old", bytes("2")).await.unwrap();
    store.put("w/new/b", bytes("2")).await.unwrap();
    store.delete("w/new/a", None).await.unwrap();
    follow(watch, &mut copy, &[("w/old", "2"), ("w/new/b", "2")]).await;
    for number in 0..200 {
        store
            .put("w/old", bytes(&number.to_string()))
            .await
            .unwrap();
    }
    follow(watch, &mut copy, &[("w/old", "199"), ("w/new/b", "2")]).await;
}

async fn a_watch_outlives_its_server(kind: Kind) {
    let mut server = Server::start(kind);
    let store = open(&server.url(), &Access::default());
    store.put("w/a", bytes("1")).await.unwrap();
    let mut watch = store
        .watch(Listing {
            prefix: "w".to_owned(),
            ..Listing::default()
        })
        .await
        .unwrap();
    let mut copy = BTreeMap::new();
    follow(&mut *watch, &mut copy, &[("w/a", "1")]).await;
    // The watch waits while all this happens.
    let changes = tokio::spawn(async move {
        let url = server.url();
        let mut server = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .unwrap();
        let other = open(&url, &Access::default());
        other.put("w/a", bytes("2")).await.unwrap();
        // Another store, which counts anew, in the same place.
        let server = tokio::task::spawn_blocking(move || {
            server.wipe();
            server.restart();
            server
        });
        let server = server.await.unwrap();
        let other = open(&url, &Access::default());
        other.put("w/b", bytes("1")).await.unwrap();
        server
    });
    follow(&mut *watch, &mut copy, &[("w/b", "1")]).await;
    drop(changes.await.unwrap());
}

async fn keys_of_a_session_go_with_it(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let store = &*bench.store;
    let ttl = Duration::from_secs(10);
    let session = store.session(ttl).await.unwrap();
    let first = session.create("l/lock", bytes("a")).await.unwrap();
    session.put("l/node", bytes("a")).await.unwrap();
    session.put("l/node", bytes("b")).await.unwrap();
    session.put("l/kept", bytes("a")).await.unwrap();
    assert!(session.valid_until() > Instant::now());
    let other = store.session(ttl).await.unwrap();
    let error = other.create("l/lock", bytes("b")).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    // Whoever puts a key takes it over.
    store.put("l/kept", bytes("mine")).await.unwrap();
    assert_eq!(value(store, "l/node").await.as_deref(), Some("b"));
    other.put("l/taken", bytes("a")).await.unwrap();
    session.put("l/taken", bytes("b")).await.unwrap();
    other.end().await.unwrap();
    assert_eq!(value(store, "l/taken").await.as_deref(), Some("b"));
    session.end().await.unwrap();
    let left = store.list("l").await.unwrap();
    assert_eq!(keys(&left), ["l/kept"]);
    let third = store.session(ttl).await.unwrap();
    let second = third.create("l/lock", bytes("c")).await.unwrap();
    assert!(second > first, "a fencing token grows");
    third.end().await.unwrap();
    assert_eq!(value(store, "l/lock").await, None);
}

async fn keys_of_a_session_that_is_silent_go_in_time(kind: Kind) {
    let server = Server::start(kind);
    let store = open(&server.url(), &Access::default());
    let ttl = Duration::from_secs(kind.shortest_session() * 2);
    let session = store.session(ttl).await.unwrap();
    session.create("l/lock", bytes("a")).await.unwrap();
    // Longer than it would last by itself.
    sleep(ttl * 3).await;
    assert!(session.valid_until() > Instant::now());
    assert!(!session.lost().is_cancelled());
    assert_eq!(value(&*store, "l/lock").await.as_deref(), Some("a"));
    drop(session);
    await_value(&*store, "l/lock", None, ttl * 3).await;
}

async fn a_session_is_lost_when_the_store_is_away_for_too_long(kind: Kind) {
    let server = Server::start(kind);
    let store = open(&server.url(), &Access::default());
    let ttl = Duration::from_secs(kind.shortest_session() * 2);
    let session = store.session(ttl).await.unwrap();
    session.create("l/lock", bytes("a")).await.unwrap();
    server.signal("STOP");
    timeout(ttl * 2, session.lost().cancelled()).await.unwrap();
    assert!(session.valid_until() <= Instant::now());
    server.signal("CONT");
    let error = session.put("l/lock", bytes("b")).await.unwrap_err();
    assert!(matches!(error, StoreError::SessionEnded { .. }), "{error}");
    drop(session);
    await_value(&*store, "l/lock", None, ttl * 3).await;
}

async fn large_values_and_many_keys_are_kept(kind: Option<Kind>) {
    let bench = Bench::start(kind);
    let store = &bench.store;
    let largest = Bytes::from(vec![b'x'; store.max_value()]);
    store.put("v/large", largest.clone()).await.unwrap();
    let entry = store.get("v/large").await.unwrap().unwrap();
    assert_eq!(entry.value, largest);
    let larger = Bytes::from(vec![b'x'; store.max_value() + 1]);
    let error = store.put("v/large", larger).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("`v/large`"), "{error}");
    let error = store.put("v//x", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::BadKey(_)), "{error}");
    let puts = (0..16).map(|task| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for number in 0..150 {
                let key = format!("m/{task}/{number}");
                store.put(&key, vec![b'x'; 2000].into()).await.unwrap();
            }
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    let listing = store.list("m").await.unwrap();
    assert_eq!(listing.entries.len(), 2400);
    assert!(
        listing
            .entries
            .iter()
            .all(|entry| entry.value.len() == 2000)
    );
}

async fn a_store_that_is_away_says_so_and_comes_back(kind: Kind) {
    let mut server = Server::prepare(kind, Extra::default());
    let store = open(&server.url(), &Access::default());
    let asked = timeout(Duration::from_secs(15), store.put("a/a", bytes("1"))).await;
    let error = asked.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&server.url()), "{error}");
    server.restart();
    store.put("a/a", bytes("1")).await.unwrap();
    server.signal("STOP");
    let asked = timeout(Duration::from_secs(15), store.get("a/a")).await;
    let error = asked.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.signal("CONT");
    await_back(&*store).await;
    server.restart();
    await_back(&*store).await;
    assert_eq!(value(&*store, "a/a").await.as_deref(), Some("1"));
}

async fn await_back(store: &dyn Store) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = store.get("a/a").await {
        assert!(Instant::now() < end, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn any_of_several_servers_will_do(kind: Kind) {
    let away = Server::prepare(kind, Extra::default());
    let server = Server::start(kind);
    let url = format!("{}://{},{}", kind.scheme(), away.addr(), server.addr());
    let store = open(&url, &Access::default());
    store.put("e/a", bytes("1")).await.unwrap();
    let session = store.session(Duration::from_secs(5)).await.unwrap();
    session.put("e/b", bytes("1")).await.unwrap();
    assert_eq!(keys(&store.list("e").await.unwrap()), ["e/a", "e/b"]);
    session.end().await.unwrap();
    assert_eq!(keys(&store.list("e").await.unwrap()), ["e/a"]);
}

/// A server that wants to know who asks, whom it knows, and whom it does not.
pub(crate) async fn guarded(kind: Kind, directory: &TempDir) -> (Server, Access, Access) {
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let user = |name: &str, password: &str| Access {
        user: Some(name.to_owned()),
        password_file: Some(file(password, &format!("{password}\n"))),
        ..Access::default()
    };
    let token = |token: &str| Access {
        token_file: Some(file(token, token)),
        ..Access::default()
    };
    match kind {
        Kind::Etcd => {
            let server = Server::start(kind);
            let mut client = etcd_client::Client::connect([server.addr()], None)
                .await
                .unwrap();
            client.user_add("root", "secret", None).await.unwrap();
            client.user_grant_role("root", "root").await.unwrap();
            client.auth_enable().await.unwrap();
            (server, user("root", "secret"), user("root", "wrong"))
        }
        Kind::Consul => {
            let good = "6f5902ac-237d-4d8a-8c3b-0f1f9c2e6f11";
            let extra = Extra {
                token: Some(good.to_owned()),
                ..Extra::default()
            };
            let server = Server::start_with(kind, extra);
            let bad = token("6f5902ac-237d-4d8a-8c3b-0f1f9c2e6f12");
            (server, token(good), bad)
        }
        Kind::ZooKeeper => (
            Server::start(kind),
            user("ann", "secret"),
            user("ann", "wrong"),
        ),
    }
}

async fn who_is_not_let_in_is_told_so(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let (server, good, bad) = guarded(kind, &directory).await;
    let store = open(&server.url(), &good);
    await_back(&*store).await;
    store.put("a/a", bytes("1")).await.unwrap();
    let session = store.session(Duration::from_secs(5)).await.unwrap();
    session.put("a/b", bytes("1")).await.unwrap();
    assert_eq!(keys(&store.list("a").await.unwrap()), ["a/a", "a/b"]);
    for access in [bad, Access::default()] {
        let stranger = open(&server.url(), &access);
        let errors = [
            stranger.get("a/a").await.map(drop).unwrap_err(),
            stranger.put("a/a", bytes("2")).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StoreError::Denied { .. }), "{error}");
            assert!(error.to_string().contains(&server.url()), "{error}");
        }
    }
    assert_eq!(value(&*store, "a/a").await.as_deref(), Some("1"));
}

/// A server that speaks TLS and wants a certificate of its clients, one that is let in, and two
/// that are not: one does not trust the server, one has no certificate.
pub(crate) fn encrypted(kind: Kind, directory: &TempDir) -> (Server, Access, [Access; 2]) {
    let authority = Authority::new("stores");
    let server = authority.issue(&Certificate::server(&["127.0.0.1"]).both_ways());
    let client = authority.issue(&Certificate::client());
    let stranger = Authority::new("strangers");
    let path = |name: &str, text: &str| -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let ca = path("ca.pem", &authority.cert);
    let pair = (path("cert.pem", &client.cert), path("key.pem", &client.key));
    let extra = Extra {
        tls: Some((
            path("server.pem", &server.cert),
            path("server-key.pem", &server.key),
            ca.clone(),
        )),
        ..Extra::default()
    };
    let server = Server::start_with(kind, extra);
    let access = |ca: &Path, pair: Option<(PathBuf, PathBuf)>| Access {
        tls: Some(StoreTls {
            ca: ca.to_owned(),
            pair,
        }),
        ..Access::default()
    };
    let other = path("other.pem", &stranger.cert);
    let refused = [access(&other, Some(pair.clone())), access(&ca, None)];
    (server, access(&ca, Some(pair)), refused)
}

async fn servers_and_clients_show_certificates(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let (server, good, refused) = encrypted(kind, &directory);
    let store = open(&server.url(), &good);
    await_back(&*store).await;
    store.put("t/a", bytes("1")).await.unwrap();
    let session = store.session(Duration::from_secs(5)).await.unwrap();
    session.put("t/b", bytes("1")).await.unwrap();
    assert_eq!(keys(&store.list("t").await.unwrap()), ["t/a", "t/b"]);
    for access in refused {
        let error = open(&server.url(), &access).get("t/a").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
}

async fn foreign_keys_are_left_alone(kind: Kind) {
    let server = Server::start(kind);
    let store = open(&server.url(), &Access::default());
    store.put("f/a", bytes("1")).await.unwrap();
    match kind {
        Kind::Etcd => {
            let mut client = etcd_client::Client::connect([server.addr()], None)
                .await
                .unwrap();
            for key in [&b"f/\xff"[..], b"f//b", b"f/c/"] {
                client.put(key, "x", None).await.unwrap();
            }
        }
        Kind::Consul => {
            let put = format!("http://{}/v1/kv/f/c/", server.addr());
            let done = tokio::process::Command::new("curl")
                .args(["-sf", "-X", "PUT", "-d", "x", &put])
                .status();
            assert!(done.await.unwrap().success());
        }
        Kind::ZooKeeper => {
            let client = zookeeper_client::Client::connect(&server.addr())
                .await
                .unwrap();
            let acls = zookeeper_client::Acls::anyone_all();
            let options = zookeeper_client::CreateMode::Persistent.with_acls(acls);
            client.create("/f/c", &[], &options).await.unwrap();
            client.create("/f/c/d", b"\xff", &options).await.unwrap();
        }
    }
    let listing = store.list("f").await.unwrap();
    match kind {
        Kind::ZooKeeper => assert_eq!(keys(&listing), ["f/a", "f/c/d"]),
        _ => assert_eq!(keys(&listing), ["f/a"]),
    }
    let mut watch = store.watch(listing).await.unwrap();
    store.put("f/b", bytes("1")).await.unwrap();
    let changes = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(
        matches!(&*changes, [Change::Put(entry)] if entry.key == "f/b"),
        "{changes:?}"
    );
}

/// Tests of one store: a module's name, what the tests are called with, and the tests.
macro_rules! suite {
    ($($name:ident($argument:expr): [$($test:ident),* $(,)?])*) => {$(
        mod $name {
            #[allow(unused_imports, reason = "the embedded store has no argument")]
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($argument).await;
                }
            )*
        }
    )*};
}

/// What every store does.
macro_rules! common {
    ($($name:ident($argument:expr))*) => {
        suite!($($name($argument): [
            keys_have_values_and_revisions_that_grow,
            a_prefix_is_listed_in_order_with_all_depths,
            swaps_happen_if_the_key_is_as_expected,
            swaps_of_many_lose_nothing,
            a_watch_tells_what_changes_after_its_listing,
            keys_of_a_session_go_with_it,
            large_values_and_many_keys_are_kept,
        ])*);
    };
}

/// What stores do that are servers.
macro_rules! servers {
    ($($name:ident($argument:expr))*) => {
        suite!($($name($argument): [
            a_watch_outlives_its_server,
            keys_of_a_session_that_is_silent_go_in_time,
            a_session_is_lost_when_the_store_is_away_for_too_long,
            a_store_that_is_away_says_so_and_comes_back,
            any_of_several_servers_will_do,
            who_is_not_let_in_is_told_so,
            servers_and_clients_show_certificates,
            foreign_keys_are_left_alone,
        ])*);
    };
}

common!(
    embedded(None)
    etcd(Some(Kind::Etcd))
    consul(Some(Kind::Consul))
    zookeeper(Some(Kind::ZooKeeper))
);

servers!(
    etcd_servers(Kind::Etcd)
    consul_servers(Kind::Consul)
    zookeeper_servers(Kind::ZooKeeper)
);
