//! Hugging Face `tokenizer.json` and `tokenizer_config.json`, reading.
//!
//! Understood are the parts that decoder language models use: BPE (byte-level, or with byte fallback), the
//! normalizers NFC/NFD/NFKC/NFKD/Replace/Prepend, the pre-tokenizers Split/ByteLevel/Digits/Metaspace,
//! TemplateProcessing, and the matching decoders. Anything else is refused by name rather than guessed.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bpe::{Bpe, byte_alphabet, char_alphabet, merges_from_pairs};
use super::gguf::whole_pieces;
use super::normalize::{Normalizer, SPACE};
use super::special::{Added, Specials};
use super::split::{Behavior, DIGIT, DIGITS, GPT2, Pattern, Split};
use super::vocab::Vocab;
use super::{Decoder, MAX_TOKENS, Roles, TokenKind, Tokenizer, looks_like_control};
use crate::{Error, Result};

/// Most ids without a token: some files leave gaps before their added tokens.
const MAX_HOLES: usize = 1 << 16;
/// Longest text a normalizer may insert, in bytes.
const MAX_INSERTED_BYTES: usize = 64;
/// Largest `tokenizer.json`; real ones stay under 64 MiB.
const MAX_JSON_BYTES: u64 = 512 << 20;

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<JsonAdded>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: JsonModel,
}

#[derive(Deserialize)]
struct JsonAdded {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct JsonModel {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<JsonMerge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonMerge {
    Pair((String, String)),
    Joined(String),
}

/// Finds out the model type of files whose model is not BPE-shaped.
#[derive(Deserialize)]
struct Probe {
    model: ProbeModel,
}

#[derive(Deserialize)]
struct ProbeModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The parts of `tokenizer_config.json` and `special_tokens_map.json` that matter here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonConfig {
    bos_token: Option<ConfigToken>,
    eos_token: Option<ConfigToken>,
    unk_token: Option<ConfigToken>,
    pad_token: Option<ConfigToken>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<ConfigTemplate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigToken {
    Text(String),
    Added { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl ConfigToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, and if they are there `tokenizer_config.json`,
    /// `special_tokens_map.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] naming the file and the field.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let read = |path: &Path| -> Result<Option<Vec<u8>>> {
            match std::fs::metadata(path) {
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(err) => Err(Error::io(path, "open")(err)),
                Ok(meta) if meta.len() > MAX_JSON_BYTES => {
                    Err(Error::malformed(path, "file", format!("has {} bytes, more than {MAX_JSON_BYTES}", meta.len())))
                }
                Ok(_) => std::fs::read(path).map(Some).map_err(Error::io(path, "read")),
            }
        };
        let json =
            read(&path)?.ok_or_else(|| Error::io(&path, "open")(std::io::Error::from(std::io::ErrorKind::NotFound)))?;
        let config = read(&folder.join("tokenizer_config.json"))?;
        let map = read(&folder.join("special_tokens_map.json"))?;
        let mut tokenizer = Self::from_json(&json, config.as_deref(), map.as_deref()).map_err(|err| {
            Error::malformed(
                &path,
                "tokenizer",
                match err {
                    Error::Tokenizer(problem) => problem,
                    other => other.to_string(),
                },
            )
        })?;
        let template = folder.join("chat_template.jinja");
        if let Some(bytes) = read(&template)? {
            let text = String::from_utf8(bytes).map_err(|_| Error::malformed(&template, "file", "is not UTF-8"))?;
            tokenizer.set_chat_template(Some(text));
        }
        Ok(tokenizer)
    }

    /// The tokenizer of a `tokenizer.json`, with `tokenizer_config.json` and `special_tokens_map.json` if present
    /// (for the special tokens' roles and the chat template).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the field that is malformed or not supported.
    pub fn from_json(json: &[u8], config: Option<&[u8]>, special_tokens_map: Option<&[u8]>) -> Result<Self> {
        let json: Json = serde_json::from_slice(json).map_err(|err| match serde_json::from_slice::<Probe>(json) {
            Ok(Probe { model: ProbeModel { kind: Some(kind) } }) if kind != "BPE" => {
                unsupported("model.type", &kind, "BPE")
            }
            _ => Error::Tokenizer(format!("not a tokenizer.json: {err}")),
        })?;
        check_model(&json.model)?;
        let config = read_config("tokenizer_config.json", config)?;
        let map = read_config("special_tokens_map.json", special_tokens_map)?;

        let (vocab, added) = read_vocab(&json)?;
        let mut normalizers = Vec::new();
        read_normalizer(&json.normalizer, &mut normalizers)?;
        let mut pre = PreTokenizers { normalizers, splits: Vec::new(), byte_level: false };
        pre.read(&json.pre_tokenizer)?;

        let token = |pick: fn(&JsonConfig) -> &Option<ConfigToken>| {
            pick(&config).as_ref().or(pick(&map).as_ref()).and_then(|token| vocab.id(token.text()))
        };
        let model = &json.model;
        let roles = Roles {
            bos: token(|config| &config.bos_token),
            eos: token(|config| &config.eos_token),
            unknown: model.unk_token.as_deref().and_then(|text| vocab.id(text)),
            padding: token(|config| &config.pad_token),
            ends: Vec::new(),
        };
        let mut around = Around::default();
        around.read(&json.post_processor, &vocab)?;
        let mut roles = roles.complete(&vocab, []);
        if roles.bos.is_none() && config.bos_token.is_none() && map.bos_token.is_none() {
            roles.bos = around.prefix.first().copied();
        }
        let set = |list: &mut Vec<u32>, wanted: Option<bool>, id: Option<u32>| {
            if let (Some(wanted), Some(id)) = (wanted, id) {
                list.retain(|other| *other != id);
                if wanted {
                    list.insert(0, id);
                }
            }
        };
        set(&mut around.prefix, config.add_bos_token, roles.bos);
        set(&mut around.suffix, config.add_eos_token, roles.eos);

        let pairs = model.merges.iter().enumerate().map(|(at, merge)| match merge {
            JsonMerge::Pair((left, right)) => Ok((left.as_str(), right.as_str())),
            JsonMerge::Joined(text) => text
                .split_once(' ')
                .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
                .ok_or_else(|| Error::Tokenizer(format!("model.merges[{at}] is not two tokens and a space"))),
        });
        let merges = merges_from_pairs(&vocab, pairs)?;
        let decoder = read_decoder(&json.decoder, pre.byte_level)?;
        let alphabet = if pre.byte_level {
            byte_alphabet(&vocab)
        } else {
            char_alphabet(&vocab, model.byte_fallback, model.fuse_unk)?
        };
        let whole_pieces =
            model.ignore_merges.then(|| if pre.byte_level { whole_pieces(&vocab) } else { whole_texts(&vocab) });
        Ok(Self {
            specials: Specials::new(added)?,
            bpe: Bpe { merges, alphabet, unknown: roles.unknown, whole_pieces },
            vocab,
            normalizers: pre.normalizers,
            splits: pre.splits,
            decoder,
            prefix: around.prefix,
            suffix: around.suffix,
            roles,
            chat_template: config.chat_template.and_then(ConfigTemplate::pick),
        })
    }
}

impl ConfigTemplate {
    /// The template named `default`, or the first.
    fn pick(self) -> Option<String> {
        match self {
            Self::One(text) => Some(text),
            Self::Named(all) => {
                let default = all.iter().position(|named| named.name == "default").unwrap_or(0);
                all.into_iter().nth(default).map(|named| named.template)
            }
        }
    }
}

fn unsupported(field: &str, found: &str, known: &str) -> Error {
    let found: String = found.chars().take(80).collect();
    Error::Tokenizer(format!("{field} is {found:?}; supported: {known}"))
}

fn read_config(name: &str, json: Option<&[u8]>) -> Result<JsonConfig> {
    let Some(json) = json else { return Ok(JsonConfig::default()) };
    // serde would also read the fields from a list.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::Tokenizer(format!("{name}: not a JSON object")));
    }
    serde_json::from_slice(json).map_err(|err| Error::Tokenizer(format!("{name}: {err}")))
}

fn check_model(model: &JsonModel) -> Result<()> {
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("model.dropout", "not 0", "no dropout"));
    }
    for (field, text) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            return Err(unsupported(field, text, "none"));
        }
    }
    Ok(())
}

/// Tokens by id. Added tokens name their id; holes are allowed up to [`MAX_HOLES`].
fn read_vocab(json: &Json) -> Result<(Vocab, Vec<Added>)> {
    let model = &json.model;
    let count = model.vocab.len() + json.added_tokens.len();
    let all = || model.vocab.values().chain(json.added_tokens.iter().map(|added| &added.id));
    let size = all().max().map_or(0, |id| *id as usize + 1);
    if size > MAX_TOKENS || size > count + MAX_HOLES {
        return Err(Error::Tokenizer(format!("token id {} in a vocabulary of {count} tokens", size - 1)));
    }
    let mut texts: Vec<Option<(&str, TokenKind)>> = vec![None; size];
    for (text, id) in &model.vocab {
        let kind = match super::parse_byte(text) {
            Some(_) if model.byte_fallback => TokenKind::Byte,
            _ if Some(text) == model.unk_token.as_ref() => TokenKind::Unknown,
            _ => TokenKind::Normal,
        };
        if let Some((other, _)) = texts[*id as usize].replace((text, kind)) {
            let (a, b) = if other < text.as_str() { (other, text.as_str()) } else { (text.as_str(), other) };
            return Err(Error::Tokenizer(format!("model.vocab gives {a:?} and {b:?} the same id {id}")));
        }
    }
    let mut added = Vec::with_capacity(json.added_tokens.len());
    let mut seen: HashMap<u32, &str> = HashMap::new();
    for token in json.added_tokens.iter().filter(|token| !token.content.is_empty()) {
        if seen.insert(token.id, &token.content).is_some_and(|other| other != token.content) {
            return Err(Error::Tokenizer(format!("two added_tokens have the id {}", token.id)));
        }
        let control = token.special || looks_like_control(&token.content);
        let kind = if control { TokenKind::Control } else { TokenKind::UserDefined };
        let slot = &mut texts[token.id as usize];
        // The unknown token stays what it is; everything else is what the added token says.
        if slot.is_none_or(|(_, kind)| kind != TokenKind::Unknown) {
            *slot = Some((&token.content, kind));
        }
        added.push(Added {
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            ..Added::new(&token.content, token.id, control)
        });
    }
    let mut vocab = Vocab::with_capacity(size);
    for slot in texts {
        let (text, kind) = slot.unwrap_or(("", TokenKind::Unused));
        vocab.push(text, kind)?;
    }
    Ok((vocab, added))
}

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

fn flag(value: &Value, key: &str, default: bool) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(default)
}

/// The members of a `Sequence`.
fn members<'v>(field: &str, value: &'v Value, key: &str) -> Result<&'v Vec<Value>> {
    value.get(key).and_then(Value::as_array).ok_or_else(|| Error::Tokenizer(format!("{field}.{key} is not a list")))
}

fn read_normalizer(value: &Value, out: &mut Vec<Normalizer>) -> Result<()> {
    const FIELD: &str = "normalizer";
    if value.is_null() {
        return Ok(());
    }
    out.push(match kind_of(FIELD, value)? {
        "Sequence" => {
            for member in members(FIELD, value, "normalizers")? {
                read_normalizer(member, out)?;
            }
            return Ok(());
        }
        "NFC" => Normalizer::Nfc,
        "NFD" => Normalizer::Nfd,
        "NFKC" => Normalizer::Nfkc,
        "NFKD" => Normalizer::Nfkd,
        "Prepend" => Normalizer::Prepend(inserted(FIELD, value, "prepend")?),
        "Replace" => match read_pattern(FIELD, value)? {
            Pattern::Literal(from) if !from.is_empty() => {
                Normalizer::Replace { from, to: inserted(FIELD, value, "content")? }
            }
            _ => return Err(unsupported("normalizer.pattern", "Regex or empty", "String")),
        },
        other => {
            return Err(unsupported("normalizer.type", other, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence"));
        }
    });
    Ok(())
}

fn read_pattern(field: &str, value: &Value) -> Result<Pattern> {
    let pattern = &value["pattern"];
    let text = |key: &str| pattern.get(key).and_then(Value::as_str).map(String::from);
    text("String")
        .map(Pattern::Literal)
        .or_else(|| text("Regex").map(Pattern::Regex))
        .ok_or_else(|| Error::Tokenizer(format!("{field}.pattern is neither a String nor a Regex")))
}

/// What the pre-tokenizers come to: more normalizers, and splits.
struct PreTokenizers {
    normalizers: Vec<Normalizer>,
    splits: Vec<Split>,
    byte_level: bool,
}

impl PreTokenizers {
    fn read(&mut self, value: &Value) -> Result<()> {
        const FIELD: &str = "pre_tokenizer";
        if value.is_null() {
            return Ok(());
        }
        let kind = kind_of(FIELD, value)?;
        if self.byte_level && kind != "Sequence" {
            return Err(Error::Tokenizer(format!("{FIELD}: {kind} after ByteLevel is not supported")));
        }
        match kind {
            "Sequence" => {
                for member in members(FIELD, value, "pretokenizers")? {
                    self.read(member)?;
                }
            }
            "Split" => {
                let name = text_of(FIELD, value, "behavior")?;
                let behavior = Behavior::NAMES.iter().find(|(known, _)| *known == name).map(|(_, behavior)| *behavior);
                let behavior =
                    behavior.ok_or_else(|| unsupported("pre_tokenizer.behavior", name, "Isolated, Removed, ..."))?;
                self.splits.push(Split::new(read_pattern(FIELD, value)?, behavior, flag(value, "invert", false))?);
            }
            "Digits" => {
                let pattern = if flag(value, "individual_digits", false) { DIGIT } else { DIGITS };
                self.splits.push(Split::isolated(pattern)?);
            }
            "ByteLevel" => {
                if flag(value, "add_prefix_space", false) {
                    if !self.splits.is_empty() {
                        return Err(unsupported("pre_tokenizer.add_prefix_space", "true", "false behind a Split"));
                    }
                    self.normalizers.push(Normalizer::PrependFirst(" ".into()));
                }
                if flag(value, "use_regex", true) {
                    self.splits.push(Split::isolated(GPT2)?);
                }
                self.byte_level = true;
            }
            "Metaspace" => {
                let space = value.get("replacement").and_then(Value::as_str).unwrap_or("\u{2581}");
                if space != SPACE.to_string() {
                    return Err(unsupported("pre_tokenizer.replacement", space, "U+2581"));
                }
                self.normalizers.push(Normalizer::Replace { from: " ".into(), to: space.into() });
                let old = if flag(value, "add_prefix_space", true) { "always" } else { "never" };
                match value.get("prepend_scheme").and_then(Value::as_str).unwrap_or(old) {
                    "always" => self.normalizers.push(Normalizer::PrependUnlessThere(space.into())),
                    "first" => self.normalizers.push(Normalizer::PrependFirst(space.into())),
                    "never" => {}
                    other => return Err(unsupported("pre_tokenizer.prepend_scheme", other, "always, first, never")),
                }
                if flag(value, "split", true) {
                    self.splits.push(Split::new(Pattern::Literal(space.into()), Behavior::MergedWithNext, false)?);
                }
            }
            other => {
                return Err(unsupported("pre_tokenizer.type", other, "Split, Digits, ByteLevel, Metaspace, Sequence"));
            }
        }
        Ok(())
    }
}

/// Tokens put around every text.
#[derive(Default)]
struct Around {
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Around {
    fn read(&mut self, value: &Value, vocab: &Vocab) -> Result<()> {
        const FIELD: &str = "post_processor";
        if value.is_null() {
            return Ok(());
        }
        match kind_of(FIELD, value)? {
            "ByteLevel" => Ok(()), // concerns offsets only
            "Sequence" => members(FIELD, value, "processors")?.iter().try_for_each(|member| self.read(member, vocab)),
            "TemplateProcessing" => {
                let mut behind = false;
                for item in members(FIELD, value, "single")? {
                    if item.get("Sequence").is_some() {
                        behind = true;
                        continue;
                    }
                    let id = item
                        .get("SpecialToken")
                        .and_then(|token| token.get("id"))
                        .and_then(Value::as_str)
                        .and_then(|text| vocab.id(text))
                        .ok_or_else(|| Error::Tokenizer(format!("{FIELD}.single names a token that does not exist")))?;
                    if behind { &mut self.suffix } else { &mut self.prefix }.push(id);
                }
                Ok(())
            }
            other => Err(unsupported("post_processor.type", other, "ByteLevel, TemplateProcessing, Sequence")),
        }
    }
}

fn read_decoder(value: &Value, byte_level: bool) -> Result<Decoder> {
    const FIELD: &str = "decoder";
    if value.is_null() {
        return Ok(if byte_level { Decoder::ByteLevel } else { Decoder::Spaces { strip_first: false } });
    }
    let sequence;
    let parts: &[Value] = match kind_of(FIELD, value)? {
        "Sequence" => members(FIELD, value, "decoders")?,
        _ => {
            sequence = [value.clone()];
            &sequence
        }
    };
    let mut decoder = Decoder::Spaces { strip_first: false };
    for part in parts {
        match kind_of(FIELD, part)? {
            "ByteLevel" => decoder = Decoder::ByteLevel,
            "Metaspace" => {
                let scheme = part.get("prepend_scheme").and_then(Value::as_str).unwrap_or("always");
                decoder = Decoder::Spaces { strip_first: scheme != "never" && flag(part, "add_prefix_space", true) };
            }
            "Strip" => decoder = Decoder::Spaces { strip_first: true },
            "Replace" | "ByteFallback" | "Fuse" => {}
            other => {
                return Err(unsupported(
                    "decoder.type",
                    other,
                    "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence",
                ));
            }
        }
    }
    if (decoder == Decoder::ByteLevel) != byte_level {
        return Err(Error::Tokenizer("decoder and pre_tokenizer disagree about ByteLevel".into()));
    }
    Ok(decoder)
}

/// Every ordinary token by its text.
fn whole_texts(vocab: &Vocab) -> HashMap<Box<[u8]>, u32> {
    vocab
        .iter()
        .filter(|(_, _, kind)| *kind == TokenKind::Normal)
        .map(|(id, text, _)| (text.as_bytes().into(), id))
        .collect()
}
