//! Folders that MLX quantized to 1 or 2 bits, where the weights are binary or ternary: `quantization` in `config.json`, and
//! a U32 tensor of codes with two more of scales and biases for every matrix (see FORMAT.md). Other weights of MLX are
//! affine, `scale * code + bias` with any bias, and refused.

use std::path::Path;

use serde_json::Value;
use sherry_kernels::format::mlx::{Floats, MlxRows};
use sherry_kernels::format::{PackedError, TensorType};

use crate::io::json::{Fields, shown};
use crate::io::{TensorInfo, TensorSource};
use crate::{Error, Result};

/// The field of `config.json`.
const FIELD: &str = "quantization";
/// What to take instead of what is refused.
const INSTEAD: &str = "take the GGUF file of the model, or the safetensors that MLX quantized";

/// How an MLX folder keeps its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlxScheme {
    /// Bits per weight: 1 or 2.
    pub bits: usize,
    /// Columns that share a scale.
    pub group: usize,
}

impl MlxScheme {
    /// The scheme that the `config.json` at `path` declares; `None` where it has no `quantization`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the field: other widths and modes, layers with a width of their own;
    /// [`Error::Malformed`] for fields that are missing or mistyped.
    pub fn from_config(path: &Path, config: &Value) -> Result<Option<Self>> {
        let all = Fields::new(path, config)?;
        let Some(fields) = all.opt_fields(FIELD)? else { return Ok(None) };
        let unsupported = |name: &str, problem: String| {
            Err(Error::unsupported(path, format!("field '{}': {problem}; {INSTEAD}", shown(&fields.full_name(name)))))
        };
        let (bits, group) = (fields.usize("bits")?, fields.usize("group_size")?);
        if !matches!(bits, 1 | 2) {
            return unsupported(
                "bits",
                format!(
                    "MLX weights of {bits} bits are not supported; those of 1 and 2 are, where they are binary or ternary"
                ),
            );
        }
        if ![32, 64, 128, 256].contains(&group) {
            return unsupported(
                "group_size",
                format!("{group} columns to a scale are not supported; 32, 64, 128 and 256 are"),
            );
        }
        let entries = config.get(FIELD).and_then(Value::as_object).into_iter().flatten();
        for (name, value) in entries.filter(|(name, _)| !["bits", "group_size"].contains(&name.as_str())) {
            // A module with an entry of its own: false where its weights stay floats, which their tensors say as well.
            let harmless = match name.as_str() {
                "mode" => value.is_null() || value == "affine",
                _ => {
                    let number = |name: &str| value.get(name).and_then(Value::as_u64);
                    let same = number("bits") == Some(bits as u64) && number("group_size") == Some(group as u64);
                    let mode = value.get("mode").is_none_or(|mode| mode == "affine");
                    *value == Value::Bool(false) || same && mode
                }
            };
            if !harmless {
                let value: String = value.to_string().chars().take(80).collect();
                return unsupported(name, format!("{} is not supported", shown(&value)));
            }
        }
        Ok(Some(Self { bits, group }))
    }

    /// The tensors with the scales and biases of `info`, the U32 tensor of a matrix of `rows` x `cols` weights.
    pub(super) fn weights(
        self,
        source: &dyn TensorSource,
        info: &TensorInfo,
        rows: usize,
        cols: usize,
    ) -> Result<MlxWeights> {
        let (words, groups) = (cols as u64 * self.bits as u64, cols / self.group.max(1));
        if !cols.is_multiple_of(self.group) || !words.is_multiple_of(32) {
            let problem = format!("rows of {cols} weights are no whole groups of {}", self.group);
            return Err(malformed(source, &info.name, problem));
        }
        let module = info.name.strip_suffix(".weight").unwrap_or(&info.name);
        let (scales, biases) = (format!("{module}.scales"), format!("{module}.biases"));
        check_shape(source, info, &[rows, (words / 32) as usize])?;
        for name in [&scales, &biases] {
            let Some(other) = source.find(name) else {
                return Err(malformed(source, name, format!("missing, a part of '{}'", shown(&info.name))));
            };
            if !other.ty.is_float() {
                return Err(malformed(source, name, format!("expected floating-point numbers, found {}", other.ty)));
            }
            check_shape(source, other, &[rows, groups])?;
        }
        Ok(MlxWeights { scheme: self, scales, biases })
    }

    /// Whether tensor `name` holds the scales or biases of a matrix that is quantized.
    pub(super) fn is_part(source: &dyn TensorSource, name: &str) -> bool {
        let module = name.strip_suffix(".scales").or_else(|| name.strip_suffix(".biases"));
        module
            .and_then(|module| source.find(&format!("{module}.weight")))
            .is_some_and(|info| info.ty == TensorType::U32)
    }
}

/// What belongs to the codes of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlxWeights {
    /// Bits and group.
    pub scheme: MlxScheme,
    /// The tensor of scales.
    pub scales: String,
    /// The tensor of biases.
    pub biases: String,
}

impl MlxWeights {
    /// The rows of tensor `name`: `rows` x `cols` weights.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor: a scale that is not finite or no f16; [`Error::Unsupported`] where the weights
    /// are neither binary nor ternary.
    pub fn rows(&self, source: &dyn TensorSource, name: &str, rows: usize, cols: usize) -> Result<MlxRows> {
        let floats = |name: &str| -> Result<Floats> {
            let ty = source.find(name).map_or(TensorType::F32, |info| info.ty);
            Ok(Floats { ty, bytes: source.data(name)? })
        };
        let MlxScheme { bits, group } = self.scheme;
        let (scales, biases) = (floats(&self.scales)?, floats(&self.biases)?);
        MlxRows::new(bits, (rows, cols), group, source.data(name)?, scales, biases).map_err(|error| match error {
            PackedError::NotTernary { row } => {
                let kind = if bits == 1 { "-1 and +1" } else { "-1, 0 and +1" };
                let problem =
                    format!("the scales and biases of row {row} make its weights others than {kind} times a scale");
                Error::unsupported(source.path(), format!("tensor '{}': {problem}; {INSTEAD}", shown(name)))
            }
            other => malformed(source, name, other.to_string()),
        })
    }

    /// The type of GGUF that holds the matrix exactly, or else F16, which does as well in more bytes.
    pub fn exact_type(&self, cols: usize) -> TensorType {
        let MlxScheme { bits, group } = self.scheme;
        // A block of the type must not meet two scales.
        let blocks = if bits == 1 { TensorType::Q1_0 } else { TensorType::Q2_0 };
        let fits = group.is_multiple_of(blocks.block_len()) && cols.is_multiple_of(blocks.block_len());
        if fits { blocks } else { TensorType::F16 }
    }

    /// What messages call the type.
    pub fn type_name(&self) -> &'static str {
        if self.scheme.bits == 1 { "MLX 1-bit" } else { "MLX 2-bit" }
    }
}

fn check_shape(source: &dyn TensorSource, info: &TensorInfo, expected: &[usize]) -> Result<()> {
    if info.shape == expected {
        return Ok(());
    }
    let problem = format!("expected shape {expected:?} from the configuration, found {:?}", info.shape);
    Err(malformed(source, &info.name, problem))
}

fn malformed(source: &dyn TensorSource, name: &str, problem: String) -> Error {
    Error::malformed(source.path(), format!("tensor '{}'", shown(name)), problem)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(quantization: Value) -> Result<Option<MlxScheme>> {
        MlxScheme::from_config(Path::new("config.json"), &json!({ "quantization": quantization }))
    }

    #[test]
    fn widths_of_one_and_two_bits_are_read() {
        for (config, expected) in [
            (json!({"bits": 1, "group_size": 128}), MlxScheme { bits: 1, group: 128 }),
            (json!({"bits": 2, "group_size": 64, "mode": "affine"}), MlxScheme { bits: 2, group: 64 }),
            (
                json!({"bits": 2, "group_size": 64, "lm_head": false,
                       "model.embed_tokens": {"bits": 2, "group_size": 64, "mode": "affine"}}),
                MlxScheme { bits: 2, group: 64 },
            ),
        ] {
            assert_eq!(read(config.clone()).unwrap(), Some(expected), "{config}");
        }
        assert_eq!(MlxScheme::from_config(Path::new("config.json"), &json!({})).unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_named_with_the_way_out() {
        for (field, value) in [
            ("bits", json!(4)),
            ("bits", json!(3)),
            ("bits", json!(0)),
            ("group_size", json!(16)),
            ("mode", json!("mxfp4")),
            ("quant_method", json!("other")),
            ("model.embed_tokens", json!({"bits": 4, "group_size": 128})),
            ("model.embed_tokens", json!({"bits": 1, "group_size": 128, "mode": "nvfp4"})),
            ("model.layers.0.mlp.up_proj", json!(true)),
        ] {
            let mut config = json!({"bits": 1, "group_size": 128});
            config[field] = value;
            let message = read(config).unwrap_err().to_string();
            assert!(message.contains(&format!("'quantization.{field}'")) && message.contains("GGUF"), "{message}");
        }
        for config in [json!({"bits": 1}), json!({"bits": "1", "group_size": 128}), json!([1])] {
            assert!(matches!(read(config), Err(Error::Malformed { .. })));
        }
    }
}
