//! An engine's list entry of a container, cut once where the cluster tells something else, so that
//! listing it is copying it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{engine::raw::RawObject, model::port::is_unspecified};

/// A list entry as the engine sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListEntry {
    text: Box<str>,
    // Invariant: in order, within `text`, and without overlap.
    cuts: Box<[Cut]>,
}

/// What the cluster tells in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The value of `Names`.
    Names,
    /// The value of `State`.
    State,
    /// The value of `Status`.
    Status,
    /// The address of a port that is published on all addresses of the node.
    NodeIp,
}

/// A part of an entry, in the order of the text.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Goes out as it is.
    Text(&'a str),
    /// To be told anew, with what the engine has there: a JSON value.
    Own(Part, &'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    start: u32,
    end: u32,
    part: Part,
}

/// The values to cut out, where they stand in the text.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Members<'a> {
    #[serde(borrow)]
    names: Option<&'a RawValue>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    ports: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Port<'a> {
    #[serde(borrow, rename = "IP")]
    ip: Option<&'a RawValue>,
}

impl ListEntry {
    /// Cuts an entry. Members that it lacks are not added.
    ///
    /// # Errors
    ///
    /// A member is there twice.
    pub fn new(entry: &RawObject) -> serde_json::Result<Self> {
        let text = entry.to_text();
        let members: Members<'_> = serde_json::from_str(&text)?;
        let ports: Vec<Port<'_>> = members
            .ports
            .and_then(|ports| serde_json::from_str(ports.get()).ok())
            .unwrap_or_default();
        let addresses = ports.iter().filter_map(|port| port.ip).filter(|ip| {
            let ip = ip.get().trim_matches('"');
            is_unspecified(ip)
        });
        let mut cuts: Vec<Cut> = [
            (Part::Names, members.names),
            (Part::State, members.state),
            (Part::Status, members.status),
        ]
        .into_iter()
        .filter_map(|(part, value)| Some((part, value?)))
        .chain(addresses.map(|ip| (Part::NodeIp, ip)))
        .filter_map(|(part, value)| cut(&text, value.get(), part))
        .collect();
        cuts.sort_unstable_by_key(|cut| cut.start);
        Ok(Self {
            cuts: cuts.into(),
            text: text.into(),
        })
    }

    /// The whole entry, a JSON object.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the engine told this.
    pub fn has(&self, part: Part) -> bool {
        self.cuts.iter().any(|cut| cut.part == part)
    }

    /// The entry in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let ends = self.cuts.iter().map(|cut| cut.end as usize);
        let starts = std::iter::once(0).chain(ends);
        let cuts = self.cuts.iter().map(Some).chain(std::iter::once(None));
        starts.zip(cuts).flat_map(|(start, cut)| {
            let end = cut.map_or(self.text.len(), |cut| cut.start as usize);
            let own = cut.map(|cut| {
                let value = &self.text[cut.start as usize..cut.end as usize];
                Piece::Own(cut.part, value)
            });
            [Some(Piece::Text(&self.text[start..end])), own]
                .into_iter()
                .flatten()
        })
    }
}

/// Where `value`, which is a part of `text`, stands in it; `None` for one beyond four gigabytes.
fn cut(text: &str, value: &str, part: Part) -> Option<Cut> {
    let start = value.as_ptr() as usize - text.as_ptr() as usize;
    Some(Cut {
        start: u32::try_from(start).ok()?,
        end: u32::try_from(start + value.len()).ok()?,
        part,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> ListEntry {
        ListEntry::new(&RawObject::parse(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn what_the_cluster_tells_is_cut_out() {
        let text = r#"{"Id":"c","Names":["/web"],"Ports":[{"IP":"0.0.0.0","X":1},{"IP":"10.0.0.1"},{"IP":"::"}],"State":"running","Y":{}}"#;
        let entry = entry(text);
        assert_eq!(entry.text(), text);
        assert_eq!(
            entry.pieces().collect::<Vec<_>>(),
            [
                Piece::Text(r#"{"Id":"c","Names":"#),
                Piece::Own(Part::Names, r#"["/web"]"#),
                Piece::Text(r#","Ports":[{"IP":"#),
                Piece::Own(Part::NodeIp, r#""0.0.0.0""#),
                Piece::Text(r#","X":1},{"IP":"10.0.0.1"},{"IP":"#),
                Piece::Own(Part::NodeIp, r#""::""#),
                Piece::Text(r#"}],"State":"#),
                Piece::Own(Part::State, r#""running""#),
                Piece::Text(r#","Y":{}}"#),
            ]
        );
    }

    #[test]
    fn odd_members_stay_as_they_are() {
        for text in [
            "{}",
            r#"{"Ports":null,"Names":null}"#,
            r#"{"Ports":{"IP":"0.0.0.0"}}"#,
            r#"{"Ports":[{"IP":7}]}"#,
        ] {
            let entry = entry(text);
            let joined: String = entry
                .pieces()
                .map(|piece| match piece {
                    Piece::Text(text) | Piece::Own(_, text) => text,
                })
                .collect();
            assert_eq!(joined, text);
        }
        let twice = RawObject::parse(br#"{"State":"running","State":"dead"}"#).unwrap();
        assert!(ListEntry::new(&twice).is_err());
    }
}
