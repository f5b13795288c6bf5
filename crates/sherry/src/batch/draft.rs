//! Lossless speculation without a second model: what followed when the last tokens stood in the text before is proposed as
//! what follows now, and all proposed tokens are computed in one pass ("prompt lookup decoding").
//!
//! A proposal only says which logits are computed together. Tokens are picked from the same logits by the same random numbers
//! one after the other, and what was computed for a proposed token that was not picked is forgotten: texts are the same, bit for
//! bit.

use std::collections::HashMap;

/// Tokens that have to be the same before a proposal is made.
const RUN: usize = 3;
/// Longer runs are told apart up to this length.
const LONGEST: usize = 10;
/// Most tokens of a proposal.
pub(super) const MOST: usize = 15;
/// How much the last proposal counts beside those before.
const NEWEST: f64 = 0.2;
/// By how much an estimate returns to where it began with every token that was generated without a proposal.
const FORGIVEN: f64 = 0.01;

/// The proposals of one sequence.
#[derive(Debug)]
pub(super) struct Drafts {
    /// Where what followed a run begins, at its last occurrence.
    seen: HashMap<[u32; RUN], usize>,
    /// Tokens of the sequence whose runs are known.
    known: usize,
    /// How likely a proposed token is picked when those before it were, by the length of the run.
    chance: [f64; LONGEST - RUN + 1],
    /// The last token, and what is proposed to follow it.
    draft: Vec<u32>,
    /// Length of the run that it follows.
    run: usize,
}

impl Default for Drafts {
    fn default() -> Self {
        Self { seen: HashMap::new(), known: 0, chance: std::array::from_fn(first_chance), draft: Vec::new(), run: RUN }
    }
}

/// Before anything is known: a half for the shortest runs, nearly certain for long ones.
fn first_chance(longer: usize) -> f64 {
    0.5 + 0.06 * longer as f64
}

impl Drafts {
    /// Proposes up to `most` tokens that may follow `ids`, and says how likely each is picked if those before it were.
    pub fn propose(&mut self, ids: &[u32], most: usize) -> Option<f64> {
        self.draft.clear();
        let last = *ids.last_chunk::<RUN>()?;
        // Runs that something follows.
        for end in self.known.max(RUN)..ids.len() {
            if let Some(run) = ids[..end].last_chunk::<RUN>() {
                self.seen.insert(*run, end);
            }
        }
        self.known = ids.len();
        let from = *self.seen.get(&last)?;
        let same = ids[..from].iter().rev().zip(ids.iter().rev()).take(LONGEST).take_while(|(a, b)| a == b).count();
        self.run = same.max(RUN);
        self.draft.push(last[RUN - 1]);
        for i in from..from + most.min(MOST) {
            // Where the text ends, the proposal repeats itself.
            let token = ids.get(i).copied().unwrap_or_else(|| self.draft[1 + i - ids.len()]);
            self.draft.push(token);
        }
        Some(self.chance[self.run - RUN])
    }

    /// Keeps the first `count` tokens of the proposal.
    pub fn shorten(&mut self, count: usize) {
        self.draft.truncate(1 + count);
    }

    /// The last token of the sequence, and what is proposed; none where nothing is.
    pub fn with_last(&self) -> &[u32] {
        &self.draft
    }

    /// What is proposed.
    pub fn tokens(&self) -> &[u32] {
        self.draft.get(1..).unwrap_or_default()
    }

    /// Learns that `picked` of the proposed tokens were picked, and forgets the proposal.
    pub fn learn(&mut self, picked: usize) {
        let proposed = self.tokens().len();
        self.draft.clear();
        if proposed == 0 {
            for (longer, chance) in self.chance.iter_mut().enumerate() {
                *chance += FORGIVEN * (first_chance(longer) - *chance);
            }
            return;
        }
        // Of the tokens that could have been picked: what comes after the first wrong one says nothing.
        let tried = (picked + 1).min(proposed);
        let chance = &mut self.chance[self.run - RUN];
        for i in 0..tried {
            let hit = if i < picked { 1.0 } else { 0.0 };
            *chance += NEWEST * (hit - *chance);
        }
    }
}

/// Tokens that a proposal of `count` gives on average, when each is picked with this chance if those before it were.
pub(super) fn expected(chance: f64, count: usize) -> f64 {
    (1..=count as i32).map(|i| chance.powi(i)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_is_proposed() {
        let mut drafts = Drafts::default();
        let text = [1, 2, 3, 4, 5, 6, 9, 1, 2, 3];
        assert!(drafts.propose(&text, 4).is_some());
        assert_eq!(drafts.tokens(), [4, 5, 6, 9]);
        // The last occurrence counts.
        let text = [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3];
        assert!(Drafts::default().propose(&text, 9).is_some());
        let mut drafts = Drafts::default();
        drafts.propose(&text, 2);
        assert_eq!(drafts.tokens(), [5, 1]);
        for short in [&[][..], &[1], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4]] {
            assert_eq!(Drafts::default().propose(short, 4), None);
        }
    }

    #[test]
    fn texts_that_go_round_are_continued_round_and_round() {
        let mut drafts = Drafts::default();
        drafts.propose(&[7, 8, 7, 8, 7, 8, 7], 6);
        assert_eq!(drafts.tokens(), [8, 7, 8, 7, 8, 7]);
        let mut drafts = Drafts::default();
        drafts.propose(&[7; 4], 99);
        assert_eq!(drafts.tokens(), [7; MOST]);
    }

    #[test]
    fn a_growing_text_is_searched_as_a_whole_one() {
        let text: Vec<u32> = (0..400u32).map(|i| (i * i) % 7).collect();
        let mut growing = Drafts::default();
        for end in 0..text.len() {
            let mut whole = Drafts::default();
            assert_eq!(growing.propose(&text[..end], 5), whole.propose(&text[..end], 5));
            assert_eq!(growing.tokens(), whole.tokens());
        }
    }

    #[test]
    fn chances_follow_what_was_picked() {
        let text = [1, 2, 3, 4, 1, 2, 3];
        let mut drafts = Drafts::default();
        let before = drafts.propose(&text, 3).unwrap();
        drafts.learn(0);
        let after = drafts.propose(&text, 3).unwrap();
        assert!(after < before);
        drafts.learn(3);
        assert!(drafts.propose(&text, 3).unwrap() > after);
        drafts.shorten(0);
        for _ in 0..1000 {
            drafts.learn(0);
        }
        assert!((drafts.propose(&text, 3).unwrap() - before).abs() < 0.01);
        assert!((expected(0.5, 3) - 0.875).abs() < 1e-12);
    }
}
