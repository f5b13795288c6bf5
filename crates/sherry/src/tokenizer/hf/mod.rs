//! Hugging Face `tokenizer.json` and the files beside it, reading.
//!
//! Understood are the parts that decoder language models use: BPE (byte-level, or with byte fallback), the
//! normalizers NFC/NFD/NFKC/NFKD/Replace/Prepend, the pre-tokenizers Split/ByteLevel/Digits/Metaspace,
//! TemplateProcessing, and the matching decoders. Anything else is refused by name rather than guessed.

mod config;
mod steps;
mod vocab;
mod write;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bpe::{Bpe, Merges, Unknown, byte_alphabet, byte_tokens, char_alphabet, merges_from_pairs};
use super::pre::PreStep;
use super::vocab::Vocab;
use super::{Added, Model, Roles, Tokenizer, specials};
use crate::io::{ModelFiles, ReadMode, json};
use crate::{Error, Result};
pub(super) use config::{Config, Source};
pub(super) use steps::Around;
use steps::{read_decoder, read_normalizer, read_pre_tokenizer};
use vocab::{JsonMerge, JsonVocab, read_vocab};

/// Largest file; a `tokenizer.json` stays under 64 MiB.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// The parts of `tokenizer.json` that matter here.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedJson>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: JsonModel<'a>,
}

/// An added token as the files list it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct AddedJson {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    /// Where it is missing, special tokens are not.
    pub normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl AddedJson {
    pub fn is_normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    /// The token with its flags; `control` says whether it is one.
    pub fn added(&self, control: bool) -> Added {
        Added {
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.is_normalized(),
            ..Added::new(&self.content, self.id, control)
        }
    }
}

/// A `tokenizer.json` beside its tokens and merges.
pub(super) struct Parts<'a> {
    pub normalizer: &'a Value,
    pub pre_tokenizer: &'a Value,
    pub post_processor: &'a Value,
    pub decoder: &'a Value,
    /// The token for unknown text.
    pub unknown: Option<u32>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
}

impl Parts<'_> {
    /// The tokenizer of these parts, without chat template and notes. `roles` may change what goes around a text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the part that is malformed or not supported.
    pub fn tokenizer(
        &self,
        vocab: Vocab,
        added: Vec<Added>,
        merges: Merges,
        roles: impl FnOnce(&Vocab, &mut Around) -> Roles,
    ) -> Result<Tokenizer> {
        let (mut rewrites, mut pre, mut around) = (Vec::new(), Vec::new(), Around::default());
        read_normalizer(self.normalizer, &mut rewrites)?;
        read_pre_tokenizer(self.pre_tokenizer, &mut pre)?;
        around.read(self.post_processor, &vocab)?;
        let byte_level = pre.iter().any(|step| matches!(step, PreStep::ByteLevel { .. }));
        let decoder = read_decoder(self.decoder, byte_level, &vocab)?;
        let unknown = Unknown {
            bytes: if self.byte_fallback && !byte_level { Some(byte_tokens(&vocab)?) } else { None },
            id: self.unknown,
            fuse: self.fuse_unk,
        };
        let alphabet = if byte_level { byte_alphabet(&vocab) } else { char_alphabet(&vocab) };
        let roles = roles(&vocab, &mut around);
        let [raw, rewritten] = specials(added, &rewrites)?;
        Ok(Tokenizer {
            model: Model::Bpe(Bpe { merges, alphabet, unknown, whole_pieces: self.ignore_merges }),
            vocab,
            raw,
            rewrites,
            rewritten,
            pre,
            decoder,
            prefix: around.prefix,
            suffix: around.suffix,
            roles,
            chat_template: None,
            notes: Vec::new(),
        })
    }
}

#[derive(Deserialize)]
struct JsonModel<'a> {
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
    #[serde(borrow)]
    vocab: JsonVocab<'a>,
    #[serde(borrow)]
    merges: Vec<JsonMerge<'a>>,
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

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, or without one `tokenizer.model` (SentencePiece, or the
    /// ranks of tiktoken), and if they are there `tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming the file and the field; [`Error::Unsupported`] for a folder without a
    /// tokenizer.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_files(&ModelFiles::Folder { path: folder.to_path_buf(), mode: ReadMode::Read })
    }

    /// [`from_folder`](Self::from_folder) of files that may be anywhere.
    ///
    /// # Errors
    /// As there.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let folder = files.path();
        let read = |name: &str| files.read(name, MAX_FILE_BYTES);
        let source = |name: &str| -> Result<Option<Source>> {
            read(name)?.map(|bytes| Source::parse(&folder.join(name), &bytes)).transpose()
        };
        let sources = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"].map(source);
        let [config, map, added] = sources;
        let config = Config::read(config?.as_ref(), map?.as_ref(), added?.as_ref())?;
        const TEMPLATE: &str = "chat_template.jinja";
        let text = |bytes| {
            String::from_utf8(bytes).map_err(|_| Error::malformed(&folder.join(TEMPLATE), "file", "is not UTF-8"))
        };
        let template = read(TEMPLATE)?.map(text).transpose()?;
        let [json, model] = ["tokenizer.json", "tokenizer.model"];
        let mut tokenizer = if let Some(bytes) = read(json)? {
            Self::from_parts(&bytes, config).map_err(|err| in_file(&folder.join(json), err))?
        } else if let Some(bytes) = read(model)? {
            Self::from_model_file(&bytes, config).map_err(|err| in_file(&folder.join(model), err))?
        } else {
            let what = match files.contains("vocab.json") {
                true => {
                    "the folder has vocab.json but no tokenizer.json, which says how text is cut; \
                     transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
                }
                false => "the folder has no tokenizer: neither tokenizer.json nor tokenizer.model",
            };
            return Err(Error::unsupported(folder, what));
        };
        if template.is_some() {
            tokenizer.set_chat_template(template);
        }
        Ok(tokenizer)
    }

    /// The tokenizer of a `tokenizer.json`, with `tokenizer_config.json` and `special_tokens_map.json` if present
    /// (for the special tokens' roles, further added tokens and the chat template).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the field of `tokenizer.json` that is malformed or not supported;
    /// [`Error::Malformed`] naming the other file and its field.
    pub fn from_json(json: &[u8], config: Option<&[u8]>, special_tokens_map: Option<&[u8]>) -> Result<Self> {
        let source =
            |name: &str, bytes: Option<&[u8]>| bytes.map(|bytes| Source::parse(Path::new(name), bytes)).transpose();
        let config = source("tokenizer_config.json", config)?;
        let map = source("special_tokens_map.json", special_tokens_map)?;
        Self::from_parts(json, Config::read(config.as_ref(), map.as_ref(), None)?)
    }

    fn from_parts(json: &[u8], config: Config) -> Result<Self> {
        json::check_text(json).map_err(Error::Tokenizer)?;
        let json: Json<'_> =
            serde_json::from_slice(json).map_err(|err| match serde_json::from_slice::<Probe>(json) {
                Ok(Probe { model: ProbeModel { kind: Some(kind) } }) if kind != "BPE" => {
                    unsupported("model.type", &kind, "BPE")
                }
                _ => Error::Tokenizer(format!("not a tokenizer.json: {}", json::plain_words(&err))),
            })?;
        check_model(&json.model)?;
        let mut notes = Vec::new();
        let (vocab, added) = read_vocab(&json, &config, &mut notes)?;
        let model = &json.model;
        let pairs = model.merges.iter().enumerate().map(|(at, merge)| {
            merge.pair().ok_or_else(|| Error::Tokenizer(format!("model.merges[{at}] is not two tokens and a space")))
        });
        let merges = merges_from_pairs(&vocab, pairs)?;
        let unknown = model.unk_token.as_deref().and_then(|text| vocab.id(text));
        let parts = Parts {
            normalizer: &json.normalizer,
            pre_tokenizer: &json.pre_tokenizer,
            post_processor: &json.post_processor,
            decoder: &json.decoder,
            unknown,
            fuse_unk: model.fuse_unk,
            byte_fallback: model.byte_fallback,
            ignore_merges: model.ignore_merges,
        };
        let tokenizer = parts.tokenizer(vocab, added, merges, |vocab, around| {
            let roles = config.roles(vocab, unknown, around);
            config.set_around(around, &roles);
            roles
        })?;
        Ok(Self { chat_template: config.chat_template, notes, ..tokenizer })
    }
}

impl Config {
    /// Ids with a meaning of their own.
    pub(super) fn roles(&self, vocab: &Vocab, unknown: Option<u32>, around: &Around) -> Roles {
        let id = |text: &Option<String>| text.as_deref().and_then(|text| vocab.id(text));
        let roles = Roles { bos: id(&self.bos), eos: id(&self.eos), unknown, padding: id(&self.pad), ends: Vec::new() };
        let mut roles = roles.complete(vocab, []);
        if roles.bos.is_none() && !self.mentions_bos {
            roles.bos = around.prefix.first().copied();
        }
        roles
    }

    /// What `add_bos_token` and `add_eos_token` ask for.
    pub(super) fn set_around(&self, around: &mut Around, roles: &Roles) {
        let sides = [(&mut around.prefix, self.add_bos, roles.bos), (&mut around.suffix, self.add_eos, roles.eos)];
        for (list, wanted, id) in sides {
            if let (Some(wanted), Some(id)) = (wanted, id) {
                list.retain(|other| *other != id);
                if wanted {
                    list.insert(0, id);
                }
            }
        }
    }
}

/// The error with the file it is about.
fn in_file(path: &Path, err: Error) -> Error {
    match err {
        Error::Tokenizer(problem) => Error::malformed(path, "tokenizer", problem),
        other => other,
    }
}

fn unsupported(field: &str, found: &str, known: &str) -> Error {
    Error::Tokenizer(format!("{field} is {}; supported: {known}", config::quoted(found)))
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
