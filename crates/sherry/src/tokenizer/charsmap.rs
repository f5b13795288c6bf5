//! SentencePiece's compiled character tables (`precompiled_charsmap`): which text becomes which.
//!
//! A table is a u32 (bytes of the trie), the trie as a double array of u32 units in the manner of darts-clone, and the
//! replacements as strings that end in a zero byte. Of the entries that a text begins with the longest counts.

use crate::{Error, Result};

/// A checked table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// The table in `bytes`; no bytes are a table without entries.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the bytes are no such table.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let bad = |what: &str| Error::Tokenizer(format!("precompiled_charsmap: {what}"));
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| bad("shorter than its length"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (trie, replacements) = rest.split_at_checked(length).ok_or_else(|| bad("shorter than its trie"))?;
        let (units, []) = trie.as_chunks::<4>() else { return Err(bad("the trie is no list of u32")) };
        if units.is_empty() {
            return Err(bad("the trie is empty"));
        }
        let replacements = std::str::from_utf8(replacements).map_err(|_| bad("the replacements are not UTF-8"))?;
        Ok(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// The longest beginning of `text` that becomes something else: its length and what it becomes.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut node = offset(*self.units.first()?);
        let mut best = None;
        for (at, byte) in text.iter().enumerate() {
            node ^= usize::from(*byte);
            let Some(&unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xFF) != u32::from(*byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(leaf) = self.units.get(node)
                && let Some(replacement) = self.replacements.get((leaf & 0x7FFF_FFFF) as usize..)
            {
                best = Some((at + 1, replacement.split('\0').next().unwrap_or_default()));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with the single entry `a` to `bc`: root, then the node of 'a', then its leaf.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; 1024];
        units[0] = 1 << 10; // offset 1
        let node = 1 ^ usize::from(b'a');
        units[node] = (2 << 10) | (1 << 8) | u32::from(b'a');
        units[node ^ 2] = 1 << 31 | 1;
        let mut bytes = ((units.len() * 4) as u32).to_le_bytes().to_vec();
        units.iter().for_each(|unit| bytes.extend(unit.to_le_bytes()));
        bytes.extend(b"\0bc\0");
        bytes
    }

    #[test]
    fn entries_are_found() {
        let map = Charsmap::new(&table()).unwrap();
        assert_eq!(map.longest(b"ab"), Some((1, "bc")));
        assert_eq!(map.longest(b"b"), None);
        assert_eq!(map.longest(b""), None);
        assert_eq!(Charsmap::new(b"").unwrap().longest(b"ab"), None);
    }

    #[test]
    fn damaged_tables_are_errors_or_do_nothing() {
        for bad in [&b"\0"[..], &[1, 0, 0, 0], &[4, 0, 0, 0, 1], &[0, 0, 0, 0], &[4, 0, 0, 0, 0, 0, 0, 0, 0xFF]] {
            assert!(Charsmap::new(bad).is_err(), "{bad:?}");
        }
        let good = table();
        let mut state = 1u64;
        for _ in 0..2000 {
            let mut bytes = good.clone();
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = 4 + (state >> 33) as usize % (bytes.len() - 4);
            bytes[at] = (state >> 25) as u8;
            if let Ok(map) = Charsmap::new(&bytes) {
                [&b"ab"[..], b"\xff\0a", b"aaaa"]
                    .iter()
                    .for_each(|text| assert!(map.longest(text).is_none_or(|(n, _)| n > 0)));
            }
        }
    }
}
