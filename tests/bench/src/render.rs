//! The JSON that is asked for most: list, inspect and info, written straight into a buffer.
//!
//! What does not change is encoded in the container's [`Spec`](crate::container::Spec) already, so
//! an answer costs a copy; a list of 50 containers takes tens of microseconds and no memory between calls.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use crate::container::{Container, Phase, encode};
use crate::engine::Engine;
use crate::state::State;

/// One entry of `GET /containers/json`.
pub(crate) fn list_entry(
    out: &mut String,
    container: &Container,
    state: &State,
    now: i64,
    with_size: bool,
) {
    let spec = &container.spec;
    let _ = write!(
        out,
        r#"{{"Id":"{}","Names":["/{}"],"Image":{},"ImageID":"{}","Command":{},"Created":{},"Ports":{},"Labels":{},"State":"{}","Status":"{}","#,
        container.id,
        container.name,
        encode(&spec.image),
        image_id(state, &spec.image),
        encode(&spec.command.join(" ")),
        container.created_nanos.div_euclid(1_000_000_000),
        if container.phase.is_running() {
            &spec.ports_json
        } else {
            "[]"
        },
        spec.labels_json,
        container.phase,
        status(container, now),
    );
    if with_size {
        out.push_str(r#""SizeRw":4096,"SizeRootFs":4261888,"#);
    }
    let _ = write!(
        out,
        r#""HostConfig":{{"NetworkMode":{}}},"NetworkSettings":{{"Networks":"#,
        encode(&spec.network_mode)
    );
    networks(out, container, state);
    let _ = write!(
        out,
        r#"}},"Mounts":{},"FutureField":{{"kept":true}}}}"#,
        spec.mounts_json
    );
}

/// The answer to `GET /containers/{id}/json`.
pub(crate) fn inspect(
    container: &Container,
    state: &State,
    engine: &Engine,
    with_size: bool,
) -> String {
    let spec = &container.spec;
    let running = container.phase.is_running();
    let (path, args) = spec
        .command
        .split_first()
        .map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let mut out = String::with_capacity(8192);
    let _ = write!(
        out,
        r#"{{"Id":"{id}","Created":"{created}","Path":{path},"Args":{args},"State":{{"Status":"{phase}","Running":{running},"Paused":{paused},"Restarting":{restarting},"OOMKilled":{oom},"Dead":{dead},"Pid":{pid},"ExitCode":{exit_code},"Error":"","StartedAt":"{started}","FinishedAt":"{finished}"}},"Image":"{image}","ResolvConfPath":"/var/lib/docker/containers/{id}/resolv.conf","HostnamePath":"/var/lib/docker/containers/{id}/hostname","HostsPath":"/var/lib/docker/containers/{id}/hosts","LogPath":"/var/lib/docker/containers/{id}/{id}-json.log","Name":"/{name}","RestartCount":0,"Driver":"overlay2","Platform":"linux","MountLabel":"","ProcessLabel":"","AppArmorProfile":"docker-default","ExecIDs":null,"HostConfig":{host},"GraphDriver":{{"Data":{{"MergedDir":"/var/lib/docker/overlay2/{id}/merged"}},"Name":"overlay2"}},"#,
        id = container.id,
        created = time(container.created_nanos),
        path = encode(&path),
        args = encode(&args),
        phase = container.phase,
        paused = container.phase == Phase::Paused,
        restarting = container.phase == Phase::Restarting,
        oom = container.oom_killed,
        dead = container.phase == Phase::Dead,
        pid = if running {
            1000 + u32::from(container.host_number)
        } else {
            0
        },
        exit_code = container.exit_code,
        started = time(container.started_nanos),
        finished = time(container.finished_nanos),
        image = image_id(state, &spec.image),
        name = container.name,
        host = spec.host_config_json,
    );
    if with_size {
        out.push_str(r#""SizeRw":4096,"SizeRootFs":4261888,"#);
    }
    let _ = write!(
        out,
        r#""Mounts":{},"Config":{},"NetworkSettings":{{"Bridge":"","SandboxID":"{}","HairpinMode":false,"LinkLocalIPv6Address":"","LinkLocalIPv6PrefixLen":0,"Ports":{},"SandboxKey":"/var/run/docker/netns/{}","SecondaryIPAddresses":null,"SecondaryIPv6Addresses":null,"EndpointID":"","Gateway":"172.17.0.1","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"IPAddress":"{}","IPPrefixLen":16,"IPv6Gateway":"","MacAddress":"02:42:ac:11:00:02","Networks":"#,
        spec.mounts_json,
        with_hostname(&spec.config_json, container),
        container.id,
        if running { &spec.port_map_json } else { "{}" },
        engine.index(),
        address(container),
    );
    networks(&mut out, container, state);
    out.push_str(r#"},"FutureField":{"kept":true}}"#);
    out
}

/// The answer to `GET /info`.
pub(crate) fn info(state: &State, engine: &Engine) -> String {
    let shape = &engine.seed.shape;
    let count = |test: fn(Phase) -> bool| state.containers.iter().filter(|c| test(c.phase)).count();
    encode(&json!({
        "ID": &*state.engine_id, "Containers": state.containers.len(),
        "ContainersRunning": count(|phase| phase.is_running() && phase != Phase::Paused),
        "ContainersPaused": count(|phase| phase == Phase::Paused),
        "ContainersStopped": count(|phase| !phase.is_running()),
        "Images": state.images.len(), "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
        "Plugins": {"Volume": state.found_drivers(), "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"],
                    "Authorization": null, "Log": ["json-file", "local", "none", "syslog"]},
        "MemoryLimit": true, "SwapLimit": true, "KernelMemory": true, "KernelMemoryTCP": true,
        "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true, "CPUSet": true, "PidsLimit": true,
        "IPv4Forwarding": true, "BridgeNfIptables": true, "BridgeNfIp6tables": true, "Debug": false,
        "NFd": 24, "OomKillDisable": true, "NGoroutines": 35, "SystemTime": time(engine.now()),
        "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": "1", "NEventsListener": 0,
        "KernelVersion": "5.10.0-28-amd64", "OperatingSystem": "Debian GNU/Linux 11 (bullseye)",
        "OSVersion": "11", "OSType": "linux", "Architecture": "x86_64", "IndexServerAddress": "",
        "RegistryConfig": {"AllowNondistributableArtifactsCIDRs": [], "AllowNondistributableArtifactsHostnames": [],
                           "InsecureRegistryCIDRs": ["127.0.0.0/8"], "IndexConfigs": {}, "Mirrors": []},
        "NCPU": shape.cpus, "MemTotal": shape.memory_bytes, "GenericResources": null,
        "DockerRootDir": "/var/lib/docker", "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
        "Name": engine.name(), "Labels": shape.labels, "ExperimentalBuild": false,
        "ServerVersion": shape.server_version, "Runtimes": {"runc": {"path": "runc"}}, "DefaultRuntime": "runc",
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false,
                  "Error": "", "RemoteManagers": null},
        "LiveRestoreEnabled": false, "Isolation": "", "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": "1.6.20", "Expected": "1.6.20"}, "RuncCommit": {"ID": "1.1.5", "Expected": "1.1.5"},
        "InitCommit": {"ID": "de40ad0", "Expected": "de40ad0"},
        "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"], "Warnings": null,
        "FutureField": {"kept": true},
    }))
}

/// A time as dockerd writes it; the zero time of Go for 0.
pub(crate) fn time(nanos: i64) -> String {
    if nanos == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// The `Status` words of the list.
fn status(container: &Container, now: i64) -> String {
    let since = |nanos: i64| human((now - nanos).max(0).div_euclid(1_000_000_000));
    match container.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Dead => "Dead".to_owned(),
        Phase::Running => format!("Up {}", since(container.started_nanos)),
        Phase::Paused => format!("Up {} (Paused)", since(container.started_nanos)),
        Phase::Restarting => format!(
            "Restarting ({}) {} ago",
            container.exit_code,
            since(container.finished_nanos)
        ),
        Phase::Exited => format!(
            "Exited ({}) {} ago",
            container.exit_code,
            since(container.finished_nanos)
        ),
    }
}

fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 46 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

fn networks(out: &mut String, container: &Container, state: &State) {
    let mode = match container.spec.network_mode.as_str() {
        "default" => "bridge",
        mode => mode,
    };
    let running = container.phase.is_running();
    let network = state.networks.iter().find(|network| network.name == mode);
    let _ = write!(
        out,
        r#"{{{}:{{"IPAMConfig":null,"Links":null,"Aliases":null,"NetworkID":"{}","EndpointID":"{}","Gateway":"{}","IPAddress":"{}","IPPrefixLen":{},"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"","DriverOpts":null}}}}"#,
        encode(&mode),
        network
            .map(|network| network.id.to_string())
            .unwrap_or_default(),
        if running {
            container.id.to_string()
        } else {
            String::new()
        },
        if running { "172.17.0.1" } else { "" },
        address(container),
        if running { 16 } else { 0 },
    );
}

fn address(container: &Container) -> String {
    if !container.phase.is_running() {
        return String::new();
    }
    format!(
        "172.17.{}.{}",
        container.host_number >> 8,
        container.host_number & 255
    )
}

fn image_id(state: &State, image: &str) -> String {
    state
        .find_image(image)
        .map(|image| format!("sha256:{}", image.id))
        .unwrap_or_default()
}

/// A container without a host name of its own gets the first twelve digits of its ID.
fn with_hostname(config: &str, container: &Container) -> String {
    let id = container.id.to_string();
    config.replacen(
        r#""Hostname":"""#,
        &format!(r#""Hostname":"{}""#, &id[..12]),
        1,
    )
}
