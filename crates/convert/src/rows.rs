//! One tensor of a checkpoint, row by row, seen through channel permutations, in any type it can be written in.

use rayon::prelude::*;
use sherry_kernels::Bytes;
use sherry_kernels::format::i2_s::{I2sRows, I2sWriter};
use sherry_kernels::format::{PackedLayout, PackedRows, QuadOrder, TensorType, TernaryRows, ggml, stq1_0};

use super::channels::{Bridge, RopeRows};
use sherry::io::TensorSource;
use sherry::model::names::{Part, Role};
use sherry::model::{ArchConfig, Stored};
use sherry::{Error, Result};

/// What happens to channels and norms between input and output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moves {
    /// Between quad orders.
    pub bridge: Option<Bridge>,
    /// Between row orders of q and k.
    pub rope: Option<RopeRows>,
    /// Added to norm weights: files differ in whether they store `w` or `1 + w` (Gemma).
    pub norm_shift: f32,
    /// Then multiplies the norm of the queries: GGUF has no other place for a scale of its own (Gemma); 1 elsewhere.
    pub query_scale: f32,
}

impl Default for Moves {
    fn default() -> Self {
        Self { bridge: None, rope: None, norm_shift: 0.0, query_scale: 1.0 }
    }
}

/// A tensor to be written. Vectors count as `n` rows of one column, so that row moves apply to them.
pub struct Rows<'a> {
    role: Role,
    name: String,
    rows: usize,
    cols: usize,
    data: Data,
    moves: Moves,
    head_dim: usize,
    source: &'a dyn TensorSource,
    files: Vec<String>,
}

/// What may become of weights that a block type does not hold as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Blocks of numbers are rounded as ggml does it; ternary and binary types take only what they hold exactly.
    Exact,
    /// The nearest that the type can hold; see [`ggml::quantize_nearest`].
    Nearest,
}

enum Data {
    Plain {
        ty: TensorType,
        bytes: Bytes,
    },
    Packed(PackedRows),
    /// Ternary rows that have no bytes of their own: I2_S, with those of the whole tensor, BitNet's and MLX's.
    Ternary {
        rows: Box<dyn TernaryRows + Send>,
        i2_s: Option<Bytes>,
    },
}

/// Values per task when a tensor is encoded in parallel; a task is a whole number of rows.
const TASK_VALUES: usize = 1 << 17;
/// Tasks whose results wait in memory for their turn to be written.
const TASKS_IN_FLIGHT: usize = 32;

impl<'a> Rows<'a> {
    /// The tensor `stored` that plays `role`.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor when packed codes or scales are illegal.
    pub fn open(
        source: &'a dyn TensorSource,
        config: &ArchConfig,
        role: Role,
        stored: &Stored,
        moves: Moves,
    ) -> Result<Self> {
        let (rows, cols) = match role.shape(config)[..] {
            [rows, cols] => (rows, cols),
            ref shape => (shape.iter().product(), 1),
        };
        let name = stored.name().to_owned();
        let (data, files) = match stored {
            Stored::Plain { name, ty: TensorType::STQ1_0 } => {
                let packed = stq1_0::to_packed(rows, cols, &source.data(name)?)
                    .map_err(|error| malformed(source, name, error.to_string()))?;
                (Data::Packed(packed), vec![name.clone()])
            }
            Stored::Plain { name, ty: TensorType::I2_S } => {
                let bytes = source.data(name)?;
                let rows = I2sRows::new(rows, cols, bytes.clone())
                    .map_err(|error| malformed(source, name, error.to_string()))?;
                (Data::Ternary { rows: Box::new(rows), i2_s: Some(bytes) }, vec![name.clone()])
            }
            Stored::BitNet { name, ty, weights } => {
                (Data::Ternary { rows: weights.rows(source, name, *ty, rows, cols)?, i2_s: None }, vec![name.clone()])
            }
            Stored::Mlx { name, weights } => {
                let rows = Box::new(weights.rows(source, name, rows, cols)?);
                let files = stored.tensors().into_iter().map(str::to_owned).collect();
                (Data::Ternary { rows, i2_s: None }, files)
            }
            Stored::Plain { name, ty } => (Data::Plain { ty: *ty, bytes: source.data(name)? }, vec![name.clone()]),
            Stored::Packed { name, codes, scales, layout } => {
                let packed = PackedRows {
                    layout: *layout,
                    codes: source.data(codes)?.to_vec(),
                    scales: source.data(scales)?.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
                };
                packed.validate().map_err(|error| malformed(source, name, error.to_string()))?;
                (Data::Packed(packed), vec![codes.clone(), scales.clone()])
            }
        };
        Ok(Self { role, name, rows, cols, data, moves, head_dim: config.head_dim, source, files })
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn old_row(&self, row: usize) -> usize {
        match (self.moves.bridge, self.moves.rope) {
            (Some(bridge), _) if Bridge::moves_rows(self.role) => bridge.old_channel(row),
            (_, Some(rope)) if RopeRows::moves(self.role) => rope.old_row(row, self.head_dim),
            _ => row,
        }
    }

    fn moves_anything(&self) -> bool {
        let bridge = self.moves.bridge.is_some();
        bridge && (Bridge::moves_rows(self.role) || Bridge::moves_columns(self.role))
            || self.moves.rope.is_some() && RopeRows::moves(self.role)
            || self.shift() != 0.0
            || self.scale() != 1.0
    }

    fn shift(&self) -> f32 {
        // Those of single linear layers are plain norms in every family.
        let plain = matches!(self.role, Role::Layer(_, part) if part.is_input_norm());
        if self.role.is_norm() && !plain { self.moves.norm_shift } else { 0.0 }
    }

    fn scale(&self) -> f32 {
        if matches!(self.role, Role::Layer(_, Part::QNorm)) { self.moves.query_scale } else { 1.0 }
    }

    /// Writes row `row` of the output into `out` as f32.
    pub fn fill(&self, row: usize, out: &mut [f32]) {
        let old = self.old_row(row);
        match &self.data {
            Data::Plain { ty, bytes } => {
                let len = bytes.len() / self.rows;
                ggml::dequantize(*ty, &bytes[old * len..(old + 1) * len], out);
            }
            Data::Packed(packed) => packed.row_f32(old, out),
            Data::Ternary { rows, .. } => rows.row_f32(old, out),
        }
        if let Some(bridge) = self.moves.bridge
            && Bridge::moves_columns(self.role)
        {
            let moved: Vec<f32> = (0..out.len()).map(|new| out[bridge.old_channel(new)]).collect();
            out.copy_from_slice(&moved);
        }
        let shift = self.shift();
        if shift != 0.0 {
            out.iter_mut().for_each(|w| *w += shift);
        }
        let scale = self.scale();
        if scale != 1.0 {
            out.iter_mut().for_each(|w| *w *= scale);
        }
    }

    /// The packed tensor after the moves: rows are gathered, codes stay as they are. `None` for dense tensors.
    pub fn packed(&self) -> Option<PackedRows> {
        let Data::Packed(packed) = &self.data else { return None };
        let order = match (self.moves.bridge, packed.layout.order) {
            (Some(Bridge::ToStride16), QuadOrder::Contiguous) => QuadOrder::Stride16,
            (Some(Bridge::ToContiguous), QuadOrder::Stride16) => QuadOrder::Contiguous,
            (_, order) => order,
        };
        let layout = PackedLayout { order, ..packed.layout };
        let (code_bytes, scale_count) = (packed.codes.len() / self.rows, packed.scales.len() / self.rows);
        let mut moved = PackedRows {
            layout,
            codes: Vec::with_capacity(packed.codes.len()),
            scales: Vec::with_capacity(packed.scales.len()),
        };
        for row in 0..self.rows {
            let old = self.old_row(row);
            moved.codes.extend_from_slice(&packed.codes[old * code_bytes..(old + 1) * code_bytes]);
            moved.scales.extend_from_slice(&packed.scales[old * scale_count..(old + 1) * scale_count]);
        }
        Some(moved)
    }

    /// The stored bytes, where [`encode`](Self::encode) to `ty` copies them.
    fn copied(&self, ty: TensorType) -> Option<&Bytes> {
        match &self.data {
            Data::Plain { ty: stored, bytes } if *stored == ty && !self.moves_anything() => Some(bytes),
            Data::Ternary { i2_s, .. } if ty == TensorType::I2_S && !self.moves_anything() => i2_s.as_ref(),
            _ => None,
        }
    }

    /// The stored bytes of row `row` of the output, where `ty` is what is stored and no value changes its place in the row:
    /// blocks decoded and encoded again need not be the same.
    fn copied_row(&self, ty: TensorType, row: usize) -> Option<&[u8]> {
        let Data::Plain { ty: stored, bytes } = &self.data else { return None };
        let in_place = self.moves.bridge.is_none() || !Bridge::moves_columns(self.role);
        let same = *stored == ty && in_place && self.shift() == 0.0 && self.scale() == 1.0;
        let len = bytes.len() / self.rows;
        same.then(|| &bytes[self.old_row(row) * len..][..len])
    }

    /// Hands the tensor, encoded as `ty`, to `sink` in pieces, in order. Work is spread over the current rayon pool; the
    /// bytes do not depend on how.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor when a value cannot be held by `ty` (NaN, infinity), and whatever `sink`
    /// returns.
    pub fn encode(&self, ty: TensorType, rounding: Rounding, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if let Some(bytes) = self.copied(ty) {
            bytes.chunks(1 << 22).try_for_each(sink)?;
            self.release();
            return Ok(());
        }
        if ty == TensorType::I2_S {
            return self.encode_i2_s(sink);
        }
        let row_bytes = ty.row_bytes(self.cols).ok_or_else(|| {
            let problem = format!("rows of {} values are not whole {ty} blocks of {}", self.cols, ty.block_len());
            malformed(self.source, &self.name, problem)
        })?;
        let rows_per_task = (TASK_VALUES / self.cols.max(1)).max(1);
        let tasks: Vec<usize> = (0..self.rows).step_by(rows_per_task).collect();
        for batch in tasks.chunks(TASKS_IN_FLIGHT) {
            let encoded: Vec<Result<Vec<u8>>> = batch
                .par_iter()
                .map(|&first| {
                    let rows = first..(first + rows_per_task).min(self.rows);
                    let mut bytes = vec![0; rows.len() * row_bytes];
                    let mut values = vec![0.0; self.cols];
                    for (row, out) in rows.zip(bytes.chunks_mut(row_bytes)) {
                        if let Some(stored) = self.copied_row(ty, row) {
                            out.copy_from_slice(stored);
                            continue;
                        }
                        self.fill(row, &mut values);
                        let encode = match rounding {
                            Rounding::Exact => ggml::quantize,
                            Rounding::Nearest => ggml::quantize_nearest,
                        };
                        encode(ty, &values, out)
                            .map_err(|error| malformed(self.source, &self.name, format!("row {row}: {error}")))?;
                        if rounding == Rounding::Exact
                            && ty.is_ternary()
                            && let Some(problem) = self.changed(ty, row, &values, out)
                        {
                            return Err(problem);
                        }
                    }
                    Ok(bytes)
                })
                .collect();
            for bytes in encoded {
                sink(&bytes?)?;
            }
        }
        self.release();
        Ok(())
    }

    /// Ternary and binary types are for weights that are such: what is wrong where `bytes` do not hold `values` exactly.
    fn changed(&self, ty: TensorType, row: usize, values: &[f32], bytes: &[u8]) -> Option<Error> {
        let mut held = vec![0.0; values.len()];
        ggml::dequantize(ty, bytes, &mut held);
        let at = values.iter().zip(&held).position(|(value, held)| value != held)?;
        let block = at / ty.block_len() * ty.block_len();
        let kind = if ty == TensorType::Q1_0 { "all plus or minus" } else { "0 and plus or minus" };
        let problem = format!(
            "has no exact form in {ty}: in row {row} the {} weights from column {block} on are not {kind} one f16 number \
             (column {at}: {})",
            ty.block_len(),
            values[at]
        );
        Some(malformed(self.source, &self.name, problem))
    }

    /// [`encode`](Self::encode) to I2_S, whose blocks run across rows.
    fn encode_i2_s(&self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let refuse =
            |problem: String| Err(malformed(self.source, &self.name, format!("has no exact form in I2_S: {problem}")));
        let mut values = vec![0.0; self.cols];
        let mut scale = 0.0;
        for row in 0..self.rows {
            self.fill(row, &mut values);
            for (column, value) in values.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                if scale == 0.0 {
                    scale = value.abs();
                }
                // A NaN is no scale either.
                if value.abs() != scale || !scale.is_finite() {
                    return refuse(format!(
                        "its weights are not 0 and plus or minus one number: {scale} is one, and that in row {row}, column \
                         {column} is {value}"
                    ));
                }
            }
        }
        // Where all weights are zero any scale is exact, and the stored one is kept.
        if let Data::Ternary { rows, .. } = &self.data
            && scale == 0.0
        {
            scale = rows.scale(0, 0);
        }
        let (mut writer, mut out) = (I2sWriter::default(), Vec::new());
        for row in 0..self.rows {
            self.fill(row, &mut values);
            let codes: Vec<i8> = values.iter().map(|value| (*value > 0.0) as i8 - (*value < 0.0) as i8).collect();
            writer.push(&codes, &mut out);
            sink(&out)?;
            out.clear();
        }
        writer.finish(scale, &mut out);
        sink(&out)?;
        self.release();
        Ok(())
    }

    /// Lets the input's file pages go.
    pub fn release(&self) {
        self.files.iter().for_each(|file| self.source.release(file));
    }
}

fn malformed(source: &dyn TensorSource, name: &str, problem: impl Into<String>) -> Error {
    Error::malformed(source.path(), format!("tensor '{name}'"), problem)
}
