//! Hugging Face folders: the files beside the weights.

use std::path::Path;

use serde_json::Value;

use super::plan::Plan;
use sherry::io::{native, write_atomic};
use sherry::model::Checkpoint;
use sherry::model::bitnet::BitNetScheme;
use sherry::{Error, Result};

/// Writes config.json, generation_config.json and the tokenizer's files into `folder`.
pub(super) fn write_companions(checkpoint: &Checkpoint, plan: &Plan, folder: &Path) -> Result<()> {
    for (name, bytes) in checkpoint.companion_files()? {
        write_atomic(&folder.join(name), &bytes)?;
    }
    let mut config = checkpoint.config_json()?;
    if let Value::Object(fields) = &mut config {
        fields.shift_remove("quantization_config");
        let mut quantization = match (plan.native, plan.is_bitnet) {
            (true, _) if plan.mixed => Some(native::mixed_config()),
            (true, _) => Some(plan.packed.map_or_else(native::blocks_config, |scheme| scheme.to_json())),
            (false, true) => Some(BitNetScheme::ternary_config()),
            (false, false) => None,
        };
        if let Some(eps) = checkpoint.config().input_norms {
            let quantization = quantization.get_or_insert_with(native::blocks_config);
            quantization["use_rms_norm"] = true.into();
            quantization["rms_norm_eps"] = eps.to_string().parse().unwrap_or(f64::from(eps)).into();
        }
        if let Some(quantization) = quantization {
            fields.insert("quantization_config".to_owned(), quantization);
        }
    }
    let mut text = serde_json::to_string_pretty(&config).map_err(|error| Error::Invalid(error.to_string()))?;
    text.push('\n');
    write_atomic(&folder.join("config.json"), text.as_bytes())
}
