//! SentencePiece `tokenizer.model`: BPE and unigram models, byte fallback, user-defined and control pieces, and the
//! normalizer with its table of characters, as SentencePiece itself applies them.

mod proto;
#[cfg(test)]
mod tests;

use super::bpe::{Bpe, Unknown, byte_tokens, char_alphabet, merges_from_scores};
use super::charsmap::Charsmap;
use super::hf::{Around, Config};
use super::pre::{PreStep, Prefix};
use super::rewrite::{Normalizer, Rewrite, SPACE};
use super::vocab::{TokenKind, Vocab};
use super::{Added, Decoder, Model, Roles, Specials, Strip, Tokenizer, looks_like_control};
use crate::{Error, Result};
use proto::{ModelType, Proto};

/// Most ids without a token between the pieces and a token that another file adds.
const MAX_HOLES: usize = 1 << 16;

impl Tokenizer {
    /// The tokenizer of a SentencePiece `tokenizer.model`, without the files that may lie beside it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`]: the bytes are no SentencePiece model, or use what is not supported (word and character
    /// models, white space as a suffix, text rewritten after decoding).
    pub fn from_sentencepiece(model: &[u8]) -> Result<Self> {
        Self::from_proto(&Proto::parse(model)?, Config::default())
    }

    /// A `tokenizer.model` of either kind: SentencePiece, or tiktoken's ranks, whose control tokens and pre-tokenizer
    /// stand elsewhere.
    pub(super) fn from_model_file(bytes: &[u8], config: Config) -> Result<Self> {
        match Proto::parse(bytes) {
            Ok(proto) => Self::from_proto(&proto, config),
            Err(_) if super::tiktoken::is_ranks(bytes) => Err(Error::Tokenizer(
                "a file of tiktoken ranks, which does not say how text is cut; the tokenizer.json of the same model does"
                    .into(),
            )),
            Err(err) => Err(err),
        }
    }

    fn from_proto(proto: &Proto<'_>, config: Config) -> Result<Self> {
        check(proto)?;
        let vocab = read_vocab(proto, &config)?;
        let byte_fallback = vocab.iter().any(|(_, _, kind)| kind == TokenKind::Byte);
        let unknown = Unknown {
            bytes: if byte_fallback { Some(byte_tokens(&vocab)?) } else { None },
            id: vocab.iter().find(|(_, _, kind)| *kind == TokenKind::Unknown).map(|(id, ..)| id),
            fuse: true,
        };
        let scores: Vec<f32> = proto.pieces.iter().map(|piece| piece.score).collect();
        let unigram = proto.model_type == ModelType::Unigram as u64;
        let user_defined = || vocab.iter().filter(|(_, _, kind)| *kind == TokenKind::UserDefined);

        let prefix = config.add_prefix_space.unwrap_or(true) && proto.add_dummy_prefix;
        let mut pre = Vec::new();
        // `legacy: false` is transformers' word for a space at the beginning of a text only, not behind control tokens.
        let always = prefix && config.legacy != Some(false);
        if prefix && !always {
            pre.push(PreStep::metaspace(Prefix::First, false)?);
        }
        let mut rewrites = Vec::new();
        if proto.charsmap.is_empty() && !proto.remove_extra_whitespaces {
            if always {
                rewrites.push(Rewrite::Prepend(SPACE.into()));
            }
            rewrites.push(Rewrite::Replace { from: " ".into(), to: SPACE.into() });
        } else {
            let kept = user_defined().map(|(_, text, _)| text.to_owned()).collect();
            let charsmap = Charsmap::new(proto.charsmap)?;
            let normalizer = Normalizer::new(charsmap, kept, always, proto.remove_extra_whitespaces)?;
            rewrites.push(Rewrite::SentencePiece(Box::new(normalizer)));
        }

        let raw = Specials::new(read_added(&vocab, &config))?;
        // A unigram model weighs its user-defined pieces itself. Those of a BPE model stand in the rewritten text as they
        // are, and are never joined with others.
        let pieces = user_defined().filter(|(id, ..)| !unigram && !vocab.is_beside(*id));
        let rewritten = pieces.map(|(id, text, _)| Added { normalized: true, ..Added::new(text, id, false) });
        let rewritten = Specials::new(rewritten.collect())?;
        let model = if unigram {
            Model::Unigram(super::Unigram::new(&vocab, &scores, unknown)?)
        } else {
            Model::Bpe(Bpe {
                merges: merges_from_scores(&vocab, &scores)?,
                alphabet: char_alphabet(&vocab),
                unknown,
                whole_pieces: false,
            })
        };
        let id = |id: i64| u32::try_from(id).ok().filter(|id| vocab.text(*id).is_some());
        let named = |text: &Option<String>, id: Option<u32>| text.as_deref().and_then(|text| vocab.id(text)).or(id);
        let roles = Roles {
            bos: named(&config.bos, id(proto.bos_id)),
            eos: named(&config.eos, id(proto.eos_id)),
            unknown: vocab.iter().find(|(_, _, kind)| *kind == TokenKind::Unknown).map(|(id, ..)| id),
            padding: named(&config.pad, id(proto.pad_id)),
            ends: Vec::new(),
        }
        .complete(&vocab, []);
        // As in transformers and llama.cpp: the beginning is marked unless a file says otherwise.
        let mut around = Around { prefix: roles.bos.into_iter().collect(), suffix: Vec::new() };
        config.set_around(&mut around, &roles);
        Ok(Self {
            vocab,
            raw,
            rewrites,
            rewritten,
            pre,
            model,
            decoder: Decoder::Spaces(match (proto.remove_extra_whitespaces, prefix) {
                (true, _) => Strip::All,
                (false, true) => Strip::One,
                (false, false) => Strip::None,
            }),
            prefix: around.prefix,
            suffix: around.suffix,
            roles,
            chat_template: config.chat_template,
            notes: Vec::new(),
        })
    }
}

fn check(proto: &Proto<'_>) -> Result<()> {
    let refuse = |what: &str| Err(Error::Tokenizer(format!("SentencePiece: {what} is not supported")));
    let known = [ModelType::Unigram, ModelType::Bpe].map(|kind| kind as u64);
    match proto.model_type {
        kind if known.contains(&kind) => {}
        kind if kind == ModelType::Word as u64 => return refuse("model_type WORD"),
        kind if kind == ModelType::Char as u64 => return refuse("model_type CHAR"),
        other => return refuse(&format!("model_type {other}")),
    }
    if proto.treat_whitespace_as_suffix {
        return refuse("treat_whitespace_as_suffix");
    }
    if !proto.escape_whitespaces {
        return refuse("escape_whitespaces = false");
    }
    if !proto.pretokenization_delimiter.is_empty() {
        return refuse("pretokenization_delimiter");
    }
    if !proto.decoding_charsmap.is_empty() {
        return refuse("denormalizer_spec");
    }
    Ok(())
}

/// The pieces, some of them renamed, and behind them further tokens, as the other files say.
fn read_vocab(proto: &Proto<'_>, config: &Config) -> Result<Vocab> {
    let named = |text: &str| text.chars().nth(1).is_some() && config.special.iter().any(|(_, named)| named == text);
    let kind_of = |text: &str, special: bool| match special || looks_like_control(text) || named(text) {
        true => TokenKind::Control,
        false => TokenKind::UserDefined,
    };
    let renamed = |id: usize| config.added.iter().find(|token| token.id as usize == id);
    let mut vocab = Vocab::with_capacity(proto.pieces.len());
    for (id, piece) in proto.pieces.iter().enumerate() {
        let number = i32::try_from(piece.kind).unwrap_or(0);
        let kind = TokenKind::from_gguf(number).ok_or_else(|| {
            Error::Tokenizer(format!("SentencePiece: piece {id} has type {}; known are 1 to 6", piece.kind))
        })?;
        match renamed(id).filter(|token| token.content != piece.text) {
            Some(token) => vocab.push(&token.content, kind_of(&token.content, token.special))?,
            None if matches!(kind, TokenKind::Normal | TokenKind::UserDefined) => match kind_of(piece.text, false) {
                TokenKind::Control => vocab.push(piece.text, TokenKind::Control)?,
                _ => vocab.push(piece.text, kind)?,
            },
            None => vocab.push(piece.text, kind)?,
        };
    }
    for token in config.added.iter().filter(|token| token.id as usize >= proto.pieces.len()) {
        let id = token.id as usize;
        if id > vocab.len() + MAX_HOLES {
            let (last, text) = (vocab.len() - 1, &token.content);
            return Err(Error::Tokenizer(format!("the added token {text:?} has the id {id}, far behind {last}")));
        }
        while vocab.len() < id {
            vocab.push("", TokenKind::Unused)?;
        }
        vocab.push(&token.content, kind_of(&token.content, token.special))?;
        vocab.set_beside(token.id);
    }
    Ok(vocab)
}

/// Control tokens, and what the other files add, all looked for in the text as it is: every stretch between them is
/// normalized on its own.
fn read_added(vocab: &Vocab, config: &Config) -> Vec<Added> {
    let control = vocab.iter().filter(|(_, _, kind)| matches!(kind, TokenKind::Control | TokenKind::Unknown));
    let listed = |id: u32| config.added.iter().find(|token| token.id == id);
    let mut added: Vec<Added> =
        control.filter(|(id, ..)| listed(*id).is_none()).map(|(id, text, _)| Added::new(text, id, true)).collect();
    added.extend(config.added.iter().map(|token| {
        let control = matches!(vocab.kind(token.id), Some(TokenKind::Control | TokenKind::Unknown));
        let (single_word, lstrip, rstrip) = (token.single_word, token.lstrip, token.rstrip);
        Added { single_word, lstrip, rstrip, ..Added::new(&token.content, token.id, control) }
    }));
    added
}
