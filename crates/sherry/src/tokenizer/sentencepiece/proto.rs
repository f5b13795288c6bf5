//! The protocol buffer of a SentencePiece `tokenizer.model`: the fields that matter here, read by hand. Everything in
//! the file is bounded by its length.

use crate::{Error, Result};

/// Kinds of SentencePiece models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelType {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

/// One piece: its text, score and type (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte).
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: u64,
}

/// `ModelProto`, with SentencePiece's defaults for what is not in the file.
#[derive(Debug)]
pub(super) struct Proto<'a> {
    pub pieces: Vec<Piece<'a>>,
    pub model_type: u64,
    pub treat_whitespace_as_suffix: bool,
    pub pretokenization_delimiter: &'a str,
    pub bos_id: i64,
    pub eos_id: i64,
    pub pad_id: i64,
    pub charsmap: &'a [u8],
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
    /// The table that rewrites decoded text.
    pub decoding_charsmap: &'a [u8],
}

/// A field's value on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

/// Reads the fields of one message in order.
struct Message<'a>(&'a [u8]);

fn damaged(what: &str) -> Error {
    Error::Tokenizer(format!("not a SentencePiece model: {what}"))
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| damaged("it ends inside a number"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number of more than ten bytes"))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).map_err(|_| damaged("a field longer than the file"))?;
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| damaged("a field reaches beyond the end of the file"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Other
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Wire::Fixed32(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
            }
            other => return Err(damaged(&format!("a field of wire type {other}"))),
        };
        Ok(Some((key >> 3, wire)))
    }
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| damaged(&format!("{what} is not UTF-8")))
}

impl<'a> Proto<'a> {
    /// # Errors
    /// [`Error::Tokenizer`] when the bytes are no such message, or there are more pieces than any vocabulary has.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut proto = Self {
            pieces: Vec::new(),
            model_type: ModelType::Unigram as u64,
            treat_whitespace_as_suffix: false,
            pretokenization_delimiter: "",
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
            charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            decoding_charsmap: &[],
        };
        let mut message = Message(bytes);
        while let Some((field, wire)) = message.next()? {
            match (field, wire) {
                (1, Wire::Bytes(bytes)) => {
                    if proto.pieces.len() == super::super::MAX_TOKENS {
                        return Err(damaged("more pieces than any vocabulary has"));
                    }
                    proto.pieces.push(piece(Message(bytes))?);
                }
                (2, Wire::Bytes(bytes)) => proto.trainer(Message(bytes))?,
                (3, Wire::Bytes(bytes)) => proto.normalizer(Message(bytes))?,
                (5, Wire::Bytes(bytes)) => {
                    let mut message = Message(bytes);
                    while let Some((field, wire)) = message.next()? {
                        if let (2, Wire::Bytes(bytes)) = (field, wire) {
                            proto.decoding_charsmap = bytes;
                        }
                    }
                }
                _ => {}
            }
        }
        if proto.pieces.is_empty() {
            return Err(damaged("it has no pieces"));
        }
        Ok(proto)
    }

    fn trainer(&mut self, mut message: Message<'a>) -> Result<()> {
        while let Some((field, wire)) = message.next()? {
            match (field, wire) {
                (3, Wire::Varint(value)) => self.model_type = value,
                (24, Wire::Varint(value)) => self.treat_whitespace_as_suffix = value != 0,
                // Negative numbers are written as the two's complement of 64 bits.
                (41, Wire::Varint(value)) => self.bos_id = value.cast_signed(),
                (42, Wire::Varint(value)) => self.eos_id = value.cast_signed(),
                (43, Wire::Varint(value)) => self.pad_id = value.cast_signed(),
                (53, Wire::Bytes(bytes)) => self.pretokenization_delimiter = text(bytes, "a delimiter")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, mut message: Message<'a>) -> Result<()> {
        while let Some((field, wire)) = message.next()? {
            match (field, wire) {
                (2, Wire::Bytes(bytes)) => self.charsmap = bytes,
                (3, Wire::Varint(value)) => self.add_dummy_prefix = value != 0,
                (4, Wire::Varint(value)) => self.remove_extra_whitespaces = value != 0,
                (5, Wire::Varint(value)) => self.escape_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(mut message: Message<'_>) -> Result<Piece<'_>> {
    let mut piece = Piece { text: "", score: 0.0, kind: 1 };
    while let Some((field, wire)) = message.next()? {
        match (field, wire) {
            (1, Wire::Bytes(bytes)) => piece.text = text(bytes, "a piece")?,
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Ok(piece)
}
