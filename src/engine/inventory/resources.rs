//! Images, networks, and volumes of one engine: the engine's JSON with what look-ups need.

use crate::{engine::raw::RawObject, model::pairs::Pairs};

use super::{labels, text};

/// One image.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:…`
    pub id: String,
    /// `repository:tag`
    pub tags: Vec<String>,
    /// `repository@sha256:…`
    pub digests: Vec<String>,
    /// Labels.
    pub labels: Pairs,
    /// Seconds since 1970.
    pub created: i64,
    /// The engine's list entry.
    pub entry: RawObject,
}

/// One network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Full ID.
    pub id: String,
    /// Name, without the node.
    pub name: String,
    /// `local`, `global`, `swarm`.
    pub scope: String,
    /// `bridge`, `overlay`.
    pub driver: String,
    /// Labels.
    pub labels: Pairs,
    /// The engine's list entry.
    pub entry: RawObject,
}

/// One volume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Name, without the node.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// `local` or `global`.
    pub scope: String,
    /// Labels.
    pub labels: Pairs,
    /// The engine's list entry.
    pub entry: RawObject,
}

impl Image {
    /// Reads a list entry.
    pub fn parse(entry: RawObject) -> Self {
        let list = |name| {
            let texts: Option<Vec<String>> = entry.parsed(name).ok().flatten();
            texts
                .unwrap_or_default()
                .into_iter()
                .filter(|text| !text.starts_with("<none>"))
                .collect()
        };
        Self {
            id: text(&entry, "Id"),
            tags: list("RepoTags"),
            digests: list("RepoDigests"),
            labels: labels(&entry),
            created: entry.parsed("Created").ok().flatten().unwrap_or_default(),
            entry: entry.exact(),
        }
    }

    /// Whether a reference means this image.
    ///
    /// The rule is classic Swarm's: the ID or a prefix of three or more characters, with or
    /// without `sha256:`; else the same repository, with the same tag or digest if the reference
    /// has one. `library/` and registry hosts are not filled in.
    pub fn matches(&self, reference: &str, tag: Tag) -> bool {
        let bare = self.id.strip_prefix("sha256:").unwrap_or(&self.id);
        let wanted = reference.strip_prefix("sha256:").unwrap_or(reference);
        if wanted.len() > 2 && bare.starts_with(wanted) {
            return true;
        }
        let (repository, version) = split_reference(reference);
        self.tags.iter().chain(&self.digests).any(|own| {
            let (own_repository, own_version) = split_reference(own);
            own_repository == repository
                && (version.is_empty() || own_version == version || tag == Tag::Ignored)
        })
    }
}

/// Whether the tag of a reference counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The image must have it.
    Counts,
    /// The repository is enough.
    Ignored,
}

/// Splits a reference into repository and tag or digest; the latter is empty if there is none.
pub fn split_reference(reference: &str) -> (&str, &str) {
    if let Some(parts) = reference.split_once('@') {
        return parts;
    }
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, ""),
    }
}

impl Network {
    /// Reads a list entry.
    pub fn parse(entry: RawObject) -> Self {
        Self {
            id: text(&entry, "Id"),
            name: text(&entry, "Name"),
            scope: text(&entry, "Scope"),
            driver: text(&entry, "Driver"),
            labels: labels(&entry),
            entry: entry.exact(),
        }
    }
}

impl Volume {
    /// Whether a volume of this name on another node is the same one. Engines before 1.12 do not
    /// tell; then only the engine's own driver keeps volumes on one node.
    pub fn is_shared(&self) -> bool {
        is_shared(&self.driver, &self.scope)
    }

    /// Reads a list entry.
    pub fn parse(entry: RawObject) -> Self {
        Self {
            name: text(&entry, "Name"),
            driver: text(&entry, "Driver"),
            scope: text(&entry, "Scope"),
            labels: labels(&entry),
            entry: entry.exact(),
        }
    }
}

/// Whether volumes of a driver with this scope are the same on every node.
pub fn is_shared(driver: &str, scope: &str) -> bool {
    match scope {
        "global" => true,
        "local" => false,
        _ => driver != "local",
    }
}

/// A driver's name without the tag `latest`, which engines add to those of managed plugins.
pub fn driver_name(driver: &str) -> &str {
    driver.strip_suffix(":latest").unwrap_or(driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_shared_by_its_scope() {
        for (driver, scope, expected) in [
            ("local", "local", false),
            ("local", "", false),
            ("snapshot", "local", false),
            ("nfs", "global", true),
            ("nfs", "", true),
        ] {
            assert_eq!(is_shared(driver, scope), expected, "{driver} {scope}");
        }
    }

    fn image(json: &str) -> Image {
        Image::parse(RawObject::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn matches_ids_and_names_as_classic_swarm_did() {
        let image = image(
            r#"{"Id":"sha256:378954456789","RepoTags":["name:latest","private.registry.com:5000/name:v1"],
               "RepoDigests":["name@sha256:a973"]}"#,
        );
        for (reference, expected) in [
            ("378", true),
            ("sha256:3789", true),
            ("37", false),
            ("name:latest", true),
            ("name", true),
            ("nam", false),
            ("name:v2", false),
            ("name@sha256:a973", true),
            ("private.registry.com:5000/name", true),
            ("private.registry.com:5000/name:v1", true),
            ("private.registry.com:5000/nam", false),
        ] {
            assert_eq!(
                image.matches(reference, Tag::Counts),
                expected,
                "{reference}"
            );
        }
        assert!(image.matches("name:v2", Tag::Ignored));
    }

    #[test]
    fn splits_at_the_digest_or_the_last_colon() {
        assert_eq!(split_reference("a:5000/b"), ("a:5000/b", ""));
        assert_eq!(split_reference("a:5000/b:c"), ("a:5000/b", "c"));
        assert_eq!(split_reference("b@sha256:1"), ("b", "sha256:1"));
    }

    #[test]
    fn an_image_without_a_name_has_no_tags() {
        let image = image(r#"{"Id":"sha256:1","RepoTags":["<none>:<none>"],"RepoDigests":null}"#);
        assert!(image.tags.is_empty() && image.digests.is_empty());
    }
}
