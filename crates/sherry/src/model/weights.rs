//! Weights in executable form.

use sherry_kernels::format::i2_s::I2sRows;
use sherry_kernels::format::{BlockRows, FloatRows, PackedError, TensorType, TernaryRows};
use sherry_kernels::{Bytes, Matrix, MatrixError, Pool, TernaryBits};

use super::ArchConfig;
use super::names::{Part, Role};
use super::tensors::{Stored, TensorMap};
use crate::io::TensorSource;
use crate::io::json::shown;
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
    pub attn_sub_norm: Option<Vec<f32>>,
    pub post_attn_norm: Option<Vec<f32>>,
    pub ffn_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub ffn_sub_norm: Option<Vec<f32>>,
    pub down: Matrix,
    pub post_ffn_norm: Option<Vec<f32>>,
    pub q_input_norm: Option<Vec<f32>>,
    pub k_input_norm: Option<Vec<f32>>,
    pub v_input_norm: Option<Vec<f32>>,
    pub o_input_norm: Option<Vec<f32>>,
    pub gate_input_norm: Option<Vec<f32>>,
    pub up_input_norm: Option<Vec<f32>>,
    pub down_input_norm: Option<Vec<f32>>,
}

impl Weights {
    /// Loads every tensor of `tensors` from `source` on the threads of `pool`: floats are used where they lie, but for linear
    /// layers all of whose weights are -1, 0 and +1 times a scale; those, block types and packed ternary ones are repacked into
    /// kernel order (a tensor at a time per thread) and their file pages released, so that no second copy stays in memory.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor: packed codes or scales that are illegal, norms that are not finite.
    pub fn load(
        source: &dyn TensorSource,
        tensors: &TensorMap,
        config: &ArchConfig,
        pool: &Pool,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Self::load_as(source, tensors, config, TernaryBits::Auto, pool, progress)
    }

    /// [`load`](Self::load) with ternary weights as `bits` says.
    ///
    /// # Errors
    /// As there.
    pub fn load_as(
        source: &dyn TensorSource,
        tensors: &TensorMap,
        config: &ArchConfig,
        bits: TernaryBits,
        pool: &Pool,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let loader = Loader { source, tensors, config, bits, pool };
        progress.start("load", config.layers as u64);
        let mut layers: Vec<Option<Result<Layer>>> = (0..config.layers).map(|_| None).collect();
        pool.for_chunks(&mut layers, 1, |index, layers| {
            for layer in layers {
                *layer = Some(loader.layer(index));
                progress.advance(1);
            }
        });
        let layers = layers.into_iter().flatten().collect::<Result<Vec<_>>>()?;
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

/// Makes the weights of one role after the other.
pub(super) struct Loader<'a> {
    pub source: &'a dyn TensorSource,
    pub tensors: &'a TensorMap,
    pub config: &'a ArchConfig,
    pub bits: TernaryBits,
    pub pool: &'a Pool,
}

impl Loader<'_> {
    pub fn layer(&self, index: usize) -> Result<Layer> {
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
            attn_sub_norm: optional(Part::AttnSubNorm)?,
            post_attn_norm: optional(Part::PostAttnNorm)?,
            ffn_norm: vector(Part::FfnNorm)?,
            gate: matrix(Part::Gate)?,
            up: matrix(Part::Up)?,
            ffn_sub_norm: optional(Part::FfnSubNorm)?,
            down: matrix(Part::Down)?,
            post_ffn_norm: optional(Part::PostFfnNorm)?,
            q_input_norm: optional(Part::QInputNorm)?,
            k_input_norm: optional(Part::KInputNorm)?,
            v_input_norm: optional(Part::VInputNorm)?,
            o_input_norm: optional(Part::OInputNorm)?,
            gate_input_norm: optional(Part::GateInputNorm)?,
            up_input_norm: optional(Part::UpInputNorm)?,
            down_input_norm: optional(Part::DownInputNorm)?,
        })
    }

    fn packed(&self, rows: &dyn TernaryRows) -> std::result::Result<Matrix, MatrixError> {
        Matrix::from_ternary_on(self.pool, rows, self.bits)
    }

    fn error(&self, name: &str, error: MatrixError) -> Error {
        let problem = match error {
            MatrixError::UnsupportedType(ty) => format!("type {ty} cannot be run"),
            MatrixError::Columns { ty, cols } => {
                format!("rows of {cols} values are not a whole number of {ty} blocks of {}", ty.block_len())
            }
            MatrixError::Size { expected, found } => format!("expected {expected} bytes, found {found}"),
            MatrixError::Packed(error) => error.to_string(),
            MatrixError::OutOfMemory { bytes } => {
                return Error::OutOfMemory { what: format!("tensor '{}'", shown(name)), needed: bytes as u64 };
            }
        };
        self.malformed(name, problem)
    }

    fn malformed(&self, name: &str, problem: String) -> Error {
        Error::malformed(self.source.path(), format!("tensor '{}'", shown(name)), problem)
    }

    pub fn matrix(&self, role: Role) -> Result<Matrix> {
        let [rows, cols] = role.shape(self.config)[..] else { unreachable!("a matrix role has two dimensions") };
        let stored = self.tensors.get(role, self.source)?;
        match stored {
            Stored::Plain { name, ty } => {
                let bytes = self.source.data(name)?;
                // An embedding that is not the head as well is only looked up: its rows are best left where they lie.
                let lookup = role == Role::Embed && !self.config.tied;
                if ty.is_ternary()
                    && *ty != TensorType::STQ1_0
                    && (!lookup || *ty == TensorType::I2_S)
                    && let Some(matrix) =
                        self.ternary(*ty, rows, cols, &bytes).map_err(|error| self.error(name, error))?
                {
                    self.source.release(name);
                    return Ok(matrix);
                }
                // Models that were unpacked, or trained to three values, are as good and faster as what they are.
                if ty.is_float()
                    && role.is_linear()
                    && let Some(found) = FloatRows::detect(*ty, rows, cols, &bytes)
                {
                    let matrix = self.packed(&found).map_err(|error| self.error(name, error))?;
                    self.source.release(name);
                    return Ok(matrix);
                }
                let matrix = Matrix::from_rows(*ty, rows, cols, bytes).map_err(|error| self.error(name, error))?;
                let float = ty.is_float();
                if lookup || float {
                    return Ok(matrix);
                }
                // Layers are loaded side by side, each by one thread: the pool is busy then. The embedding comes alone.
                let matrix = matrix.repacked_on(self.pool);
                self.source.release(name);
                Ok(matrix)
            }
            Stored::BitNet { name, ty, weights } => {
                let stored = weights.rows(self.source, name, *ty, rows, cols)?;
                let matrix = self.packed(&*stored).map_err(|error| self.error(name, error))?;
                self.source.release(name);
                Ok(matrix)
            }
            Stored::Mlx { name, weights } => {
                let found = weights.rows(self.source, name, rows, cols)?;
                let matrix = self.packed(&found).map_err(|error| self.error(name, error))?;
                stored.tensors().into_iter().for_each(|name| self.source.release(name));
                Ok(matrix)
            }
            Stored::Packed { name, codes, scales, layout } => {
                let (code_bytes, scale_bytes) = (self.source.data(codes)?, self.source.data(scales)?);
                let matrix =
                    Matrix::from_packed(*layout, &code_bytes, &scale_bytes).map_err(|error| self.error(name, error))?;
                self.source.release(codes);
                self.source.release(scales);
                Ok(matrix)
            }
        }
    }

    /// A matrix of a ternary or binary type of GGUF in the order of the ternary kernels; `None` for the types that may hold
    /// other values too, where this one does.
    fn ternary(
        &self,
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: &Bytes,
    ) -> std::result::Result<Option<Matrix>, MatrixError> {
        let on = |rows: &dyn TernaryRows| self.packed(rows).map(Some);
        match ty {
            TensorType::I2_S => on(&I2sRows::new(rows, cols, bytes.clone())?),
            _ => match BlockRows::new(ty, rows, cols, bytes.clone()) {
                Ok(rows) => on(&rows),
                Err(PackedError::NotTernary { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// A norm or bias as f32.
    pub fn vector(&self, role: Role) -> Result<Vec<f32>> {
        let len = role.shape(self.config).iter().product();
        let Stored::Plain { name, ty } = self.tensors.get(role, self.source)? else {
            unreachable!("only matrices are packed")
        };
        let row = Matrix::from_rows(*ty, 1, len, self.source.data(name)?).map_err(|error| self.error(name, error))?;
        let mut values = vec![0.0; len];
        row.row_f32(0, &mut values);
        match values.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(self.malformed(name, format!("value {at} is {}", values[at]))),
            None => Ok(values),
        }
    }
}
