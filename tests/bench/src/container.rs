//! A container: what it was created from, and how far it got.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::ident::Ident;
use crate::volume;

/// Where a container is in its life; written as dockerd's `State.Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Running, frozen.
    Paused,
    /// Between a death and the next start.
    Restarting,
    /// Started once, not running now.
    Exited,
    /// Could not be removed.
    Dead,
}

impl Phase {
    /// Whether there is a process; a paused or restarting container has one.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// The word dockerd uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// What a container was created from, encoded once. Seeded containers of a fleet share theirs.
#[derive(Debug)]
pub struct Spec {
    /// The body of the create call, byte for byte; empty for seeded containers.
    pub body: Bytes,
    /// The image as the client wrote it.
    pub image: String,
    /// Entry point and arguments.
    pub command: Vec<String>,
    /// Labels, in the order of their keys.
    pub labels: Vec<(String, String)>,
    /// Whether output is raw rather than framed.
    pub tty: bool,
    /// Whether the end of standard input ends the container.
    pub stdin_once: bool,
    /// Whether the container goes away when it dies.
    pub auto_remove: bool,
    /// `HostConfig.NetworkMode`.
    pub network_mode: String,
    /// `Config` of the inspect answer, encoded.
    pub config_json: String,
    /// `HostConfig` of the inspect answer, encoded.
    pub host_config_json: String,
    /// `Ports` of the list answer, encoded.
    pub ports_json: String,
    /// `NetworkSettings.Ports` of the inspect answer, encoded.
    pub port_map_json: String,
    /// Labels, encoded.
    pub labels_json: String,
    /// `Mounts`, encoded.
    pub mounts_json: String,
    /// Names of volumes, each with the driver asked for.
    pub volumes: Vec<(String, String)>,
}

impl Spec {
    /// Reads a create body. Fields this crate does not know stay in `Config` and `HostConfig`.
    ///
    /// # Errors
    ///
    /// `Err` if `body` is not a JSON object.
    pub fn parse(body: Bytes) -> Result<Self, serde_json::Error> {
        let mut config: Map<String, Value> = serde_json::from_slice(&body)?;
        let mut host_config = match config.remove("HostConfig") {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        config.remove("NetworkingConfig");
        fill(&mut config, config_defaults());
        fill(&mut host_config, host_config_defaults());
        Ok(Self::assemble(body, &config, &host_config))
    }

    /// This spec with the fields of an update call written over its `HostConfig`.
    ///
    /// # Errors
    ///
    /// `Err` if `update` is not a JSON object.
    pub fn updated(&self, update: &[u8]) -> Result<Self, serde_json::Error> {
        let config = serde_json::from_str(&self.config_json)?;
        let mut host_config: Map<String, Value> = serde_json::from_str(&self.host_config_json)?;
        let update: Map<String, Value> = serde_json::from_slice(update)?;
        let is_set = |value: &Value| {
            !matches!(value, Value::Null) && *value != json!(0) && *value != json!("")
        };
        host_config.extend(update.into_iter().filter(|(_, value)| is_set(value)));
        Ok(Self::assemble(self.body.clone(), &config, &host_config))
    }

    fn assemble(body: Bytes, config: &Map<String, Value>, host: &Map<String, Value>) -> Self {
        let words = |key: &str| match config.get(key) {
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(Value::String(word)) => vec![word.clone()],
            _ => Vec::new(),
        };
        let mut command = words("Entrypoint");
        command.extend(words("Cmd"));
        let labels: Vec<(String, String)> = config["Labels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        let flag = |map: &Map<String, Value>, key: &str| {
            map.get(key).and_then(Value::as_bool).unwrap_or(false)
        };
        let (ports, port_map) = ports(config, host);
        Self {
            image: config
                .get("Image")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            command,
            tty: flag(config, "Tty"),
            stdin_once: flag(config, "StdinOnce"),
            auto_remove: flag(host, "AutoRemove"),
            network_mode: host
                .get("NetworkMode")
                .and_then(Value::as_str)
                .unwrap_or("default")
                .to_owned(),
            labels_json: encode(&config["Labels"]),
            labels,
            config_json: encode(config),
            host_config_json: encode(host),
            ports_json: encode(&ports),
            port_map_json: encode(&port_map),
            mounts_json: encode(&mounts(host)),
            volumes: volume::named(host),
            body,
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

/// One container of an engine.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its identifier.
    pub id: Ident,
    /// Its name, without the slash.
    pub name: Box<str>,
    /// What it was created from.
    pub spec: Arc<Spec>,
    /// Where it is in its life.
    pub phase: Phase,
    /// The exit code of its last death.
    pub exit_code: i64,
    /// Whether its last death was for lack of memory.
    pub oom_killed: bool,
    /// How often it died; lets a `wait` tell the next exit from the last.
    pub exits: u32,
    /// When it was created, nanoseconds since the epoch by the engine's clock.
    pub created_nanos: i64,
    /// When it last started; 0 if never.
    pub started_nanos: i64,
    /// When it last died; 0 if never.
    pub finished_nanos: i64,
    /// Its host number in the bridge network.
    pub host_number: u16,
}

/// Encodes what always can be.
pub(crate) fn encode(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

fn fill(map: &mut Map<String, Value>, defaults: Value) {
    let Value::Object(defaults) = defaults else {
        return;
    };
    for (key, value) in defaults {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    }
}

fn ports(config: &Map<String, Value>, host: &Map<String, Value>) -> (Value, Value) {
    let mut list = Vec::new();
    let mut map = Map::new();
    for (port, _) in config
        .get("ExposedPorts")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        map.insert(port.clone(), Value::Null);
    }
    for (port, bindings) in host
        .get("PortBindings")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        map.insert(port.clone(), bindings.clone());
    }
    for (port, bindings) in &mut map {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let private: u16 = number.parse().unwrap_or(0);
        let Some(bindings) = bindings.as_array_mut() else {
            list.push(json!({"PrivatePort": private, "Type": protocol}));
            continue;
        };
        for (at, binding) in bindings.iter_mut().enumerate() {
            let ip = binding["HostIp"]
                .as_str()
                .filter(|ip| !ip.is_empty())
                .unwrap_or("0.0.0.0");
            // An engine picks a free port when none is asked for; this one is only stable.
            let public = binding["HostPort"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .filter(|&port: &u16| port != 0)
                .unwrap_or_else(|| 32768 + private % 28000 + u16::try_from(at).unwrap_or(0));
            list.push(
                json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": protocol}),
            );
            *binding = json!({"HostIp": ip, "HostPort": public.to_string()});
        }
    }
    (list.into(), map.into())
}

fn mounts(host: &Map<String, Value>) -> Value {
    let binds = host
        .get("Binds")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let driver = match host.get("VolumeDriver").and_then(Value::as_str) {
        None | Some("") => "local",
        Some(driver) => driver,
    };
    binds
        .filter_map(|bind| bind.split_once(':'))
        .map(|(source, rest)| {
            let (target, mode) = rest.split_once(':').unwrap_or((rest, ""));
            let (writable, propagation) = (mode != "ro", "rprivate");
            if source.starts_with('/') {
                json!({"Type": "bind", "Source": source, "Destination": target, "Mode": mode,
                       "RW": writable, "Propagation": propagation})
            } else {
                json!({"Type": "volume", "Name": source, "Source": format!("/var/lib/docker/volumes/{source}/_data"),
                       "Destination": target, "Driver": driver, "Mode": mode, "RW": writable, "Propagation": ""})
            }
        })
        .collect::<Vec<_>>()
        .into()
}

fn config_defaults() -> Value {
    json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["sleep", "infinity"], "Image": "", "Volumes": null, "WorkingDir": "",
        "Entrypoint": null, "OnBuild": null, "Labels": {}
    })
}

fn host_config_defaults() -> Value {
    json!({
        "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": "default", "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "CapAdd": null, "CapDrop": null,
        "CgroupnsMode": "host", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null,
        "GroupAdd": null, "IpcMode": "private", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "",
        "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null,
        "UTSMode": "", "UsernsMode": "", "ShmSize": 67108864, "Runtime": "runc", "ConsoleSize": [0, 0],
        "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0,
        "BlkioWeightDevice": [], "BlkioDeviceReadBps": null, "BlkioDeviceWriteBps": null,
        "BlkioDeviceReadIOps": null, "BlkioDeviceWriteIOps": null, "CpuPeriod": 0, "CpuQuota": 0,
        "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
        "DeviceCgroupRules": null, "DeviceRequests": null, "KernelMemory": 0, "KernelMemoryTCP": 0,
        "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": null, "OomKillDisable": false,
        "PidsLimit": null, "Ulimits": null, "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
        "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    })
}
