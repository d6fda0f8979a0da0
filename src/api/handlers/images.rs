//! Images of all nodes as one list.

use std::{collections::BTreeMap, sync::Arc};

use chrono::Utc;
use http::Request;
use hyper::body::Incoming;

use super::{Answer, Context, engine_path, json, parse_version};
use crate::{
    api::{
        error::ApiError, event_filter, list_filters::ListFilters, proxy::Aftermath, query::Query,
    },
    cluster::snapshot::{Node, Snapshot},
    engine::{
        inventory::{
            Image,
            resources::{Tag, split_reference},
        },
        raw::RawObject,
    },
};

pub mod load;
pub mod names;

/// The filters this list knows.
const KNOWN: [&str; 7] = [
    "reference",
    "label",
    "dangling",
    "before",
    "since",
    "until",
    "node",
];

/// From this API version on the parameter `filter` is gone.
const WITHOUT_FILTER: (u32, u32) = (1, 28);

/// `GET /images/json`: images of the same ID are one entry with all their names.
pub fn list(context: &Context, version: Option<&str>, query: &Query) -> Answer {
    let snapshot = context.cluster.snapshot();
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    let dangling = filters.boolean("dangling")?;
    let mut references = filters.get("reference").to_vec();
    let legacy = query.get("filter");
    if !legacy.is_empty() && version.is_none_or(|version| is_before(version, WITHOUT_FILTER)) {
        references.push(legacy.to_owned());
    }
    let created = |name: &str| -> Result<Option<i64>, ApiError> {
        let [reference, ..] = filters.get(name) else {
            return Ok(None);
        };
        find(&snapshot, reference).map_or_else(
            || {
                Err(ApiError::bad_request(format!(
                    "Invalid filter: 'type'='{name}': no such image found: '{reference}'"
                )))
            },
            |(_, image)| Ok(Some(image.created)),
        )
    };
    let before = created("before")?;
    let since = created("since")?;
    let until = match filters.get("until") {
        [] => None,
        [text, ..] => event_filter::time(text, Utc::now())?,
    };
    // As an engine does, only the names that were asked for are shown.
    let is_wanted =
        |name: &str| references.is_empty() || references.iter().any(|r| is_familiar(name, r));
    let mut merged: BTreeMap<String, Merged> = BTreeMap::new();
    for node in snapshot.validated() {
        let name = node.inventory.name();
        let id = node.inventory.node_id();
        if !filters.any("node", |value| value == name || value == id) {
            continue;
        }
        for image in node.inventory.images.iter() {
            let is_dangling = image.tags.is_empty() && image.digests.is_empty();
            let wanted = match dangling {
                // Classic Swarm calls an image dangling if it has no tag.
                Some(wanted) => image.tags.is_empty() == wanted,
                None => query.flag("all") || !is_dangling,
            };
            if wanted
                && before.is_none_or(|before| image.created < before)
                && since.is_none_or(|since| image.created > since)
                && until.is_none_or(|nanos| image.created < nanos.div_euclid(1_000_000_000))
                && filters.labels("label", |key| image.labels.get(key))
                && (references.is_empty() || names(image).any(|name| is_wanted(name)))
            {
                merged
                    .entry(image.id.clone())
                    .or_insert_with(|| Merged::new(image))
                    .add(image, &is_wanted);
            }
        }
    }
    let mut images: Vec<Merged> = merged.into_values().collect();
    images.sort_by_key(|held| std::cmp::Reverse(held.image.created));
    let entries: Vec<RawObject> = images.into_iter().map(Merged::into_entry).collect();
    Ok(json(&entries))
}

/// One image of several nodes.
struct Merged {
    image: Arc<Image>,
    tags: Vec<String>,
    digests: Vec<String>,
}

impl Merged {
    fn new(image: &Arc<Image>) -> Self {
        Self {
            image: Arc::clone(image),
            tags: Vec::new(),
            digests: Vec::new(),
        }
    }

    /// Adds the wanted names that one node has for the image.
    fn add(&mut self, image: &Image, is_wanted: &impl Fn(&str) -> bool) {
        for (own, more) in [
            (&mut self.tags, &image.tags),
            (&mut self.digests, &image.digests),
        ] {
            for name in more {
                if is_wanted(name) && !own.contains(name) {
                    own.push(name.clone());
                }
            }
        }
    }

    fn into_entry(self) -> RawObject {
        let mut entry = self.image.entry.clone();
        // The docker command shows the first name of either kind and expects one to be there.
        if self.tags.is_empty() && self.digests.is_empty() {
            entry.set("RepoTags", &["<none>:<none>"]);
            entry.set("RepoDigests", &["<none>@<none>"]);
        } else {
            entry.set("RepoTags", &self.tags);
            entry.set("RepoDigests", &self.digests);
        }
        entry
    }
}

/// `GET /images/{name}/json|history|get`: asked of a healthy node that has the image.
pub async fn forward(
    context: &Context,
    version: Option<&str>,
    name: &str,
    path: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let snapshot = context.cluster.snapshot();
    let (node, image) = find(&snapshot, name)
        .ok_or_else(|| ApiError::not_found(format!("No such image: {name}")))?;
    if !node.inventory.is_healthy() {
        return Err(ApiError::internal(format!(
            "Image {name} is on unhealthy node {} only",
            node.inventory.name()
        )));
    }
    // An archive carries the names it was asked for by.
    let target = match path {
        "get" => names::path_of(name),
        _ => image.id.clone(),
    };
    let path = engine_path(&node, version, &format!("/images/{target}/{path}"), query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// A node that has the image, a healthy one if there is one, the first by name.
fn find(snapshot: &Snapshot, reference: &str) -> Option<(Arc<Node>, Arc<Image>)> {
    let mut down = None;
    for node in snapshot.validated() {
        let image = node
            .inventory
            .images
            .iter()
            .find(|image| image.matches(reference, Tag::Counts));
        if let Some(image) = image {
            let found = (Arc::clone(node), Arc::clone(image));
            if node.inventory.is_healthy() {
                return Some(found);
            }
            down.get_or_insert(found);
        }
    }
    down
}

/// All names of an image.
fn names(image: &Image) -> impl Iterator<Item = &String> {
    image.tags.iter().chain(&image.digests)
}

/// Whether a name matches a pattern in which `*` stops at slashes, with or without its tag.
fn is_familiar(name: &str, pattern: &str) -> bool {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let Ok(glob) = glob::Pattern::new(pattern) else {
        return false;
    };
    glob.matches_with(name, options) || glob.matches_with(split_reference(name).0, options)
}

fn is_before(version: &str, other: (u32, u32)) -> bool {
    parse_version(version).is_some_and(|version| version < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &str) -> Image {
        let json =
            format!(r#"{{"Id":"sha256:1","RepoTags":{tags},"RepoDigests":["example@sha256:d"]}}"#);
        Image::parse(RawObject::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn references_match_names_with_and_without_their_tag() {
        let image = image(r#"["example:1","example:2","a/b:1"]"#);
        for (pattern, expected) in [
            ("example:2", true),
            ("example:3", false),
            ("exam*", true),
            ("a/*", true),
            ("*b", false),
            ("example@sha256:d", true),
        ] {
            let matches = names(&image).any(|name| is_familiar(name, pattern));
            assert_eq!(matches, expected, "{pattern}");
        }
    }

    #[test]
    fn names_of_all_nodes_are_kept_once() {
        let first = Arc::new(image(r#"["a:1"]"#));
        let mut merged = Merged::new(&first);
        merged.add(&first, &|_| true);
        merged.add(&image(r#"["a:1","a:2","b:1"]"#), &|name| name != "b:1");
        let entry = merged.into_entry();
        assert_eq!(entry.get("RepoTags").unwrap().get(), r#"["a:1","a:2"]"#);
        assert_eq!(
            entry.get("RepoDigests").unwrap().get(),
            r#"["example@sha256:d"]"#
        );
    }
}
