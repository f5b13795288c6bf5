//! The tokens of a model: text, kind and id of each.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::{Error, Result};

/// Most tokens a vocabulary may have; real ones end near 2^18.
pub const MAX_TOKENS: usize = 1 << 24;
/// Longest text of one token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 20;

/// What a token stands for. The numbers are GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text the vocabulary cannot express.
    Unknown = 2,
    /// Steers the model (begin of text, end of turn); never produced from plain text.
    Control = 3,
    /// Text added after training, matched as a whole before anything else.
    UserDefined = 4,
    /// A hole: the id exists, the text means nothing.
    Unused = 5,
    /// One raw byte, written `<0x41>`.
    Byte = 6,
}

impl TokenKind {
    /// The kind with GGUF's number `n`.
    pub fn from_gguf(n: i32) -> Option<Self> {
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte]
            .into_iter()
            .find(|kind| *kind as i32 == n)
    }
}

/// Texts and kinds by id, ids by text. Texts lie in one arena; the table of ids looks them up there.
pub(super) struct Vocab {
    arena: String,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    ids: HashTable<u32>,
    hasher: RandomState,
    /// Tokens that were added beside the model: splitting and merging text never gives them.
    beside: HashSet<u32>,
}

impl Vocab {
    pub fn with_capacity(tokens: usize) -> Self {
        Self {
            arena: String::new(),
            ends: Vec::with_capacity(tokens),
            kinds: Vec::with_capacity(tokens),
            ids: HashTable::with_capacity(tokens),
            hasher: RandomState::new(),
            beside: HashSet::new(),
        }
    }

    /// Appends the token with the next id. Of two tokens with one text the first is the text's id.
    pub fn push(&mut self, text: &str, kind: TokenKind) -> Result<u32> {
        let id = self.len();
        if id >= MAX_TOKENS {
            return Err(Error::Tokenizer(format!("more than {MAX_TOKENS} tokens")));
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Error::Tokenizer(format!("token {id} has {} bytes, more than {MAX_TOKEN_BYTES}", text.len())));
        }
        let end = u32::try_from(self.arena.len() + text.len())
            .map_err(|_| Error::Tokenizer("the tokens have more than 4 GiB of text".into()))?;
        if kind == TokenKind::Byte && parse_byte(text).is_none() {
            return Err(Error::Tokenizer(format!("byte token {id} is {text:?}; expected <0x00> to <0xFF>")));
        }
        self.arena.push_str(text);
        self.ends.push(end);
        self.kinds.push(kind);
        if !text.is_empty() {
            let Self { arena, ends, ids, hasher, .. } = self;
            let text_of = |id: &u32| text_in(arena, ends, *id).unwrap_or_default();
            let equal = |id: &u32| text_of(id) == text;
            ids.entry(hasher.hash_one(text), equal, |id| hasher.hash_one(text_of(id))).or_insert(id as u32);
        }
        Ok(id as u32)
    }

    /// Says that token `id` is no part of the model, only an added token.
    pub fn set_beside(&mut self, id: u32) {
        self.beside.insert(id);
    }

    /// Whether token `id` is only an added token.
    pub fn is_beside(&self, id: u32) -> bool {
        self.beside.contains(&id)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn text(&self, id: u32) -> Option<&str> {
        text_in(&self.arena, &self.ends, id)
    }

    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(text), |id| self.text(*id) == Some(text)).copied()
    }

    /// The id of an ordinary token: what splitting and merging plain text may produce.
    pub fn normal_id(&self, text: &str) -> Option<u32> {
        self.id(text).filter(|id| self.is_normal(*id))
    }

    /// Whether splitting and merging plain text may produce token `id`.
    pub fn is_normal(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(TokenKind::Normal | TokenKind::UserDefined)) && !self.is_beside(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        (0..self.len() as u32).map(|id| (id, self.text(id).unwrap_or_default(), self.kinds[id as usize]))
    }
}

/// The text of token `id` of an arena.
fn text_in<'a>(arena: &'a str, ends: &[u32], id: u32) -> Option<&'a str> {
    let end = *ends.get(id as usize)? as usize;
    let start = (id as usize).checked_sub(1).map_or(0, |before| ends[before] as usize);
    arena.get(start..end)
}

/// The byte that a byte token's text names: exactly `<0x`, two hexadecimal digits, `>`.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The printable character that stands for `byte` in byte-level vocabularies (GPT-2's table): printable Latin-1
/// stands for itself, the other 68 bytes follow from U+0100 on.
pub fn byte_to_char(byte: u8) -> char {
    let code = u32::from(byte);
    let shifted = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0..=0x20 => 0x100 + code,
        0x7F..=0xA0 => 0x100 + 33 + (code - 0x7F),
        0xAD => 0x100 + 67,
    };
    char::from_u32(shifted).unwrap_or('\u{FFFD}')
}

/// Inverse of [`byte_to_char`].
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    let code = c as u32;
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_alphabet_is_a_bijection() {
        let mut seen = HashSet::new();
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
            assert!(seen.insert(byte_to_char(byte)));
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(char_to_byte('\u{144}'), None);
        assert_eq!(char_to_byte(' '), None);
    }

    #[test]
    fn byte_tokens_are_parsed_strictly() {
        assert_eq!(parse_byte("<0x0A>"), Some(10));
        assert_eq!(parse_byte("<0xff>"), Some(255));
        for bad in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x1>", "<0x001>", "<0x>", "0x41", ""] {
            assert_eq!(parse_byte(bad), None, "{bad}");
        }
        assert!(Vocab::with_capacity(1).push("<0x-1>", TokenKind::Byte).is_err());
    }
}
