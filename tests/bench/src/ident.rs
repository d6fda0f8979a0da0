//! Identifiers that look like dockerd's and are the same in every run.

use std::fmt;

/// A 256-bit identifier, written as 64 hex digits, as containers and images have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ident([u8; 32]);

impl Ident {
    /// Derives the identifier number `serial` of the owner number `owner`.
    ///
    /// Equal arguments give equal identifiers, so a test can rely on them between runs.
    pub fn derive(owner: u64, serial: u64) -> Self {
        let mut state = owner
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(serial.wrapping_mul(0xd1b5_4a32_d192_ed03))
            .wrapping_add(0x1234_5678_9abc_def1);
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
        }
        Self(bytes)
    }

    /// Whether the written form starts with `prefix`; false for an empty prefix.
    pub fn starts_with(&self, prefix: &str) -> bool {
        let prefix = prefix.as_bytes();
        !prefix.is_empty()
            && prefix.len() <= 64
            && prefix
                .iter()
                .enumerate()
                .all(|(at, &digit)| self.digit(at) == digit)
    }

    fn digit(&self, at: usize) -> u8 {
        let byte = self.0[at / 2];
        b"0123456789abcdef"[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 15 })]
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for (at, digit) in text.iter_mut().enumerate() {
            *digit = self.digit(at);
        }
        out.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The ID dockerd 20.10 gives itself: twelve groups of four letters.
pub fn engine_id(owner: u64) -> String {
    let digits = Ident::derive(owner, u64::MAX);
    let mut id = String::with_capacity(59);
    for at in 0..48 {
        if at > 0 && at % 4 == 0 {
            id.push(':');
        }
        id.push(char::from(
            b"ABCDEFGHIJ234567"[usize::from(digits.0[at % 32] >> (at / 32) & 15)],
        ));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_the_written_form() {
        let id = Ident::derive(3, 7);
        let text = id.to_string();
        assert_eq!(text.len(), 64);
        assert!(id.starts_with(&text) && id.starts_with(&text[..5]));
        assert!(
            !id.starts_with("") && !id.starts_with("zz") && !id.starts_with(&format!("{text}0"))
        );
    }

    #[test]
    fn identifiers_differ_between_owners_and_serials() {
        let all: std::collections::HashSet<_> = (0..100)
            .flat_map(|owner| (0..100).map(move |serial| Ident::derive(owner, serial)))
            .collect();
        assert_eq!(all.len(), 10_000);
        assert_ne!(engine_id(1), engine_id(2));
    }
}
