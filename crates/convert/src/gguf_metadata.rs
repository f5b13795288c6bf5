//! The metadata of a GGUF file made from a checkpoint.

use super::plan::{Plan, Target};
use sherry::Result;
use sherry::io::gguf::{StqId, Value};
use sherry::model::{Checkpoint, config_gguf};

/// Keys and values, and remarks for the user.
type Entries = (Vec<(String, Value)>, Vec<String>);

/// Architecture, tokenizer and provenance keys.
pub(super) fn entries(checkpoint: &Checkpoint, plan: &Plan, stq_id: StqId) -> Result<Entries> {
    let mut entries = config_gguf::write(checkpoint.config());
    let name = checkpoint.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    entries.push(("general.name".to_owned(), Value::String(name)));
    if plan.tensors.iter().any(|planned| matches!(planned.target, Target::Quantize(_) | Target::Codes)) {
        // 42 in files of id 43, 41 in those of id 42 (see FORMAT.md); other tools only print it.
        let file_type = match stq_id {
            StqId::Id43 => 42,
            StqId::Id42 => 41,
        };
        entries.push(("general.file_type".to_owned(), Value::U32(file_type)));
    }
    if plan.moves.bridge.is_some() {
        entries.push((Checkpoint::BRIDGE_KEY.to_owned(), Value::String(Checkpoint::BRIDGE_VALUE.to_owned())));
    }
    let (text, notes) = checkpoint.text_metadata()?;
    entries.extend(text);
    Ok((entries, notes))
}
