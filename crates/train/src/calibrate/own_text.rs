//! Text that a model writes itself: what to calibrate on when there is no corpus, and what a corpus lacks.
//!
//! Documents begin with a random word, conversations with a random word in the user's turn; all that follows is drawn from
//! the model's own distribution (LLM-QAT, arXiv 2305.17888). Each sequence has random numbers of its own, and a token's
//! logits depend on its own sequence only, so the text is a function of model, seed and number.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sherry::Progress;
use sherry::chat::{ChatTemplate, Message};
use sherry::generate::{Sampler, SamplingParams};
use sherry::io::write_atomic;
use sherry::model::{Checkpoint, Decoder, KvPages, KvPool, KvType, PAGE, Step, Wanted};
use sherry::tokenizer::Tokenizer;
use sherry_kernels::{Engine, Isa, Precision};

use super::text::Text;
use crate::data::separator;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Sequences that are written side by side.
const BATCH: usize = 64;
/// All but the unlikeliest: one slip at a low probability leads a small model astray for the rest of a document.
const SAMPLING: SamplingParams = SamplingParams { temperature: 0.9, top_k: 512, top_p: 0.97, ..SamplingParams::GREEDY };
/// Streams of random numbers of a seed.
const WRITING: u64 = 3 << 40;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Documents, one after the other.
    Documents,
    /// Conversations in the form of the model's chat template.
    Conversations,
}

/// How a piece of text begins, and what stands between a question and its answer.
struct Form {
    opening: Vec<u32>,
    /// Ends the user's turn and begins the answer; empty for documents.
    reply: Vec<u32>,
    /// Tokens that begin a word.
    words: Vec<u32>,
    /// Tokens that end a turn or a document.
    ends: Vec<u32>,
}

impl Form {
    fn new(tokenizer: &Tokenizer, style: Style) -> sherry::Result<Self> {
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let separator = bos.or_else(|| separator(tokenizer));
        let (opening, reply) = match style {
            Style::Documents => (separator.into_iter().collect(), Vec::new()),
            Style::Conversations => turns(tokenizer)?,
        };
        let ids = || (0..tokenizer.vocab_size() as u32).filter(|id| !tokenizer.is_control(*id));
        let mut bytes = Vec::new();
        let mut begins_word = |id: &u32| {
            bytes.clear();
            tokenizer.token_bytes(*id, &mut bytes);
            let Some((first, rest)) = bytes.split_first().filter(|(_, rest)| !rest.is_empty()) else { return false };
            first.is_ascii_uppercase() && rest.iter().all(u8::is_ascii_lowercase)
        };
        let mut words: Vec<u32> = ids().filter(|id| begins_word(id)).collect();
        if words.is_empty() {
            words.extend(ids());
        }
        let ends = tokenizer.end_ids().iter().copied().chain(separator).chain(tokenizer.eos()).collect();
        Ok(Self { opening, reply, words, ends })
    }

    fn open(&self, writing: &mut Writing) {
        writing.tokens.extend(&self.opening);
        writing.answering = self.reply.is_empty();
        if !self.words.is_empty() {
            writing.tokens.push(self.words[writing.rng.below(self.words.len())]);
        }
    }
}

/// What the template writes before the user's first message, and between it and the answer.
fn turns(tokenizer: &Tokenizer) -> sherry::Result<(Vec<u32>, Vec<u32>)> {
    const MARK: &str = "@@message@@";
    let template = ChatTemplate::for_tokenizer(tokenizer)?;
    let prompt = template.render(&[Message::new("user", MARK)], true)?;
    let (opening, reply) = prompt.text.split_once(MARK).unwrap_or((&prompt.text, ""));
    let encode = |text: &str| tokenizer.encode_prompt(text, &[]);
    Ok((encode(opening)?, encode(reply)?))
}

/// Whether conversations can be written: the model has a chat template.
pub fn has_chat(tokenizer: &Tokenizer) -> bool {
    ChatTemplate::for_tokenizer(tokenizer).is_ok()
}

/// One sequence being written.
struct Writing {
    tokens: Vec<u32>,
    /// Tokens the cache holds.
    read: usize,
    /// Whether the next end closes the piece: of a document, or of an answer.
    answering: bool,
    cache: KvPages,
    sampler: Sampler,
    rng: Rng,
}

/// What [`write()`] gives, kept in the folder `folder`: writing takes longer than reading.
///
/// # Errors
/// As [`write()`].
pub fn kept(
    checkpoint: &Checkpoint,
    style: Style,
    length: usize,
    sequences: Range<usize>,
    seed: u64,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Text> {
    std::fs::create_dir_all(folder).map_err(sherry::Error::io(folder, "create"))?;
    let name = match style {
        Style::Documents => "documents",
        Style::Conversations => "conversations",
    };
    let path = folder.join(format!("own-{name}-{length}-{}-{}-{seed}.tokens", sequences.start, sequences.end));
    let vocab = checkpoint.config().vocab as u32;
    if let Ok(bytes) = std::fs::read(&path) {
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        if bytes.len() == 4 * length * sequences.len() && tokens.iter().all(|token| *token < vocab) {
            return Ok(Text { length, tokens });
        }
        progress.note(&format!("{}: damaged; writing it anew", path.display()));
    }
    let text = write(checkpoint, style, length, sequences, seed, progress)?;
    let bytes: Vec<u8> = text.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    write_atomic(&path, &bytes)?;
    Ok(text)
}

/// Has the model write the sequences of these numbers, `length` tokens each.
///
/// # Errors
/// As loading and running the model, and [`sherry::Error::Interrupted`].
pub fn write(
    checkpoint: &Checkpoint,
    style: Style,
    length: usize,
    sequences: Range<usize>,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Text> {
    let tokenizer = checkpoint.tokenizer()?;
    let form = Form::new(&tokenizer, style)?;
    if form.opening.len() + form.reply.len() + 2 > length {
        let problem = format!("sequences of {length} tokens are filled by the chat template");
        return Err(Error::checkpoint(checkpoint.path(), problem));
    }
    let engine = Engine::new(Isa::best(), rayon::current_num_threads(), Precision::Int8);
    let mut decoder = Decoder::new(Arc::new(checkpoint.load(engine.pool(), progress)?), engine);
    let pages = BATCH.min(sequences.len()) * length.div_ceil(PAGE);
    let mut pool = KvPool::new(decoder.config(), pages, KvType::F32)?;
    let mut text = Text { length, tokens: Vec::new() };
    progress.start(
        match style {
            Style::Documents => "write documents",
            Style::Conversations => "write conversations",
        },
        (sequences.len() * length) as u64,
    );
    for first in sequences.clone().step_by(BATCH) {
        let mut batch = Vec::new();
        for index in first..(first + BATCH).min(sequences.end) {
            let mut rng = Rng::new(seed, WRITING + 2 * index as u64 + u64::from(style == Style::Conversations));
            let sampler = Sampler::new(SamplingParams { seed: rng.bits(), ..SAMPLING })?;
            let cache = KvPages::default();
            let mut writing = Writing { tokens: Vec::new(), read: 0, answering: true, cache, sampler, rng };
            form.open(&mut writing);
            batch.push(writing);
        }
        while batch.iter().any(|writing| writing.tokens.len() < length) {
            if progress.is_cancelled() {
                return Err(sherry::Error::Interrupted.into());
            }
            progress.advance(advance(&mut decoder, &mut pool, &mut batch, &form, length)?);
        }
        for writing in batch {
            text.tokens.extend(&writing.tokens[..length]);
        }
    }
    progress.finish();
    Ok(text)
}

/// Reads what is new in every sequence and draws the next token; returns how many tokens were added.
fn advance(decoder: &mut Decoder, pool: &mut KvPool, batch: &mut [Writing], form: &Form, length: usize) -> Result<u64> {
    let mut open: Vec<&mut Writing> = batch.iter_mut().filter(|writing| writing.tokens.len() < length).collect();
    let mut steps: Vec<Step<'_>> = open
        .iter_mut()
        .map(|writing| {
            let Writing { tokens, read, cache, .. } = &mut **writing;
            Step { cache, tokens: &tokens[*read..], logits: Wanted::Last }
        })
        .collect();
    let logits = decoder.forward(pool, &mut steps)?;
    let added: Vec<Result<usize>> = open
        .par_iter_mut()
        .enumerate()
        .map(|(row, writing)| {
            let before = writing.tokens.len();
            writing.read = before;
            let token = writing.sampler.sample(logits.row(row), &[], None)?;
            match (form.ends.contains(&token), writing.answering) {
                (false, _) => writing.tokens.push(token),
                (true, false) => {
                    writing.tokens.extend(&form.reply);
                    writing.answering = true;
                }
                (true, true) => {
                    if !form.reply.is_empty() {
                        writing.tokens.push(token);
                    }
                    form.open(writing);
                }
            }
            writing.tokens.truncate(length);
            Ok(writing.tokens.len() - before)
        })
        .collect();
    let added: Result<Vec<usize>> = added.into_iter().collect();
    Ok(added?.iter().sum::<usize>() as u64)
}
