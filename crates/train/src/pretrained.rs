//! Parameters from a model on disk: a Hugging Face folder or a GGUF file.

use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::hex;
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint, RopeScaling, config_hf};
use sherry_convert::{Moves, Rows};

use crate::error::{Error, Result, uninterrupted};
use crate::layout::Layout;
use crate::methods::Quantizer;

/// Floats hashed between two looks at whether to stop.
const PIECE: usize = 1 << 20;

/// The architecture of `checkpoint` in Hugging Face's terms.
///
/// # Errors
/// [`Error::Checkpoint`] naming what the trainer does not do.
pub fn architecture(checkpoint: &Checkpoint) -> Result<ArchConfig> {
    let arch = checkpoint.hf_config();
    if arch.qkv_bias || arch.o_bias {
        return Err(Error::checkpoint(checkpoint.path(), "cannot be trained: biases"));
    }
    if matches!(arch.rope.scaling, RopeScaling::Yarn { magnitude, .. } if magnitude != 1.0) {
        return Err(Error::checkpoint(checkpoint.path(), "cannot be trained: YaRN multiplies its rotation"));
    }
    if matches!(arch.rope.scaling, RopeScaling::LongRope { .. }) {
        return Err(Error::checkpoint(checkpoint.path(), "cannot be trained: LongRoPE"));
    }
    if arch.residual_scale != 1.0 || arch.logit_divisor != 1.0 {
        return Err(Error::checkpoint(
            checkpoint.path(),
            "cannot be trained: factors on the residual stream or the logits",
        ));
    }
    if arch.input_norms.is_some() {
        return Err(Error::checkpoint(checkpoint.path(), "cannot be trained: norms before single linear layers"));
    }
    if arch.sub_norms {
        return Err(Error::checkpoint(checkpoint.path(), "cannot be trained: norms before the output projections"));
    }
    Ok(arch)
}

/// Identifies a model by what it computes with, wherever it lies and however it is stored: SHA-256 of its architecture and
/// its parameters.
///
/// # Errors
/// [`sherry::Error::Interrupted`].
pub fn hash(arch: &ArchConfig, params: &[f32], progress: &dyn Progress) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(config_hf::write(arch).unwrap_or_default().to_string());
    for piece in params.chunks(PIECE) {
        uninterrupted(progress)?;
        let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

/// All parameters of `checkpoint` as f32, blocks decoded, everything as a Hugging Face folder holds it; learned numbers
/// of the quantizer from the weights.
///
/// # Errors
/// [`sherry::Error`] naming the tensor that is missing or damaged; [`sherry::Error::Interrupted`].
pub fn parameters(
    checkpoint: &Checkpoint,
    layout: &Layout,
    quantizer: &Quantizer,
    progress: &dyn Progress,
) -> Result<Vec<f32>> {
    let mut params = vec![0.0f32; layout.len];
    for tensor in &layout.tensors {
        let family = checkpoint.config().family;
        let Some(role) = Role::parse(&tensor.name, family, Naming::HuggingFace) else { continue };
        read(checkpoint, role, &mut params[tensor.range()], progress)?;
    }
    layout.init_learned(quantizer, &mut params, progress)?;
    Ok(params)
}

/// One tensor of `checkpoint` as f32, as a Hugging Face folder holds it.
///
/// # Errors
/// As [`parameters`].
pub fn tensor(checkpoint: &Checkpoint, role: Role, progress: &dyn Progress) -> Result<Vec<f32>> {
    let mut values = vec![0.0; role.shape(checkpoint.config()).iter().product()];
    read(checkpoint, role, &mut values, progress)?;
    Ok(values)
}

fn read(checkpoint: &Checkpoint, role: Role, out: &mut [f32], progress: &dyn Progress) -> Result<()> {
    let (config, moves) = (checkpoint.config(), Moves::for_folder(checkpoint));
    let stored = checkpoint.tensors().get(role, checkpoint.source())?;
    let rows = Rows::open(checkpoint.source(), config, role, stored, moves)?;
    let (_, cols) = rows.shape();
    for (row, out) in out.chunks_exact_mut(cols).enumerate() {
        uninterrupted(progress)?;
        rows.fill(row, out);
        if let Some(col) = out.iter().position(|x| !x.is_finite()) {
            let name = role.name(config.family, Naming::HuggingFace).unwrap_or_default();
            let problem = format!("tensor '{name}' holds {} at row {row}, column {col}", out[col]);
            return Err(Error::checkpoint(checkpoint.path(), problem));
        }
    }
    rows.release();
    Ok(())
}
