//! What the values of options mean.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

use super::Lookup;

/// Ports that are published and exposed.
#[derive(Default)]
pub(super) struct Ports {
    /// By port and protocol: where on the host each is.
    pub bindings: BTreeMap<String, Vec<Value>>,
    /// By port and protocol.
    pub exposed: Map<String, Value>,
}

/// A network that the container joins.
#[derive(Default)]
pub(super) struct Endpoint {
    pub name: String,
    pub aliases: Vec<String>,
    pub ip: Option<String>,
    pub ip6: Option<String>,
}

/// Networks that every engine has.
const BUILT_IN: [&str; 5] = ["", "default", "bridge", "host", "none"];

/// Billionths of a core.
const NANO: f64 = 1e9;

impl Ports {
    /// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, each port a range or not, or
    /// `published=HOST,target=CONTAINER,protocol=PROTOCOL`.
    pub fn publish(&mut self, text: &str) -> Result<(), String> {
        let plain;
        let text = match text.contains('=') {
            true => {
                plain = plain_ports(text)?;
                &plain
            }
            false => text,
        };
        let (host, container) = text.rsplit_once(':').unwrap_or(("", text));
        let (ip, host) = match host.rsplit_once(':') {
            Some((ip, host)) => (ip.trim_matches(['[', ']']), host),
            None => ("", host),
        };
        if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("invalid IP address: {ip}"));
        }
        let (container, protocol) = protocol_of(container)?;
        let ports = range(container).ok_or(format!("invalid containerPort: {container}"))?;
        let hosts = match host {
            "" => None,
            host => Some(range(host).ok_or(format!("invalid hostPort: {host}"))?),
        };
        let count = ports.1 - ports.0;
        if hosts.is_some_and(|hosts| hosts.1 - hosts.0 != count && count > 0) {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
        for number in 0..=count {
            let host_port = match hosts {
                None => String::new(),
                // Any of them will do for the one port.
                Some((first, last)) if count == 0 && first != last => format!("{first}-{last}"),
                Some((first, _)) => (first + number).to_string(),
            };
            let port = format!("{}/{protocol}", ports.0 + number);
            let binding = json!({"HostIp": ip, "HostPort": host_port});
            self.exposed.insert(port.clone(), json!({}));
            self.bindings.entry(port).or_default().push(binding);
        }
        Ok(())
    }

    /// `PORT[-PORT][/PROTOCOL]`
    pub fn expose(&mut self, text: &str) -> Result<(), String> {
        let odd = || format!("invalid range format for --expose: {text}");
        let (ports, protocol) = protocol_of(text)?;
        let (first, last) = range(ports).ok_or_else(odd)?;
        for port in first..=last {
            self.exposed.insert(format!("{port}/{protocol}"), json!({}));
        }
        Ok(())
    }
}

/// The long form of a published port in the short one.
fn plain_ports(text: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some(("mode", _)) => {}
            _ => return Err(format!("invalid field {field}")),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn protocol_of(text: &str) -> Result<(&str, String), String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    match protocol.as_str() {
        "tcp" | "udp" | "sctp" => Ok((ports, protocol)),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

/// `FIRST-LAST`, or one port.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

impl Endpoint {
    /// `NAME`, or `name=NAME,alias=ALIAS,ip=IP` and more.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut endpoint = Self::default();
        if !text.contains('=') {
            text.clone_into(&mut endpoint.name);
            return Ok(endpoint);
        }
        for field in fields(text) {
            let odd = || format!("invalid field {field}");
            let (key, value) = field.split_once('=').ok_or_else(odd)?;
            let value = value.to_owned();
            match key.trim().to_ascii_lowercase().as_str() {
                "name" => endpoint.name = value,
                "alias" => endpoint.aliases.push(value),
                "ip" => endpoint.ip = Some(value),
                "ip6" => endpoint.ip6 = Some(value),
                "driver-opt" | "gw-priority" | "link-local-ip" | "mac-address" => {}
                _ => return Err(format!("invalid field key {key}")),
            }
        }
        match endpoint.name.is_empty() {
            true => Err("network name/id is not specified".to_owned()),
            false => Ok(endpoint),
        }
    }

    /// Whether every engine has the network, or it is another container's.
    pub fn is_built_in(&self) -> bool {
        BUILT_IN.contains(&self.name.as_str()) || self.name.starts_with("container:")
    }

    /// What the endpoint is asked to be.
    pub fn shown(&self) -> Value {
        let mut addresses = Map::new();
        if let Some(ip) = &self.ip {
            addresses.insert("IPv4Address".to_owned(), json!(ip));
        }
        if let Some(ip) = &self.ip6 {
            addresses.insert("IPv6Address".to_owned(), json!(ip));
        }
        json!({"Aliases": self.aliases, "IPAMConfig": addresses})
    }
}

/// Refuses what is not `CONTAINER[:ALIAS]`.
pub(super) fn check_link(text: &str) -> Result<(), String> {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    match name.is_empty() || alias.is_empty() || alias.contains(':') {
        true => Err(format!("bad format for links: {text}")),
        false => Ok(()),
    }
}

/// Cores as billionths.
pub(super) fn cpus(text: &str) -> Result<i64, String> {
    let cores = text.parse::<f64>().ok();
    let cores = cores.filter(|cores| cores.is_finite() && *cores >= 0.0);
    let cores = cores.ok_or_else(|| format!("failed to parse {text} as a rational number"))?;
    Ok((cores * NANO).round() as i64)
}

/// The mount that `type=TYPE,source=SOURCE,target=PATH` and more asks for.
pub(super) fn mount(text: &str) -> Result<Value, String> {
    let (mut kind, mut source, mut target) = ("volume".to_owned(), String::new(), String::new());
    let (mut is_read_only, mut driver) = (false, None);
    for field in fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        let key = key.to_ascii_lowercase();
        let may_stand_alone = ["readonly", "ro", "volume-nocopy", "bind-nonrecursive"];
        let value = match value {
            Some(value) => value.to_owned(),
            None if may_stand_alone.contains(&key.as_str()) => "true".to_owned(),
            None => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        match key.as_str() {
            "type" => kind = value.to_ascii_lowercase(),
            "source" | "src" => source = absolute(&value),
            "target" | "dst" | "destination" => target = value,
            "readonly" | "ro" => is_read_only = ["true", "1"].contains(&value.as_str()),
            "volume-driver" => driver = Some(value),
            "bind-nonrecursive" | "bind-propagation" | "bind-recursive" | "consistency"
            | "image-subpath" | "tmpfs-mode" | "tmpfs-size" | "volume-label" | "volume-nocopy"
            | "volume-opt" | "volume-subpath" => {}
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if target.is_empty() {
        return Err("target is required".to_owned());
    }
    let mut mount = json!({
        "Type": kind, "Source": source, "Target": target, "ReadOnly": is_read_only,
    });
    if let Some(driver) = driver {
        mount["VolumeOptions"] = json!({"DriverConfig": {"Name": driver}});
    }
    Ok(mount)
}

/// The binds and the volumes without a name that `-v` asks for.
pub(super) fn binds(volumes: &[String]) -> Result<(Vec<String>, Map<String, Value>), String> {
    let (mut binds, mut unnamed) = (Vec::new(), Map::new());
    for volume in volumes {
        match volume.split_once(':') {
            None if volume.is_empty() => return Err("invalid empty volume spec".to_owned()),
            None => _ = unnamed.insert(volume.clone(), json!({})),
            Some((source, rest)) => binds.push(format!("{}:{rest}", absolute(source))),
        }
    }
    Ok((binds, unnamed))
}

/// A path below the current directory in full; anything else as it is.
fn absolute(source: &str) -> String {
    if source != "." && source != ".." && !source.starts_with("./") && !source.starts_with("../") {
        return source.to_owned();
    }
    let full = std::path::absolute(Path::new(source));
    full.map_or_else(|_| source.to_owned(), |full| full.display().to_string())
}

/// Variables from files, then those of the command line. One without a value has that of this
/// command's environment.
pub(super) fn environment(
    files: &[String],
    variables: &[String],
    lookup: Lookup<'_>,
) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for line in lines_of(files)? {
        match (line.contains('='), lookup(&line)) {
            (true, _) => all.push(line),
            (false, Some(value)) => all.push(format!("{line}={value}")),
            // A file may name what is not set.
            (false, None) => {}
        }
    }
    for variable in variables {
        let name = variable.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(format!("invalid environment variable: {variable}"));
        }
        all.push(match (variable.contains('='), lookup(variable)) {
            (false, Some(value)) => format!("{variable}={value}"),
            _ => variable.clone(),
        });
    }
    Ok(all)
}

/// Labels from files, then those of the command line.
pub(super) fn labels(files: &[String], labels: &[String]) -> Result<Map<String, Value>, String> {
    let mut all = lines_of(files)?;
    // Unlike on the command line, a name alone is no label.
    all.retain(|line| line.contains('='));
    all.extend_from_slice(labels);
    let labels = all.iter().map(|label| {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        (key.to_owned(), json!(value))
    });
    Ok(labels.collect())
}

/// The lines of files that are neither empty nor comments.
fn lines_of(files: &[String]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(|error| format!("open {file}: {error}"))?;
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line.split('=').next().unwrap_or_default();
            if key.is_empty() || key.contains(char::is_whitespace) {
                let why = "variable names are not empty and contain no whitespaces";
                return Err(format!("poorly formatted file {file}: '{line}': {why}"));
            }
            lines.push(line.to_owned());
        }
    }
    Ok(lines)
}

/// Fields between commas, as CSV has them: quotes hold a field together, two are one.
fn fields(text: &str) -> Vec<String> {
    let (mut fields, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(char),
        }
    }
    fields.push(field);
    fields
}
