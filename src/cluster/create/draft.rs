//! A create request, understood: what is placed, and what the engine is asked for.

use std::{collections::BTreeMap, sync::Arc};

use rand::RngExt;
use tracing::warn;

use super::{CreateError, CreateRequest, Instead, network, volumes};
use crate::{
    cluster::{
        placement,
        reschedule::Place,
        snapshot::{Node, Snapshot},
    },
    config::volumes::Copies,
    engine::{
        inventory::{
            Container,
            container::{CpuShares, HostConfig, host_ports, shares_of_cores},
        },
        raw::{MemberError, RawObject},
    },
    model::{
        directive::{Directives, ID_LABEL, Kind, ReschedulePolicy, Stateful},
        expression::{Expression, Operator, Softness},
    },
    scheduler::request::{Reference, Request},
};

/// A create request, understood.
#[derive(Debug)]
pub(super) struct Draft {
    pub body: RawObject,
    host_config: RawObject,
    /// As the client wrote it, before scaling.
    cpu_shares: u64,
    shares: CpuShares,
    pub directives: Directives,
    pub request: Request,
    pub container: Arc<Container>,
    pub instead_of: Option<Place>,
    pub wants_holder: bool,
}

impl Draft {
    pub fn new(
        create: &CreateRequest,
        snapshot: &Snapshot,
        shares: CpuShares,
        copies: Copies,
    ) -> Result<Self, CreateError> {
        let mut body = create.body.clone();
        let mut host_config = body.object("HostConfig")?;
        let mut labels: BTreeMap<String, String> = body.parsed("Labels")?.unwrap_or_default();
        let directives = take_directives(&mut body, &mut labels)?;
        directives.reschedule_policy()?;
        let swarm_id = labels
            .entry(ID_LABEL.to_owned())
            .or_insert_with(new_swarm_id)
            .clone();
        body.set("Labels", &labels);
        let parsed: HostConfig = body.parsed("HostConfig")?.unwrap_or_default();
        let need = parsed.need(shares);
        let mut request = Request {
            id: swarm_id,
            name: create
                .name
                .strip_prefix('/')
                .unwrap_or(&create.name)
                .to_owned(),
            image: body.parsed("Image")?.unwrap_or_default(),
            need,
            network_mode: parsed.network_mode.clone(),
            bindings: host_ports(&parsed.port_bindings),
            exposed_ports: exposed_ports(&body)?,
            references: references(&parsed),
            labels: labels.into_iter().collect(),
            ..Request::default()
        };
        request.set_directives(&directives);
        let network = network::resolve(snapshot, &parsed.network_mode);
        if let Some(network) = &network {
            host_config.set("NetworkMode", &network.name);
            request.network_mode.clone_from(&network.name);
        }
        if !directives.has_hard_node_constraint() {
            // Never stored: another node may have the network later.
            for network in network
                .into_iter()
                .chain(network::endpoints(snapshot, &body)?)
            {
                request.bind(network.bound);
            }
        }
        volumes::read(
            snapshot,
            &body,
            &mut host_config,
            &parsed,
            copies,
            &mut request,
        )?;
        network::strip_endpoints(snapshot, &mut body)?;
        let container = Arc::new(placement::expected(&request));
        Ok(Self {
            body,
            host_config,
            cpu_shares: parsed.cpu_shares.max(0).unsigned_abs(),
            shares,
            directives,
            request,
            container,
            instead_of: None,
            wants_holder: false,
        })
    }

    /// Puts the container in the place of another one.
    pub fn take_place(&mut self, instead: &Instead, snapshot: &Snapshot) {
        self.instead_of.clone_from(&instead.place);
        if let Some(only) = &instead.only {
            self.request.bind(only.clone());
        }
        self.request.need += instead.companions;
        if !self.directives.has_hard_node_constraint() {
            let networks = instead.networks.iter();
            for network in networks.filter_map(|name| network::resolve(snapshot, name)) {
                self.request.bind(network.bound);
            }
        }
        if instead.place.is_some() && self.goes_without_data() {
            for volume in &mut self.request.volumes {
                volume.is_pinned = false;
            }
        }
    }

    /// Whether a node was not seen to have all volumes that the request names.
    pub fn has_new_volumes(&self, node: &Node) -> bool {
        let has = |name: &str| {
            let mut volumes = node.inventory.volumes.iter();
            volumes.any(|volume| volume.name == *name)
        };
        let mut mounts = self.container.mounts.iter();
        mounts.any(|mount| !has(&mount.name))
    }

    fn goes_without_data(&self) -> bool {
        matches!(
            self.directives.reschedule_policy(),
            Ok(ReschedulePolicy::OnNodeFailure(moves)) if moves.stateful == Stateful::Force
        )
    }

    /// The body for one engine.
    pub fn body_for(&self, node: &Node) -> RawObject {
        let mut body = self.body.clone();
        let mut host_config = self.host_config.clone();
        if self.shares == CpuShares::Cores && self.cpu_shares > 0 {
            let cpus = node.inventory.specs.as_ref().map_or(1, |specs| specs.cpus);
            host_config.set("CpuShares", &shares_of_cores(self.cpu_shares, cpus));
        }
        if !host_config.is_empty() {
            body.set("HostConfig", &host_config);
        }
        body
    }

    /// From now on only nodes that have the image will do. This is never stored.
    pub fn insist_on_holder(&mut self) {
        self.wants_holder = true;
        self.request.add_expression(
            Kind::Affinity,
            Expression {
                key: "image".to_owned(),
                operator: Operator::Equal,
                value: with_tag(&self.request.image),
                softness: Softness::Hard,
            },
        );
    }
}

/// Moves directives from environment and labels into labels, and returns them.
fn take_directives(
    body: &mut RawObject,
    labels: &mut BTreeMap<String, String>,
) -> Result<Directives, MemberError> {
    let mut directives = Directives::default();
    let mut unreadable = Vec::new();
    for kind in Kind::ALL {
        let Some(label) = labels.get(kind.label()) else {
            continue;
        };
        match serde_json::from_str::<Vec<String>>(label) {
            Ok(texts) => {
                for text in texts {
                    directives.push(kind, text);
                }
            }
            Err(error) => {
                warn!(label = kind.label(), %error, "label is no JSON array of texts, ignored");
                unreadable.push(kind);
            }
        }
    }
    if let Some(env) = body.parsed::<Vec<String>>("Env")? {
        let count = env.len();
        let rest = directives.take_env(env);
        if rest.len() != count {
            body.set("Env", &rest);
        }
    }
    directives.write_labels(labels);
    Ok(directives)
}

/// The ports that the request exposes, sorted.
fn exposed_ports(body: &RawObject) -> Result<Vec<String>, MemberError> {
    let ports: BTreeMap<String, serde::de::IgnoredAny> =
        body.parsed("ExposedPorts")?.unwrap_or_default();
    Ok(ports.into_keys().collect())
}

/// The containers that must be on the same node.
fn references(host_config: &HostConfig) -> Vec<Reference> {
    let before_colon = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
    let volumes_from = host_config.volumes_from.iter().map(|from| Reference {
        container: before_colon(from),
        text: format!("--volumes-from={from}"),
    });
    let links = host_config.links.iter().map(|link| Reference {
        container: before_colon(link),
        text: format!("--link={link}"),
    });
    let modes = [
        ("net", &host_config.network_mode),
        ("ipc", &host_config.ipc_mode),
        ("pid", &host_config.pid_mode),
    ];
    let shared = modes.into_iter().filter_map(|(option, mode)| {
        let container = mode.strip_prefix("container:")?;
        Some(Reference {
            container: container.to_owned(),
            text: format!("--{option}={mode}"),
        })
    });
    volumes_from.chain(links).chain(shared).collect()
}

/// 64 random hexadecimal digits.
fn new_swarm_id() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image with the tag it means.
pub(super) fn with_tag(image: &str) -> String {
    let (_, tag) = crate::engine::inventory::resources::split_reference(image);
    if tag.is_empty() {
        format!("{image}:latest")
    } else {
        image.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(name: &str, body: &str) -> Draft {
        let request = CreateRequest {
            name: name.to_owned(),
            body: RawObject::parse(body.as_bytes()).unwrap(),
            version: None,
            query: String::new(),
            auth: None,
        };
        Draft::new(
            &request,
            &Snapshot::default(),
            CpuShares::Cores,
            Copies::Explicit,
        )
        .unwrap()
    }

    fn labels(draft: &Draft) -> BTreeMap<String, String> {
        draft.body.parsed("Labels").unwrap().unwrap()
    }

    #[test]
    fn directives_become_labels_with_labels_first() {
        let draft = draft(
            "",
            r#"{"Image":"busybox","Env":["A=b","constraint:node==n0"],
                "Labels":{"com.docker.swarm.constraints":"[\"ostype==linux\"]"}}"#,
        );
        assert_eq!(
            labels(&draft)["com.docker.swarm.constraints"],
            r#"["ostype==linux","node==n0"]"#
        );
        assert_eq!(draft.body.get("Env").unwrap().get(), r#"["A=b"]"#);
        assert_eq!(draft.request.expressions(Kind::Constraint).len(), 2);
        assert!(!labels(&draft).contains_key("com.docker.swarm.affinities"));
    }

    #[test]
    fn the_cluster_wide_id_is_kept_or_made() {
        let made = draft("", "{}");
        assert_eq!(labels(&made)[ID_LABEL].len(), 64);
        let kept = draft("", r#"{"Labels":{"com.docker.swarm.id":"mine"}}"#);
        assert_eq!(labels(&kept)[ID_LABEL], "mine");
    }

    #[test]
    fn what_is_not_understood_passes_through() {
        let draft = draft(
            "/web",
            r#"{"Future":{"a": 1},"HostConfig":{"New":[1,  2]}}"#,
        );
        let text = String::from_utf8(draft.body.to_bytes()).unwrap();
        assert!(
            text.starts_with(r#"{"Future":{"a": 1},"HostConfig":{"New":[1,  2]}"#),
            "{text}"
        );
        assert_eq!(draft.request.name, "web");
    }

    #[test]
    fn dependencies_are_named_as_the_user_wrote_them() {
        let draft = draft(
            "",
            r#"{"HostConfig":{"VolumesFrom":["a:ro"],"Links":["/b:foo"],"NetworkMode":"container:c",
                "IpcMode":"container:d","PidMode":"container:e"}}"#,
        );
        let texts: Vec<_> = draft
            .request
            .references
            .iter()
            .map(|r| r.text.as_str())
            .collect();
        assert_eq!(
            texts,
            [
                "--volumes-from=a:ro",
                "--link=/b:foo",
                "--net=container:c",
                "--ipc=container:d",
                "--pid=container:e"
            ]
        );
    }

    #[test]
    fn two_reschedule_policies_are_refused() {
        let request = CreateRequest {
            name: String::new(),
            body: RawObject::parse(br#"{"Env":["reschedule:off","reschedule:off"]}"#).unwrap(),
            version: None,
            query: String::new(),
            auth: None,
        };
        let error = Draft::new(
            &request,
            &Snapshot::default(),
            CpuShares::Cores,
            Copies::Explicit,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "too many reschedule policies");
    }
}
