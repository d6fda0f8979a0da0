//! Texts that many hold, once in memory.
//!
//! A fleet of half a million containers has some hundred images, networks, and label keys. Each
//! container that kept its own copies would need a kilobyte more.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// How many texts there may be before it is first looked for those that nobody holds any more.
const FIRST_PURGE: usize = 1024;

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

struct Texts {
    held: HashSet<Arc<str>>,
    purge_at: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            held: HashSet::new(),
            purge_at: FIRST_PURGE,
        }
    }
}

/// The one copy of a text. For texts that many have; others cost more here than on their own.
///
/// What nobody holds any more is forgotten when there are twice as many as the last time.
pub fn shared(text: &str) -> Arc<str> {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.get(text)
}

impl Texts {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.held.get(text) {
            return Arc::clone(known);
        }
        if self.held.len() >= self.purge_at {
            self.held.retain(|text| Arc::strong_count(text) > 1);
            self.held.shrink_to_fit();
            self.purge_at = FIRST_PURGE.max(2 * self.held.len());
        }
        let text: Arc<str> = text.into();
        self.held.insert(Arc::clone(&text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let first = shared("busybox:latest");
        assert!(Arc::ptr_eq(&first, &shared("busybox:latest")));
        assert!(!Arc::ptr_eq(&first, &shared("busybox:1")));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut texts = Texts::default();
        let kept: Vec<_> = (0..10).map(|kept| texts.get(&format!("k{kept}"))).collect();
        for number in 0..10 * FIRST_PURGE {
            texts.get(&number.to_string());
        }
        assert!(texts.held.len() <= FIRST_PURGE);
        for text in kept {
            assert!(Arc::ptr_eq(&text, &texts.get(&text)));
        }
    }
}
