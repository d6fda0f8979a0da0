//! How many copies of a container run, seen on this machine itself: no engine and no manager is
//! asked, so that it does not matter who is cut off from whom.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use crate::{bed::Bed, fleet::IMAGE, manager::eventually};

/// How often the copies are counted.
const INTERVAL: Duration = Duration::from_millis(10);

/// Counts, all the time, how many processes of a container run on this machine.
pub struct Watched {
    seconds: String,
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl Watched {
    /// Starts container `name` with `options` of `docker run` and counts its copies from then on.
    pub fn start(bed: &Bed, name: &str, options: &[&str]) -> Self {
        // Long enough to be told from all other processes of the machine.
        let seconds = format!("9{:09}", rand::random_range(0..1_000_000_000_u32));
        let mut run = vec!["run", "-d", "--name", name];
        run.extend(options);
        run.extend([IMAGE, "sleep", &seconds]);
        bed.docker.ok(&run);
        let watched = Self::new(&seconds);
        eventually("it runs", || (watched.now() == 1).then_some(()));
        watched
    }

    fn new(seconds: &str) -> Self {
        let most = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let sampler = {
            let (seconds, most, stop) = (seconds.to_owned(), Arc::clone(&most), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(count(&seconds), Ordering::Relaxed);
                    sleep(INTERVAL);
                }
            })
        };
        Self {
            seconds: seconds.to_owned(),
            most,
            stop,
            sampler: Some(sampler),
        }
    }

    /// How many copies run at this moment.
    pub fn now(&self) -> usize {
        count(&self.seconds)
    }

    /// Waits until so many copies run.
    #[track_caller]
    pub fn await_count(&self, wanted: usize) {
        eventually(&format!("{wanted} copies run"), || {
            (self.now() == wanted).then_some(())
        });
    }

    /// The most copies that ever ran at one moment.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
    }
}

/// Sees for a while that exactly one copy of each runs.
#[track_caller]
pub fn run_on_for(all: &[&Watched], time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for watched in all {
            assert_eq!(watched.now(), 1);
        }
        sleep(INTERVAL);
    }
}

/// How many processes sleep for so many seconds and are not frozen, as those of a paused container
/// are.
fn count(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let paths = processes.map(|process| process.path());
    let is_copy = |path: &PathBuf| {
        let line = fs::read(path.join("cmdline"));
        line.is_ok_and(|line| line == wanted.as_bytes()) && !is_frozen(path)
    };
    paths.filter(is_copy).count()
}

/// Whether a process is in a frozen group, of either version of groups.
fn is_frozen(process: &Path) -> bool {
    let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    groups.lines().any(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            return false;
        };
        let (file, wanted) = match controllers {
            "" => (format!("/sys/fs/cgroup{path}/cgroup.events"), "frozen 1"),
            "freezer" => {
                let file = format!("/sys/fs/cgroup/freezer{path}/freezer.state");
                (file, "FROZEN")
            }
            _ => return false,
        };
        let state = fs::read_to_string(file).unwrap_or_default();
        state.lines().any(|line| line == wanted)
    })
}
