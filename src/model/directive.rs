//! Scheduling directives in a create request: environment entries and labels.
//!
//! A user writes `-e constraint:node==n0` or the label
//! `com.docker.swarm.constraints=["node==n0"]`. Both end up as the label, which is how the intent
//! survives in the engine and is found again by another manager.

use std::collections::BTreeMap;

use super::expression::{Expression, ExpressionError};

/// Label with the cluster-wide container ID: 64 hexadecimal digits.
pub const ID_LABEL: &str = "com.docker.swarm.id";

/// Label with the fencing token of a container that was made again in place of another: a number.
pub const FENCE_LABEL: &str = "com.docker.swarm.fence";

/// The four kinds of directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `constraint:`
    Constraint,
    /// `affinity:`
    Affinity,
    /// `whitelist:`
    Whitelist,
    /// `reschedule:`
    Reschedule,
}

impl Kind {
    /// All kinds, in the order their labels are written.
    pub const ALL: [Self; 4] = [
        Self::Constraint,
        Self::Affinity,
        Self::Whitelist,
        Self::Reschedule,
    ];

    /// The text before the colon of an environment entry.
    pub fn env_prefix(self) -> &'static str {
        match self {
            Self::Constraint => "constraint",
            Self::Affinity => "affinity",
            Self::Whitelist => "whitelist",
            Self::Reschedule => "reschedule",
        }
    }

    /// The label that holds a JSON array of this kind's texts.
    pub fn label(self) -> &'static str {
        match self {
            Self::Constraint => "com.docker.swarm.constraints",
            Self::Affinity => "com.docker.swarm.affinities",
            Self::Whitelist => "com.docker.swarm.whitelists",
            Self::Reschedule => "com.docker.swarm.reschedule-policies",
        }
    }
}

/// What happens to a container when its node fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReschedulePolicy {
    /// It waits for its node.
    #[default]
    Off,
    /// It is created again on another node.
    OnNodeFailure(Move),
}

/// How a container is made again on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What becomes of it if it has data.
    pub stateful: Stateful,
    /// Whether its node's agent stops it when the node has no lease, which is waited for.
    pub is_fenced: bool,
}

impl Default for Move {
    fn default() -> Self {
        Self {
            stateful: Stateful::default(),
            is_fenced: true,
        }
    }
}

/// What becomes of a container whose data stays behind when its node fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stateful {
    /// It waits for its node, unless its data can be reached from others.
    #[default]
    Judge,
    /// It is moved, and begins with what data the other node has.
    Force,
    /// It waits, wherever its data is.
    Wait,
}

/// Why the reschedule policies of a request are refused; the messages are classic Swarm's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than one was given.
    #[error("too many reschedule policies")]
    TooMany,
    /// Neither `off` nor `on-node-failure`, or an option that there is not.
    #[error("invalid reschedule policy: {0}")]
    Invalid(String),
}

/// The directives of one request, in the order given, labels before environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    texts: BTreeMap<Kind, Vec<String>>,
}

impl Directives {
    /// Adds one directive.
    pub fn push(&mut self, kind: Kind, text: impl Into<String>) {
        self.texts.entry(kind).or_default().push(text.into());
    }

    /// The texts of one kind.
    pub fn texts(&self, kind: Kind) -> &[String] {
        self.texts.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// Takes the directives out of environment entries and returns the entries that are none.
    pub fn take_env(&mut self, env: Vec<String>) -> Vec<String> {
        env.into_iter()
            .filter(|entry| match split_env(entry) {
                Some((kind, text)) => {
                    self.push(kind, text);
                    false
                }
                None => true,
            })
            .collect()
    }

    /// Writes the directives into labels, which is how they survive in the engine.
    pub fn write_labels(&self, labels: &mut BTreeMap<String, String>) {
        for kind in Kind::ALL {
            let texts = self.texts(kind);
            if !texts.is_empty()
                && let Ok(json) = serde_json::to_string(texts)
            {
                labels.insert(kind.label().to_owned(), json);
            }
        }
    }

    /// Parses the expressions of one kind.
    ///
    /// # Errors
    ///
    /// The first text that is not an expression.
    pub fn expressions(&self, kind: Kind) -> Result<Vec<Expression>, ExpressionError> {
        self.texts(kind)
            .iter()
            .map(|text| Expression::parse(text))
            .collect()
    }

    /// The reschedule policy.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if there are several or the one is unknown.
    pub fn reschedule_policy(&self) -> Result<ReschedulePolicy, PolicyError> {
        match self.texts(Kind::Reschedule) {
            [] => Ok(ReschedulePolicy::Off),
            [one] => parse_policy(one).ok_or_else(|| PolicyError::Invalid(one.clone())),
            _ => Err(PolicyError::TooMany),
        }
    }

    /// The reschedule policy that a container's label of [`Kind::Reschedule`] tells; `Off` if it has
    /// none, or one that makes no sense.
    pub fn policy_of(label: Option<&str>) -> ReschedulePolicy {
        let texts: Option<Vec<String>> = label.and_then(|json| serde_json::from_str(json).ok());
        match texts.as_deref() {
            Some([one]) => parse_policy(one).unwrap_or_default(),
            _ => ReschedulePolicy::Off,
        }
    }

    /// Whether a constraint insists on a node by its name.
    pub fn has_hard_node_constraint(&self) -> bool {
        self.texts(Kind::Constraint)
            .iter()
            .any(|text| Expression::parse(text).is_ok_and(|e| e.is_hard_node()))
    }
}

/// `off`, or `on-node-failure` with options behind commas.
fn parse_policy(text: &str) -> Option<ReschedulePolicy> {
    let mut parts = text.split(',');
    let policy = parts.next()?;
    let (mut stateful, mut is_fenced) = (None, None);
    for option in parts {
        // A second one would contradict the first, or say nothing new.
        let is_repeated = match option {
            "stateful=force" => stateful.replace(Stateful::Force).is_some(),
            "stateful=wait" => stateful.replace(Stateful::Wait).is_some(),
            "fence=on" => is_fenced.replace(true).is_some(),
            "fence=off" => is_fenced.replace(false).is_some(),
            _ => return None,
        };
        if is_repeated {
            return None;
        }
    }
    match policy {
        "off" if stateful.is_none() && is_fenced.is_none() => Some(ReschedulePolicy::Off),
        "on-node-failure" => Some(ReschedulePolicy::OnNodeFailure(Move {
            stateful: stateful.unwrap_or_default(),
            is_fenced: is_fenced.unwrap_or(true),
        })),
        _ => None,
    }
}

/// Splits `constraint:node==n0` at its first colon, if it is a directive.
pub fn split_env(entry: &str) -> Option<(Kind, &str)> {
    let (prefix, text) = entry.split_once(':')?;
    Kind::ALL
        .into_iter()
        .find(|kind| kind.env_prefix() == prefix)
        .map(|kind| (kind, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_leave_the_environment() {
        let mut directives = Directives::default();
        let env = directives.take_env(vec![
            "PATH=/bin".to_owned(),
            "constraint:node==n0".to_owned(),
            "affinity:container==web:1".to_owned(),
            "constraint=plain".to_owned(),
        ]);
        assert_eq!(env, ["PATH=/bin", "constraint=plain"]);
        assert_eq!(directives.texts(Kind::Constraint), ["node==n0"]);
        assert_eq!(directives.texts(Kind::Affinity), ["container==web:1"]);
    }

    #[test]
    fn knows_a_hard_node_constraint() {
        for (text, expected) in [
            ("node==n0", true),
            ("node==~n0", false),
            ("node!=n0", false),
            ("rack==a", false),
        ] {
            let mut directives = Directives::default();
            directives.push(Kind::Constraint, text);
            assert_eq!(directives.has_hard_node_constraint(), expected, "{text}");
        }
    }

    #[test]
    fn a_policy_may_say_what_becomes_of_data() {
        let on_failure = |stateful| {
            let is_fenced = true;
            Some(ReschedulePolicy::OnNodeFailure(Move {
                stateful,
                is_fenced,
            }))
        };
        let unfenced = Move {
            stateful: Stateful::Wait,
            is_fenced: false,
        };
        for (text, expected) in [
            ("off", Some(ReschedulePolicy::Off)),
            ("on-node-failure", on_failure(Stateful::Judge)),
            (
                "on-node-failure,stateful=force",
                on_failure(Stateful::Force),
            ),
            ("on-node-failure,stateful=wait", on_failure(Stateful::Wait)),
            (
                "on-node-failure,fence=off,stateful=wait",
                Some(ReschedulePolicy::OnNodeFailure(unfenced)),
            ),
            ("on-node-failure,fence=on", on_failure(Stateful::Judge)),
            ("on-node-failure,fence=off,fence=on", None),
            ("off,fence=off", None),
            ("off,stateful=wait", None),
            ("on-node-failure,stateful=maybe", None),
            ("on-node-failure,stateful=wait,stateful=force", None),
            ("on-node-failure,", None),
            ("", None),
        ] {
            assert_eq!(parse_policy(text), expected, "{text}");
            let json = serde_json::to_string(&[text]).unwrap();
            let read = Directives::policy_of(Some(&json));
            assert_eq!(read, expected.unwrap_or_default(), "{text}");
        }
        let read = Directives::policy_of(Some("on-node-failure"));
        assert_eq!(read, ReschedulePolicy::Off);
        assert_eq!(Directives::policy_of(None), ReschedulePolicy::Off);
    }

    #[test]
    fn refuses_policies_with_the_classic_messages() {
        let mut directives = Directives::default();
        assert_eq!(directives.reschedule_policy(), Ok(ReschedulePolicy::Off));
        directives.push(Kind::Reschedule, "false");
        assert_eq!(
            directives.reschedule_policy().unwrap_err().to_string(),
            "invalid reschedule policy: false"
        );
        directives.push(Kind::Reschedule, "off");
        assert_eq!(
            directives.reschedule_policy().unwrap_err().to_string(),
            "too many reschedule policies"
        );
    }
}
