//! Conversations as files: JSON with the messages as OpenAI's interface has them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sherry::Message;
use sherry::io::AtomicFile;

/// The version that is written; newer ones are refused.
const VERSION: u32 = 1;
/// Nobody types more.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// What answered; nothing depends on it.
    #[serde(default)]
    model: String,
    messages: Vec<Message>,
}

/// The path that `text` names: `~/` is the home folder, as in a shell.
pub fn path_of(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

/// Writes a conversation; `replace`: in place of what is there.
pub fn save(path: &Path, model: &str, messages: &[Message], replace: bool) -> Result<()> {
    let document = Document { version: VERSION, model: model.to_owned(), messages: messages.to_vec() };
    let mut file = AtomicFile::create(path)?;
    file.set_replace(replace);
    file.write((serde_json::to_string_pretty(&document)? + "\n").as_bytes())?;
    Ok(file.commit()?)
}

/// Reads a conversation.
///
/// # Errors
/// Naming the file and what is wrong in it.
pub fn load(path: &Path) -> Result<Vec<Message>> {
    let name = path.display();
    if path.metadata().with_context(|| format!("{name}: cannot open"))?.is_dir() {
        bail!("{name}: is a folder; expected a file that /save wrote");
    }
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("{name}: cannot open"))?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(|| format!("{name}: cannot read"))?;
    if text.len() as u64 > MAX_BYTES {
        bail!("{name}: is longer than {} MiB", MAX_BYTES >> 20);
    }
    let document: Document =
        serde_json::from_str(&text).with_context(|| format!("{name}: is no conversation that /save wrote"))?;
    if document.version > VERSION {
        bail!("{name}: field 'version': {} is newer than this program, which knows {VERSION}", document.version);
    }
    for (index, message) in document.messages.iter().enumerate() {
        let known = match &message.role[..] {
            "user" | "assistant" => true,
            "system" => index == 0,
            _ => false,
        };
        if !known {
            bail!(
                "{name}: field 'messages[{index}].role': '{}'; expected user or assistant, and system at the beginning",
                message.role
            );
        }
    }
    Ok(document.messages)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("talk.json");
        let messages = vec![Message::new("system", "Be brief."), Message::new("user", "Hé\n\"ho\"\u{1b}")];
        save(&path, "m", &messages, false).unwrap();
        assert_eq!(load(&path).unwrap(), messages);
        assert!(save(&path, "m", &[], false).unwrap_err().to_string().contains("talk.json"));
        assert_eq!(load(&path).unwrap(), messages);
        save(&path, "m", &messages[..1], true).unwrap();
        assert_eq!(load(&path).unwrap().len(), 1);
        for (text, part) in [
            ("", "is no conversation"),
            ("[]", "is no conversation"),
            ("{\"version\": 1}", "messages"),
            ("{\"version\": 2, \"messages\": []}", "'version': 2 is newer"),
            ("{\"version\": 1, \"messages\": [{\"role\": \"tool\", \"content\": \"\"}]}", "messages[0].role': 'tool'"),
            (
                "{\"version\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}, {\"role\": \"system\", \"content\": \"\"}]}",
                "messages[1].role",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains(part) && error.contains("talk.json"), "{text}: {error}");
        }
        assert!(format!("{:#}", load(place.path()).unwrap_err()).contains("is a folder"));
        assert!(load(&place.path().join("none")).unwrap_err().to_string().contains("none: cannot open"));
    }
}
