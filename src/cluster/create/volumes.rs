//! Volumes that a create request names.
//!
//! Clients see a volume of one node as `<node>/<name>` and may write it so: then the container goes
//! there, and the engine gets the bare name.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    cluster::snapshot::Snapshot,
    config::volumes::Copies,
    engine::{
        inventory::{
            container::{HostConfig, Mount},
            resources::driver_name,
        },
        raw::{MemberError, RawObject, null_as_default},
    },
    scheduler::request::{Bound, Request, VolumeUse},
};

/// What a mount of the type `volume` says of its driver.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VolumeOptions {
    #[serde(deserialize_with = "null_as_default")]
    driver_config: DriverConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DriverConfig {
    #[serde(deserialize_with = "null_as_default")]
    name: String,
}

/// Adds the volumes of a create to what is placed, and takes nodes off their names.
///
/// # Errors
///
/// A member of the body has the wrong type.
pub(super) fn read(
    snapshot: &Snapshot,
    body: &RawObject,
    host: &mut RawObject,
    config: &HostConfig,
    copies: Copies,
    request: &mut Request,
) -> Result<(), MemberError> {
    let mut reader = Reader {
        snapshot,
        copies,
        request,
    };
    reader.read_binds(host, config);
    reader.read_mounts(host)?;
    let nameless: BTreeMap<String, IgnoredAny> = body.parsed("Volumes")?.unwrap_or_default();
    // An image may have nameless volumes too, and a request without any other means those.
    if !nameless.is_empty() || config.binds.is_empty() {
        reader.add("", &config.volume_driver);
    }
    Ok(())
}

/// The volumes as those will show who mount them, for other placements to see.
pub(in crate::cluster) fn claims(volumes: &[VolumeUse]) -> Vec<Mount> {
    let named = volumes.iter().filter(|volume| !volume.name.is_empty());
    let mounts = named.map(|volume| Mount {
        kind: "volume".into(),
        name: volume.name.as_str().into(),
        driver: match volume.driver.as_str() {
            "" => "local".into(),
            driver => driver.into(),
        },
        ..Mount::default()
    });
    mounts.collect()
}

struct Reader<'a> {
    snapshot: &'a Snapshot,
    copies: Copies,
    request: &'a mut Request,
}

impl Reader<'_> {
    fn read_binds(&mut self, host: &mut RawObject, config: &HostConfig) {
        let mut binds = config.binds.clone();
        for bind in &mut binds {
            let Some((source, rest)) = bind.split_once(':') else {
                continue;
            };
            // A single letter is a drive of Windows.
            if source.len() < 2 || source.starts_with(['/', '.', '~', '\\']) {
                continue;
            }
            let name = self.add(source, &config.volume_driver);
            *bind = format!("{name}:{rest}");
        }
        if binds != config.binds {
            host.set("Binds", &binds);
        }
    }

    fn read_mounts(&mut self, host: &mut RawObject) -> Result<(), MemberError> {
        let mut mounts: Vec<RawObject> = host.parsed("Mounts")?.unwrap_or_default();
        let mut is_changed = false;
        for mount in &mut mounts {
            let kind: Option<String> = mount.parsed("Type")?;
            if kind.as_deref() != Some("volume") {
                continue;
            }
            let source: String = mount.parsed("Source")?.unwrap_or_default();
            let options: Option<VolumeOptions> = mount.parsed("VolumeOptions")?;
            let driver = options.unwrap_or_default().driver_config.name;
            let name = self.add(&source, &driver);
            if name != source {
                mount.set("Source", &name);
                is_changed = true;
            }
        }
        if is_changed {
            host.set("Mounts", &mounts);
        }
        Ok(())
    }

    /// Adds one volume and returns its bare name.
    fn add<'s>(&mut self, source: &'s str, driver: &str) -> &'s str {
        let nodes = |node: &str| -> Vec<_> {
            let nodes = self.snapshot.nodes_named(node);
            nodes.map(|node| node.inventory.addr.clone()).collect()
        };
        let prefixed = source
            .split_once('/')
            .map(|(node, name)| (nodes(node), name))
            .filter(|(nodes, _)| !nodes.is_empty());
        let is_prefixed = prefixed.is_some();
        let name = match prefixed {
            Some((nodes, name)) => {
                self.request.bind(Bound {
                    about: "volume",
                    nodes: nodes.into_iter().collect(),
                    reason: format!("volume {source}"),
                });
                name
            }
            None => source,
        };
        let volume = VolumeUse {
            name: name.to_owned(),
            driver: driver_name(driver).to_owned(),
            is_pinned: self.copies != Copies::EveryNode && !is_prefixed,
        };
        let says_something = !name.is_empty() || volume.needs_driver();
        if says_something && !self.request.volumes.contains(&volume) {
            self.request.volumes.push(volume);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::snapshot::tests::{cluster, node};

    /// Volumes as `name driver`, bounds, and what the engine is asked for.
    fn check(body: &str, volumes: &[&str], bounds: &[&str], host: &str) {
        let snapshot = cluster([node("n1", "127.0.0.1:1", &[])]);
        let body = RawObject::parse(body.as_bytes()).unwrap();
        let config: HostConfig = body.parsed("HostConfig").unwrap().unwrap_or_default();
        let mut left = body.object("HostConfig").unwrap();
        let mut request = Request::default();
        let copies = Copies::Explicit;
        read(&snapshot, &body, &mut left, &config, copies, &mut request).unwrap();
        let found = request.volumes.iter();
        let found: Vec<_> = found
            .map(|volume| format!("{} {}", volume.name, volume.driver))
            .collect();
        assert_eq!(found, volumes);
        let reasons = request.bounds.iter().map(|bound| bound.reason.as_str());
        assert!(reasons.eq(bounds.iter().copied()), "{:?}", request.bounds);
        assert_eq!(String::from_utf8(left.to_bytes()).unwrap(), host);
    }

    #[tokio::test]
    async fn volumes_are_told_from_directories_and_nodes_from_names() {
        for (body, volumes, bounds, host) in [
            ("{}", &[][..], &[][..], "{}"),
            (
                r#"{"HostConfig":{"Binds":["data:/a:ro","/host:/b","C:\\x:D:\\x","/c"]}}"#,
                &["data "],
                &[],
                r#"{"Binds":["data:/a:ro","/host:/b","C:\\x:D:\\x","/c"]}"#,
            ),
            (
                r#"{"HostConfig":{"Binds":["n1/data:/a","n2/data:/b"],"VolumeDriver":"local"}}"#,
                &["data local", "n2/data local"],
                &["volume n1/data"],
                r#"{"Binds":["data:/a","n2/data:/b"],"VolumeDriver":"local"}"#,
            ),
            (
                r#"{"HostConfig":{"Mounts":[{"Type":"volume","Source":"n1/data","Future":1},
                    {"Type":"bind","Source":"/x"},{"Type":"volume","VolumeOptions":{"DriverConfig":{"Name":"nfs:latest"}}}]}}"#,
                &["data ", " nfs"],
                &["volume n1/data"],
                r#"{"Mounts":[{"Type":"volume","Source":"data","Future":1},{"Type":"bind","Source":"/x"},{"Type":"volume","VolumeOptions":{"DriverConfig":{"Name":"nfs:latest"}}}]}"#,
            ),
            (
                r#"{"Volumes":{"/a":{}},"HostConfig":{"Binds":["/host:/b"],"VolumeDriver":"nfs"}}"#,
                &[" nfs"],
                &[],
                r#"{"Binds":["/host:/b"],"VolumeDriver":"nfs"}"#,
            ),
            (
                r#"{"HostConfig":{"Binds":["/host:/b"],"VolumeDriver":"nfs"}}"#,
                &[],
                &[],
                r#"{"Binds":["/host:/b"],"VolumeDriver":"nfs"}"#,
            ),
        ] {
            check(body, volumes, bounds, host);
        }
    }
}
