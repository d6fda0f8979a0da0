//! Volume drivers that `skep join` serves, used by stock engines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use skep_fleet::stores::{Extra, Kind, Server};
use tempfile::TempDir;

use crate::{
    bed::Bed,
    docker::Docker,
    fleet::{Fleet, IMAGE},
    manager::{FAST_FAIL, eventually},
};

mod filesystems;
mod restarts;

const SKEP: &str = env!("CARGO_BIN_EXE_skep");

/// What makes containers move.
const MOVES: &str = "reschedule:on-node-failure";

/// Engines for one test alone: an engine remembers drivers that are gone, and the volumes in them.
fn engines(purpose: &str, count: usize) -> Fleet {
    Fleet::start(&format!("drivers-{purpose}"), count, "")
}

/// Agents that serve volume drivers beside the engines of a fleet.
struct Nodes {
    agents: Vec<Child>,
    /// What ends the agent of each node.
    endings: Vec<Command>,
    server: Server,
    directory: TempDir,
}

impl Nodes {
    /// Starts an agent beside each of the first `count` engines. In `drivers` `ROOT` stands for a
    /// directory that all nodes share.
    fn start(fleet: &Fleet, count: usize, drivers: &str) -> Self {
        let extra = Extra {
            host: Some(fleet.gateway()),
            ..Extra::default()
        };
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("shared")).unwrap();
        let mut nodes = Self {
            agents: Vec::new(),
            endings: Vec::new(),
            server: Server::start_with(Kind::Etcd, extra),
            directory,
        };
        for index in 0..count {
            nodes.add(fleet, index, drivers);
            nodes.await_drivers(fleet, index);
        }
        nodes
    }

    /// Starts an agent beside an engine that had none, and does not wait for its drivers.
    fn add(&mut self, fleet: &Fleet, index: usize, drivers: &str) {
        let state = self.state(index);
        fs::create_dir(&state).unwrap();
        let shared = self.directory.path().join("shared");
        let drivers = drivers.replace("ROOT", &shared.display().to_string());
        let text = format!(
            "[agent]\nunused-grace = \"500ms\"\nstate-directory = \"{}\"\n{drivers}",
            state.display()
        );
        fs::write(state.join("config.toml"), text).unwrap();
        self.endings.push(ending(fleet, index, "-9"));
        self.agent(fleet, index);
    }

    /// What the agent of a node keeps.
    fn state(&self, index: usize) -> PathBuf {
        self.directory.path().join(index.to_string())
    }

    /// Where a driver of a node has its volumes.
    fn root(&self, index: usize, driver: &str) -> PathBuf {
        self.state(index).join("volumes").join(driver)
    }

    fn agent(&mut self, fleet: &Fleet, index: usize) {
        let config = self.state(index).join("config.toml");
        let mut command = fleet.command(index, SKEP);
        command
            .args(["join", "--advertise", &fleet.addresses()[index]])
            .args(["--heartbeat", "1s", "--ttl", "4s", "--no-fencing"])
            .arg(format!("--config={}", config.display()))
            .arg(format!("{}/test", self.server.url()))
            .stdin(Stdio::null());
        self.agents.push(command.spawn().unwrap());
    }

    /// Waits until an engine can use the drivers of its agent.
    fn await_drivers(&self, fleet: &Fleet, index: usize) {
        let engine = fleet.engine(index);
        let drivers = fs::read_to_string(self.state(index).join("config.toml")).unwrap();
        for line in drivers.lines() {
            let name = line.strip_prefix("[volume-drivers.");
            let Some(name) = name.and_then(|name| name.strip_suffix(']')) else {
                continue;
            };
            // What makes no sense to the driver is answered by the driver.
            eventually("the driver answers the engine", || {
                let create = ["volume", "create", "-d", name, "-o", "first=1", "first"];
                engine.run(&create).stderr.contains("`first`").then_some(())
            });
        }
    }

    /// Ends the agent of a node without a word, and starts another.
    fn replace_agent(&mut self, fleet: &Fleet, index: usize) {
        end(fleet, index, "-9");
        self.agent(fleet, index);
        self.await_drivers(fleet, index);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            // This ends what entered the namespaces, and not the agent inside.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for ending in &mut self.endings {
            // There may be no agent left, nor an engine.
            let _ = ending.stderr(Stdio::null()).status();
        }
    }
}

/// The command that sends a signal to the agent of a node.
fn ending(fleet: &Fleet, index: usize, signal: &str) -> Command {
    let mut command = fleet.command(index, "pkill");
    command.args([signal, "-f", "skep join"]);
    command
}

/// Ends the agent of a node.
fn end(fleet: &Fleet, index: usize, signal: &str) {
    assert!(ending(fleet, index, signal).status().unwrap().success());
    eventually("the agent is gone", || {
        (!fleet.runs(index, "skep join")).then_some(())
    });
}

/// What is mounted below a directory of a node.
fn mounts(fleet: &Fleet, index: usize, below: &Path) -> Vec<String> {
    let output = fleet
        .command(index, "cat")
        .arg("/proc/self/mountinfo")
        .output()
        .unwrap();
    let below = below.display().to_string();
    let table = String::from_utf8(output.stdout).unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.filter(|point| point.starts_with(&below));
    points.map(str::to_owned).collect()
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Runs a script in a container that has a volume at `/data`.
fn script(engine: &Docker, driver: &str, volume: &str, script: &str) -> String {
    let mount = format!("{volume}:/data");
    let run = ["run", "--rm", "--volume-driver", driver, "-v", &mount];
    engine.ok(&[&run[..], &[IMAGE, "sh", "-c", script]].concat())
}

#[test]
fn engines_use_the_drivers_of_their_agents() {
    let fleet = engines("use", 1);
    let drivers = "[volume-drivers.data]\ndriver = \"local\"\n[volume-drivers.tmpfs]\n\
                   [volume-drivers.snapshot]\n";
    let nodes = Nodes::start(&fleet, 1, drivers);
    let engine = fleet.engine(0);

    engine.ok(&[
        "volume",
        "create",
        "-d",
        "data",
        "-o",
        "mode=0750",
        "-o",
        "uid=7",
        "alpha",
    ]);
    script(&engine, "data", "alpha", "echo hello > /data/file");
    assert_eq!(
        script(
            &engine,
            "data",
            "alpha",
            "cat /data/file; stat -c %u:%a /data"
        ),
        "hello\n7:750"
    );
    // A volume that is not there is made.
    script(&engine, "data", "beta", "echo other > /data/file");
    assert_eq!(entries(&nodes.root(0, "data")).len(), 2);
    let inspect = ["volume", "inspect", "-f", "{{.Driver}} {{.Scope}}", "alpha"];
    assert_eq!(engine.ok(&inspect), "data local");
    let created_at = engine.ok(&["volume", "inspect", "-f", "{{.CreatedAt}}", "alpha"]);
    let created_at: chrono::DateTime<chrono::Utc> = created_at.parse().unwrap();
    let age = chrono::Utc::now() - created_at;
    assert!((0..3600).contains(&age.num_seconds()), "{created_at}");
    let refused = engine.refused(&["volume", "create", "-d", "data", "-o", "size=1g", "c"]);
    assert!(
        refused.contains("has no project quotas in force"),
        "{refused}"
    );

    engine.ok(&["volume", "create", "-d", "tmpfs", "-o", "size=1m", "memory"]);
    let sleep = [
        "run",
        "-d",
        "--name",
        "sleeper",
        "-v",
        "memory:/data",
        IMAGE,
        "sleep",
        "600",
    ];
    engine.ok(&sleep);
    let mounted = engine.ok(&["exec", "sleeper", "grep", " /data ", "/proc/mounts"]);
    assert!(
        mounted.contains("tmpfs") && mounted.contains("size=1024k"),
        "{mounted}"
    );
    let in_use = engine.refused(&["volume", "rm", "memory"]);
    assert!(in_use.contains("in use"), "{in_use}");
    engine.ok(&["rm", "-f", "sleeper"]);
    assert!(mounts(&fleet, 0, &nodes.root(0, "tmpfs")).is_empty());

    script(&engine, "snapshot", "db", "echo old > /data/file");
    engine.ok(&[
        "volume",
        "create",
        "-d",
        "snapshot",
        "-o",
        "snapshot-of=db",
        "monday",
    ]);
    script(&engine, "snapshot", "db", "echo new > /data/file");
    engine.ok(&[
        "volume",
        "create",
        "-d",
        "snapshot",
        "-o",
        "restore=monday",
        "before",
    ]);
    assert_eq!(script(&engine, "snapshot", "db", "cat /data/file"), "old");
    assert_eq!(
        script(&engine, "snapshot", "before", "cat /data/file"),
        "new"
    );
    let status = [
        "volume",
        "inspect",
        "-f",
        "{{index .Status \"snapshot-of\"}}",
        "before",
    ];
    assert_eq!(engine.ok(&status), "db");

    let all = engine.lines(&["volume", "ls", "-q"]);
    engine.ok(&[
        &["volume", "rm"][..],
        &all.iter().map(String::as_str).collect::<Vec<_>>(),
    ]
    .concat());
    for driver in ["data", "tmpfs", "snapshot"] {
        assert!(entries(&nodes.root(0, driver)).is_empty(), "{driver}");
    }
    end(&fleet, 0, "-TERM");
}

#[test]
fn a_mount_outlives_its_agent() {
    let fleet = engines("outlive", 1);
    let mut nodes = Nodes::start(&fleet, 1, "[volume-drivers.tmpfs]\n");
    let engine = fleet.engine(0);
    for name in ["one", "other"] {
        let run = [
            "run",
            "-d",
            "--name",
            name,
            "--volume-driver",
            "tmpfs",
            "-v",
            "memory:/data",
        ];
        engine.ok(&[&run[..], &[IMAGE, "sleep", "600"]].concat());
    }
    engine.ok(&["exec", "one", "sh", "-c", "echo kept > /data/file"]);
    nodes.replace_agent(&fleet, 0);
    assert_eq!(engine.ok(&["exec", "other", "cat", "/data/file"]), "kept");
    engine.ok(&["rm", "-f", "one"]);
    assert_eq!(engine.ok(&["exec", "other", "cat", "/data/file"]), "kept");
    assert_eq!(mounts(&fleet, 0, &nodes.root(0, "tmpfs")).len(), 1);
    nodes.replace_agent(&fleet, 0);
    engine.ok(&["rm", "-f", "other"]);
    eventually("nothing is mounted any more", || {
        mounts(&fleet, 0, &nodes.root(0, "tmpfs"))
            .is_empty()
            .then_some(())
    });
    engine.ok(&["volume", "rm", "memory"]);
    end(&fleet, 0, "-TERM");
}

#[test]
fn a_driver_that_misbehaves_fails_one_container() {
    let fleet = engines("unruly", 1);
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/dist/unruly-volume.wasm");
    let drivers = format!(
        "[volume-drivers.unruly]\npath = \"{}\"\n[volume-drivers.data]\ndriver = \"local\"\n",
        guest.display()
    );
    let _nodes = Nodes::start(&fleet, 1, &drivers);
    let engine = fleet.engine(0);
    thread::scope(|scope| {
        for (volume, reason) in [
            ("trap", "this volume traps"),
            ("loop", "ran longer than 1s"),
            ("escape", "is no path below the driver's root"),
            ("proc", "is not allowed by the configuration"),
        ] {
            let engine = &engine;
            scope.spawn(move || {
                let mount = format!("{volume}:/data");
                let run = ["run", "--rm", "--volume-driver", "unruly", "-v", &mount];
                let refused = engine.refused(&[&run[..], &[IMAGE, "true"]].concat());
                assert!(refused.contains(reason), "{volume}: {refused}");
            });
        }
        for volume in ["good", "better"] {
            let engine = &engine;
            scope.spawn(move || script(engine, "unruly", volume, "echo x > /data/file"));
        }
        script(&engine, "data", "best", "echo x > /data/file");
    });
    end(&fleet, 0, "-TERM");
}

#[test]
fn many_volumes_at_once_leave_nothing_behind() {
    let fleet = engines("many", 1);
    let nodes = Nodes::start(
        &fleet,
        1,
        "[volume-drivers.snapshot]\n[volume-drivers.tmpfs]\n",
    );
    let engine = fleet.engine(0);
    let names: Vec<_> = (0..100).map(|number| format!("v{number}")).collect();
    thread::scope(|scope| {
        for (driver, part) in [("snapshot", "s"), ("tmpfs", "t")] {
            for names in names.chunks(25) {
                let engine = &engine;
                scope.spawn(move || {
                    for name in names {
                        let name = format!("{part}{name}");
                        engine.ok(&["volume", "create", "-d", driver, &name]);
                        engine.ok(&["volume", "rm", &name]);
                    }
                });
            }
        }
    });
    assert!(engine.lines(&["volume", "ls", "-q"]).is_empty());
    for driver in ["snapshot", "tmpfs"] {
        assert!(entries(&nodes.root(0, driver)).is_empty());
        let kept = nodes.state(0).join("volume-drivers").join(driver);
        assert!(entries(&kept.join("records")).is_empty());
    }
    assert!(mounts(&fleet, 0, &nodes.state(0)).is_empty());
    end(&fleet, 0, "-TERM");
}

#[test]
fn data_of_a_shared_volume_is_there_on_another_node() {
    let fleet = engines("shared", 2);
    let drivers =
        "[volume-drivers.shared]\nroot = \"ROOT\"\nsettings = { require-mount = false }\n";
    let _nodes = Nodes::start(&fleet, 2, drivers);
    let bed = Bed::over(fleet, &FAST_FAIL);
    let run = [
        "run",
        "-d",
        "--name",
        "db",
        "-e",
        MOVES,
        "-e",
        "constraint:node==~node-0",
    ];
    let volume = ["--volume-driver", "shared", "-v", "data:/data"];
    let count = "echo run >> /data/log; sleep 600";
    bed.docker
        .ok(&[&run[..], &volume, &[IMAGE, "sh", "-c", count]].concat());
    assert_eq!(bed.node_of("db"), "node-0");
    eventually("the first run is in the log", || {
        let log = bed.docker.run(&["exec", "db", "cat", "/data/log"]);
        (log.stdout.trim() == "run").then_some(())
    });
    bed.fleet.kill(0);
    eventually("it runs on the other node with its data", || {
        let log = bed.docker.run(&["exec", "db", "cat", "/data/log"]);
        (log.stdout.trim() == "run\nrun").then_some(())
    });
    assert_eq!(bed.node_of("db"), "node-1");
}

#[test]
fn a_container_goes_where_its_driver_is() {
    let fleet = engines("some", 2);
    let drivers = "[volume-drivers.data]\ndriver = \"local\"\n";
    let mut nodes = Nodes::start(&fleet, 1, drivers);
    let bed = Bed::over(fleet, &FAST_FAIL);
    // Without the driver the strategy would prefer the other node by now.
    for (name, volume) in [("one", "d1:/data"), ("two", "d2:/data")] {
        let volume = ["--volume-driver", "data", "-v", volume];
        assert_eq!(bed.placed(name, &volume), "node-0");
    }
    // So it is with a volume that is there, whoever names its driver.
    assert_eq!(bed.placed("three", &["-v", "d1:/data"]), "node-0");
    let there = ["-e", "constraint:node==node-1"];
    let new = ["--volume-driver", "data", "-v", "d3:/data"];
    let refused = bed.refused(&[&there[..], &new].concat());
    assert!(refused.contains("[volume driver data]"), "{refused}");
    bed.docker.ok(&["volume", "create", "-d", "data", "made"]);
    let list = ["volume", "ls", "-q", "--filter", "name=made"];
    assert_eq!(bed.docker.lines(&list), ["node-0/made"]);

    // The driver is found as soon as it is there, though the engine itself has not looked yet.
    nodes.add(&bed.fleet, 1, drivers);
    eventually("the driver's socket is there", || {
        let mut look = bed.fleet.command(1, "test");
        let look = look.args(["-S", "/run/docker/plugins/data.sock"]);
        look.status().unwrap().success().then_some(())
    });
    eventually("the driver is found", || {
        let name = ["--name", "late"];
        let run = [&["run", "-d"][..], &name, &there, &new, &[IMAGE, "true"]].concat();
        let outcome = bed.docker.run(&run);
        let is_found = !outcome.stderr.contains("[volume driver data]");
        is_found.then(|| assert_eq!(outcome.stderr, "", "{outcome:?}"))
    });
    assert_eq!(bed.node_of("late"), "node-1");
    end(&bed.fleet, 0, "-TERM");
    end(&bed.fleet, 1, "-TERM");
}

#[test]
fn a_volume_that_nodes_share_is_one_volume() {
    let fleet = engines("global", 3);
    let drivers =
        "[volume-drivers.shared]\nroot = \"ROOT\"\nsettings = { require-mount = false }\n";
    let nodes = Nodes::start(&fleet, 2, drivers);
    let bed = Bed::over(fleet, &FAST_FAIL);
    let docker = &bed.docker;
    docker.ok(&["volume", "create", "-d", "shared", "data"]);
    docker.ok(&["volume", "create", "other"]);
    let everything = ["volume", "ls", "-q"];
    let others = ["node-0/other", "node-1/other", "node-2/other"];
    let mut listed = docker.lines(&everything);
    listed.sort();
    assert_eq!(listed, [&["data"][..], &others].concat());
    let inspect = ["volume", "inspect", "-f", "{{.Name}} {{.Scope}}", "data"];
    assert_eq!(docker.ok(&inspect), "data global");

    // No node is named, and still none is chosen that cannot reach it.
    let mount = ["-v", "data:/data"];
    bed.script("writer", &mount, "echo kept > /data/file; sleep 600");
    let writer = bed.node_of("writer");
    let elsewhere = format!("constraint:node!={writer}");
    eventually("another node reads it", || {
        let read = [&["run", "--rm", "-e", &elsewhere][..], &mount].concat();
        let read = docker.run(&[&read[..], &[IMAGE, "cat", "/data/file"]].concat());
        (read.stdout.trim() == "kept").then_some(())
    });
    let in_use = docker.refused(&["volume", "rm", "data"]);
    assert!(in_use.contains("in use"), "{in_use}");
    assert_eq!(entries(&nodes.directory.path().join("shared")).len(), 1);
    let unused = ["volume", "ls", "-q", "--filter", "dangling=true"];
    let mut listed = docker.lines(&unused);
    listed.sort();
    assert_eq!(listed, others);
    docker.ok(&["rm", "-f", "writer"]);

    let pruned = docker.ok(&["volume", "prune", "-f"]);
    for other in others {
        assert_eq!(pruned.matches(other).count(), 1, "{pruned}");
    }
    docker.ok(&["volume", "rm", "data"]);
    assert!(docker.lines(&everything).is_empty());
    assert!(entries(&nodes.directory.path().join("shared")).is_empty());
    for index in [0, 1] {
        end(&bed.fleet, index, "-TERM");
    }
}

/// The blocks of a page that are marked with a language, in order.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks
        .filter_map(|block| block.split("\n```\n").next())
        .collect()
}

#[test]
fn the_guide_to_volume_drivers_leads_to_a_container() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(repository.join("plugin-sdk/VOLUMES.md")).unwrap();
    let (manifests, code) = (blocks(&page, "toml"), blocks(&page, "rust").join("\n"));
    let [manifest, config] = manifests[..] else {
        panic!("the page has a manifest and a configuration");
    };
    let directory = tempfile::tempdir().unwrap();
    let sdk = repository.join("plugin-sdk").display().to_string();
    let manifest = manifest.replace("../skep/plugin-sdk", &sdk);
    fs::create_dir(directory.path().join("src")).unwrap();
    fs::write(
        directory.path().join("Cargo.toml"),
        manifest + "\n[workspace]\n",
    )
    .unwrap();
    fs::write(directory.path().join("src/lib.rs"), code).unwrap();
    // The same versions as everywhere else.
    fs::copy(
        repository.join("Cargo.lock"),
        directory.path().join("Cargo.lock"),
    )
    .unwrap();
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        command.args(arguments).current_dir(directory.path());
        command.env("CARGO_TARGET_DIR", repository.join("target/guide"));
        assert!(command.status().unwrap().success(), "cargo {arguments:?}");
    };
    cargo(&["test", "--quiet"]);
    cargo(&[
        "build",
        "--quiet",
        "--release",
        "--target",
        "wasm32-unknown-unknown",
    ]);
    let module = repository.join("target/guide/wasm32-unknown-unknown/release/teams.wasm");
    let component = directory.path().join("teams.wasm");
    fs::copy(module, &component).unwrap();

    let fleet = engines("guide", 1);
    let root = directory.path().join("root");
    let config = config
        .replace("teams.wasm", &component.display().to_string())
        .replace("/var/lib/teams", &root.display().to_string());
    let _nodes = Nodes::start(&fleet, 1, &config);
    let engine = fleet.engine(0);
    engine.ok(&["volume", "create", "-d", "teams", "-o", "team=web", "site"]);
    let group = [
        "run",
        "--rm",
        "-v",
        "site:/site",
        IMAGE,
        "stat",
        "-c",
        "%g",
        "/site",
    ];
    assert_eq!(engine.ok(&group), "2000");
    end(&fleet, 0, "-TERM");
}
