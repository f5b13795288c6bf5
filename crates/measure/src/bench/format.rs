//! Formats that weights can have, filled with random weights.

use std::fmt;
use std::str::FromStr;

use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TensorType, TernaryFormat, random};
use sherry_kernels::{Bytes, Matrix, Pool};

use sherry::{Error, Result};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// Floats or blocks.
    Plain(TensorType),
    /// Packed ternary weights.
    Packed(TernaryFormat, ScaleGroup),
}

/// A format under the name that people know.
#[derive(Clone, Copy, Debug)]
pub struct NamedFormat {
    /// What the row is called.
    pub name: &'static str,
    /// The format of its linear layers.
    pub format: WeightFormat,
}

/// The rows of the paper's speed table; the first is what the others are compared with.
pub const PAPER_FORMATS: [NamedFormat; 7] = [
    NamedFormat { name: "BF16", format: WeightFormat::Plain(TensorType::BF16) },
    NamedFormat { name: "Q8_0", format: WeightFormat::Plain(TensorType::Q8_0) },
    NamedFormat { name: "Q4_0", format: WeightFormat::Plain(TensorType::Q4_0) },
    NamedFormat { name: "ternary 2-bit", format: WeightFormat::Packed(TernaryFormat::Ternary2, ScaleGroup::Row) },
    NamedFormat { name: "ternary 1.67-bit", format: WeightFormat::Packed(TernaryFormat::Ternary167, ScaleGroup::Row) },
    NamedFormat { name: "Sherry 1.25-bit", format: WeightFormat::Packed(TernaryFormat::Sherry, ScaleGroup::Row) },
    NamedFormat {
        name: "Sherry 1.25-bit, scale per 128",
        format: WeightFormat::Packed(TernaryFormat::Sherry, ScaleGroup::Group(128)),
    },
];

impl WeightFormat {
    /// Bytes of `rows` x `cols` weights as stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the format cannot have rows of that length.
    pub fn bytes(self, rows: usize, cols: usize) -> Result<usize> {
        let refuse = |reason: String| Error::Invalid(format!("{self}, {rows} x {cols} weights: {reason}"));
        if rows.checked_mul(cols).is_none() {
            return Err(refuse("more weights than can be counted".to_owned()));
        }
        let row_bytes = match self {
            Self::Plain(ty) if !ty.is_dequantizable() => return Err(refuse("not a type of weights".to_owned())),
            Self::Plain(ty) => ty
                .row_bytes(cols)
                .ok_or_else(|| refuse(format!("rows must be whole blocks of {} values", ty.block_len())))?,
            Self::Packed(..) => {
                let layout = self.layout(rows, cols);
                layout.check().map_err(|error| refuse(error.to_string()))?;
                layout.row_bytes() + 2 * layout.row_scales()
            }
        };
        rows.checked_mul(row_bytes)
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or_else(|| refuse("more bytes than memory can have".to_owned()))
    }

    fn layout(self, rows: usize, cols: usize) -> PackedLayout {
        let (format, scale) = match self {
            Self::Packed(format, scale) => (format, scale),
            Self::Plain(_) => (TernaryFormat::Sherry, ScaleGroup::Row),
        };
        PackedLayout { format, rows, cols, order: QuadOrder::Contiguous, scale }
    }

    /// A matrix of random weights, ready to run, whose outputs are about as large as its inputs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the format cannot have rows of that length, [`Error::OutOfMemory`].
    pub fn random_matrix(self, rows: usize, cols: usize, seed: u64, pool: &Pool) -> Result<Matrix> {
        let bytes = self.bytes(rows, cols)?;
        let refuse = || Error::OutOfMemory { what: format!("{self}, {rows} x {cols} weights"), needed: bytes as u64 };
        // Only asks whether there is room; what fills it could not report that there is none.
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| refuse())?;
        let rms = (cols.max(1) as f32).sqrt().recip();
        let matrix = match self {
            Self::Plain(ty) => {
                let bytes = Bytes::from(random::blocks(ty, rows * cols, rms, seed));
                Matrix::from_rows(ty, rows, cols, bytes).map(|matrix| matrix.repacked_on(pool))
            }
            Self::Packed(..) => {
                let layout = self.layout(rows, cols);
                let codes = random::packed_codes(&layout, seed);
                Matrix::from_packed_on(pool, layout, &codes, &random::packed_scales(&layout, rms, seed))
            }
        };
        matrix.map_err(|_| refuse())
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(ty) => ty.fmt(f),
            Self::Packed(format, ScaleGroup::Tensor | ScaleGroup::Row) => format.fmt(f),
            Self::Packed(format, ScaleGroup::Group(size)) => write!(f, "{format}/{size}"),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    /// The inverse of `Display`: "q6_k", "sherry-1.25", "sherry-1.25/128".
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let plain = TensorType::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(text));
        if let Some(ty) = plain.filter(|ty| ty.is_dequantizable()) {
            return Ok(Self::Plain(ty));
        }
        let (name, group) = text.split_once('/').map_or((text, None), |(name, group)| (name, Some(group)));
        let Some(format) = TernaryFormat::ALL.into_iter().find(|format| format.to_string() == name) else {
            return Err(
                "expected a format: bf16, f16, q8_0, q6_k, q4_k, q4_0, ..., ternary-2, ternary-1.67, sherry-1.25, \
                        sherry-1.25/128, binary-1/128"
                    .to_owned(),
            );
        };
        let scale = match group.map(str::parse) {
            None => ScaleGroup::Row,
            Some(Ok(size)) if format.group_sizes().contains(&size) => ScaleGroup::Group(size),
            Some(_) => return Err(format!("{format} can have one scale per {:?} weights", format.group_sizes())),
        };
        Ok(Self::Packed(format, scale))
    }
}
