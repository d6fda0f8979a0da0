//! JSON objects whose members stay as they were written.
//!
//! An engine may add members this program has never heard of; they must survive. So an object is
//! kept as the ordered list of its members with their values unparsed, and only those that a merge
//! or a decision needs are looked at or replaced.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

use crate::model::{pairs::Pairs, shared::shared};

/// A JSON object with unparsed members, in their order.
#[derive(Clone, Debug, Default)]
pub struct RawObject {
    members: Vec<(String, Box<RawValue>)>,
}

impl RawObject {
    /// Parses one object; `null` counts as empty.
    ///
    /// # Errors
    ///
    /// The text is not JSON, or not an object.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        Ok(serde_json::from_slice::<Option<Self>>(text)?.unwrap_or_default())
    }

    /// The member's value, or `None` if it is absent or `null`.
    ///
    /// Names are compared as Go's JSON decoder does, without regard to case; the last one wins.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.members
            .iter()
            .rev()
            .find(|(member, _)| member.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
            .filter(|value| value.get() != "null")
    }

    /// The member's value parsed, or `None` if it is absent or `null`.
    ///
    /// # Errors
    ///
    /// The value is not a `T`; the message names the member.
    pub fn parsed<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MemberError> {
        self.get(name)
            .map(|value| {
                serde_json::from_str(value.get()).map_err(|source| MemberError {
                    name: name.to_owned(),
                    source,
                })
            })
            .transpose()
    }

    /// The member's value as an object; empty if it is absent or `null`.
    ///
    /// # Errors
    ///
    /// The value is something else.
    pub fn object(&self, name: &str) -> Result<Self, MemberError> {
        Ok(self.parsed(name)?.unwrap_or_default())
    }

    /// Replaces the member where it stands, or adds it at the end.
    ///
    /// # Panics
    ///
    /// Never for values made of text, numbers, lists, and maps with text keys.
    pub fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        let raw = serde_json::value::to_raw_value(value).expect("plain values always encode");
        let mut found = false;
        self.members.retain_mut(|(member, place)| {
            if !member.eq_ignore_ascii_case(name) {
                return true;
            }
            let first = !found;
            found = true;
            if first {
                place.clone_from(&raw);
            }
            first
        });
        if !found {
            self.members.push((name.to_owned(), raw));
        }
    }

    /// Removes the member.
    pub fn remove(&mut self, name: &str) {
        self.members
            .retain(|(member, _)| !member.eq_ignore_ascii_case(name));
    }

    /// The same without room for more members, for an object that is kept.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.members.shrink_to_fit();
        self
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_str(), &**value))
    }

    /// Gives each member a new name.
    pub fn rename_members(&mut self, rename: impl Fn(&str) -> String) {
        for (name, _) in &mut self.members {
            *name = rename(name);
        }
    }

    /// The object as JSON text.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Braces, and with each member two quotes, a colon and a comma; a name that has to be
        // escaped costs another allocation.
        let members = self.members.iter();
        let length: usize = members.map(|(n, v)| n.len() + v.get().len() + 4).sum();
        let mut out = Vec::with_capacity(length + 2);
        // Writing to memory cannot fail, and raw values are valid JSON.
        let _ = serde_json::to_writer(&mut out, self);
        out
    }

    /// The same as text.
    pub fn to_text(&self) -> String {
        String::from_utf8(self.to_bytes()).expect("JSON is UTF-8")
    }
}

/// A member of an object has the wrong type.
#[derive(Debug, thiserror::Error)]
#[error("member `{name}` is not what it should be")]
pub struct MemberError {
    name: String,
    source: serde_json::Error,
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len()))?;
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = RawObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(16));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawObject { members })
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Deserializes a value that may be `null` as its default.
///
/// # Errors
///
/// The value is neither `null` nor a `T`.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a text that many objects have, see [`shared`]; `null` is empty. For `deserialize_with`.
///
/// # Errors
///
/// The value is neither `null` nor a text.
pub fn shared_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Ok(Option::<Shared>::deserialize(deserializer)?
        .unwrap_or_default()
        .0)
}

/// Reads an object whose values are such texts; `null` is empty. For `deserialize_with`.
///
/// # Errors
///
/// The value is neither `null` nor an object with texts.
pub fn shared_pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
    Ok(Option::<SharedPairs>::deserialize(deserializer)?
        .unwrap_or_default()
        .0)
}

/// A text as [`shared`] gives it.
#[derive(Default)]
struct Shared(Arc<str>);

/// A text as [`Pairs::value`] gives it.
struct SharedValue(Arc<str>);

/// Hands a text to a function without making a copy of it first.
struct TextVisitor(fn(&str) -> Arc<str>);

impl Visitor<'_> for TextVisitor {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Arc<str>, E> {
        Ok((self.0)(text))
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(shared)).map(Self)
    }
}

impl<'de> Deserialize<'de> for SharedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = TextVisitor(Pairs::value);
        deserializer.deserialize_str(visitor).map(Self)
    }
}

/// [`Pairs`] as JSON has them.
#[derive(Default)]
pub struct SharedPairs(pub Pairs);

impl<'de> Deserialize<'de> for SharedPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = SharedPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SharedPairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Shared(key), SharedValue(value))) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(SharedPairs(pairs.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_not_touched_stay_byte_for_byte() {
        let text = br#"{"A": 1.50, "Future" : { "x":[1, 2] },"Env":null}"#;
        let mut object = RawObject::parse(text).unwrap();
        object.set("A", &"new");
        object.set("B", &true);
        assert_eq!(
            String::from_utf8(object.to_bytes()).unwrap(),
            r#"{"A":"new","Future":{ "x":[1, 2] },"Env":null,"B":true}"#
        );
    }

    #[test]
    fn names_are_found_without_regard_to_case_and_the_last_wins() {
        let mut object = RawObject::parse(br#"{"env":["a"],"Env":["b"]}"#).unwrap();
        assert_eq!(object.get("Env").unwrap().get(), r#"["b"]"#);
        object.set("Env", &["c"]);
        assert_eq!(object.to_bytes(), br#"{"env":["c"]}"#);
    }

    #[test]
    fn null_counts_as_absent() {
        let object = RawObject::parse(br#"{"Labels":null}"#).unwrap();
        assert!(object.get("Labels").is_none());
        assert!(RawObject::parse(b"null").unwrap().is_empty());
        assert!(RawObject::parse(b"[]").is_err());
    }

    #[test]
    fn a_wrong_type_names_the_member() {
        let object = RawObject::parse(br#"{"Env":7}"#).unwrap();
        let error = object.parsed::<Vec<String>>("Env").unwrap_err();
        assert_eq!(error.to_string(), "member `Env` is not what it should be");
    }
}
