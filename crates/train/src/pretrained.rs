//! Parameters from a model on disk: a Hugging Face folder or a GGUF file.

use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint};
use sherry_convert::{Moves, Rows};

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::methods::Quantizer;

/// The architecture of `checkpoint` in Hugging Face's terms.
///
/// # Errors
/// [`Error::Checkpoint`] naming what the trainer does not do.
pub fn architecture(checkpoint: &Checkpoint) -> Result<ArchConfig> {
    let arch = checkpoint.hf_config();
    if arch.qkv_bias || arch.o_bias {
        return Err(Error::checkpoint(checkpoint.path(), "cannot be trained: biases"));
    }
    Ok(arch)
}

/// All parameters of `checkpoint` as f32, blocks decoded, everything as a Hugging Face folder holds it; learned numbers
/// of the quantizer from the weights.
///
/// # Errors
/// [`sherry::Error`] naming the tensor that is missing or damaged.
pub fn parameters(checkpoint: &Checkpoint, layout: &Layout, quantizer: &Quantizer) -> Result<Vec<f32>> {
    let (config, moves) = (checkpoint.config(), Moves::for_folder(checkpoint));
    let mut params = vec![0.0f32; layout.len];
    for tensor in &layout.tensors {
        let Some(role) = Role::parse(&tensor.name, config.family, Naming::HuggingFace) else { continue };
        let stored = checkpoint.tensors().get(role, checkpoint.source())?;
        let rows = Rows::open(checkpoint.source(), config, role, stored, moves)?;
        let (_, cols) = rows.shape();
        for (row, out) in params[tensor.range()].chunks_exact_mut(cols).enumerate() {
            rows.fill(row, out);
            if let Some(col) = out.iter().position(|x| !x.is_finite()) {
                let problem = format!("tensor '{}' holds {} at row {row}, column {col}", tensor.name, out[col]);
                return Err(Error::checkpoint(checkpoint.path(), problem));
            }
        }
        rows.release();
    }
    layout.init_learned(quantizer, &mut params);
    Ok(params)
}
