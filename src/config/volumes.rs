//! The `[volumes]` table.

use serde::{Deserialize, Serialize};

use super::section::Section;

/// Volumes that one node alone has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volumes {
    /// Where they are made. Default: `explicit`.
    pub copies: Copies,
}

/// Where volumes are made that one node alone has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Copies {
    /// `docker volume create` makes one on every node. A container that names a volume goes where
    /// there is one.
    #[default]
    Explicit,
    /// `docker volume create` makes one on one node, and containers go there.
    One,
    /// As in classic Swarm: one on every node, and containers go anywhere and get a new one where
    /// there is none.
    EveryNode,
}

impl Volumes {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            copies: section.get("copies", Copies::default()),
        }
    }
}
