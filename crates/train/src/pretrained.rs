//! Parameters from a model on disk: a Hugging Face folder or a GGUF file.

use sherry::convert::{Moves, RopeRows, Rows};
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint, RopeLayout};

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::methods::Quantizer;

/// The architecture of `checkpoint` in Hugging Face's terms.
///
/// # Errors
/// [`Error::Checkpoint`] naming what the trainer does not do.
pub fn architecture(checkpoint: &Checkpoint) -> Result<ArchConfig> {
    let mut arch = checkpoint.config().clone();
    arch.rope.layout = RopeLayout::Halves;
    match unsupported(&arch) {
        Some(what) => Err(Error::checkpoint(checkpoint.path(), format!("cannot be trained: {what}"))),
        None => Ok(arch),
    }
}

/// What of `arch` the trainer does not do.
fn unsupported(arch: &ArchConfig) -> Option<&'static str> {
    let parts = [
        (arch.qkv_bias || arch.o_bias, "biases"),
        (arch.post_norms, "norms after attention and feed-forward"),
        (arch.norm_plus_one, "norms that add one to their weights"),
        (arch.window.is_some(), "sliding windows"),
        (arch.activation != sherry::model::Activation::Silu, "an activation other than SiLU"),
    ];
    parts.into_iter().find(|(has, _)| *has).map(|(_, what)| what)
}

/// All parameters of `checkpoint` as f32, blocks decoded, q and k rows in the order of rotation in halves; learned
/// numbers of the quantizer from the weights.
///
/// # Errors
/// [`sherry::Error`] naming the tensor that is missing or damaged.
pub fn parameters(checkpoint: &Checkpoint, layout: &Layout, quantizer: &Quantizer) -> Result<Vec<f32>> {
    let config = checkpoint.config();
    let rope = (config.rope.layout == RopeLayout::Interleaved).then_some(RopeRows::ToHalves);
    let moves = Moves { rope, ..Moves::default() };
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
