//! Weights in executable form.

use rayon::prelude::*;
use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TensorType, TernaryFormat};
use sherry_kernels::{Matrix, MatrixError};

use super::ArchConfig;
use super::names::{Part, Role};
use super::tensors::{Stored, TensorMap};
use crate::io::TensorSource;
use crate::{Error, Progress, Result};

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    /// Token embedding, vocab x hidden.
    pub embed: Matrix,
    /// One per decoder block.
    pub layers: Vec<Layer>,
    /// Norm before the head, hidden.
    pub output_norm: Vec<f32>,
    /// Head, vocab x hidden; `None` when tied to the embedding.
    pub head: Option<Matrix>,
}

/// Weights of one decoder block; see [`Part`] for what each is.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Layer {
    pub attn_norm: Vec<f32>,
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub o: Matrix,
    pub q_bias: Option<Vec<f32>>,
    pub k_bias: Option<Vec<f32>>,
    pub v_bias: Option<Vec<f32>>,
    pub o_bias: Option<Vec<f32>>,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub post_attn_norm: Option<Vec<f32>>,
    pub ffn_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
    pub post_ffn_norm: Option<Vec<f32>>,
}

impl Weights {
    /// Loads every tensor of `tensors` from `source`: float and block types are used where they lie, packed ternary ones
    /// are repacked into kernel order (in parallel, a tensor at a time per thread) and their file pages released, so that
    /// no second copy stays in memory.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor: packed codes or scales that are illegal, norms that are not finite.
    pub fn load(
        source: &dyn TensorSource,
        tensors: &TensorMap,
        config: &ArchConfig,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let loader = Loader { source, tensors, config };
        progress.start("load", config.layers as u64);
        let layers = (0..config.layers)
            .into_par_iter()
            .map(|index| {
                let layer = loader.layer(index);
                progress.advance(1);
                layer
            })
            .collect::<Result<Vec<_>>>()?;
        let weights = Self {
            embed: loader.matrix(Role::Embed)?,
            layers,
            output_norm: loader.vector(Role::OutputNorm)?,
            head: if config.tied { None } else { Some(loader.matrix(Role::Head)?) },
        };
        progress.finish();
        Ok(weights)
    }

    /// Bytes of all matrices, whether mapped or in memory.
    pub fn bytes(&self) -> u64 {
        let layer = |l: &Layer| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down].map(|m| m.bytes() as u64);
        let layers: u64 = self.layers.iter().flat_map(layer).sum();
        layers + self.embed.bytes() as u64 + self.head.as_ref().map_or(0, |head| head.bytes() as u64)
    }
}

struct Loader<'a> {
    source: &'a dyn TensorSource,
    tensors: &'a TensorMap,
    config: &'a ArchConfig,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> Result<Layer> {
        let matrix = |part| self.matrix(Role::Layer(index, part));
        let vector = |part| self.vector(Role::Layer(index, part));
        let optional = |part: Part| part.is_in(self.config).then(|| vector(part)).transpose();
        Ok(Layer {
            attn_norm: vector(Part::AttnNorm)?,
            q: matrix(Part::Q)?,
            k: matrix(Part::K)?,
            v: matrix(Part::V)?,
            o: matrix(Part::O)?,
            q_bias: optional(Part::QBias)?,
            k_bias: optional(Part::KBias)?,
            v_bias: optional(Part::VBias)?,
            o_bias: optional(Part::OBias)?,
            q_norm: optional(Part::QNorm)?,
            k_norm: optional(Part::KNorm)?,
            post_attn_norm: optional(Part::PostAttnNorm)?,
            ffn_norm: vector(Part::FfnNorm)?,
            gate: matrix(Part::Gate)?,
            up: matrix(Part::Up)?,
            down: matrix(Part::Down)?,
            post_ffn_norm: optional(Part::PostFfnNorm)?,
        })
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::malformed(self.source.path(), format!("tensor '{name}'"), problem)
    }

    fn matrix(&self, role: Role) -> Result<Matrix> {
        let [rows, cols] = role.shape(self.config)[..] else { unreachable!("a matrix role has two dimensions") };
        let stored = self.tensors.get(role, self.source)?;
        match stored {
            Stored::Plain { name, ty: TensorType::STQ1_0 } => {
                let layout = PackedLayout {
                    format: TernaryFormat::Sherry,
                    rows,
                    cols,
                    order: QuadOrder::Stride16,
                    scale: ScaleGroup::Group(256),
                };
                let (codes, scales) = split_stq1_0(&self.source.data(name)?);
                self.packed(name, layout, &codes, &scales, &[name])
            }
            Stored::Plain { name, ty } => {
                let bytes = self.source.data(name)?;
                Matrix::from_rows(*ty, rows, cols, bytes).map_err(|error| self.error(name, reason(&error)))
            }
            Stored::Packed { name, codes, scales, layout } => {
                let (code_bytes, scale_bytes) = (self.source.data(codes)?, self.source.data(scales)?);
                self.packed(name, *layout, &code_bytes, &scale_bytes, &[codes, scales])
            }
        }
    }

    fn packed(&self, name: &str, layout: PackedLayout, codes: &[u8], scales: &[u8], files: &[&str]) -> Result<Matrix> {
        let finite = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]) & 0x7c00 != 0x7c00;
        if let Some(at) = scales.chunks_exact(2).position(|b| !finite(b)) {
            return Err(self.error(name, format!("scale {at} is not a finite number")));
        }
        let matrix = Matrix::from_packed(layout, codes, scales).map_err(|error| self.error(name, reason(&error)))?;
        files.iter().for_each(|file| self.source.release(file));
        Ok(matrix)
    }

    /// A norm or bias as f32.
    fn vector(&self, role: Role) -> Result<Vec<f32>> {
        let len = role.shape(self.config).iter().product();
        let Stored::Plain { name, ty } = self.tensors.get(role, self.source)? else {
            unreachable!("only matrices are packed")
        };
        let row = Matrix::from_rows(*ty, 1, len, self.source.data(name)?)
            .map_err(|error| self.error(name, reason(&error)))?;
        let mut values = vec![0.0; len];
        row.row_f32(0, &mut values);
        match values.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(self.error(name, format!("value {at} is {}", values[at]))),
            None => Ok(values),
        }
    }
}

/// Splits STQ1_0 blocks (32 nibble bytes, 8 sign bytes, f16 scale) into native codes (units of 4 nibble bytes and their
/// sign byte) and scales. Nibbles, sign bits and their order are the same in both.
fn split_stq1_0(blocks: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let count = blocks.len() / TensorType::STQ1_0.block_bytes();
    let mut codes = Vec::with_capacity(count * 40);
    let mut scales = Vec::with_capacity(count * 2);
    for block in blocks.chunks_exact(TensorType::STQ1_0.block_bytes()) {
        for (nibbles, sign) in block[..32].chunks_exact(4).zip(&block[32..40]) {
            codes.extend_from_slice(nibbles);
            codes.push(*sign);
        }
        scales.extend_from_slice(&block[40..]);
    }
    (codes, scales)
}

fn reason(error: &MatrixError) -> String {
    match error {
        MatrixError::UnsupportedType(ty) => format!("type {ty} cannot be run"),
        MatrixError::Columns { ty, cols } => {
            format!("rows of {cols} values are not a whole number of {ty} blocks of {}", ty.block_len())
        }
        MatrixError::Size { expected, found } => format!("expected {expected} bytes, found {found}"),
    }
}
