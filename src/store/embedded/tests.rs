use std::{fs, io::Write as _, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use futures_util::future::join_all;

use super::{desk::WATCH_QUEUE, *};

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/skep.redb");
    (directory, path)
}

/// Opens a file that another handle may not have let go of yet: its thread closes it.
async fn reopen(path: &Path) -> Embedded {
    loop {
        match Embedded::open(path) {
            Err(error) if error.is_busy() => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

async fn value(store: &Embedded, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let first = store.put("a/b", "one".into()).await.unwrap();
    store.put("a/c", "two".into()).await.unwrap();
    assert!(store.delete("a/c", None).await.unwrap());
    drop(store);
    let store = reopen(&path).await;
    assert_eq!(value(&store, "a/b").await.unwrap(), "one");
    assert_eq!(value(&store, "a/c").await, None);
    let next = store.put("a/b", "three".into()).await.unwrap();
    assert!(next > first + 2, "{next} after {first}");
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone_and_for_one_process() {
    let (_directory, path) = file();
    let _store = Embedded::open(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let error = Embedded::open(&path).err().unwrap();
    assert!(error.is_busy());
    assert!(error.to_string().contains("another process"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let (_directory, path) = file();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = "a letter to my aunt ".repeat(1000);
    fs::write(&path, &text).unwrap();
    let error = Embedded::open(&path).err().unwrap();
    assert!(!error.is_busy());
    assert!(error.to_string().contains("skep.redb"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_torn_file_is_refused_or_whole() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    for number in 0..200 {
        let text = format!("{number}").repeat(300);
        store
            .put(&format!("a/{number}"), text.into())
            .await
            .unwrap();
    }
    drop(store);
    drop(reopen(&path).await);
    let whole = loop {
        // The thread that closes the file still writes to it.
        match Embedded::open(&path) {
            Err(_) => tokio::task::yield_now().await,
            Ok(store) => {
                drop(store);
                break fs::read(&path).unwrap();
            }
        }
    };
    let torn = path.with_file_name("torn.redb");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 23) {
        let mut damaged = whole.clone();
        let end = (at + 700).min(damaged.len());
        damaged[at..end].fill(0x55);
        fs::File::create(&torn)
            .unwrap()
            .write_all(&damaged)
            .unwrap();
        match std::panic::catch_unwind(|| Embedded::open(&torn)) {
            Ok(Ok(store)) => {
                let listing = store.list("a").await.unwrap();
                assert_eq!(listing.entries.len(), 200, "damaged at {at}");
                for entry in listing.entries {
                    let number = entry.key.strip_prefix("a/").unwrap();
                    assert_eq!(entry.value, number.repeat(300), "damaged at {at}");
                }
            }
            Ok(Err(error)) => {
                refused += 1;
                assert!(error.to_string().contains("torn.redb"), "{error}");
            }
            Err(_) => panic!("opening a file damaged at {at} panics"),
        }
        fs::remove_file(&torn).unwrap();
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn of_many_who_swap_at_once_one_wins() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let tries = (0..64).map(|number: u32| {
        let store = store.clone();
        async move {
            store
                .swap("lock", Expected::Absent, number.to_string().into())
                .await
        }
    });
    let outcomes = join_all(tries).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let lost = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    for error in lost {
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_swap_or_delete_at_an_old_revision_changes_nothing() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let old = store.put("a", "1".into()).await.unwrap();
    let new = store
        .swap("a", Expected::At(old), "2".into())
        .await
        .unwrap();
    let swap = store.swap("a", Expected::At(old), "3".into()).await;
    assert!(matches!(swap, Err(StoreError::Conflict { .. })));
    let delete = store.delete("a", Some(old)).await;
    assert!(matches!(delete, Err(StoreError::Conflict { .. })));
    assert_eq!(value(&store, "a").await.unwrap(), "2");
    assert!(store.delete("a", Some(new)).await.unwrap());
    assert!(!store.delete("a", Some(new)).await.unwrap());
}

#[tokio::test]
async fn a_watch_tells_what_happened_since_its_listing_and_after() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    store.put("a/old", "1".into()).await.unwrap();
    let listing = store.list("a").await.unwrap();
    assert_eq!(listing.entries.len(), 1);
    store.delete("a/old", None).await.unwrap();
    let mut watch = store.watch(listing).await.unwrap();
    assert_eq!(
        watch.next().await.unwrap(),
        [Change::Deleted("a/old".to_owned())]
    );
    store.put("ab", "elsewhere".into()).await.unwrap();
    let revision = store.put("a/new", "2".into()).await.unwrap();
    let expected = Change::Put(Entry {
        key: "a/new".to_owned(),
        value: "2".into(),
        revision,
    });
    assert_eq!(watch.next().await.unwrap(), [expected]);
}

#[tokio::test]
async fn a_watch_that_falls_behind_still_ends_at_the_truth() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let mut watch = store.watch(store.list("a").await.unwrap()).await.unwrap();
    let rounds = WATCH_QUEUE + 50;
    for round in 0..rounds {
        store.put("a/key", round.to_string().into()).await.unwrap();
    }
    let last = (rounds - 1).to_string();
    let mut seen = Vec::new();
    while !seen.ends_with(&[Bytes::from(last.clone())]) {
        for change in watch.next().await.unwrap() {
            match change {
                Change::Put(entry) => seen.push(entry.value),
                Change::Deleted(key) => panic!("{key} was never deleted"),
            }
        }
    }
    assert!(seen.len() <= rounds);
}

#[tokio::test]
async fn keys_of_a_session_end_with_it() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let session = store.session(Duration::from_secs(5)).await.unwrap();
    let first = session.create("leader", "me".into()).await.unwrap();
    let second = session.create("leader", "me again".into()).await;
    assert!(matches!(second, Err(StoreError::Conflict { .. })));
    session.put("nodes/1", "here".into()).await.unwrap();
    session.put("nodes/2", "here".into()).await.unwrap();
    // Whoever puts a key without a session makes it last.
    store.put("nodes/2", "to stay".into()).await.unwrap();
    session.end().await.unwrap();
    assert_eq!(value(&store, "leader").await, None);
    assert_eq!(value(&store, "nodes/1").await, None);
    assert_eq!(value(&store, "nodes/2").await.unwrap(), "to stay");
    let next = store.session(Duration::from_secs(5)).await.unwrap();
    let token = next.create("leader", "you".into()).await.unwrap();
    assert!(token > first);
}

#[tokio::test]
async fn keys_of_a_process_that_died_are_gone() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let session = store.session(Duration::from_secs(5)).await.unwrap();
    session.create("leader", "me".into()).await.unwrap();
    // What a killed process leaves behind is the file as it is now.
    let copy = path.with_file_name("copy.redb");
    fs::copy(&path, &copy).unwrap();
    let store = Embedded::open(&copy).unwrap();
    assert_eq!(value(&store, "leader").await, None);
}

#[tokio::test]
async fn values_and_keys_beyond_the_limits_are_refused() {
    let (_directory, path) = file();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&path).unwrap());
    let large = Bytes::from(vec![0; MAX_VALUE + 1]);
    let error = store.put("a", large).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }));
    assert!(error.to_string().contains("`a`"), "{error}");
    let error = store.put("a//b", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::BadKey(_)));
    store.put("a", vec![0; MAX_VALUE].into()).await.unwrap();
}
