//! A few texts by text, in little memory.

use std::sync::Arc;

use super::shared::shared;

/// A value that is longer is most likely nobody else's: IDs and digests have 64 characters.
const LONGEST_SHARED: usize = 40;

/// Texts by text, sorted by key, such as labels. A B-tree takes ten times the memory for the few
/// that most containers have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pairs(Box<[(Arc<str>, Arc<str>)]>);

impl Pairs {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.find(key).map(|(_, value)| &**value)
    }

    /// The value of a key, to be held by others too.
    pub fn get_arc(&self, key: &str) -> Option<&Arc<str>> {
        self.find(key).map(|(_, value)| value)
    }

    fn find(&self, key: &str) -> Option<&(Arc<str>, Arc<str>)> {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(key));
        place.ok().map(|place| &self.0[place])
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// A value as pairs hold it: [`shared`], unless it is long.
    pub fn value(text: &str) -> Arc<str> {
        if text.len() > LONGEST_SHARED {
            return text.into();
        }
        shared(text)
    }

    /// Adds a pair, or gives a key another value. Copies all the others: for one or two.
    pub fn insert(&mut self, key: &str, value: &str) {
        let own = (shared(key), Self::value(value));
        let others = self.0.iter().cloned();
        *self = others.chain(std::iter::once(own)).collect();
    }
}

impl FromIterator<(Arc<str>, Arc<str>)> for Pairs {
    /// Of several with the same key the last one counts.
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<str>)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        // The sort is stable, and of equal keys the first is kept.
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(later, _), (kept, _)| later == kept);
        Self(pairs.into())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        pairs
            .map(|(key, value)| (shared(key), Self::value(value)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_and_the_last_of_a_key_counts() {
        let mut pairs: Pairs = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        let all = |pairs: &Pairs| -> Vec<String> {
            let all = pairs.iter();
            all.map(|(key, value)| format!("{key}={value}")).collect()
        };
        assert_eq!(all(&pairs), ["a=2", "b=3"]);
        pairs.insert("a", "4");
        pairs.insert("0", "5");
        assert_eq!(all(&pairs), ["0=5", "a=4", "b=3"]);
        assert_eq!(pairs.get("b"), Some("3"));
        assert_eq!(pairs.get("c"), None);
    }

    #[test]
    fn equal_pairs_share_their_texts() {
        let pairs = || -> Pairs { [("tier", "front")].into_iter().collect() };
        let (one, other) = (pairs(), pairs());
        let (one, other) = (one.get_arc("tier"), other.get_arc("tier"));
        assert!(Arc::ptr_eq(one.unwrap(), other.unwrap()));
    }
}
