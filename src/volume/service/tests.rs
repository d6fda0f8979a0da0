use std::{collections::BTreeSet, fs, path::Path};

use futures_util::future::join_all;
use tokio::sync::Notify;

use super::*;
use crate::volume::double::{Double, Step};

/// A node: what stays when the agent goes.
struct Node {
    double: Arc<Double>,
    state: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self {
            double: Double::new(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts the agent; one that is there already counts as killed, whatever it waits for.
    fn start(&self) -> Service {
        self.start_with(Limits::default())
    }

    fn start_with(&self, limits: Limits) -> Service {
        let ledger = Ledger::open(&self.ledger()).unwrap();
        let driver: Arc<dyn Driver> = Arc::clone(&self.double) as _;
        Service::try_new(driver, ledger, limits).unwrap()
    }

    fn ledger(&self) -> PathBuf {
        self.state.path().join("mounts")
    }

    /// How many volumes the ledger has something about.
    fn records(&self) -> usize {
        let files = fs::read_dir(self.ledger()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".engine").count()
    }

    /// Keeps the ledger from being written, until [`Node::ledger_back`].
    fn ledger_away(&self) {
        take_away(self.state.path());
    }

    fn ledger_back(&self) {
        fs::rename(self.state.path().join("away"), self.ledger()).unwrap();
    }

    /// Checks that nothing is mounted, and that nothing is left of it.
    fn check_nothing_is_mounted(&self) {
        assert_eq!(self.double.mounted(), [""; 0]);
        assert_eq!(self.records(), 0);
    }
}

fn take_away(state: &Path) {
    fs::rename(state.join("mounts"), state.join("away")).unwrap();
}

async fn create(service: &Service, name: &str) {
    service.create(name, BTreeMap::new()).await.unwrap();
}

fn text<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_driver_hears_of_the_first_and_the_last_mount() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    assert_eq!(service.path("data").await.unwrap(), None);
    node.double.asked();

    let path = PathBuf::from("/mnt/data");
    assert_eq!(service.mount("data", "a").await.unwrap(), path);
    assert_eq!(service.mount("data", "b").await.unwrap(), path);
    service.unmount("data", "a").await.unwrap();
    assert_eq!(node.double.asked(), ["mount data"]);
    assert_eq!(service.path("data").await.unwrap(), Some(path.clone()));
    assert_eq!(service.list().await.unwrap()[0].mountpoint, Some(path));
    node.double.asked();

    service.unmount("data", "b").await.unwrap();
    assert_eq!(node.double.asked(), ["unmount data"]);
    assert_eq!(service.get("data").await.unwrap().mountpoint, None);
    assert_eq!(service.list().await.unwrap()[0].mountpoint, None);
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn an_id_that_mounts_twice_unmounts_twice() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    // A container that runs, and `docker cp` to it.
    service.mount("data", "a").await.unwrap();
    service.mount("data", "a").await.unwrap();
    service.unmount("data", "a").await.unwrap();
    assert_eq!(node.double.mounted(), ["data"]);
    service.unmount("data", "a").await.unwrap();
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn unmounting_what_is_not_mounted_is_done() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    service.unmount("data", "a").await.unwrap();
    service.mount("data", "a").await.unwrap();
    node.double.asked();
    service.unmount("data", "other").await.unwrap();
    service.unmount("nothing", "a").await.unwrap();
    assert_eq!(node.double.asked(), [""; 0]);
    assert_eq!(node.double.mounted(), ["data"]);
}

#[tokio::test]
async fn what_is_mounted_is_not_removed() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    assert_eq!(text(service.remove("data").await), "volume is in use");
    assert_eq!(node.double.volumes(), ["data"]);
    service.unmount("data", "a").await.unwrap();
    service.remove("data").await.unwrap();
    assert_eq!(node.double.volumes(), [""; 0]);
    assert_eq!(text(service.get("data").await), "no such volume");
    assert_eq!(text(service.path("data").await), "no such volume");
    assert_eq!(text(service.mount("data", "a").await), "no such volume");
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_mount_that_fails_leaves_nothing() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    node.double.next("mount", Step::Fails("the server is down"));
    assert_eq!(text(service.mount("data", "a").await), "the server is down");
    node.check_nothing_is_mounted();
    service.mount("data", "a").await.unwrap();
}

#[tokio::test]
async fn an_unmount_that_fails_is_asked_for_again() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    for retry in ["unmount", "remove"] {
        service.mount("data", "a").await.unwrap();
        node.double.next("unmount", Step::Fails("busy"));
        assert_eq!(text(service.unmount("data", "a").await), "busy");
        assert_eq!(service.path("data").await.unwrap(), None);
        node.double.next("unmount", Step::Fails("still busy"));
        assert_eq!(text(service.remove("data").await), "still busy");
        match retry {
            "unmount" => service.unmount("data", "a").await.unwrap(),
            _ => service.remove("data").await.unwrap(),
        }
        node.check_nothing_is_mounted();
    }
}

#[tokio::test]
async fn after_a_trap_the_driver_is_asked_again() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    let trap = || {
        node.double.next("mount", Step::Traps);
        service.mount("data", "a")
    };
    assert_eq!(text(trap().await), "the plugin trapped");
    assert_eq!(node.double.mounted(), ["data"]);
    assert_eq!(service.path("data").await.unwrap(), None, "for nobody");
    service.mount("data", "a").await.unwrap();
    service.unmount("data", "a").await.unwrap();
    node.check_nothing_is_mounted();

    assert_eq!(text(trap().await), "the plugin trapped");
    service.unmount("data", "a").await.unwrap();
    node.check_nothing_is_mounted();

    assert_eq!(text(trap().await), "the plugin trapped");
    service.remove("data").await.unwrap();
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_create_that_was_lost_is_what_the_driver_has() {
    let node = Node::new();
    let service = node.start();
    node.double.next("create", Step::Traps);
    let trapped = service.create("data", BTreeMap::new()).await;
    assert_eq!(text(trapped), "the plugin trapped");
    assert_eq!(service.get("data").await.unwrap().info.name, "data");
    node.double.next("create", Step::Fails("no room"));
    let failed = service.create("more", BTreeMap::new()).await;
    assert_eq!(text(failed), "no room");
    assert_eq!(service.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_driver_that_hangs_fails_that_call_alone() {
    let node = Node::new();
    let service = node.start();
    create(&service, "slow").await;
    create(&service, "data").await;
    let hasty = node.start_with(Limits {
        change_timeout: Duration::from_secs(2),
        query_timeout: Duration::from_millis(10),
        ..Limits::default()
    });
    node.double.next("mount", Step::HangsAfter);
    let meanwhile = async {
        while node.double.mounted().is_empty() {
            tokio::task::yield_now().await;
        }
        let waiting = hasty.get("slow").await;
        service.mount("data", "b").await.unwrap();
        waiting
    };
    let (hanging, waiting) = tokio::join!(hasty.mount("slow", "a"), meanwhile);
    let expected = "volume driver `double` did not answer within 2s";
    assert_eq!(text(hanging), expected);
    let expected = "volume driver `double` is busy with other calls";
    assert_eq!(text(waiting), expected);
    service.unmount("data", "b").await.unwrap();
    // Nobody knows whether it is mounted, so whoever comes next finds out.
    assert_eq!(node.double.mounted(), ["slow"]);
    assert_eq!(service.path("slow").await.unwrap(), None);
    service.remove("slow").await.unwrap();
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_host_that_breaks_breaks_one_call() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    node.double.next("mount", Step::Panics);
    let broken = service.mount("data", "a").await;
    assert!(matches!(broken, Err(CallError::Broken)), "{broken:?}");
    service.mount("data", "a").await.unwrap();
    service.unmount("data", "a").await.unwrap();
    assert_eq!(service.inner.turns.len(), 0);
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_call_goes_on_without_its_caller() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    let go = Arc::new(Notify::new());
    node.double.next("mount", Step::Waits(Arc::clone(&go)));
    let caller = tokio::spawn({
        let service = service.clone();
        async move { service.mount("data", "a").await }
    });
    while !node.double.asked().contains(&"mount data".to_owned()) {
        tokio::task::yield_now().await;
    }
    caller.abort();
    caller.await.unwrap_err();
    go.notify_one();
    service.drain().await;
    assert_eq!(node.double.mounted(), ["data"]);
    let path = service.path("data").await.unwrap();
    assert_eq!(path, Some("/mnt/data".into()));
}

#[tokio::test]
async fn mounts_survive_the_agent() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    node.double.asked();

    let service = node.start();
    let path = Some(PathBuf::from("/mnt/data"));
    assert_eq!(service.path("data").await.unwrap(), path);
    service.reconcile().await;
    assert_eq!(node.double.asked(), ["get data", "mount data"]);
    assert_eq!(text(service.remove("data").await), "volume is in use");
    service.mount("data", "b").await.unwrap();
    assert_eq!(node.double.asked(), [""; 0], "it was asked already");

    // Without waiting for the start to be done.
    let service = node.start();
    service.mount("data", "c").await.unwrap();
    assert_eq!(node.double.asked(), ["mount data"]);
    for id in ["a", "b", "c"] {
        assert_eq!(node.double.mounted(), ["data"]);
        service.unmount("data", id).await.unwrap();
    }
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_volume_that_cannot_be_mounted_again_is_left_to_the_next_mount() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();

    let service = node.start();
    node.double.next("mount", Step::Fails("down"));
    service.reconcile().await;
    node.double.next("mount", Step::Fails("down"));
    assert_eq!(text(service.mount("data", "b").await), "down");
    service.mount("data", "b").await.unwrap();
    service.unmount("data", "b").await.unwrap();
    assert_eq!(node.double.mounted(), ["data"], "`a` is still there");
}

/// An agent is killed in the middle of a call, before or after the driver did what it was to do.
#[tokio::test]
async fn a_crash_in_the_middle_of_a_call_leaves_nothing() {
    for call in ["mount", "unmount"] {
        for after in [false, true] {
            let node = Node::new();
            let service = node.start();
            create(&service, "data").await;
            if call == "unmount" {
                service.mount("data", "a").await.unwrap();
            }
            node.double.asked();
            let step = if after {
                Step::HangsAfter
            } else {
                Step::HangsBefore
            };
            node.double.next(call, step);
            let killed = tokio::spawn({
                let service = service.clone();
                async move {
                    match call {
                        "mount" => drop(service.mount("data", "a").await),
                        _ => drop(service.unmount("data", "a").await),
                    }
                }
            });
            let done = (call == "mount") == after;
            let asked = format!("{call} data");
            while !node.double.asked().contains(&asked) {
                tokio::task::yield_now().await;
            }
            while node.double.mounted().is_empty() == done {
                tokio::task::yield_now().await;
            }
            killed.abort();
            node.double.forget_calls();

            let service = node.start();
            let path = service.path("data").await.unwrap();
            assert_eq!(path, None, "{call}, {after}");
            service.reconcile().await;
            node.check_nothing_is_mounted();
            // The engine asks again, as its connection broke.
            match call {
                "mount" => drop(service.mount("data", "a").await.unwrap()),
                _ => service.unmount("data", "a").await.unwrap(),
            }
            assert_eq!(node.double.mounted().is_empty(), call == "unmount");
        }
    }
}

#[tokio::test]
async fn nothing_is_done_that_cannot_be_recorded() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    node.double.asked();
    // The intent.
    node.ledger_away();
    let error = text(service.mount("data", "a").await);
    assert!(error.starts_with("cannot write `"), "{error}");
    assert_eq!(node.double.asked(), [""; 0]);
    node.ledger_back();

    // That it is done.
    let state = node.state.path().to_owned();
    node.double
        .next("mount", Step::And(Box::new(move || take_away(&state))));
    let error = text(service.mount("data", "a").await);
    assert!(error.starts_with("cannot write `"), "{error}");
    assert_eq!(node.double.asked(), ["mount data", "unmount data"]);
    node.ledger_back();
    assert_eq!(service.path("data").await.unwrap(), None);
    let service = node.start();
    service.reconcile().await;
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_mount_or_unmount_that_is_only_counted_fails_if_it_cannot_be() {
    let node = Node::new();
    let service = node.start();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    // A file cannot take the place of a directory, and a directory cannot be read.
    let record = node.ledger().join("data");
    let kept = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let error = text(service.mount("data", "b").await);
    assert!(error.starts_with("cannot read `"), "{error}");
    let error = text(service.unmount("data", "a").await);
    assert!(error.starts_with("cannot read `"), "{error}");
    assert_eq!(node.double.mounted(), ["data"]);
    fs::remove_dir(&record).unwrap();
    fs::write(&record, kept).unwrap();
    service.unmount("data", "a").await.unwrap();
    node.check_nothing_is_mounted();
}

async fn engine(service: &Service, process: &str) {
    service.activate(Some(process.to_owned())).await.unwrap();
}

#[tokio::test]
async fn what_an_engine_forgot_does_not_keep_a_volume() {
    let node = Node::new();
    let service = node.start();
    engine(&service, "1:1").await;
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    engine(&service, "1:1").await;
    assert_eq!(text(service.remove("data").await), "volume is in use");

    // Also if the agent is another one by then.
    let service = node.start();
    assert_eq!(text(service.remove("data").await), "volume is in use");
    engine(&service, "2:2").await;
    assert_eq!(
        node.double.mounted(),
        ["data"],
        "a container may be running"
    );
    service.remove("data").await.unwrap();
    assert_eq!(node.double.volumes(), [""; 0]);
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn an_engine_counts_from_the_start() {
    let node = Node::new();
    let service = node.start();
    engine(&service, "1:1").await;
    create(&service, "data").await;
    for id in ["a", "a", "b", "b"] {
        service.mount("data", id).await.unwrap();
    }
    engine(&service, "2:2").await;
    // It starts the container of `a` anew, and stops that of `b`, which it found running.
    service.mount("data", "a").await.unwrap();
    service.unmount("data", "b").await.unwrap();
    assert_eq!(node.double.mounted(), ["data"]);
    assert_eq!(text(service.remove("data").await), "volume is in use");
    service.unmount("data", "a").await.unwrap();
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn an_engine_that_cannot_be_told_from_others_is_a_new_one() {
    let node = Node::new();
    let service = node.start();
    service.activate(None).await.unwrap();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    service.activate(None).await.unwrap();
    service.remove("data").await.unwrap();
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn many_volumes_at_a_time_leave_nothing() {
    let node = Node::new();
    let service = node.start();
    let whole_life = |number: usize| {
        let service = service.clone();
        async move {
            let name = format!("volume-{number}");
            create(&service, &name).await;
            // Two of them at a time, which the double would not stand.
            let (one, other) = tokio::join!(service.mount(&name, "a"), service.mount(&name, "b"));
            assert_eq!(one.unwrap(), other.unwrap());
            assert_eq!(text(service.remove(&name).await), "volume is in use");
            let (one, other) =
                tokio::join!(service.unmount(&name, "a"), service.unmount(&name, "b"));
            one.unwrap();
            other.unwrap();
            service.remove(&name).await.unwrap();
        }
    };
    join_all((0..200).map(whole_life)).await;
    assert!(node.double.most_calls() <= 64);
    assert_eq!(node.double.volumes(), [""; 0]);
    assert_eq!(service.list().await.unwrap(), []);
    assert_eq!(service.inner.turns.len(), 0);
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn calls_wait_up_to_a_bound() {
    let node = Node::new();
    let service = node.start_with(Limits {
        concurrent_calls: 1,
        waiting_calls: 1,
        ..Limits::default()
    });
    let go = Arc::new(Notify::new());
    node.double.next("create", Step::Waits(Arc::clone(&go)));
    let first = service.create("first", BTreeMap::new());
    let rest = async {
        while node.double.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = service.create("second", BTreeMap::new());
        let third = async {
            while service.inner.admitted.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let refused = text(service.list().await);
            go.notify_one();
            refused
        };
        tokio::join!(second, third)
    };
    let (first, (second, third)) = tokio::join!(first, rest);
    first.unwrap();
    second.unwrap();
    let expected = "volume driver `double` has too many calls to answer, try again later";
    assert_eq!(third, expected);
    assert_eq!(node.double.most_calls(), 1);
}

#[tokio::test]
async fn names_and_ids_are_checked() {
    let node = Node::new();
    let service = node.start();
    let longest = "x".repeat(255);
    for name in ["a", "A.b-c_9", longest.as_str()] {
        create(&service, name).await;
        service.mount(name, "a").await.unwrap();
        service.unmount(name, "a").await.unwrap();
        service.remove(name).await.unwrap();
    }
    let too_long = "x".repeat(256);
    let names = [
        "", ".", "..", ".engine", "-a", "a/b", "../a", "a b", "ä", "a\0", &too_long,
    ];
    for name in names {
        let refused = service.create(name, BTreeMap::new()).await;
        assert!(matches!(refused, Err(CallError::Name(_))), "{name}");
    }
    for id in ["", "x".repeat(257).as_str()] {
        let refused = service.mount("data", id).await;
        assert!(matches!(refused, Err(CallError::Id)), "{id}");
    }
}

/// An engine whose containers use these volumes; `None` if it does not answer.
#[derive(Default)]
struct Engine(Mutex<Option<Vec<&'static str>>>);

impl Engine {
    fn uses(&self, volumes: &[&'static str]) {
        *self.0.lock().unwrap() = Some(volumes.to_vec());
    }
}

#[async_trait::async_trait]
impl Containers for Engine {
    async fn use_volume(&self, name: &str) -> Result<bool, String> {
        let known = self.0.lock().unwrap();
        let volumes = known.as_ref().ok_or("no answer")?;
        Ok(volumes.contains(&name))
    }
}

/// Looks twice, as [`Service::sweep`] does in two periods.
async fn sweep(service: &Service, engine: &Arc<Engine>) {
    let containers: Arc<dyn Containers> = Arc::clone(engine) as _;
    let unused = service.sweep_once(&containers, &BTreeSet::new()).await;
    service.sweep_once(&containers, &unused).await;
}

#[tokio::test]
async fn what_no_container_uses_is_unmounted_when_its_engine_is_gone() {
    let node = Node::new();
    let service = node.start();
    let engine = Arc::new(Engine::default());
    service.activate(Some("first".to_owned())).await.unwrap();
    for name in ["alive", "dead"] {
        create(&service, name).await;
        service.mount(name, name).await.unwrap();
    }
    engine.uses(&[]);
    sweep(&service, &engine).await;
    assert_eq!(node.double.mounted(), ["alive", "dead"], "the engine lives");

    service.activate(Some("second".to_owned())).await.unwrap();
    *engine.0.lock().unwrap() = None;
    sweep(&service, &engine).await;
    assert_eq!(
        node.double.mounted(),
        ["alive", "dead"],
        "it does not answer"
    );
    engine.uses(&["alive"]);
    sweep(&service, &engine).await;
    assert_eq!(node.double.mounted(), ["alive"]);

    // The container that was restored is gone, another one came.
    engine.uses(&[]);
    service.mount("alive", "new").await.unwrap();
    sweep(&service, &engine).await;
    assert_eq!(node.double.mounted(), ["alive"]);
    service.unmount("alive", "new").await.unwrap();
    assert_eq!(node.double.mounted(), ["alive"]);
    sweep(&service, &engine).await;
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn what_is_unused_for_a_moment_stays_mounted() {
    let node = Node::new();
    let service = node.start();
    let engine = Arc::new(Engine::default());
    let containers: Arc<dyn Containers> = Arc::clone(&engine) as _;
    service.activate(Some("first".to_owned())).await.unwrap();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    service.activate(Some("second".to_owned())).await.unwrap();
    engine.uses(&[]);
    let unused = service.sweep_once(&containers, &BTreeSet::new()).await;
    assert_eq!(unused.len(), 1);
    engine.uses(&["data"]);
    let unused = service.sweep_once(&containers, &unused).await;
    assert_eq!(unused.len(), 0);
    engine.uses(&[]);
    service.sweep_once(&containers, &unused).await;
    assert_eq!(node.double.mounted(), ["data"]);
}

#[tokio::test]
async fn the_process_that_mounted_counts_no_more_when_it_is_gone() {
    let node = Node::new();
    let service = node.start();
    let engine = Arc::new(Engine::default());
    // No process has such a number.
    service
        .activate(Some("999999999:1".to_owned()))
        .await
        .unwrap();
    create(&service, "data").await;
    service.mount("data", "a").await.unwrap();
    engine.uses(&["data"]);
    sweep(&service, &engine).await;
    assert_eq!(node.double.mounted(), ["data"]);
    engine.uses(&[]);
    sweep(&service, &engine).await;
    node.check_nothing_is_mounted();
}

#[tokio::test]
async fn a_mount_whose_answer_was_lost_is_taken_back() {
    let node = Node::new();
    let service = node.start();
    let engine = Arc::new(Engine::default());
    create(&service, "data").await;
    node.double.next("mount", Step::Traps);
    service.mount("data", "a").await.unwrap_err();
    assert_eq!(node.double.mounted(), ["data"]);
    node.double.next("unmount", Step::Fails("busy"));
    sweep(&service, &engine).await;
    assert_eq!(node.double.mounted(), ["data"]);
    sweep(&service, &engine).await;
    node.check_nothing_is_mounted();
}
