//! Row-major packed ternary tensors: what a native checkpoint stores and what the quantizer makes.
//!
//! Sherry and Ternary167 are streams of 5-bit codes per row. Eight codes take a **unit** of 5 bytes: four bytes of
//! nibbles (code `2j` in the low nibble of byte `j`, code `2j+1` in the high nibble) and one byte of sign bits (code
//! `g` at bit `g`). A row is padded with zero bits to a whole number of units. Ternary2 holds four weights a byte, Binary
//! eight. See FORMAT.md.

use std::fmt;

use super::fields::first_three;
use super::half::f16_to_f32;
use super::{sherry, triple};

/// 5-bit codes per unit.
pub const UNIT_CODES: usize = 8;
/// Bytes per unit of 5-bit codes.
pub const UNIT_BYTES: usize = 5;

/// How a weight matrix with values in {-1, 0, +1}, or in {-1, +1}, is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TernaryFormat {
    /// Sherry, 1.25 bits per weight: 5 bits hold 4 weights, exactly one of them zero (arXiv 2601.07892).
    Sherry,
    /// Dense ternary, 1.67 bits per weight: 5 bits hold 3 weights (the TL2 class).
    Ternary167,
    /// Dense ternary, 2 bits per weight (the I2_S class): four weights a byte, weight `j` at bits `2j`, stored as value + 1.
    Ternary2,
    /// Binary, 1 bit per weight: eight weights a byte, weight `j` at bit `j`; 1 is +1 and 0 is -1 (GGUF Q1_0).
    Binary,
}

/// Which four inputs form a quad (Sherry only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum QuadOrder {
    /// Quad `g` holds inputs `4g .. 4g+3` (the paper).
    #[default]
    Contiguous,
    /// Inside each chunk `c` of 64 inputs, quad `i` holds inputs `64c + i + 16p`, lanes `p = 0..3` (GGUF STQ1_0).
    Stride16,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleGroup {
    /// One scale for the whole matrix.
    Tensor,
    /// One scale per row (output channel).
    Row,
    /// One scale per `n` consecutive inputs of a row; the last group may be short. `n` is one of
    /// [`TernaryFormat::group_sizes`].
    Group(usize),
}

impl ScaleGroup {
    /// Scales per row of `cols` weights; a scale of the whole matrix counts for every row.
    pub const fn per_row(self, cols: usize) -> usize {
        match self {
            Self::Tensor | Self::Row => 1,
            Self::Group(n) => cols.div_ceil(n),
        }
    }

    /// Columns, of `cols`, that share a scale.
    pub const fn columns(self, cols: usize) -> usize {
        match self {
            Self::Tensor | Self::Row => cols,
            Self::Group(n) => n,
        }
    }
}

impl TernaryFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sherry, Self::Ternary167, Self::Ternary2, Self::Binary];

    /// Weights per code (Sherry 4, 1.67-bit 3); a code of the 2-bit format is one byte, one of the binary format four bits,
    /// 4 weights both.
    pub const fn lanes(self) -> usize {
        match self {
            Self::Sherry => sherry::LANES,
            Self::Ternary167 => triple::LANES,
            Self::Ternary2 | Self::Binary => 4,
        }
    }

    /// The group sizes that can carry a scale: 1, 2, 4 or 8 units of eight codes, because a code must not straddle two
    /// scales. 32, 64, 128, 256; and 24, 48, 96, 192 where a code holds three weights.
    pub const fn group_sizes(self) -> [usize; 4] {
        let unit = UNIT_CODES * self.lanes();
        [unit, 2 * unit, 4 * unit, 8 * unit]
    }

    /// Bytes of codes per row of `cols` weights.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::Sherry | Self::Ternary167 => cols.div_ceil(UNIT_CODES * self.lanes()) * UNIT_BYTES,
            Self::Ternary2 => cols.div_ceil(4),
            Self::Binary => cols.div_ceil(8),
        }
    }
}

impl fmt::Display for TernaryFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sherry => "sherry-1.25",
            Self::Ternary167 => "ternary-1.67",
            Self::Ternary2 => "ternary-2",
            Self::Binary => "binary-1",
        })
    }
}

/// Why a packed tensor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedError {
    /// No rows or no columns, or more bytes than an address can count.
    Shape {
        /// Out features.
        rows: usize,
        /// In features.
        cols: usize,
    },
    /// Columns are not a multiple of what the format or the quad order needs.
    Columns {
        /// In features.
        cols: usize,
        /// What they must be a multiple of.
        multiple: usize,
    },
    /// The group size is none of [`TernaryFormat::group_sizes`], or cuts through the quads of the order.
    Group {
        /// Weights per scale.
        size: usize,
    },
    /// A quad order other than `Contiguous` for a format without quads.
    Order,
    /// The byte count of the codes does not fit the shape.
    CodesSize {
        /// Bytes the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The byte count of the scales does not fit the shape.
    ScalesSize {
        /// Bytes the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A code that stands for no weights.
    IllegalCode {
        /// Its row.
        row: usize,
        /// The byte it is in: of the row's codes, at which its unit begins; of the whole tensor where rows share bytes.
        byte: usize,
    },
    /// The bits after the last weight of a row are not zero.
    Padding {
        /// The row.
        row: usize,
    },
    /// A scale is infinite or not a number.
    Scale {
        /// Its row.
        row: usize,
        /// Its group in the row.
        group: usize,
    },
    /// A scale of a group is no f16, the type in which groups keep theirs.
    InexactScale {
        /// Its row.
        row: usize,
        /// Its group in the row.
        group: usize,
    },
    /// A row has weights other than -1, 0 or +1 times their scale.
    NotTernary {
        /// The row.
        row: usize,
    },
    /// A row of floats has a value that is infinite or not a number.
    NotFinite {
        /// The row.
        row: usize,
    },
    /// A value to encode is none that the format has, or a quad has not exactly one zero.
    Value {
        /// First input of the offending code.
        col: usize,
    },
}

impl fmt::Display for PackedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Shape { rows, cols } => write!(f, "a packed tensor cannot have shape {rows} x {cols}"),
            Self::Columns { cols, multiple } => write!(f, "{cols} columns are not a multiple of {multiple}"),
            Self::Group { size } => write!(f, "one scale per {size} weights is not possible in this format and order"),
            Self::Order => write!(f, "only Sherry codes can be in stride-16 order"),
            Self::CodesSize { expected, found } => {
                write!(f, "the codes take {found} bytes, the shape needs {expected}")
            }
            Self::ScalesSize { expected, found } => {
                write!(f, "the scales take {found} bytes, the shape needs {expected}")
            }
            Self::IllegalCode { row, byte } => write!(f, "illegal code in row {row} at byte {byte}"),
            Self::Padding { row } => write!(f, "the padding of row {row} is not zero"),
            Self::Scale { row, group } => write!(f, "the scale of row {row}, group {group} is not finite"),
            Self::InexactScale { row, group } => {
                write!(f, "the scale of row {row}, group {group} has more digits than an f16")
            }
            Self::NotTernary { row } => {
                write!(f, "row {row} has weights other than -1, 0 or +1 times their scale")
            }
            Self::NotFinite { row } => write!(f, "row {row} has a weight that is not finite"),
            Self::Value { col } => write!(f, "the weights at column {col} have no code"),
        }
    }
}

impl std::error::Error for PackedError {}

/// Shape and layout of a packed tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// How codes hold weights.
    pub format: TernaryFormat,
    /// Out features.
    pub rows: usize,
    /// In features.
    pub cols: usize,
    /// Which inputs form a quad; `Contiguous` for the baselines.
    pub order: QuadOrder,
    /// Which weights share a scale.
    pub scale: ScaleGroup,
}

/// 2^40 columns, or 2^20 where addresses have 32 bits, keep every size per row far from overflow.
const MAX_COLS: usize = 1 << (usize::BITS / 8 * 5);

impl PackedLayout {
    /// Whether shape, format, order and scale group go together: Sherry needs columns in whole quads, stride-16 order in
    /// whole chunks of 64, and no code may straddle two scales.
    ///
    /// # Errors
    /// [`PackedError`] saying which condition fails.
    pub fn check(&self) -> Result<(), PackedError> {
        let Self { format, rows, cols, order, scale } = *self;
        if rows == 0 || cols == 0 || cols > MAX_COLS {
            return Err(PackedError::Shape { rows, cols });
        }
        let multiple = match (format, order) {
            (TernaryFormat::Sherry, QuadOrder::Contiguous) => 4,
            (TernaryFormat::Sherry, QuadOrder::Stride16) => 64,
            (_, QuadOrder::Contiguous) => 1,
            (_, QuadOrder::Stride16) => return Err(PackedError::Order),
        };
        if !cols.is_multiple_of(multiple) {
            return Err(PackedError::Columns { cols, multiple });
        }
        if scale == ScaleGroup::Tensor {
            return Err(PackedError::Group { size: 0 });
        }
        if let ScaleGroup::Group(size) = scale
            && (!format.group_sizes().contains(&size) || (order == QuadOrder::Stride16 && !size.is_multiple_of(64)))
        {
            return Err(PackedError::Group { size });
        }
        let row = format.row_bytes(cols).max(2 * scale.per_row(cols));
        // Room for padding to whole blocks of rows.
        rows.checked_add(64)
            .and_then(|rows| rows.checked_mul(row))
            .filter(|&bytes| bytes <= isize::MAX as usize / 4)
            .ok_or(PackedError::Shape { rows, cols })?;
        Ok(())
    }

    /// Bytes of the codes of one row.
    pub const fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols)
    }

    /// Scales of one row.
    pub const fn row_scales(&self) -> usize {
        self.scale.per_row(self.cols)
    }

    /// The input that lane `lane` of code `code` multiplies; may lie past `cols` in the last code of a row.
    pub const fn input(&self, code: usize, lane: usize) -> usize {
        match self.order {
            QuadOrder::Contiguous => code * self.format.lanes() + lane,
            QuadOrder::Stride16 => code / 16 * 64 + code % 16 + 16 * lane,
        }
    }

    /// Codes of one row, padding not counted.
    pub const fn row_codes(&self) -> usize {
        self.cols.div_ceil(self.format.lanes())
    }

    /// Packs one row of ternary values (`cols` of them) into `out` ([`row_bytes`](Self::row_bytes) long).
    ///
    /// # Errors
    /// [`PackedError::Value`] when some values have no code.
    ///
    /// # Panics
    /// When a length does not fit, or the layout does not pass [`check`](Self::check).
    pub fn encode_row(&self, values: &[i8], out: &mut [u8]) -> Result<(), PackedError> {
        assert_eq!(values.len(), self.cols);
        assert_eq!(out.len(), self.row_bytes());
        out.fill(0);
        for code in self.encode_units(values, out)..self.row_codes() {
            let value = |lane| values.get(self.input(code, lane)).copied().unwrap_or(0);
            let error = PackedError::Value { col: self.input(code, 0) };
            match self.format {
                TernaryFormat::Sherry => {
                    let bits = sherry::encode_quad([value(0), value(1), value(2), value(3)]).ok_or(error)?;
                    write_code(out, code, bits);
                }
                TernaryFormat::Ternary167 => {
                    let bits = triple::encode_triple([value(0), value(1), value(2)]).ok_or(error)?;
                    write_code(out, code, bits);
                }
                TernaryFormat::Ternary2 => {
                    for lane in 0..4 {
                        if self.input(code, lane) < self.cols {
                            if !(-1..=1).contains(&value(lane)) {
                                return Err(error);
                            }
                            out[code] |= ((value(lane) + 1) as u8) << (2 * lane);
                        }
                    }
                }
                TernaryFormat::Binary => {
                    for lane in 0..4 {
                        match value(lane) {
                            1 => out[code / 2] |= 1 << (code % 2 * 4 + lane),
                            -1 => {}
                            _ if self.input(code, lane) >= self.cols => {}
                            _ => return Err(error),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Packs dense ternary values unit by unit, as far as a row has whole ones: the number of codes that were written. Stops
    /// before a value that has no code.
    fn encode_units(&self, values: &[i8], out: &mut [u8]) -> usize {
        let legal = |values: &[i8]| values.iter().fold(true, |all, value| all & (-1..=1).contains(value));
        match (self.format, self.order) {
            (TernaryFormat::Ternary167, QuadOrder::Contiguous) => {
                let units = values.as_chunks::<{ UNIT_CODES * triple::LANES }>().0;
                for (unit, (values, out)) in units.iter().zip(out.as_chunks_mut::<UNIT_BYTES>().0).enumerate() {
                    if !legal(values) {
                        return unit * UNIT_CODES;
                    }
                    let (mut nibbles, mut signs) = (0, 0);
                    for (g, [a, b, c]) in values.as_chunks().0.iter().enumerate() {
                        let n = 9 * a + 3 * b + c;
                        nibbles |= u32::from(n.unsigned_abs()) << (4 * g);
                        signs |= u8::from(n < 0) << g;
                    }
                    out[..4].copy_from_slice(&nibbles.to_le_bytes());
                    out[4] = signs;
                }
                units.len() * UNIT_CODES
            }
            (TernaryFormat::Ternary2, QuadOrder::Contiguous) => {
                let units = values.as_chunks::<64>().0;
                for (unit, (values, out)) in units.iter().zip(out.as_chunks_mut::<16>().0).enumerate() {
                    if !legal(values) {
                        return unit * 16;
                    }
                    for (out, four) in out.iter_mut().zip(values.as_chunks().0) {
                        let [a, b, c, d] = four.map(|value: i8| (value + 1) as u8);
                        *out = a | b << 2 | c << 4 | d << 6;
                    }
                }
                units.len() * 16
            }
            _ => 0,
        }
    }

    /// The ternary values of one row from its `codes`. Illegal codes decode as zeros.
    ///
    /// # Panics
    /// When a length does not fit, or the layout does not pass [`check`](Self::check).
    pub fn decode_row(&self, codes: &[u8], values: &mut [i8]) {
        assert_eq!(values.len(), self.cols);
        assert_eq!(codes.len(), self.row_bytes());
        for code in 0..self.row_codes() {
            let lanes = match self.format {
                TernaryFormat::Sherry => sherry::decode_quad(read_code(codes, code)),
                TernaryFormat::Ternary167 => {
                    let [a, b, c] = triple::decode_triple(read_code(codes, code)).unwrap_or([0; 3]);
                    [a, b, c, 0]
                }
                TernaryFormat::Ternary2 => [0, 2, 4, 6].map(|shift| match (codes[code] >> shift) & 3 {
                    3 => 0,
                    bits => bits as i8 - 1,
                }),
                TernaryFormat::Binary => {
                    let signs = codes[code / 2] >> (code % 2 * 4);
                    [0, 1, 2, 3].map(|bit| ((signs >> bit & 1) << 1) as i8 - 1)
                }
            };
            for lane in 0..self.format.lanes() {
                if let Some(value) = values.get_mut(self.input(code, lane)) {
                    *value = lanes[lane];
                }
            }
        }
    }

    /// Checks the layout and everything stored: sizes, codes, padding.
    ///
    /// # Errors
    /// [`PackedError`] naming the first problem.
    pub fn check_codes(&self, codes: &[u8]) -> Result<(), PackedError> {
        self.check()?;
        let row_bytes = self.row_bytes();
        let expected = self.rows * row_bytes;
        if codes.len() != expected {
            return Err(PackedError::CodesSize { expected, found: codes.len() });
        }
        for (row, bytes) in codes.chunks_exact(row_bytes).enumerate() {
            match self.format {
                TernaryFormat::Sherry | TernaryFormat::Binary => {}
                TernaryFormat::Ternary167 => {
                    if let Some(unit) = bytes.as_chunks::<UNIT_BYTES>().0.iter().position(|unit| !triples_legal(*unit))
                    {
                        return Err(PackedError::IllegalCode { row, byte: unit * UNIT_BYTES });
                    }
                }
                TernaryFormat::Ternary2 => {
                    if let Some(byte) = first_three(bytes) {
                        return Err(PackedError::IllegalCode { row, byte });
                    }
                }
            }
            let padding_is_zero = match self.format {
                TernaryFormat::Sherry | TernaryFormat::Ternary167 => {
                    let first = self.row_codes();
                    let lanes = self.format.lanes();
                    let last_is_short = match triple::decode_triple(read_code(bytes, first - 1)) {
                        Some(values) if lanes == 3 => values[(self.cols - 1) % 3 + 1..].iter().all(|&v| v == 0),
                        _ => true,
                    };
                    last_is_short && (first..first.next_multiple_of(UNIT_CODES)).all(|code| read_code(bytes, code) == 0)
                }
                TernaryFormat::Ternary2 | TernaryFormat::Binary => {
                    let bits = if self.format == TernaryFormat::Binary { 1 } else { 2 };
                    let used = ((self.cols - 1) % (8 / bits) + 1) * bits;
                    bytes.last().is_none_or(|&b| u32::from(b) >> used == 0)
                }
            };
            if !padding_is_zero {
                return Err(PackedError::Padding { row });
            }
        }
        Ok(())
    }

    /// Checks `scales` (f16 bits, row after row): their number, and that all are finite.
    ///
    /// # Errors
    /// [`PackedError`] naming the first problem.
    pub fn check_scales(&self, scales: impl ExactSizeIterator<Item = u16>) -> Result<(), PackedError> {
        self.check()?;
        let per_row = self.row_scales();
        let expected = self.rows * per_row;
        if scales.len() != expected {
            return Err(PackedError::ScalesSize { expected: 2 * expected, found: 2 * scales.len() });
        }
        for (i, bits) in scales.enumerate() {
            if bits & 0x7c00 == 0x7c00 {
                return Err(PackedError::Scale { row: i / per_row, group: i % per_row });
            }
        }
        Ok(())
    }
}

/// A packed ternary tensor, row-major. `codes`: rows x [`TernaryFormat::row_bytes`] bytes; `scales`: rows x
/// [`ScaleGroup::per_row`] f16 bit patterns.
///
/// ```
/// use sherry_kernels::format::{PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat};
///
/// let (format, order) = (TernaryFormat::Ternary2, QuadOrder::Contiguous);
/// let layout = PackedLayout { format, rows: 1, cols: 4, order, scale: ScaleGroup::Row };
/// let mut packed = PackedRows { layout, codes: vec![0; 1], scales: vec![0x4000] }; // 2 as f16
/// layout.encode_row(&[1, 0, -1, 1], &mut packed.codes)?;
/// packed.validate()?;
/// let mut row = [9.0; 4];
/// packed.row_f32(0, &mut row);
/// assert_eq!(row, [2.0, 0.0, -2.0, 2.0]);
/// # Ok::<(), sherry_kernels::format::PackedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedRows {
    /// Shape and layout.
    pub layout: PackedLayout,
    /// The codes.
    pub codes: Vec<u8>,
    /// f16 bits.
    pub scales: Vec<u16>,
}

impl PackedRows {
    /// Checks sizes, codes, padding and scales.
    ///
    /// # Errors
    /// [`PackedError`] naming the first problem.
    pub fn validate(&self) -> Result<(), PackedError> {
        self.layout.check_codes(&self.codes)?;
        self.layout.check_scales(self.scales.iter().copied())
    }

    /// The ternary values of row `row` into `values` (`cols` long), and its scales (f16 bits).
    ///
    /// # Panics
    /// When the tensor does not pass [`validate`](Self::validate), `row` is out of range or a length does not fit.
    pub fn decode_row(&self, row: usize, values: &mut [i8]) -> &[u16] {
        let (row_bytes, per_row) = (self.layout.row_bytes(), self.layout.row_scales());
        self.layout.decode_row(&self.codes[row * row_bytes..(row + 1) * row_bytes], values);
        &self.scales[row * per_row..(row + 1) * per_row]
    }

    /// Row `row` as f32, `out` is `cols` long: each value times its scale.
    ///
    /// # Panics
    /// As [`decode_row`](Self::decode_row).
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        let mut values = vec![0; self.layout.cols];
        let scales = self.decode_row(row, &mut values);
        let group = self.layout.scale.columns(self.layout.cols);
        for ((out, values), &scale) in out.chunks_mut(group).zip(values.chunks(group)).zip(scales) {
            let scale = f16_to_f32(scale);
            for (out, &value) in out.iter_mut().zip(values) {
                *out = f32::from(value) * scale;
            }
        }
    }
}

/// Code `index` of a stream of units.
///
/// # Panics
/// When the stream is too short.
pub fn read_code(stream: &[u8], index: usize) -> u8 {
    let unit = &stream[index / UNIT_CODES * UNIT_BYTES..][..UNIT_BYTES];
    let g = index % UNIT_CODES;
    let nibble = (unit[g / 2] >> (4 * (g % 2))) & 15;
    nibble | ((unit[4] >> g) & 1) << 4
}

/// Sets code `index` of a stream of units.
///
/// # Panics
/// When the stream is too short.
pub fn write_code(stream: &mut [u8], index: usize, code: u8) {
    let unit = &mut stream[index / UNIT_CODES * UNIT_BYTES..][..UNIT_BYTES];
    let g = index % UNIT_CODES;
    let shift = 4 * (g % 2);
    unit[g / 2] = unit[g / 2] & !(15 << shift) | (code & 15) << shift;
    unit[4] = unit[4] & !(1 << g) | ((code >> 4) & 1) << g;
}

/// Whether all eight codes of a unit stand for triples.
fn triples_legal(unit: [u8; UNIT_BYTES]) -> bool {
    let n = u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]);
    // 14 and 15 are the nibbles with bits 1, 2 and 3 set.
    if n & (n >> 1) & (n >> 2) & 0x2222_2222 != 0 {
        return false;
    }
    let zero = !(n | n >> 1 | n >> 2 | n >> 3) & 0x1111_1111;
    unit[4] == 0 || zero == 0 || (0..8).all(|g| (zero >> (4 * g)) & u32::from(unit[4] >> g) & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(format: TernaryFormat, cols: usize) -> PackedLayout {
        PackedLayout { format, rows: 1, cols, order: QuadOrder::Contiguous, scale: ScaleGroup::Row }
    }

    /// Values that have a code in every format and order: lane 3 of each quad zero where there are quads.
    fn values(layout: &PackedLayout, seed: usize) -> Vec<i8> {
        let mut values: Vec<i8> = (0..layout.cols).map(|i| ((i * 7 + i / 3 * 5 + seed) % 3) as i8 - 1).collect();
        if layout.format == TernaryFormat::Sherry {
            for code in 0..layout.row_codes() {
                for lane in 0..4 {
                    let h = (code * 31 + seed * 17 + lane * 7).wrapping_mul(0x9e37_79b9) >> 7;
                    values[layout.input(code, lane)] = match (lane, h & 1) {
                        (lane, _) if lane == (code + seed) % 4 => 0,
                        (_, 0) => 1,
                        _ => -1,
                    };
                }
            }
        }
        if layout.format == TernaryFormat::Binary {
            values.iter_mut().for_each(|value| *value = if *value == 0 { 1 } else { *value });
        }
        values
    }

    #[test]
    fn one_unit_by_hand() {
        // Codes 0..=7 of the nibbles 1..=8, signs on codes 0 and 7.
        let mut unit = [0; 5];
        for g in 0..8 {
            write_code(&mut unit, g, (g as u8 + 1) | if g == 0 || g == 7 { 16 } else { 0 });
        }
        assert_eq!(unit, [0x21, 0x43, 0x65, 0x87, 0b1000_0001]);
        for g in 0..8 {
            assert_eq!(read_code(&unit, g) & 15, g as u8 + 1);
        }
    }

    #[test]
    fn rows_round_trip_in_every_format_and_order() {
        for (format, order, all_cols) in [
            (TernaryFormat::Sherry, QuadOrder::Contiguous, [4, 12, 172, 576]),
            (TernaryFormat::Sherry, QuadOrder::Stride16, [64, 128, 192, 576]),
            (TernaryFormat::Ternary167, QuadOrder::Contiguous, [1, 3, 65, 172]),
            (TernaryFormat::Ternary2, QuadOrder::Contiguous, [1, 3, 66, 172]),
            (TernaryFormat::Binary, QuadOrder::Contiguous, [1, 9, 66, 172]),
        ] {
            for cols in all_cols {
                let layout = PackedLayout { order, ..layout(format, cols) };
                layout.check().unwrap();
                let values = values(&layout, cols);
                let mut codes = vec![0xaa; layout.row_bytes()];
                layout.encode_row(&values, &mut codes).unwrap();
                layout.check_codes(&codes).unwrap();
                let mut back = vec![9; cols];
                layout.decode_row(&codes, &mut back);
                assert_eq!(back, values, "{format} {order:?} {cols}");
            }
        }
    }

    #[test]
    fn the_first_value_without_a_code_is_named() {
        for format in [TernaryFormat::Ternary167, TernaryFormat::Ternary2] {
            let layout = layout(format, 172);
            for at in 0..172 {
                let mut values = values(&layout, at);
                values[at] = 2;
                values[171] = -2;
                let error = layout.encode_row(&values, &mut vec![0; layout.row_bytes()]).unwrap_err();
                let first = at / format.lanes() * format.lanes();
                assert!(matches!(error, PackedError::Value { col } if col == first), "{format} {at}: {error}");
            }
        }
    }

    #[test]
    fn stride_16_holds_inputs_16_apart() {
        let layout = PackedLayout { order: QuadOrder::Stride16, ..layout(TernaryFormat::Sherry, 128) };
        assert_eq!((0..4).map(|lane| layout.input(17, lane)).collect::<Vec<_>>(), [65, 81, 97, 113]);
    }

    #[test]
    fn bad_layouts_are_refused() {
        let sherry = layout(TernaryFormat::Sherry, 64);
        for (bad, error) in [
            (PackedLayout { cols: 6, ..sherry }, PackedError::Columns { cols: 6, multiple: 4 }),
            (PackedLayout { cols: 0, ..sherry }, PackedError::Shape { rows: 1, cols: 0 }),
            (PackedLayout { rows: 0, ..sherry }, PackedError::Shape { rows: 0, cols: 64 }),
            (PackedLayout { rows: usize::MAX, ..sherry }, PackedError::Shape { rows: usize::MAX, cols: 64 }),
            (PackedLayout { cols: usize::MAX, ..sherry }, PackedError::Shape { rows: 1, cols: usize::MAX }),
            (
                PackedLayout { cols: 96, order: QuadOrder::Stride16, ..sherry },
                PackedError::Columns { cols: 96, multiple: 64 },
            ),
            (
                PackedLayout { order: QuadOrder::Stride16, scale: ScaleGroup::Group(32), ..sherry },
                PackedError::Group { size: 32 },
            ),
            (PackedLayout { scale: ScaleGroup::Group(0), ..sherry }, PackedError::Group { size: 0 }),
            (
                PackedLayout { scale: ScaleGroup::Group(128), ..layout(TernaryFormat::Ternary167, 64) },
                PackedError::Group { size: 128 },
            ),
            (PackedLayout { order: QuadOrder::Stride16, ..layout(TernaryFormat::Ternary2, 64) }, PackedError::Order),
        ] {
            assert_eq!(bad.check(), Err(error));
            assert_eq!(bad.check_codes(&[]), Err(error));
        }
    }

    #[test]
    fn bad_contents_are_refused() {
        let sherry = layout(TernaryFormat::Sherry, 4);
        assert_eq!(sherry.check_codes(&[0; 4]), Err(PackedError::CodesSize { expected: 5, found: 4 }));
        sherry.check_codes(&[0x0f, 0, 0, 0, 1]).unwrap();
        assert_eq!(sherry.check_codes(&[0x1f, 0, 0, 0, 1]), Err(PackedError::Padding { row: 0 }));
        assert_eq!(sherry.check_codes(&[0x0f, 0, 0, 0, 3]), Err(PackedError::Padding { row: 0 }));

        let triples = layout(TernaryFormat::Ternary167, 24);
        for code in 0..32 {
            for g in 0..8 {
                let mut unit = [0; 5];
                write_code(&mut unit, g, code);
                assert_eq!(triples.check_codes(&unit).is_ok(), triple::decode_triple(code).is_some());
            }
        }
        let two_weights = layout(TernaryFormat::Ternary167, 2);
        let code = |values| [triple::encode_triple(values).unwrap() & 15, 0, 0, 0, 0];
        two_weights.check_codes(&code([1, 1, 0])).unwrap();
        assert_eq!(two_weights.check_codes(&code([1, 1, 1])), Err(PackedError::Padding { row: 0 }));

        let twos = layout(TernaryFormat::Ternary2, 6);
        twos.check_codes(&[0b10_01_00_10, 0b00_00_10_01]).unwrap();
        assert_eq!(twos.check_codes(&[0b11_01_00_10, 0]), Err(PackedError::IllegalCode { row: 0, byte: 0 }));
        assert_eq!(twos.check_codes(&[0, 0b01_00_00]), Err(PackedError::Padding { row: 0 }));

        let signs = layout(TernaryFormat::Binary, 11);
        signs.check_codes(&[0xff, 0b111]).unwrap();
        assert_eq!(signs.check_codes(&[0xff, 0b1111]), Err(PackedError::Padding { row: 0 }));

        let mut packed = PackedRows {
            layout: PackedLayout { rows: 2, scale: ScaleGroup::Group(32), ..layout(TernaryFormat::Ternary2, 64) },
            codes: vec![0; 32],
            scales: vec![0x3c00; 4],
        };
        packed.validate().unwrap();
        packed.scales[3] = 0x7c00;
        assert_eq!(packed.validate(), Err(PackedError::Scale { row: 1, group: 1 }));
        packed.scales[3] = 0xfe01;
        assert_eq!(packed.validate(), Err(PackedError::Scale { row: 1, group: 1 }));
        packed.scales.pop();
        assert_eq!(packed.validate(), Err(PackedError::ScalesSize { expected: 8, found: 6 }));
    }

    #[test]
    fn values_without_a_code_are_refused() {
        let mut out = [0; 5];
        assert_eq!(
            layout(TernaryFormat::Sherry, 8).encode_row(&[0, 1, 1, 1, 0, 0, 1, 1], &mut out),
            Err(PackedError::Value { col: 4 })
        );
        assert_eq!(
            layout(TernaryFormat::Ternary2, 4).encode_row(&[0, 1, 1, 2], &mut out[..1]),
            Err(PackedError::Value { col: 0 })
        );
        assert_eq!(
            layout(TernaryFormat::Binary, 6).encode_row(&[-1, 1, 1, 1, 1, 0], &mut out[..1]),
            Err(PackedError::Value { col: 4 })
        );
    }
}
