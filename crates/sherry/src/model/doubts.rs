//! Files that are sound as files, and whose makers are known to have gone wrong: what users should hear before they blame the
//! model.

use sherry_kernels::format::TensorType;
use sherry_kernels::format::i2_s;

use super::bitnet::{self, BitNetWeights};
use super::names::Role;
use super::{Checkpoint, Stored};
use crate::io::json::shown;

/// Mean magnitudes of trained weights, which are the scales of ternary ones, are far below; inverses of them far above.
const LARGEST_SCALE: f32 = 2.0;

/// Remarks about `checkpoint`, one for every kind of doubt.
pub fn of(checkpoint: &Checkpoint) -> Vec<String> {
    let mut roles: Vec<Role> = Role::all(checkpoint.config()).collect();
    roles.retain(|role| role.is_linear() || role.is_embedding());
    let stored = |role: &Role| Some((*role, checkpoint.tensors().find(*role)?));
    let stored: Vec<(Role, &Stored)> = roles.iter().filter_map(stored).collect();
    let mut notes = Vec::new();
    let is_i2_s = |stored: &Stored| matches!(stored, Stored::Plain { ty: TensorType::I2_S, .. });
    if let Some((_, embedding)) = stored.iter().find(|(role, stored)| role.is_embedding() && is_i2_s(stored)) {
        notes.push(format!(
            "tensor '{}' is I2_S: the released models keep embedding and head in floats, and a program that rounded them to \
             three values made a file that may answer nonsense; take the model's own file, or make it again with \
             --token-embedding-type f16 --output-tensor-type f16",
            shown(embedding.name())
        ));
    }
    let large = stored.iter().find_map(|(_, stored)| {
        let scale = scale(checkpoint, stored)?;
        (scale > LARGEST_SCALE).then(|| (stored.name(), scale))
    });
    if let Some((name, scale)) = large {
        notes.push(format!(
            "tensor '{}' has the scale {scale}, and those of trained ternary weights are below 1: its inverse may be meant \
             (quantization_config.linear_class says which in folders), and the answers are nonsense then",
            shown(name)
        ));
    }
    notes
}

/// What multiplies the codes of a tensor with one scale, where it can be read without its codes.
fn scale(checkpoint: &Checkpoint, stored: &Stored) -> Option<f32> {
    let source = checkpoint.source();
    match stored {
        Stored::Plain { name, ty: TensorType::I2_S } => i2_s::scale(&source.data(name).ok()?),
        Stored::BitNet { weights: BitNetWeights::Packed { scale, inverse }, .. } => {
            bitnet::multiplier(source, scale, *inverse).ok()
        }
        _ => None,
    }
}
