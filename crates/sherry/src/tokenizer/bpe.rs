//! Byte-pair encoding of one piece of text: repeatedly join the adjacent pair of lowest rank, leftmost first.
//!
//! One engine serves all three kinds of vocabulary. Byte-level BPE and SentencePiece-BPE differ only in the symbols a
//! piece starts from; tiktoken's ranks and SentencePiece's scores become merge ranks at load. A heap keeps a piece of
//! n symbols at O(n log n), so one megabyte of a single letter is not a problem.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::vocab::{TokenKind, Vocab, byte_to_char, parse_byte};
use crate::progress::Watch;
use crate::{Error, Result};

/// No symbol: the end of the list, or one that was merged away.
const NONE: u32 = u32::MAX;

/// Longest token that ranks or scores may build by merging, in bytes. Every split of it is looked up at load.
const MAX_MERGED_BYTES: usize = 512;

/// What two adjacent tokens become, and when: the lowest rank first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub rank: u32,
    pub id: u32,
}

/// Pairs that join.
pub(super) type Merges = HashMap<(u32, u32), Merge>;

/// The symbols a piece starts from.
pub(super) enum Alphabet {
    /// One per byte of the UTF-8 text.
    Bytes(Box<[Option<u32>; 256]>),
    /// One per character.
    Chars(HashMap<char, u32>),
}

/// What becomes of characters without a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    /// The tokens of their bytes, in vocabularies that have them; else the token `id`.
    pub bytes: Option<Box<[u32; 256]>>,
    pub id: Option<u32>,
    /// A run of them becomes one token `id`.
    pub fuse: bool,
}

impl Unknown {
    /// Appends the tokens of the character `text`; `after` says that the character before it became the token `id`, the
    /// result whether this one did.
    pub fn push(&self, text: &str, after: bool, out: &mut Vec<u32>) -> Result<bool> {
        match (&self.bytes, self.id) {
            (Some(table), _) => {
                out.extend(text.bytes().map(|byte| table[usize::from(byte)]));
                Ok(false)
            }
            (None, Some(id)) => {
                if !(after && self.fuse) {
                    out.push(id);
                }
                Ok(true)
            }
            (None, None) => Err(Error::Tokenizer(format!("the vocabulary has no token for {text:?}"))),
        }
    }
}

/// Merges, starting symbols and the exceptions.
pub(super) struct Bpe {
    pub merges: Merges,
    pub alphabet: Alphabet,
    pub unknown: Unknown,
    /// Pieces that are a token are that token, even if the merges would not build it (Hugging Face `ignore_merges`).
    pub whole_pieces: bool,
}

/// Buffers reused from piece to piece.
#[derive(Default)]
pub(super) struct Scratch {
    ids: Vec<u32>,
    previous: Vec<u32>,
    next: Vec<u32>,
    queue: BinaryHeap<Reverse<u64>>,
    spelled: String,
}

impl Bpe {
    /// Appends the tokens of `piece`, in the vocabulary that this was made from, to `out`.
    pub fn encode(
        &self,
        piece: &str,
        vocab: &Vocab,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        watch: &Watch<'_>,
    ) -> Result<()> {
        watch.step()?;
        if self.whole_pieces
            && let Some(id) = self.whole(piece, vocab, &mut scratch.spelled)
        {
            out.push(id);
            return Ok(());
        }
        scratch.ids.clear();
        self.start(piece, &mut scratch.ids)?;
        if scratch.ids.len() > 1 {
            self.join(scratch, watch)?;
        }
        out.extend(scratch.ids.iter().filter(|id| **id != NONE));
        Ok(())
    }

    /// The token that `piece` is as a whole. `spelled`: a buffer.
    fn whole(&self, piece: &str, vocab: &Vocab, spelled: &mut String) -> Option<u32> {
        match self.alphabet {
            Alphabet::Bytes(_) => {
                spelled.clear();
                spelled.extend(piece.bytes().map(byte_to_char));
                vocab.normal_id(spelled)
            }
            Alphabet::Chars(_) => vocab.normal_id(piece),
        }
    }

    /// The symbols `piece` starts from.
    fn start(&self, piece: &str, ids: &mut Vec<u32>) -> Result<()> {
        match &self.alphabet {
            Alphabet::Bytes(table) => {
                for byte in piece.bytes() {
                    ids.push(table[usize::from(byte)].or(self.unknown.id).ok_or_else(|| {
                        Error::Tokenizer(format!("the vocabulary has no token for byte 0x{byte:02X}"))
                    })?);
                }
            }
            Alphabet::Chars(chars) => {
                let mut after_unknown = false;
                for c in piece.chars() {
                    if let Some(id) = chars.get(&c) {
                        ids.push(*id);
                        after_unknown = false;
                    } else {
                        after_unknown = self.unknown.push(c.encode_utf8(&mut [0; 4]), after_unknown, ids)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn pair(&self, left: u32, right: u32) -> Option<Merge> {
        self.merges.get(&(left, right)).copied()
    }

    /// Joins pairs until none is left; merged-away symbols become [`NONE`].
    fn join(&self, scratch: &mut Scratch, watch: &Watch<'_>) -> Result<()> {
        let Scratch { ids, previous, next, queue, .. } = scratch;
        let count = u32::try_from(ids.len())
            .ok()
            .filter(|n| *n < NONE)
            .ok_or_else(|| Error::Tokenizer("a piece of text has more than 2^32 symbols".into()))?;
        previous.clear();
        previous.extend((0..count).map(|at| at.wrapping_sub(1)));
        next.clear();
        next.extend((1..count).chain([NONE]));
        queue.clear();
        // Rank above position: the heap yields the lowest rank, and of equal ranks the leftmost.
        let entry = |merge: Merge, at: u32| Reverse(u64::from(merge.rank) << 32 | u64::from(at));
        for at in 0..count - 1 {
            if let Some(merge) = self.pair(ids[at as usize], ids[at as usize + 1]) {
                queue.push(entry(merge, at));
            }
        }
        while let Some(Reverse(top)) = queue.pop() {
            watch.step()?;
            let (rank, at) = ((top >> 32) as u32, top as u32);
            let left = at as usize;
            let right = next[left];
            if ids[left] == NONE || right == NONE {
                continue;
            }
            // The pair may have changed since it was queued; a pair of the same rank is as good.
            let Some(merge) = self.pair(ids[left], ids[right as usize]).filter(|merge| merge.rank == rank) else {
                continue;
            };
            ids[left] = merge.id;
            ids[right as usize] = NONE;
            next[left] = next[right as usize];
            if next[left] != NONE {
                previous[next[left] as usize] = at;
                if let Some(merge) = self.pair(ids[left], ids[next[left] as usize]) {
                    queue.push(entry(merge, at));
                }
            }
            let before = previous[left];
            if before != NONE
                && let Some(merge) = self.pair(ids[before as usize], ids[left])
            {
                queue.push(entry(merge, before));
            }
        }
        Ok(())
    }
}

/// The byte table of a byte-level vocabulary.
pub(super) fn byte_alphabet(vocab: &Vocab) -> Alphabet {
    let mut table = Box::new([None; 256]);
    let mut text = [0; 4];
    for byte in 0..=255u8 {
        table[usize::from(byte)] = vocab.normal_id(byte_to_char(byte).encode_utf8(&mut text));
    }
    Alphabet::Bytes(table)
}

/// The character table of a SentencePiece-style vocabulary.
pub(super) fn char_alphabet(vocab: &Vocab) -> Alphabet {
    let mut chars = HashMap::new();
    for (id, text, _) in vocab.iter().filter(|(id, ..)| vocab.is_normal(*id)) {
        let mut rest = text.chars();
        if let (Some(c), None) = (rest.next(), rest.next()) {
            chars.entry(c).or_insert(id);
        }
    }
    Alphabet::Chars(chars)
}

/// The tokens of all bytes.
///
/// # Errors
/// [`Error::Tokenizer`] naming the byte that has none.
pub(super) fn byte_tokens(vocab: &Vocab) -> Result<Box<[u32; 256]>> {
    let mut found = [None; 256];
    for (id, text, _) in vocab.iter().filter(|(_, _, kind)| *kind == TokenKind::Byte) {
        if let Some(byte) = parse_byte(text) {
            found[usize::from(byte)].get_or_insert(id);
        }
    }
    let mut table = Box::new([0; 256]);
    for (byte, id) in found.iter().enumerate() {
        table[byte] = id.ok_or_else(|| Error::Tokenizer(format!("byte fallback without a token <0x{byte:02X}>")))?;
    }
    Ok(table)
}

/// Merges from a list of pairs of token texts, best first. Of a repeated pair the last counts, as in Hugging Face
/// tokenizers. Merges that involve a control token are left out: plain text must not become one.
pub(super) fn merges_from_pairs<'a>(
    vocab: &Vocab,
    pairs: impl ExactSizeIterator<Item = Result<(&'a str, &'a str)>>,
) -> Result<Merges> {
    let mut merges = Merges::new();
    let mut joined = String::new();
    for (rank, pair) in pairs.enumerate() {
        let (left, right) = pair?;
        let id = |text: &str| {
            vocab.id(text).ok_or_else(|| {
                Error::Tokenizer(format!(
                    "merge {rank} ({left:?} {right:?}) needs the token {text:?}, which is missing"
                ))
            })
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let rank32 = u32::try_from(rank).map_err(|_| Error::Tokenizer("more than 2^32 merges".into()))?;
        let (left, right, joined) = (id(left)?, id(right)?, id(&joined)?);
        if [left, right, joined].iter().all(|id| vocab.kind(*id) != Some(TokenKind::Control)) {
            merges.insert((left, right), Merge { rank: rank32, id: joined });
        }
    }
    Ok(merges)
}

/// Merges from a rank per token: two adjacent tokens join when their joined text is a token, lowest rank first.
/// `rank(id)` is `None` for tokens that merging must not build.
pub(super) fn merges_from_ranks(vocab: &Vocab, rank: impl Fn(u32) -> Option<u32>) -> Result<Merges> {
    let mut merges = Merges::new();
    for (id, text, _) in vocab.iter() {
        let Some(rank) = rank(id) else { continue };
        if text.len() > MAX_MERGED_BYTES {
            return Err(Error::Tokenizer(format!(
                "token {id} has {} bytes; tokens built by merging have at most {MAX_MERGED_BYTES}",
                text.len()
            )));
        }
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if let (Some(left), Some(right)) = (vocab.normal_id(left), vocab.normal_id(right)) {
                merges.insert((left, right), Merge { rank, id });
            }
        }
    }
    Ok(merges)
}

/// Merges of a SentencePiece vocabulary from a score per token. Equal scores get equal ranks, so that among them the
/// leftmost pair goes first.
pub(super) fn merges_from_scores(vocab: &Vocab, scores: &[f32]) -> Result<Merges> {
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::Tokenizer(format!("the score of token {at} is not a number")));
    }
    let score = |id: u32| scores.get(id as usize).copied().unwrap_or_default() + 0.0;
    let mut descending: Vec<f32> = (0..vocab.len() as u32).map(score).collect();
    descending.sort_unstable_by(|a, b| b.total_cmp(a));
    descending.dedup();
    merges_from_ranks(vocab, |id| {
        let normal = vocab.kind(id) == Some(TokenKind::Normal);
        normal.then(|| descending.partition_point(|other| *other > score(id)) as u32)
    })
}
