//! Learning a byte-level BPE vocabulary from text (Sennrich et al., arXiv 1508.07909): count the pieces that the
//! pre-tokenizer cuts, then join the most frequent adjacent pair until the vocabulary is full.
//!
//! The result depends on the texts and their order only, not on threads. Of pairs that occur equally often the one with
//! the lower ids comes first, as in Hugging Face's trainer, and ids are given out in its order: control tokens, bytes,
//! merges. So both learn the same vocabulary from the same pieces.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, PoisonError};

use sherry_kernels::Pool;

use super::bpe::{Bpe, Merge, Merges, Unknown, byte_alphabet};
use super::named::{PreTokenizer, by_name};
use super::split::split_all;
use super::vocab::{TokenKind, Vocab, byte_to_char};
use super::{Decoder, Model, Roles, Tokenizer, added_of, specials};
use crate::{Error, Progress, Result};

/// Control tokens of a learned vocabulary; their ids are their places. The first begins and ends every text.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Single digits, then GPT-2's pattern: GGUF readers know it by this name.
const PRE_TOKENIZER: &str = "smollm";
/// Pairs that occur less often are no pattern.
const MIN_COUNT: u64 = 2;
/// Longer pieces (encoded data, long runs of one character) are not learned from.
const MAX_PIECE_BYTES: usize = 1024;
/// More different pieces than this are thinned out: the rarest go.
const MAX_PIECES: usize = 1 << 22;
/// Text that one task counts, roughly.
const CHUNK_BYTES: usize = 1 << 20;

type Pair = (u32, u32);

/// Counts pieces of text, then learns a vocabulary from the counts.
pub struct Learner {
    pre: PreTokenizer,
    counts: HashMap<Box<[u8]>, u64>,
}

impl Learner {
    /// Least and most tokens that [`learn`](Self::learn) accepts.
    pub const VOCAB: std::ops::RangeInclusive<usize> = CONTROL.len() + 256..=1 << 20;

    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// Never in practice: the pre-tokenizer is a known one.
    pub fn new() -> Result<Self> {
        Ok(Self { pre: by_name(PRE_TOKENIZER)?, counts: HashMap::new() })
    }

    /// Counts the pieces of `texts` on the threads of `pool`. Memory grows with the number of different pieces, up to a bound; where it is
    /// reached, which rare pieces are forgotten depends on how texts are put together into calls.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn add(&mut self, texts: &[String], pool: &Pool) -> Result<()> {
        let chunks: Vec<&str> = texts.iter().flat_map(|text| chunks(text)).collect();
        let all: Mutex<Result<HashMap<&[u8], u64>>> = Mutex::new(Ok(HashMap::new()));
        pool.share(chunks.len(), 1, &|claims| {
            let mut counts = HashMap::new();
            let mut counted = Ok(());
            while counted.is_ok()
                && let Some(range) = claims.next()
            {
                counted = chunks[range].iter().try_for_each(|chunk| self.count(chunk, &mut counts));
            }
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *all, counted) {
                (all @ Ok(_), Err(error)) => *all = Err(error),
                (Ok(all), Ok(())) => {
                    // The smaller map into the larger one.
                    if all.len() < counts.len() {
                        std::mem::swap(all, &mut counts);
                    }
                    counts.into_iter().for_each(|(piece, count)| *all.entry(piece).or_default() += count);
                }
                (Err(_), _) => {}
            }
        });
        for (piece, count) in all.into_inner().unwrap_or_else(PoisonError::into_inner)? {
            match self.counts.get_mut(piece) {
                Some(total) => *total += count,
                None => {
                    self.counts.insert(piece.into(), count);
                }
            }
        }
        if self.counts.len() > MAX_PIECES {
            for rare in 1.. {
                self.counts.retain(|_, count| *count > rare);
                if self.counts.len() <= MAX_PIECES / 2 {
                    break;
                }
            }
        }
        Ok(())
    }

    fn count<'t>(&self, chunk: &'t str, counts: &mut HashMap<&'t [u8], u64>) -> Result<()> {
        for piece in split_all(&self.pre.splits, chunk)? {
            if piece.len() <= MAX_PIECE_BYTES {
                *counts.entry(&chunk.as_bytes()[piece]).or_default() += 1;
            }
        }
        Ok(())
    }

    /// A tokenizer of `vocab` tokens, or fewer when the text has no more pairs that occur twice: three control tokens,
    /// all bytes, and merges. It puts its end-of-text token before every text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a `vocab` outside [`VOCAB`](Self::VOCAB); [`Error::Interrupted`].
    pub fn learn(self, vocab: usize, progress: &dyn Progress) -> Result<Tokenizer> {
        if !Self::VOCAB.contains(&vocab) {
            let (low, high) = (Self::VOCAB.start(), Self::VOCAB.end());
            return Err(Error::Tokenizer(format!("a vocabulary of {vocab} tokens; {low} to {high} can be learned")));
        }
        let mut tokens = Vocab::with_capacity(vocab);
        for text in CONTROL {
            tokens.push(text, TokenKind::Control)?;
        }
        let mut alphabet: Vec<char> = (0..=255).map(byte_to_char).collect();
        alphabet.sort_unstable();
        for c in alphabet {
            tokens.push(c.encode_utf8(&mut [0; 4]), TokenKind::Normal)?;
        }
        let start = |byte: u8| tokens.id(byte_to_char(byte).encode_utf8(&mut [0; 4])).unwrap_or_default();
        let start: Vec<u32> = (0..=255).map(start).collect();
        let mut pieces = Pieces::new(self.counts, &start);
        let mut merges = Merges::new();
        progress.start("learn the vocabulary", (vocab - tokens.len()) as u64);
        while tokens.len() < vocab
            && let Some(pair) = pieces.most_frequent()
        {
            let [left, right] = [pair.0, pair.1].map(|id| tokens.text(id).unwrap_or_default());
            let joined = format!("{left}{right}");
            // Another pair may have given the same text before.
            let id = match tokens.id(&joined) {
                Some(id) => id,
                None => {
                    progress.advance(1);
                    tokens.push(&joined, TokenKind::Normal)?
                }
            };
            let rank = merges.len() as u32;
            merges.entry(pair).or_insert(Merge { rank, id });
            pieces.join(pair, id);
            if progress.is_cancelled() {
                return Err(Error::Interrupted);
            }
        }
        progress.finish();
        let end = Some(0);
        let roles = Roles { bos: end, eos: end, ..Roles::default() }.complete(&tokens, []);
        let [raw, rewritten] = specials(added_of(&tokens), &[])?;
        let alphabet = byte_alphabet(&tokens);
        Ok(Tokenizer {
            model: Model::Bpe(Bpe { merges, alphabet, unknown: Unknown::default(), whole_pieces: false }),
            vocab: tokens,
            raw,
            rewrites: Vec::new(),
            rewritten,
            pre: self.pre.steps()?,
            decoder: Decoder::ByteLevel,
            prefix: vec![0],
            suffix: Vec::new(),
            roles,
            chat_template: None,
            notes: Vec::new(),
        })
    }
}

/// `text` cut before white space that follows something else, where no piece of the pattern can reach across.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let cut = (CHUNK_BYTES..bytes.len()).find(|&at| bytes[at] == b' ' && bytes[at - 1].is_ascii_alphanumeric());
        let (chunk, tail) = rest.split_at(cut.unwrap_or(bytes.len()));
        rest = tail;
        Some(chunk)
    })
}

/// All different pieces as symbols, and where each pair of symbols occurs.
struct Pieces {
    /// Symbols of all pieces one after the other; joining leaves unused places at the end of a piece.
    symbols: Vec<u32>,
    pieces: Vec<Piece>,
    pairs: HashMap<Pair, Occurrences>,
    /// Counts may be out of date: too high, or a pair that is gone.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

struct Piece {
    start: usize,
    len: u32,
    count: u64,
}

#[derive(Default)]
struct Occurrences {
    count: u64,
    /// Pieces that held the pair at some time, perhaps more than once.
    pieces: Vec<u32>,
}

impl Pieces {
    fn new(counts: HashMap<Box<[u8]>, u64>, start: &[u32]) -> Self {
        let mut this =
            Self { symbols: Vec::new(), pieces: Vec::new(), pairs: HashMap::new(), queue: BinaryHeap::new() };
        for (index, (bytes, count)) in counts.into_iter().enumerate() {
            let begin = this.symbols.len();
            this.symbols.extend(bytes.iter().map(|byte| start[usize::from(*byte)]));
            for pair in this.symbols[begin..].windows(2) {
                this.pairs.entry((pair[0], pair[1])).or_default().add(count, index as u32);
            }
            this.pieces.push(Piece { start: begin, len: bytes.len() as u32, count });
        }
        this.queue = this.pairs.iter().map(|(pair, found)| (found.count, Reverse(*pair))).collect();
        this
    }

    /// The pair to join next.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.pairs.get(&pair).map_or(0, |found| found.count);
            if now == count {
                return (count >= MIN_COUNT).then_some(pair);
            }
            if now > 0 {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    /// Replaces `pair` by `id` everywhere, left to right.
    fn join(&mut self, pair: Pair, id: u32) {
        let Self { symbols, pieces, pairs, queue } = self;
        let Some(found) = pairs.remove(&pair) else { return };
        let mut grown: Vec<Pair> = Vec::new();
        for index in found.pieces {
            let piece = &mut pieces[index as usize];
            let (count, len) = (piece.count, piece.len as usize);
            let word = &mut symbols[piece.start..piece.start + len];
            let mut change = |old: Pair, new: Pair| {
                if let Some(found) = pairs.get_mut(&old) {
                    found.count -= count;
                }
                pairs.entry(new).or_default().add(count, index);
                grown.push(new);
            };
            let (mut read, mut write) = (0, 0);
            while read < len {
                if read + 1 < len && (word[read], word[read + 1]) == pair {
                    if write > 0 {
                        change((word[write - 1], pair.0), (word[write - 1], id));
                    }
                    if read + 2 < len {
                        change((pair.1, word[read + 2]), (id, word[read + 2]));
                    }
                    word[write] = id;
                    read += 2;
                } else {
                    word[write] = word[read];
                    read += 1;
                }
                write += 1;
            }
            piece.len = write as u32;
        }
        grown.sort_unstable();
        grown.dedup();
        queue.extend(grown.into_iter().filter_map(|pair| Some((pairs.get(&pair)?.count, Reverse(pair)))));
    }
}

impl Occurrences {
    fn add(&mut self, count: u64, piece: u32) {
        self.count += count;
        if self.pieces.last() != Some(&piece) {
            self.pieces.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;

    /// The definition: count all adjacent pairs, join the most frequent, start over.
    fn by_definition(texts: &[String], vocab: usize) -> Vec<(String, String)> {
        let splits = by_name(PRE_TOKENIZER).unwrap().splits;
        let mut words: HashMap<Vec<u32>, u64> = HashMap::new();
        let mut texts_of: Vec<String> = CONTROL.iter().map(|text| (*text).to_string()).collect();
        let mut alphabet: Vec<char> = (0..=255).map(byte_to_char).collect();
        alphabet.sort_unstable();
        texts_of.extend(alphabet.iter().map(|c| c.to_string()));
        let id = |byte: u8| 3 + alphabet.iter().position(|c| *c == byte_to_char(byte)).unwrap() as u32;
        for text in texts {
            for piece in split_all(&splits, text).unwrap() {
                *words.entry(text[piece].bytes().map(id).collect()).or_default() += 1;
            }
        }
        let mut merges = Vec::new();
        while texts_of.len() < vocab {
            let mut counts: HashMap<Pair, u64> = HashMap::new();
            for (word, count) in &words {
                word.windows(2).for_each(|w| *counts.entry((w[0], w[1])).or_default() += count);
            }
            let Some((pair, count)) = counts.into_iter().max_by_key(|(pair, count)| (*count, Reverse(*pair))) else {
                break;
            };
            if count < MIN_COUNT {
                break;
            }
            let (left, right) = (texts_of[pair.0 as usize].clone(), texts_of[pair.1 as usize].clone());
            let joined = format!("{left}{right}");
            let id = texts_of.iter().position(|text| *text == joined).unwrap_or(texts_of.len());
            if id == texts_of.len() {
                texts_of.push(joined);
            }
            merges.push((left, right));
            let mut next: HashMap<Vec<u32>, u64> = HashMap::new();
            for (word, count) in words {
                let (mut out, mut at) = (Vec::new(), 0);
                while at < word.len() {
                    let hit = word.get(at..at + 2) == Some(&[pair.0, pair.1]);
                    out.push(if hit { id as u32 } else { word[at] });
                    at += if hit { 2 } else { 1 };
                }
                *next.entry(out).or_default() += count;
            }
            words = next;
        }
        merges
    }

    fn texts(seed: u64) -> Vec<String> {
        let parts =
            ["a", "aa", "b", "ab", "ba", " ", " the", "then", "é", "\n", "12", "!", "漢字", "abc", " bab", "aaa"];
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        (0..20).map(|_| (0..next() % 60).map(|_| parts[next() % parts.len()]).collect()).collect()
    }

    fn learn(texts: &[String], vocab: usize) -> Tokenizer {
        let mut learner = Learner::new().unwrap();
        texts.chunks(7).for_each(|texts| learner.add(texts, &Pool::new(2)).unwrap());
        learner.learn(vocab, &NoProgress).unwrap()
    }

    #[test]
    fn merges_follow_the_definition() {
        for seed in 0..30 {
            let texts = texts(seed);
            for vocab in [259, 270, 400] {
                let expected = by_definition(&texts, vocab);
                let tokenizer = learn(&texts, vocab);
                let expected: Vec<_> = expected.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
                assert_eq!(tokenizer.merges_by_rank(), expected, "{seed} {vocab}");
                for text in &texts {
                    let ids = tokenizer.encode(text, false, true).unwrap();
                    assert_eq!(tokenizer.decode(&ids, false), *text);
                }
            }
        }
    }

    #[test]
    fn control_tokens_bytes_and_roles() {
        let tokenizer = learn(&["low lower lowest".to_string()], 300);
        assert!(tokenizer.vocab_size() < 300, "a text this short has no more pairs");
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(0), Some(0), true));
        assert_eq!(tokenizer.end_ids(), [0, 2]);
        assert_eq!(tokenizer.encode("<|im_end|>", false, true).unwrap(), [2]);
        assert!(tokenizer.encode("<|im_end|>", false, false).unwrap().len() > 1);
        let all: String = (0..=0x2FF).filter_map(char::from_u32).collect();
        let ids = tokenizer.encode(&all, false, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), all);
        assert_eq!(tokenizer.to_gguf().unwrap().pre, PRE_TOKENIZER);
        for vocab in [0, 258, (1 << 20) + 1] {
            assert!(Learner::new().unwrap().learn(vocab, &NoProgress).is_err());
        }
    }

    #[test]
    fn texts_are_cut_only_where_no_piece_reaches() {
        let splits = by_name(PRE_TOKENIZER).unwrap().splits;
        let text = "word  and's 12, \n\n x".repeat(CHUNK_BYTES / 7);
        let whole: Vec<&str> = split_all(&splits, &text).unwrap().into_iter().map(|piece| &text[piece]).collect();
        let parts: Vec<&str> = chunks(&text)
            .flat_map(|chunk| split_all(&splits, chunk).unwrap().into_iter().map(|piece| &chunk[piece]))
            .collect();
        assert!(chunks(&text).count() > 2);
        assert!(whole == parts);
    }
}
