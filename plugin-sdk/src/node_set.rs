//! A set of nodes: one bit for each slot of the node table.

/// A set of node slots, as the daemon passes candidates and takes answers.
///
/// Bit `i` of word `i / 64` stands for slot `i`. A slot above the last word is not in the set, so
/// sets of different lengths combine freely; two sets are equal when they hold the same slots.
#[derive(Clone, Debug, Default)]
pub struct NodeSet {
    words: Vec<u64>,
}

impl NodeSet {
    /// Returns the empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the set these words stand for.
    pub fn from_words(words: Vec<u64>) -> Self {
        Self { words }
    }

    /// Returns the words of the set.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Returns the words of the set.
    pub fn into_words(self) -> Vec<u64> {
        self.words
    }

    /// Adds `slot`, and the words it needs.
    pub fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot % 64);
    }

    /// Takes `slot` out.
    pub fn remove(&mut self, slot: u32) {
        if let Some(word) = self.words.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Tells whether `slot` is in the set.
    pub fn contains(&self, slot: u32) -> bool {
        self.words
            .get(slot as usize / 64)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Tells whether no slot is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Returns how many slots are in the set.
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Iterates over the slots, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }

    /// Keeps the slots that are in `other` as well.
    pub fn intersect(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
    }

    /// Takes out the slots that are in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (word, out) in self.words.iter_mut().zip(&other.words) {
            *word &= !out;
        }
    }

    /// Adds the slots that are in `other`.
    pub fn union(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Keeps the slots for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(u32) -> bool) {
        for (index, word) in self.words.iter_mut().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                if !keep(index as u32 * 64 + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
    }

    /// Gives the set exactly `words` words; slots above them are dropped.
    pub fn resize(&mut self, words: usize) {
        self.words.resize(words, 0);
    }
}

impl PartialEq for NodeSet {
    fn eq(&self, other: &Self) -> bool {
        let shared = self.words.len().min(other.words.len());
        let (left, left_rest) = self.words.split_at(shared);
        let (right, right_rest) = other.words.split_at(shared);
        left == right && left_rest.iter().chain(right_rest).all(|word| *word == 0)
    }
}

impl Eq for NodeSet {}

impl FromIterator<u32> for NodeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(slots: I) -> Self {
        let mut set = Self::new();
        set.extend(slots);
        set
    }
}

impl Extend<u32> for NodeSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, slots: I) {
        for slot in slots {
            self.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(slots: &[u32]) -> NodeSet {
        slots.iter().copied().collect()
    }

    #[test]
    fn lists_slots_across_words_in_order() {
        assert_eq!(
            set(&[200, 3, 64, 63]).iter().collect::<Vec<_>>(),
            [3, 63, 64, 200]
        );
        assert_eq!(set(&[200, 3, 64, 63]).len(), 4);
    }

    #[test]
    fn sets_of_different_lengths_combine() {
        let mut both = set(&[1, 70]);
        both.intersect(&set(&[1]));
        assert_eq!(both, set(&[1]));

        let mut either = set(&[1]);
        either.union(&set(&[70]));
        assert_eq!(either, set(&[1, 70]));

        let mut left = set(&[1, 70]);
        left.subtract(&set(&[1, 500]));
        assert_eq!(left, set(&[70]));
    }

    #[test]
    fn trailing_empty_words_make_no_difference() {
        let mut wide = set(&[1, 500]);
        wide.remove(500);
        assert_eq!(wide, set(&[1]));
        assert_ne!(wide, set(&[2]));
        assert!(!wide.contains(100_000));
    }

    #[test]
    fn retain_keeps_the_length() {
        let mut even = set(&[0, 1, 2, 129]);
        even.retain(|slot| slot % 2 == 0);
        assert_eq!(even, set(&[0, 2]));
        assert_eq!(even.words().len(), 3);
    }
}
