//! Rewriting text before it is cut into pieces.

use unicode_normalization::UnicodeNormalization;

use crate::{Error, Result};

/// Stands for a space in SentencePiece vocabularies.
pub(super) const SPACE: char = '\u{2581}';

/// Longest text after rewriting, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 28;

/// One rewriting step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    /// Every `from` becomes `to`.
    Replace {
        from: String,
        to: String,
    },
    /// Text that is not empty gets this in front.
    Prepend(String),
    /// [`Normalizer::Prepend`], but only if the text does not start with it.
    PrependUnlessThere(String),
    /// [`Normalizer::PrependUnlessThere`], but only at the very beginning.
    PrependFirst(String),
}

/// Applies the steps to one stretch of text between special tokens; `first` says that nothing comes before it.
pub(super) fn normalize(steps: &[Normalizer], text: &str, first: bool) -> Result<String> {
    let mut text = text.to_string();
    for step in steps {
        text = match step {
            Normalizer::Nfc => text.nfc().collect(),
            Normalizer::Nfd => text.nfd().collect(),
            Normalizer::Nfkc => text.nfkc().collect(),
            Normalizer::Nfkd => text.nfkd().collect(),
            Normalizer::Replace { from, to } => {
                let grown = text.matches(from.as_str()).count().saturating_mul(to.len()).saturating_add(text.len());
                check_length(grown)?;
                text.replace(from.as_str(), to)
            }
            Normalizer::Prepend(front) if !text.is_empty() => format!("{front}{text}"),
            Normalizer::PrependUnlessThere(front) if !text.is_empty() && !text.starts_with(front.as_str()) => {
                format!("{front}{text}")
            }
            Normalizer::PrependFirst(front) if first && !text.is_empty() && !text.starts_with(front.as_str()) => {
                format!("{front}{text}")
            }
            Normalizer::Prepend(_) | Normalizer::PrependUnlessThere(_) | Normalizer::PrependFirst(_) => text,
        };
        check_length(text.len())?;
    }
    Ok(text)
}

fn check_length(bytes: usize) -> Result<()> {
    if bytes > MAX_TEXT_BYTES {
        return Err(Error::Tokenizer(format!("text of {bytes} bytes, more than {MAX_TEXT_BYTES}")));
    }
    Ok(())
}
