//! Hugging Face folders of BitNet models (`quant_method: bitnet`): what their U8 tensors and scales mean, and when float
//! tensors are latent weights that are quantized at load. Facts from transformers' `BitNetHfQuantizer`.

use std::path::Path;

use serde_json::{Value, json};
use sherry_kernels::Matrix;
use sherry_kernels::format::bitnet::{BitnetRows, LatentRows, packed_rows};
use sherry_kernels::format::{FloatRows, TensorType, TernaryRows};

use super::Family;
use super::names::{Naming, Part, Role};
use crate::io::json::{Fields, shown};
use crate::io::{TensorInfo, TensorSource};
use crate::{Error, Result};

/// The field of `config.json`.
const FIELD: &str = "quantization_config";

/// How a BitNet folder keeps its linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitNetScheme {
    /// Float tensors are latent: the model computes with their ternary projection.
    pub latent: bool,
    /// The stored scale of a packed tensor is the inverse of the one that multiplies its codes.
    pub inverse: bool,
}

impl BitNetScheme {
    /// The scheme that the `config.json` at `path` declares, or that the class of the model implies; `None` for other models.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Unsupported`], naming the field.
    pub fn from_config(path: &Path, config: &Value, family: Family) -> Result<Option<Self>> {
        let all = Fields::new(path, config)?;
        let Some(fields) = all.opt_fields(FIELD)? else {
            // Trained with quantized weights, stored as trained.
            let latent = Self { latent: true, inverse: false };
            return Ok((family == Family::BitNet).then_some(latent));
        };
        if fields.opt_str("quant_method")? != Some("bitnet") {
            return Ok(None);
        }
        let unsupported = |name: &str, problem: String| {
            Err(Error::unsupported(path, format!("field '{}': {problem}", fields.full_name(name))))
        };
        let kept = fields.opt_array("modules_to_not_convert")?.unwrap_or_default();
        for module in kept.iter().filter_map(Value::as_str) {
            let linears = Part::ALL.into_iter().filter(|part| part.is_linear());
            let names = linears.filter_map(|part| Role::Layer(0, part).name(family, Naming::HuggingFace));
            if names.into_iter().any(|name| name.split('.').any(|word| word == module)) {
                let problem = format!("'{}' is a linear layer of the blocks, which must all be ternary", shown(module));
                return unsupported("modules_to_not_convert", problem);
            }
        }
        let auto = match fields.opt_str("linear_class")? {
            None | Some("bitlinear") => false,
            Some("autobitlinear") => true,
            Some(other) => {
                let problem = format!("'{}' is not known; known are bitlinear, autobitlinear", shown(other));
                return unsupported("linear_class", problem);
            }
        };
        let online = match fields.opt_str("quantization_mode")? {
            None | Some("offline") => false,
            Some("online") => true,
            Some(other) => {
                let problem = format!("'{}' is not known; known are offline, online", shown(other));
                return unsupported("quantization_mode", problem);
            }
        };
        // Only autobitlinear looks at the mode; only bitlinear divides.
        Ok(Some(Self { latent: auto && online, inverse: !auto }))
    }

    /// The `quantization_config` of a folder whose float tensors are ternary already: without it they would be taken for
    /// latent ones, and quantizing twice makes their scales smaller.
    pub fn ternary_config() -> Value {
        json!({ "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline" })
    }
}

/// How the weights of a linear layer are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitNetWeights {
    /// Codes in a U8 tensor, four rows in one.
    Packed {
        /// The tensor with their scale.
        scale: String,
        /// The scale divides.
        inverse: bool,
    },
    /// Floats, to be quantized.
    Latent,
    /// Floats that are -1, 0 and +1 times their scale.
    Ternary,
}

impl BitNetScheme {
    /// How the tensor `info`, a linear layer of `rows` x `cols` weights, is stored.
    pub(super) fn weights(
        self,
        source: &dyn TensorSource,
        info: &TensorInfo,
        rows: usize,
        cols: usize,
    ) -> Result<BitNetWeights> {
        let bad = |name: &str, problem: String| Err(malformed(source, name, problem));
        let packed = info.ty == TensorType::U8;
        let expected = [if packed { packed_rows(rows) } else { rows }, cols];
        if info.shape != expected {
            let problem = format!("expected shape {expected:?} from the configuration, found {:?}", info.shape);
            return bad(&info.name, problem);
        }
        if !packed {
            if !info.ty.is_float() {
                return bad(&info.name, format!("expected packed or floating-point weights, found {}", info.ty));
            }
            return Ok(if self.latent { BitNetWeights::Latent } else { BitNetWeights::Ternary });
        }
        let name = format!("{}_scale", info.name);
        let Some(scale) = source.find(&name) else {
            return bad(&name, format!("missing, the scale of '{}'", shown(&info.name)));
        };
        if !scale.ty.is_float() || scale.shape.iter().product::<usize>() != 1 {
            return bad(
                &name,
                format!("expected one floating-point number, found {} of shape {:?}", scale.ty, scale.shape),
            );
        }
        Ok(BitNetWeights::Packed { scale: name, inverse: self.inverse })
    }
}

impl BitNetWeights {
    /// The rows of tensor `name`, of type `ty`: `rows` x `cols` weights.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor: codes or scales that are illegal, weights that are not what they should be.
    pub fn rows(
        &self,
        source: &dyn TensorSource,
        name: &str,
        ty: TensorType,
        rows: usize,
        cols: usize,
    ) -> Result<Box<dyn TernaryRows + Send>> {
        let bytes = source.data(name)?;
        let wrong = |error: sherry_kernels::format::PackedError| malformed(source, name, error.to_string());
        Ok(match self {
            Self::Packed { scale, inverse } => {
                let scale = multiplier(source, scale, *inverse)?;
                Box::new(BitnetRows::new(rows, cols, bytes, scale).map_err(wrong)?)
            }
            Self::Latent => Box::new(LatentRows::new(ty, rows, cols, bytes).map_err(wrong)?),
            Self::Ternary => Box::new(FloatRows::detect(ty, rows, cols, &bytes).ok_or_else(|| {
                let problem = "neither packed nor -1, 0 and +1 times a scale, although quantization_config says that the \
                               weights are quantized (latent weights have quantization_mode online)";
                malformed(source, name, problem.to_owned())
            })?),
        })
    }
}

/// What multiplies the codes, from the tensor that holds it or its inverse.
pub(super) fn multiplier(source: &dyn TensorSource, name: &str, inverse: bool) -> Result<f32> {
    let ty = source.find(name).map_or(TensorType::F32, |info| info.ty);
    let stored = Matrix::from_rows(ty, 1, 1, source.data(name)?);
    let stored = stored.map_err(|error| malformed(source, name, error.to_string()))?;
    let mut value = [0.0];
    stored.row_f32(0, &mut value);
    let scale = if inverse { 1.0 / value[0] } else { value[0] };
    if !scale.is_finite() || scale <= 0.0 {
        return Err(malformed(source, name, format!("{} is not the scale of weights", value[0])));
    }
    Ok(scale)
}

fn malformed(source: &dyn TensorSource, name: &str, problem: String) -> Error {
    Error::malformed(source.path(), format!("tensor '{}'", shown(name)), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(quantization: Value, family: Family) -> Result<Option<BitNetScheme>> {
        BitNetScheme::from_config(Path::new("config.json"), &json!({ "quantization_config": quantization }), family)
    }

    #[test]
    fn scales_multiply_for_autobitlinear_only() {
        let scheme = |latent, inverse| Some(BitNetScheme { latent, inverse });
        for (config, expected) in [
            (json!({"quant_method": "bitnet"}), scheme(false, true)),
            (json!({"quant_method": "bitnet", "linear_class": "bitlinear"}), scheme(false, true)),
            (
                json!({"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "online"}),
                scheme(false, true),
            ),
            (json!({"quant_method": "bitnet", "linear_class": "autobitlinear"}), scheme(false, false)),
            (
                json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
                "modules_to_not_convert": ["lm_head"], "use_rms_norm": false}),
                scheme(false, false),
            ),
            (
                json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}),
                scheme(true, false),
            ),
            (json!({"quant_method": "gptq"}), None),
        ] {
            assert_eq!(read(config.clone(), Family::Llama).unwrap(), expected, "{config}");
        }
        let path = Path::new("config.json");
        assert_eq!(BitNetScheme::from_config(path, &json!({}), Family::BitNet).unwrap(), scheme(true, false));
        assert_eq!(BitNetScheme::from_config(path, &json!({}), Family::Llama).unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (field, value) in [
            ("linear_class", json!("bitlinear2")),
            ("quantization_mode", json!("later")),
            ("modules_to_not_convert", json!(["lm_head", "q_proj"])),
        ] {
            let message =
                read(json!({"quant_method": "bitnet", field: value}), Family::BitNet).unwrap_err().to_string();
            assert!(message.contains(&format!("quantization_config.{field}'")), "{message}");
        }
    }
}
