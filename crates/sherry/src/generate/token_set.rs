//! Sets of tokens: what may come next.

/// A set of token ids, one bit each.
///
/// ```
/// use sherry::generate::TokenSet;
/// let mut allowed = TokenSet::all(100);
/// allowed.remove(7);
/// assert!(allowed.contains(8) && !allowed.contains(7) && !allowed.contains(100));
/// assert_eq!(allowed.count(), 99);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
    len: usize,
}

impl TokenSet {
    /// No token, of the ids below `len`.
    pub fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(32)], len }
    }

    /// Every id below `len`.
    pub fn all(len: usize) -> Self {
        let mut set = Self { words: vec![u32::MAX; len.div_ceil(32)], len };
        if let Some(last) = set.words.last_mut() {
            *last >>= (32 - len % 32) % 32;
        }
        set
    }

    /// The ids below `len` for which `holds` is true.
    pub fn of(len: usize, mut holds: impl FnMut(u32) -> bool) -> Self {
        let mut set = Self::none(len);
        (0..len as u32).filter(|id| holds(*id)).for_each(|id| set.insert(id));
        set
    }

    /// The ids there may be are those below this.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no ids at all.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Ids in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Adds `id`; one that cannot be in the set changes nothing.
    pub fn insert(&mut self, id: u32) {
        if (id as usize) < self.len {
            self.words[id as usize / 32] |= 1 << (id % 32);
        }
    }

    /// Takes `id` away.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Keeps only ids whose bit is set in `words` (id `i` is bit `i % 32` of word `i / 32`); none beyond their end.
    pub fn retain_words(&mut self, words: &[u32]) {
        for (i, word) in self.words.iter_mut().enumerate() {
            *word &= words.get(i).copied().unwrap_or(0);
        }
    }

    /// Keeps only ids that are in `other` as well.
    pub fn retain(&mut self, other: &Self) {
        self.retain_words(&other.words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_is_put_into_them() {
        for len in [0, 1, 31, 32, 33, 1000] {
            let (all, none) = (TokenSet::all(len), TokenSet::none(len));
            assert_eq!((all.count(), none.count(), none.is_empty()), (len, 0, true), "{len}");
            assert!((0..len as u32).all(|id| all.contains(id) && !none.contains(id)));
            assert!(!all.contains(len as u32) && !all.contains(u32::MAX));
            let mut third = TokenSet::of(len, |id| id % 3 == 0);
            assert_eq!(third.count(), len.div_ceil(3));
            third.insert(len as u32);
            third.remove(u32::MAX);
            assert_eq!(third.count(), len.div_ceil(3));
            let mut sixth = TokenSet::of(len, |id| id % 2 == 0);
            sixth.retain(&third);
            assert_eq!(sixth, TokenSet::of(len, |id| id % 6 == 0));
            sixth.retain_words(&[]);
            assert!(sixth.is_empty());
        }
    }
}
