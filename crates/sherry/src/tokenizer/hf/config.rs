//! `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`: roles of tokens, further added tokens,
//! the chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::AddedJson;
use crate::io::json::{self, Fields, shown};
use crate::{Error, Result};

/// Fields of `tokenizer_config.json` that name a token which steers the model.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
/// Fields that list further ones.
const LISTED: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// A JSON file of a tokenizer, parsed.
pub(in crate::tokenizer) struct Source {
    pub path: PathBuf,
    pub value: Value,
}

impl Source {
    /// # Errors
    /// [`Error::Malformed`] when the bytes are no JSON object.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let value = json::parse(path, bytes)?;
        Fields::new(path, &value)?;
        Ok(Self { path: path.to_owned(), value })
    }

    fn fields(&self) -> Result<Fields<'_>> {
        Fields::new(&self.path, &self.value)
    }
}

/// What the files beside `tokenizer.json` say.
#[derive(Default)]
pub(in crate::tokenizer) struct Config {
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub pad: Option<String>,
    /// Whether `bos_token` is mentioned at all, if only as null.
    pub mentions_bos: bool,
    /// Every token that steers the model, with the field that names it.
    pub special: Vec<(&'static str, String)>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_prefix_space: Option<bool>,
    /// False: only the beginning of a text gets a space, not every stretch between control tokens.
    pub legacy: Option<bool>,
    pub chat_template: Option<String>,
    /// Added tokens by id, ascending.
    pub added: Vec<AddedJson>,
}

impl Config {
    /// Reads the three files, each of which may be missing.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the file and the field.
    pub fn read(config: Option<&Source>, map: Option<&Source>, added: Option<&Source>) -> Result<Self> {
        let mut read = Self::default();
        if let Some(source) = config {
            let fields = source.fields()?;
            read.read_roles(&fields)?;
            read.add_bos = fields.opt_bool("add_bos_token")?;
            read.add_eos = fields.opt_bool("add_eos_token")?;
            read.add_prefix_space = fields.opt_bool("add_prefix_space")?;
            read.legacy = fields.opt_bool("legacy")?;
            read.chat_template = chat_template(&fields)?;
            if let Some(decoder) = fields.opt_fields("added_tokens_decoder")? {
                for (id, _) in decoder.entries() {
                    let number = id.parse().map_err(|_| decoder.error(id, "the name is not a token id"))?;
                    let token = decoder.opt_fields(id)?.ok_or_else(|| decoder.error(id, "is null"))?;
                    read.added.push(AddedJson::of_fields(number, &token)?);
                }
            }
        }
        if let Some(source) = map {
            read.read_roles(&source.fields()?)?;
        }
        // The older way: texts and ids only. transformers reads it where tokenizer_config.json lists no added tokens.
        if let (Some(source), true) = (added, read.added.is_empty()) {
            let fields = source.fields()?;
            for (text, _) in fields.entries() {
                let id = u32::try_from(fields.u64(text)?).map_err(|_| fields.error(text, "is no token id"))?;
                let special = read.special.iter().any(|(_, token)| token == text);
                read.added.push(AddedJson::new(id, text, special));
            }
        }
        read.added.sort_by_key(|token| token.id);
        Ok(read)
    }

    /// Roles that are not known yet.
    fn read_roles(&mut self, fields: &Fields<'_>) -> Result<()> {
        for name in NAMED {
            let Some(text) = token(fields, name)? else { continue };
            match name {
                "bos_token" => drop(self.bos.get_or_insert_with(|| text.clone())),
                "eos_token" => drop(self.eos.get_or_insert_with(|| text.clone())),
                "pad_token" => drop(self.pad.get_or_insert_with(|| text.clone())),
                _ => {}
            }
            self.special.push((name, text));
        }
        self.mentions_bos |= fields.entries().any(|(name, _)| name == "bos_token");
        for name in LISTED {
            // An object here names its tokens: the values count.
            let texts: Vec<&Value> = match fields.value(name) {
                None => Vec::new(),
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(map)) => map.values().collect(),
                Some(_) => return Err(fields.error(name, "expected a list of tokens")),
            };
            for value in texts {
                let text = text_of(value).ok_or_else(|| fields.error(name, "expected a list of tokens"))?;
                self.special.push((name, text.to_owned()));
            }
        }
        Ok(())
    }
}

/// A token given as its text or as an object with its `content`.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn token(fields: &Fields<'_>, name: &str) -> Result<Option<String>> {
    let problem = || fields.error(name, "expected a string or an object with the string 'content'");
    fields.value(name).map(|value| text_of(value).map(str::to_owned).ok_or_else(problem)).transpose()
}

/// The template as a string, or of several the one named `default`, or the first.
fn chat_template(fields: &Fields<'_>) -> Result<Option<String>> {
    const NAME: &str = "chat_template";
    let problem =
        || fields.error(NAME, "expected a string or a list of objects with the strings 'name' and 'template'");
    let named: Vec<(&str, &str)> = match fields.value(NAME) {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(list)) => list
            .iter()
            .map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?)))
            .collect::<Option<_>>()
            .ok_or_else(problem)?,
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, template)| Some((name.as_str(), template.as_str()?)))
            .collect::<Option<_>>()
            .ok_or_else(problem)?,
        Some(_) => return Err(problem()),
    };
    let default = named.iter().find(|(name, _)| *name == "default").or(named.first());
    Ok(default.map(|(_, template)| (*template).to_owned()))
}

impl AddedJson {
    /// A token without flags, as older files list them.
    fn new(id: u32, text: &str, special: bool) -> Self {
        Self {
            id,
            content: text.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: Some(!special),
            special,
        }
    }

    fn of_fields(id: u32, fields: &Fields<'_>) -> Result<Self> {
        let flag = |name: &str| Ok::<_, Error>(fields.opt_bool(name)?.unwrap_or(false));
        Ok(Self {
            id,
            content: fields.str("content")?.to_owned(),
            single_word: flag("single_word")?,
            lstrip: flag("lstrip")?,
            rstrip: flag("rstrip")?,
            normalized: fields.opt_bool("normalized")?,
            special: flag("special")?,
        })
    }
}

/// A token in a message.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}
