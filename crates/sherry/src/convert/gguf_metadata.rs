//! The metadata of a GGUF file made from a checkpoint.

use super::plan::{Plan, Target};
use crate::Result;
use crate::io::gguf::{StqId, Value};
use crate::model::{Checkpoint, config_gguf};

/// Says that the channels of the file were permuted (see [`super::channels`]), so that they can be put back.
pub const BRIDGE_KEY: &str = "sherry.channel_permutation";
/// The value of [`BRIDGE_KEY`].
pub const BRIDGE_VALUE: &str = "quad-bridge";

/// Architecture, tokenizer and provenance keys.
pub(super) fn metadata(checkpoint: &Checkpoint, plan: &Plan, stq_id: StqId) -> Result<Vec<(String, Value)>> {
    let mut entries = config_gguf::write(checkpoint.config());
    if !entries.iter().any(|(key, _)| key == "general.name") {
        entries.push(("general.name".to_owned(), Value::String(checkpoint.name())));
    }
    if plan.tensors.iter().any(|planned| matches!(planned.target, Target::Quantize(_) | Target::Codes)) {
        // 42 in files of id 43, 41 in those of id 42 (format.md); other tools only print it.
        let file_type = match stq_id {
            StqId::Current => 42,
            StqId::Legacy => 41,
        };
        entries.push(("general.file_type".to_owned(), Value::U32(file_type)));
    }
    if plan.moves.bridge.is_some() {
        entries.push((BRIDGE_KEY.to_owned(), Value::String(BRIDGE_VALUE.to_owned())));
    }
    entries.extend(checkpoint.tokenizer_metadata()?);
    Ok(entries)
}
