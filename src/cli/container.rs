//! What `docker create` is given, as the request that it would make of it.
//!
//! ```text
//! words -> options that bear on where a container goes ----> body of the request    [OPTIONS]
//!       -> options that do not: understood, and left out                            [FLAGS, VALUES]
//! ```
//!
//! Options stand before the image, as for docker, and errors are in its words.

mod values;

use serde_json::{Map, Value, json};

use self::values::{Endpoint, Ports};
use crate::config::size;

/// What a container shall be.
#[derive(Debug)]
pub(super) struct Create {
    /// Its name; empty if it has none.
    pub name: String,
    /// The body of the create request, as far as it bears on where the container goes.
    pub body: Value,
}

/// Reads the environment of the command, for `-e NAME`.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Understands the words behind `docker create`. Files that options name are read.
///
/// # Errors
///
/// What docker says about the first word that it does not take.
pub(super) fn parse(words: &[String], lookup: Lookup<'_>) -> Result<Create, String> {
    let mut wishes = Wishes::default();
    let mut words = words.iter().map(String::as_str);
    let image = loop {
        match words.next() {
            Some("--") => break words.next(),
            Some(word) => match (word.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(long), _) => read_long(&mut wishes, long, &mut words)?,
                (_, Some(shorts)) if !shorts.is_empty() => {
                    read_shorts(&mut wishes, shorts, &mut words)?;
                }
                _ => break Some(word),
            },
            None => break None,
        }
    };
    let usage = "it needs an image: [OPTIONS] IMAGE [COMMAND] [ARG...]";
    let image = image.ok_or(usage)?;
    let command: Vec<&str> = words.collect();
    Ok(Create {
        body: wishes.body(image, &command, lookup)?,
        name: wishes.name,
    })
}

/// What an option does.
#[derive(Clone, Copy)]
enum Effect {
    /// It has no value, or a true or false one.
    Flag(fn(&mut Wishes, bool)),
    /// It has a value.
    Value(fn(&mut Wishes, &str) -> Result<(), String>),
    /// It cannot be weighed, and leaving it out would give a wrong answer.
    Refused(&'static str),
}

/// Options that bear on where a container goes: `short,long` or `long`.
const OPTIONS: &[(&str, Effect)] = &[
    (
        "c,cpu-shares",
        Effect::Value(|wishes, text| {
            let shares = text.parse();
            wishes.cpu_shares = shares.map_err(|_| format!("parsing {text:?}: invalid syntax"))?;
            Ok(())
        }),
    ),
    (
        "cpus",
        Effect::Value(|wishes, text| {
            wishes.nano_cpus = values::cpus(text)?;
            Ok(())
        }),
    ),
    (
        "e,env",
        Effect::Value(|wishes, text| add(&mut wishes.env, text)),
    ),
    (
        "env-file",
        Effect::Value(|wishes, text| add(&mut wishes.env_files, text)),
    ),
    (
        "expose",
        Effect::Value(|wishes, text| wishes.ports.expose(text)),
    ),
    (
        "gpus",
        Effect::Refused(
            "Skep does not know which engines have GPUs: label them, and ask for a label",
        ),
    ),
    (
        "ip",
        Effect::Value(|wishes, text| {
            wishes.ip = Some(text.to_owned());
            Ok(())
        }),
    ),
    (
        "ip6",
        Effect::Value(|wishes, text| {
            wishes.ip6 = Some(text.to_owned());
            Ok(())
        }),
    ),
    (
        "ipc",
        Effect::Value(|wishes, text| set(&mut wishes.ipc, text)),
    ),
    (
        "l,label",
        Effect::Value(|wishes, text| add(&mut wishes.labels, text)),
    ),
    (
        "label-file",
        Effect::Value(|wishes, text| add(&mut wishes.label_files, text)),
    ),
    (
        "link",
        Effect::Value(|wishes, text| {
            values::check_link(text)?;
            add(&mut wishes.links, text)
        }),
    ),
    (
        "m,memory",
        Effect::Value(|wishes, text| {
            wishes.memory = size::parse_docker(text)?;
            Ok(())
        }),
    ),
    (
        "memory-reservation",
        Effect::Value(|wishes, text| {
            wishes.memory_reservation = size::parse_docker(text)?;
            Ok(())
        }),
    ),
    (
        "mount",
        Effect::Value(|wishes, text| {
            wishes.mounts.push(values::mount(text)?);
            Ok(())
        }),
    ),
    (
        "name",
        Effect::Value(|wishes, text| set(&mut wishes.name, text)),
    ),
    ("net", Effect::Value(Wishes::join)),
    (
        "net-alias",
        Effect::Value(|wishes, text| add(&mut wishes.aliases, text)),
    ),
    ("network", Effect::Value(Wishes::join)),
    (
        "network-alias",
        Effect::Value(|wishes, text| add(&mut wishes.aliases, text)),
    ),
    (
        "p,publish",
        Effect::Value(|wishes, text| wishes.ports.publish(text)),
    ),
    (
        "P,publish-all",
        Effect::Flag(|wishes, all| wishes.publish_all = all),
    ),
    (
        "pid",
        Effect::Value(|wishes, text| set(&mut wishes.pid, text)),
    ),
    (
        "v,volume",
        Effect::Value(|wishes, text| add(&mut wishes.volumes, text)),
    ),
    (
        "volume-driver",
        Effect::Value(|wishes, text| set(&mut wishes.volume_driver, text)),
    ),
    (
        "volumes-from",
        Effect::Value(|wishes, text| add(&mut wishes.volumes_from, text)),
    ),
];

/// Options without a value that make no difference here.
const FLAGS: &[&str] = &[
    "d,detach",
    "disable-content-trust",
    "init",
    "i,interactive",
    "no-healthcheck",
    "oom-kill-disable",
    "privileged",
    "q,quiet",
    "read-only",
    "rm",
    "sig-proxy",
    "t,tty",
    "use-api-socket",
];

/// Options with a value that makes no difference here.
const VALUES: &[&str] = &[
    "add-host",
    "annotation",
    "a,attach",
    "blkio-weight",
    "blkio-weight-device",
    "cap-add",
    "cap-drop",
    "cgroup-parent",
    "cgroupns",
    "cidfile",
    "cpu-count",
    "cpu-percent",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpuset-cpus",
    "cpuset-mems",
    "detach-keys",
    "device",
    "device-cgroup-rule",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "dns",
    "dns-opt",
    "dns-option",
    "dns-search",
    "domainname",
    "entrypoint",
    "group-add",
    "health-cmd",
    "health-interval",
    "health-retries",
    "health-start-interval",
    "health-start-period",
    "health-timeout",
    "h,hostname",
    "io-maxbandwidth",
    "io-maxiops",
    "isolation",
    "kernel-memory",
    "link-local-ip",
    "log-driver",
    "log-opt",
    "mac-address",
    "memory-swap",
    "memory-swappiness",
    "oom-score-adj",
    "pids-limit",
    "platform",
    "pull",
    "restart",
    "runtime",
    "security-opt",
    "shm-size",
    "stop-signal",
    "stop-timeout",
    "storage-opt",
    "sysctl",
    "tmpfs",
    "ulimit",
    "u,user",
    "userns",
    "uts",
    "w,workdir",
];

/// An option, and how errors call it: `-m, --memory`.
struct Known {
    effect: Effect,
    called: String,
}

/// Finds an option whose names pass.
fn find(is_it: impl Fn(Option<char>, &str) -> bool) -> Option<Known> {
    let flags = FLAGS.iter().map(|names| (*names, Effect::Flag(|_, _| {})));
    let values = VALUES
        .iter()
        .map(|names| (*names, Effect::Value(|_, _| Ok(()))));
    let mut all = OPTIONS.iter().copied().chain(flags).chain(values);
    all.find_map(|(names, effect)| {
        let (short, long) = match names.split_once(',') {
            Some((short, long)) => (short.chars().next(), long),
            None => (None, names),
        };
        let called = match short {
            Some(short) => format!("-{short}, --{long}"),
            None => format!("--{long}"),
        };
        is_it(short, long).then_some(Known { effect, called })
    })
}

/// `--name value`, `--name=value`, `--flag`
fn read_long<'a>(
    wishes: &mut Wishes,
    word: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let known = find(|_, long| long == name).ok_or(format!("unknown flag: --{name}"))?;
    let value = match known.effect {
        Effect::Flag(_) => value,
        _ => value.or_else(|| rest.next()),
    };
    let missing = || format!("flag needs an argument: --{name}");
    known.apply(wishes, value, missing)
}

/// `-e value`, `-evalue`, `-e=value`, `-it`
fn read_shorts<'a>(
    wishes: &mut Wishes,
    shorts: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut left = shorts;
    while let Some(short) = left.chars().next() {
        let known = find(|own, _| own == Some(short));
        let known = known.ok_or(format!("unknown shorthand flag: '{short}' in -{left}"))?;
        let missing = || format!("flag needs an argument: '{short}' in -{left}");
        let after = &left[short.len_utf8()..];
        let value = after.strip_prefix('=');
        if let (Effect::Flag(_), None) = (known.effect, value) {
            known.apply(wishes, None, missing)?;
            left = after;
            continue;
        }
        let value = value.or(Some(after).filter(|after| !after.is_empty()));
        return known.apply(wishes, value.or_else(|| rest.next()), missing);
    }
    Ok(())
}

impl Known {
    fn apply(
        &self,
        wishes: &mut Wishes,
        value: Option<&str>,
        missing: impl Fn() -> String,
    ) -> Result<(), String> {
        let called = &self.called;
        let invalid = |value: &str, why: &str| {
            format!("invalid argument {value:?} for {called:?} flag: {why}")
        };
        match (self.effect, value) {
            (Effect::Flag(effect), value) => {
                let text = value.unwrap_or("true");
                let value = match text {
                    "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
                    "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
                    _ => return Err(invalid(text, "invalid syntax")),
                };
                effect(wishes, value);
                Ok(())
            }
            (Effect::Value(effect), Some(value)) => {
                effect(wishes, value).map_err(|why| invalid(value, &why))
            }
            (Effect::Refused(why), _) => Err(format!("{called} cannot be explained: {why}")),
            (Effect::Value(_), None) => Err(missing()),
        }
    }
}

fn set(member: &mut String, text: &str) -> Result<(), String> {
    text.clone_into(member);
    Ok(())
}

fn add(members: &mut Vec<String>, text: &str) -> Result<(), String> {
    members.push(text.to_owned());
    Ok(())
}

/// What the options ask for.
#[derive(Default)]
struct Wishes {
    name: String,
    env: Vec<String>,
    env_files: Vec<String>,
    labels: Vec<String>,
    label_files: Vec<String>,
    ports: Ports,
    publish_all: bool,
    networks: Vec<Endpoint>,
    aliases: Vec<String>,
    ip: Option<String>,
    ip6: Option<String>,
    links: Vec<String>,
    pid: String,
    ipc: String,
    volumes: Vec<String>,
    volumes_from: Vec<String>,
    volume_driver: String,
    mounts: Vec<Value>,
    memory: i64,
    memory_reservation: i64,
    nano_cpus: i64,
    cpu_shares: i64,
}

impl Wishes {
    fn join(&mut self, text: &str) -> Result<(), String> {
        self.networks.push(Endpoint::parse(text)?);
        Ok(())
    }

    /// The body of the create request.
    fn body(&mut self, image: &str, command: &[&str], lookup: Lookup<'_>) -> Result<Value, String> {
        let env = values::environment(&self.env_files, &self.env, lookup)?;
        let labels = values::labels(&self.label_files, &self.labels)?;
        let (binds, volumes) = values::binds(&self.volumes)?;
        // What stands beside the networks is about the first of them.
        if let Some(first) = self.networks.first_mut() {
            first.aliases.append(&mut self.aliases);
            first.ip = first.ip.take().or(self.ip.take());
            first.ip6 = first.ip6.take().or(self.ip6.take());
        }
        let mode = self.networks.first().map(|first| first.name.as_str());
        let own = self
            .networks
            .iter()
            .filter(|network| !network.is_built_in());
        let endpoints: Map<String, Value> = own
            .map(|network| (network.name.clone(), network.shown()))
            .collect();
        Ok(json!({
            "Image": image,
            "Cmd": command,
            "Env": env,
            "Labels": labels,
            "ExposedPorts": self.ports.exposed,
            "Volumes": volumes,
            "HostConfig": {
                "PortBindings": self.ports.bindings,
                "PublishAllPorts": self.publish_all,
                "NetworkMode": mode.unwrap_or("default"),
                "PidMode": self.pid,
                "IpcMode": self.ipc,
                "Links": self.links,
                "VolumesFrom": self.volumes_from,
                "VolumeDriver": self.volume_driver,
                "Binds": binds,
                "Mounts": self.mounts,
                "Memory": self.memory,
                "MemoryReservation": self.memory_reservation,
                "NanoCpus": self.nano_cpus,
                "CpuShares": self.cpu_shares,
            },
            "NetworkingConfig": {"EndpointsConfig": endpoints},
        }))
    }
}

#[cfg(test)]
mod tests;
