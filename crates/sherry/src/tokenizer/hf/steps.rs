//! The parts of `tokenizer.json` that work on text: normalizers, pre-tokenizers, what goes around a text, decoders.

use serde_json::Value;

use super::super::pre::{PreStep, Prefix};
use super::super::rewrite::{Rewrite, SPACE};
use super::super::split::{Behavior, Pattern, Split};
use super::super::vocab::{TokenKind, Vocab};
use super::super::{Decoder, Strip, parse_byte};
use super::unsupported;
use crate::{Error, Result};

/// Longest text a normalizer may insert, in bytes.
const MAX_INSERTED_BYTES: usize = 64;

fn kind_of<'v>(field: &str, value: &'v Value) -> Result<&'v str> {
    value
        .get("type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::Tokenizer(format!("{field} is not an object with a \"type\"")))
}

fn text_of<'v>(field: &str, value: &'v Value, key: &str) -> Result<&'v str> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| Error::Tokenizer(format!("{field}.{key} is not a string")))
}

fn inserted(field: &str, value: &Value, key: &str) -> Result<String> {
    let text = text_of(field, value, key)?;
    if text.len() > MAX_INSERTED_BYTES {
        return Err(Error::Tokenizer(format!(
            "{field}.{key} has {} bytes, more than {MAX_INSERTED_BYTES}",
            text.len()
        )));
    }
    Ok(text.to_string())
}

/// A flag that may be missing or null.
fn flag(field: &str, value: &Value, key: &str, default: bool) -> Result<bool> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(Error::Tokenizer(format!("{field}.{key} is neither true nor false"))),
    }
}

/// The members of a `Sequence`.
fn members<'v>(field: &str, value: &'v Value, key: &str) -> Result<&'v Vec<Value>> {
    value.get(key).and_then(Value::as_array).ok_or_else(|| Error::Tokenizer(format!("{field}.{key} is not a list")))
}

fn pattern(field: &str, value: &Value) -> Result<Pattern> {
    let pattern = &value["pattern"];
    let text = |key: &str| pattern.get(key).and_then(Value::as_str).map(String::from);
    text("String")
        .map(Pattern::Literal)
        .or_else(|| text("Regex").map(Pattern::Regex))
        .ok_or_else(|| Error::Tokenizer(format!("{field}.pattern is neither a String nor a Regex")))
}

/// Appends the steps of a `normalizer`.
pub(in super::super) fn read_normalizer(value: &Value, out: &mut Vec<Rewrite>) -> Result<()> {
    const FIELD: &str = "normalizer";
    if value.is_null() {
        return Ok(());
    }
    out.push(match kind_of(FIELD, value)? {
        "Sequence" => {
            return members(FIELD, value, "normalizers")?.iter().try_for_each(|member| read_normalizer(member, out));
        }
        "NFC" => Rewrite::Nfc,
        "NFD" => Rewrite::Nfd,
        "NFKC" => Rewrite::Nfkc,
        "NFKD" => Rewrite::Nfkd,
        "Prepend" => Rewrite::Prepend(inserted(FIELD, value, "prepend")?),
        "Replace" => match pattern(FIELD, value)? {
            Pattern::Literal(from) if !from.is_empty() => {
                Rewrite::Replace { from, to: inserted(FIELD, value, "content")? }
            }
            _ => return Err(unsupported("normalizer.pattern", "Regex or empty", "String")),
        },
        other => {
            return Err(unsupported("normalizer.type", other, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence"));
        }
    });
    Ok(())
}

/// Appends the steps of a `pre_tokenizer`.
pub(in super::super) fn read_pre_tokenizer(value: &Value, out: &mut Vec<PreStep>) -> Result<()> {
    const FIELD: &str = "pre_tokenizer";
    if value.is_null() {
        return Ok(());
    }
    let kind = kind_of(FIELD, value)?;
    if kind != "Sequence" && out.iter().any(|step| matches!(step, PreStep::ByteLevel { .. })) {
        return Err(Error::Tokenizer(format!("{FIELD}: {kind} after ByteLevel is not supported")));
    }
    out.push(match kind {
        "Sequence" => {
            let members = members(FIELD, value, "pretokenizers")?;
            return members.iter().try_for_each(|member| read_pre_tokenizer(member, out));
        }
        "Split" => {
            let name = text_of(FIELD, value, "behavior")?;
            let behavior = Behavior::NAMES.iter().find(|(known, _)| *known == name).map(|(_, behavior)| *behavior);
            let behavior =
                behavior.ok_or_else(|| unsupported("pre_tokenizer.behavior", name, "Isolated, Removed, ..."))?;
            let invert = flag(FIELD, value, "invert", false)?;
            PreStep::Split(Split::new(pattern(FIELD, value)?, behavior, invert)?)
        }
        "Digits" => PreStep::digits(flag(FIELD, value, "individual_digits", false)?)?,
        "ByteLevel" => {
            PreStep::byte_level(flag(FIELD, value, "add_prefix_space", false)?, flag(FIELD, value, "use_regex", true)?)?
        }
        "Metaspace" => {
            let space = value.get("replacement").and_then(Value::as_str).unwrap_or("\u{2581}");
            if space != SPACE.to_string() {
                return Err(unsupported("pre_tokenizer.replacement", space, "U+2581"));
            }
            PreStep::metaspace(prefix(FIELD, value)?, flag(FIELD, value, "split", true)?)?
        }
        other => {
            return Err(unsupported("pre_tokenizer.type", other, "Split, Digits, ByteLevel, Metaspace, Sequence"));
        }
    });
    Ok(())
}

/// The `prepend_scheme` of a Metaspace, or what older files say in its place.
fn prefix(field: &str, value: &Value) -> Result<Prefix> {
    let older = flag(field, value, "add_prefix_space", true)?;
    match value.get("prepend_scheme").and_then(Value::as_str) {
        None => Ok(if older { Prefix::Always } else { Prefix::Never }),
        Some(name) => Prefix::NAMES
            .iter()
            .find(|(known, prefix)| *known == name && (older || *prefix == Prefix::Never))
            .map(|(_, prefix)| *prefix)
            .ok_or_else(|| unsupported(&format!("{field}.prepend_scheme"), name, "always, first, never")),
    }
}

/// Tokens put around every text.
#[derive(Debug, Default, PartialEq)]
pub(in super::super) struct Around {
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

impl Around {
    /// Adds what a `post_processor` puts around.
    pub fn read(&mut self, value: &Value, vocab: &Vocab) -> Result<()> {
        const FIELD: &str = "post_processor";
        if value.is_null() {
            return Ok(());
        }
        match kind_of(FIELD, value)? {
            "ByteLevel" => Ok(()), // concerns offsets only
            "Sequence" => members(FIELD, value, "processors")?.iter().try_for_each(|member| self.read(member, vocab)),
            "TemplateProcessing" => self.read_template(FIELD, value, vocab),
            other => Err(unsupported("post_processor.type", other, "ByteLevel, TemplateProcessing, Sequence")),
        }
    }

    fn read_template(&mut self, field: &str, value: &Value, vocab: &Vocab) -> Result<()> {
        let (mut before, mut behind, mut texts) = (Vec::new(), Vec::new(), 0);
        for item in members(field, value, "single")? {
            if item.get("Sequence").is_some() {
                texts += 1;
                continue;
            }
            let missing = || Error::Tokenizer(format!("{field}.single names a token that does not exist"));
            let name = item.get("SpecialToken").and_then(|token| token.get("id")).and_then(Value::as_str);
            let name = name.ok_or_else(missing)?;
            let listed =
                value.get("special_tokens").and_then(|tokens| tokens.get(name)).and_then(|token| token.get("ids"));
            let ids = match listed.and_then(Value::as_array) {
                Some(ids) => ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect::<Option<Vec<u32>>>(),
                None => vocab.id(name).map(|id| vec![id]),
            };
            let ids = ids.filter(|ids| ids.iter().all(|id| vocab.text(*id).is_some())).ok_or_else(missing)?;
            if texts > 0 { &mut behind } else { &mut before }.extend(ids);
        }
        if texts != 1 {
            return Err(Error::Tokenizer(format!("{field}.single holds the text {texts} times instead of once")));
        }
        // A later processor works on what the earlier ones made.
        self.prefix.splice(0..0, before);
        self.suffix.extend(behind);
        Ok(())
    }
}

/// How the `decoder` turns tokens into text. A missing one is the one that fits.
pub(in super::super) fn read_decoder(value: &Value, byte_level: bool, vocab: &Vocab) -> Result<Decoder> {
    const FIELD: &str = "decoder";
    const KNOWN: &str = "ByteLevel; Metaspace; or Replace of U+2581 by a space, ByteFallback, Fuse, Strip of one \
                         space at the start, in this order";
    if value.is_null() {
        return Ok(if byte_level { Decoder::ByteLevel } else { Decoder::Spaces(Strip::None) });
    }
    let one = std::slice::from_ref(value);
    let parts = match kind_of(FIELD, value)? {
        "Sequence" => members(FIELD, value, "decoders")?,
        _ => one,
    };
    let kinds = parts.iter().map(|part| kind_of(FIELD, part)).collect::<Result<Vec<_>>>()?;
    let decoder = match kinds[..] {
        ["ByteLevel"] => Decoder::ByteLevel,
        ["Metaspace"] => {
            let space = parts[0].get("replacement").and_then(Value::as_str).unwrap_or("\u{2581}");
            if space != SPACE.to_string() {
                return Err(unsupported("decoder.replacement", space, "U+2581"));
            }
            Decoder::Metaspace { strip_first: prefix(FIELD, &parts[0])? != Prefix::Never }
        }
        ["Replace", "Fuse"] | ["Replace", "ByteFallback", "Fuse"] => Decoder::Spaces(Strip::None),
        ["Replace", "Fuse", "Strip"] | ["Replace", "ByteFallback", "Fuse", "Strip"] => Decoder::Spaces(Strip::One),
        _ => return Err(unsupported("decoder", &kinds.join(", "), KNOWN)),
    };
    for part in parts {
        let number = |key: &str| part.get(key).and_then(Value::as_u64);
        let fits = match kind_of(FIELD, part)? {
            "Replace" => {
                pattern(FIELD, part)? == Pattern::Literal(SPACE.into()) && text_of(FIELD, part, "content")? == " "
            }
            "Strip" => {
                text_of(FIELD, part, "content")? == " " && number("start") == Some(1) && number("stop") == Some(0)
            }
            _ => true,
        };
        if !fits {
            return Err(unsupported("decoder", &part.to_string(), KNOWN));
        }
    }
    if (decoder == Decoder::ByteLevel) != byte_level {
        return Err(Error::Tokenizer("decoder and pre_tokenizer disagree about ByteLevel".into()));
    }
    // Tokens like <0x41> are bytes to the model exactly when they are to the decoder.
    let bytes = |kind: TokenKind| vocab.iter().any(|(_, text, found)| found == kind && parse_byte(text).is_some());
    if kinds.contains(&"ByteFallback") && bytes(TokenKind::Normal) {
        return Err(unsupported("decoder", "ByteFallback", "without it, as model.byte_fallback is false"));
    }
    if !byte_level && !kinds.contains(&"ByteFallback") && bytes(TokenKind::Byte) {
        return Err(unsupported("decoder", &kinds.join(", "), "with ByteFallback, as model.byte_fallback is true"));
    }
    Ok(decoder)
}
