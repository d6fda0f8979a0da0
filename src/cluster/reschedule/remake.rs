//! The create request that makes a container again.
//!
//! An engine's inspect document says what a container is in nearly the words of the request that
//! made it. What the engine added by itself, such as the host name made of the container's ID, is
//! left out; other containers are named and not numbered, since their IDs change too.

use std::collections::BTreeMap;

use super::{Superseded, plan::find};
use crate::{
    engine::{
        inventory::{Container, Inventory, container::CpuShares},
        raw::{MemberError, RawObject},
    },
    model::resource::NANO,
};

/// What a container is made of.
#[derive(Debug)]
pub struct Remake {
    /// The body of the create request; of its networks only the first.
    pub body: RawObject,
    /// The networks that it joins afterwards, with the settings of their endpoints.
    pub networks: Vec<(String, RawObject)>,
}

/// Networks that every engine has: joining them takes no settings.
const BUILT_IN: [&str; 3] = ["bridge", "host", "none"];

/// Members of an endpoint that say what was wished for, rather than what came of it.
const WISHES: [&str; 4] = ["IPAMConfig", "Links", "Aliases", "DriverOpts"];

impl Remake {
    /// Reads the inspect document of a container on a node, of which the containers in `gone` were
    /// made again elsewhere.
    ///
    /// # Errors
    ///
    /// The document is not what an engine sends.
    pub fn read(
        document: &RawObject,
        container: &Container,
        inventory: &Inventory,
        gone: &Superseded,
        shares: CpuShares,
    ) -> Result<Self, MemberError> {
        let mut body = document.object("Config")?;
        let mut host = document.object("HostConfig")?;
        let mode: String = host.parsed("NetworkMode")?.unwrap_or_default();
        let shares_network = mode.starts_with("container:");
        let short = container.id.get(..12).unwrap_or(&container.id);
        let host_name: String = body.parsed("Hostname")?.unwrap_or_default();
        let is_invented = host_name == short || (mode == "host" && host_name == inventory.name());
        if is_invented || shares_network {
            body.remove("Hostname");
        }
        if shares_network {
            // They are those of the other container, or of the image, and refused here.
            for member in ["Domainname", "ExposedPorts", "MacAddress"] {
                body.remove(member);
            }
        }
        host.remove("ContainerIDFile");
        // The engine shows the shares it was told, which is not what the client asked for.
        if shares == CpuShares::Cores && host.parsed::<i64>("CpuShares")?.unwrap_or(0) > 0 {
            host.set("CpuShares", &(container.reserved.cpu_nano / NANO));
        }
        name_neighbours(&mut host, inventory, gone)?;
        let settings = document.object("NetworkSettings")?;
        let endpoints: BTreeMap<String, Option<RawObject>> =
            settings.parsed("Networks")?.unwrap_or_default();
        let mut networks = Vec::new();
        let mut first = None;
        for (name, endpoint) in endpoints {
            if BUILT_IN.contains(&name.as_str()) || shares_network {
                continue;
            }
            let endpoint = endpoint.unwrap_or_default();
            let id: Option<String> = endpoint.parsed("NetworkID")?;
            let wishes = wishes(&endpoint, short)?;
            if name == mode || id.as_deref() == Some(mode.as_str()) {
                first = Some((name, wishes));
            } else {
                networks.push((name, wishes));
            }
        }
        if let Some((name, wishes)) = first {
            host.set("NetworkMode", &name);
            let config = BTreeMap::from([("EndpointsConfig", BTreeMap::from([(name, wishes)]))]);
            body.set("NetworkingConfig", &config);
        }
        body.set("HostConfig", &host);
        Ok(Self { body, networks })
    }
}

/// Names the containers that another one needs, as a create request would.
fn name_neighbours(
    host: &mut RawObject,
    inventory: &Inventory,
    gone: &Superseded,
) -> Result<(), MemberError> {
    let name_of = |reference: &str| {
        let found = find(inventory, reference).and_then(|id| inventory.containers.get(&id));
        let was_it = |id: &str| reference.len() >= 12 && id.starts_with(reference);
        let moved = gone.iter().find(|(id, _)| was_it(id));
        let moved = moved.map(|(_, name)| name.as_str());
        let name = found.map(|container| container.name()).or(moved);
        name.filter(|name| !name.is_empty())
            .unwrap_or(reference)
            .to_owned()
    };
    for member in ["NetworkMode", "IpcMode", "PidMode"] {
        let mode: String = host.parsed(member)?.unwrap_or_default();
        if let Some(reference) = mode.strip_prefix("container:") {
            host.set(member, &format!("container:{}", name_of(reference)));
        }
    }
    let from: Vec<String> = host.parsed("VolumesFrom")?.unwrap_or_default();
    if !from.is_empty() {
        let named = from.iter().map(|text| match text.split_once(':') {
            Some((reference, mode)) => format!("{}:{mode}", name_of(reference)),
            None => name_of(text),
        });
        host.set("VolumesFrom", &named.collect::<Vec<_>>());
    }
    // The engine shows `/db:/web/alias` for `db:alias`.
    let links: Vec<String> = host.parsed("Links")?.unwrap_or_default();
    if !links.is_empty() {
        let named = links.iter().map(|text| match text.split_once(':') {
            Some((reference, alias)) => {
                let alias = alias.rsplit('/').next().unwrap_or(alias);
                format!("{}:{alias}", name_of(reference))
            }
            None => name_of(text),
        });
        host.set("Links", &named.collect::<Vec<_>>());
    }
    Ok(())
}

/// What was wished for of an endpoint.
fn wishes(endpoint: &RawObject, short_id: &str) -> Result<RawObject, MemberError> {
    let mut wishes = RawObject::default();
    for member in WISHES {
        if let Some(value) = endpoint.get(member) {
            wishes.set(member, value);
        }
    }
    let aliases: Option<Vec<String>> = endpoint.parsed("Aliases")?;
    if let Some(mut aliases) = aliases {
        // Each engine adds its own.
        aliases.retain(|alias| alias != short_id);
        wishes.set("Aliases", &aliases);
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::snapshot::tests::node;

    fn remake(document: &Value) -> (Value, Vec<(String, Value)>) {
        let db = "dbdbdbdbdbdbdbdb";
        let web = "abcdef0123456789";
        let node = node(
            "n0",
            "127.0.0.1:1",
            &[(db, &["db", "web/alias"], "s1"), (web, &["web"], "s2")],
        );
        let mut container = Container::clone(&node.inventory.containers[&Arc::<str>::from(web)]);
        container.reserved.cpu_nano = 2 * NANO;
        let document = RawObject::parse(document.to_string().as_bytes()).unwrap();
        let gone = Superseded::from([("cccccccccccccccc".into(), "cache".to_owned())]);
        let inventory = &node.inventory;
        let made = Remake::read(&document, &container, inventory, &gone, CpuShares::Cores);
        let made = made.unwrap();
        let value = |object: &RawObject| serde_json::from_slice(&object.to_bytes()).unwrap();
        let networks = made.networks.iter();
        (
            value(&made.body),
            networks
                .map(|(name, wishes)| (name.clone(), value(wishes)))
                .collect(),
        )
    }

    #[tokio::test]
    async fn what_the_engine_added_is_left_out() {
        let (body, networks) = remake(&json!({
            "Id": "abcdef0123456789",
            "Config": {"Hostname": "abcdef012345", "Image": "busybox", "New": [1]},
            "HostConfig": {"ContainerIDFile": "/tmp/id", "CpuShares": 1024, "NetworkMode": "default"},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
        }));
        assert_eq!(
            body,
            json!({
                "Image": "busybox", "New": [1],
                "HostConfig": {"CpuShares": 2, "NetworkMode": "default"},
            })
        );
        assert!(networks.is_empty());
    }

    #[tokio::test]
    async fn a_host_name_that_was_asked_for_stays() {
        let (body, _) = remake(&json!({"Config": {"Hostname": "mail"}}));
        assert_eq!(body["Hostname"], "mail");
    }

    #[tokio::test]
    async fn what_comes_with_the_network_of_another_container_is_left_out() {
        let (body, _) = remake(&json!({
            "Config": {"Hostname": "other", "Domainname": "d", "ExposedPorts": {"80/tcp": {}}},
            "HostConfig": {"NetworkMode": "container:cccccccccccccccc"},
        }));
        let wanted = json!({"HostConfig": {"NetworkMode": "container:cache"}});
        assert_eq!(body, wanted, "the other one was made again before");
    }

    #[tokio::test]
    async fn other_containers_are_named() {
        let (body, _) = remake(&json!({"HostConfig": {
            "NetworkMode": "container:dbdbdbdbdbdbdbdb", "IpcMode": "container:dbdbdbdbdbdb",
            "VolumesFrom": ["db:ro", "dbdbdbdbdbdbdbdb"], "Links": ["/db:/web/alias"],
        }}));
        assert_eq!(
            body["HostConfig"],
            json!({
                "NetworkMode": "container:db", "IpcMode": "container:db",
                "VolumesFrom": ["db:ro", "db"], "Links": ["db:alias"],
            })
        );
    }

    #[tokio::test]
    async fn networks_are_joined_with_what_was_wished_for() {
        let endpoint = |id: &str| {
            json!({
                "NetworkID": id, "Aliases": ["front", "abcdef012345"], "IPAddress": "10.0.0.2",
                "IPAMConfig": {"IPv4Address": "10.0.0.2"}, "MacAddress": "02:42:0a:00:00:02",
            })
        };
        let (body, networks) = remake(&json!({
            "HostConfig": {"NetworkMode": "n1"},
            "NetworkSettings": {"Networks": {"front": endpoint("n1"), "back": endpoint("n2")}},
        }));
        let wishes = json!({"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "Aliases": ["front"]});
        assert_eq!(body["HostConfig"]["NetworkMode"], "front");
        assert_eq!(
            body["NetworkingConfig"],
            json!({"EndpointsConfig": {"front": wishes}})
        );
        assert_eq!(networks, [("back".to_owned(), wishes)]);
    }
}
