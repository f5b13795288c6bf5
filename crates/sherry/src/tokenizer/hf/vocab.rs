//! The tokens of a `tokenizer.json`, those that other files add, and the merges.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::super::vocab::{TokenKind, Vocab};
use super::super::{Added, MAX_TOKENS, looks_like_control, parse_byte};
use super::config::{Config, quoted};
use super::{AddedJson, Json};
use crate::{Error, Result};

/// Most ids without a token: some files leave gaps before their added tokens.
const MAX_HOLES: usize = 1 << 16;

/// A string where it lies in the file, unless it has escapes: files have hundreds of thousands of them.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Ids by text, each text once.
pub(super) struct JsonVocab<'a>(pub HashMap<Cow<'a, str>, u32>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonVocab<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = JsonVocab<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonVocab<'de>, A::Error> {
                let mut ids = HashMap::new();
                while let Some((Text(text), id)) = map.next_entry::<Text<'de>, u32>()? {
                    if ids.contains_key(&text) {
                        return Err(A::Error::custom(format!("the token {} is there twice", quoted(&text))));
                    }
                    ids.insert(text, id);
                }
                Ok(JsonVocab(ids))
            }
        }

        deserializer.deserialize_map(Texts)
    }
}

/// Two tokens that join: as a pair, or in older files as one string with a space between.
pub(super) enum JsonMerge<'a> {
    Pair(Cow<'a, str>, Cow<'a, str>),
    Joined(Cow<'a, str>),
}

impl JsonMerge<'_> {
    pub fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((left, right)),
            Self::Joined(text) => text
                .split_once(' ')
                .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' ')),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonMerge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Merge;

        impl<'de> Visitor<'de> for Merge {
            type Value = JsonMerge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: a list of two tokens, or a string of two tokens and a space")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<JsonMerge<'de>, E> {
                Ok(JsonMerge::Joined(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<JsonMerge<'de>, E> {
                Ok(JsonMerge::Joined(text.to_owned().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JsonMerge<'de>, A::Error> {
                let mut next = || seq.next_element::<Text<'de>>();
                match (next()?, next()?, next()?) {
                    (Some(Text(left)), Some(Text(right)), None) => Ok(JsonMerge::Pair(left, right)),
                    (left, right, third) => {
                        let count = [left, right, third].iter().flatten().count();
                        Err(A::Error::invalid_length(count, &self))
                    }
                }
            }
        }

        deserializer.deserialize_any(Merge)
    }
}

/// Tokens by id and the added ones among them, those of the other files included. Holes are allowed up to
/// [`MAX_HOLES`].
pub(super) fn read_vocab(json: &Json<'_>, config: &Config, notes: &mut Vec<String>) -> Result<(Vocab, Vec<Added>)> {
    let model = &json.model;
    let listed = merged(json, config)?;
    let ids = &model.vocab.0;
    let count = ids.len() + listed.len();
    let largest = ids.values().copied().chain(listed.iter().map(|token| token.id)).max();
    if let Some(id) = largest.filter(|id| *id as usize >= MAX_TOKENS.min(count + MAX_HOLES)) {
        return Err(Error::Tokenizer(format!("token id {id} in a vocabulary of {count} tokens")));
    }
    let size = largest.map_or(0, |id| id as usize + 1);
    let mut slots: Vec<Option<(&str, TokenKind)>> = vec![None; size];
    for (text, id) in ids {
        let kind = match parse_byte(text) {
            Some(_) if model.byte_fallback => TokenKind::Byte,
            _ if Some(text.as_ref()) == model.unk_token.as_deref() => TokenKind::Unknown,
            _ => TokenKind::Normal,
        };
        if let Some((other, _)) = slots[*id as usize].replace((text, kind)) {
            let (a, b) = if other < text.as_ref() { (other, text.as_ref()) } else { (text.as_ref(), other) };
            return Err(Error::Tokenizer(format!(
                "model.vocab gives {} and {} the same id {id}",
                quoted(a),
                quoted(b)
            )));
        }
    }
    let mut beside = Vec::new();
    let mut added = Vec::with_capacity(listed.len());
    for token in &listed {
        let control = token.special || looks_like_control(&token.content);
        let slot = &mut slots[token.id as usize];
        match slot {
            // The unknown token and bytes stay what they are to the model; everything else is what the added token says.
            Some((text, kind)) if *text == token.content => {
                if !matches!(kind, TokenKind::Unknown | TokenKind::Byte) {
                    *kind = if control { TokenKind::Control } else { TokenKind::UserDefined };
                }
            }
            Some((text, _)) => {
                let (added, text, id) = (quoted(&token.content), quoted(text), token.id);
                return Err(Error::Tokenizer(format!(
                    "the added token {added} has the id {id}, which is that of {text}"
                )));
            }
            None => {
                if let Some(other) = ids.get(token.content.as_str()) {
                    let (added, id) = (quoted(&token.content), token.id);
                    return Err(Error::Tokenizer(format!(
                        "the added token {added} has the id {id}, but model.vocab gives it {other}"
                    )));
                }
                *slot = Some((&token.content, if control { TokenKind::Control } else { TokenKind::UserDefined }));
                beside.push(token.id);
            }
        }
        added.push(token.added(control));
    }
    // transformers makes every token that has a role a special one. A single character keeps its place in the alphabet.
    for (field, text) in &config.special {
        let known = listed.iter().any(|token| token.content == *text);
        match ids.get(text.as_str()) {
            Some(id) if !known && text.chars().nth(1).is_some() => {
                let (_, kind) = slots[*id as usize].get_or_insert((text, TokenKind::Normal));
                if *kind == TokenKind::Normal {
                    *kind = TokenKind::Control;
                }
                if !added.iter().any(|token: &Added| token.id == *id) {
                    added.push(Added::new(text, *id, true));
                }
            }
            None if !known && !text.is_empty() => notes.push(format!(
                "tokenizer_config.json: {field} is {}, which is not in the vocabulary: ignored",
                quoted(text)
            )),
            _ => {}
        }
    }
    let mut vocab = Vocab::with_capacity(size);
    for slot in slots {
        let (text, kind) = slot.unwrap_or(("", TokenKind::Unused));
        vocab.push(text, kind)?;
    }
    beside.into_iter().for_each(|id| vocab.set_beside(id));
    Ok((vocab, added))
}

/// The added tokens of `tokenizer.json`, special ones first as in the `tokenizers` crate, with what the other files say
/// of them, and those that only the other files list.
fn merged(json: &Json, config: &Config) -> Result<Vec<AddedJson>> {
    let mut tokens: Vec<AddedJson> = Vec::with_capacity(json.added_tokens.len());
    let mut places: HashMap<&str, usize> = HashMap::new();
    let own = json.added_tokens.iter().map(|token| (token, None));
    // Where the model has such a token its id counts.
    let others = config.added.iter().map(|token| (token, json.model.vocab.0.get(token.content.as_str()).copied()));
    for (token, model_id) in own.chain(others).filter(|(token, _)| !token.content.is_empty()) {
        if let Some(place) = places.get(token.content.as_str()) {
            // Where two lists disagree about flags the later one counts, but once special is special for good, and a
            // token that one of them looks for in the text as it is is looked for there.
            let known = &mut tokens[*place];
            let special = known.special || token.special;
            let normalized = Some(known.is_normalized() && token.is_normalized());
            *known = AddedJson { id: known.id, special, normalized, ..token.clone() };
        } else {
            places.insert(&token.content, tokens.len());
            tokens.push(AddedJson { id: model_id.unwrap_or(token.id), ..token.clone() });
        }
    }
    let mut seen: HashMap<u32, &str> = HashMap::new();
    for token in &tokens {
        if let Some(other) = seen.insert(token.id, &token.content) {
            let (a, b, id) = (quoted(other), quoted(&token.content), token.id);
            return Err(Error::Tokenizer(format!("two added_tokens have the id {id}: {a} and {b}")));
        }
    }
    tokens.sort_by_key(|token| !token.special);
    Ok(tokens)
}
