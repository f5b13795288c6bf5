//! The native checkpoint: a Hugging Face folder whose linear layers are packed.
//!
//! `config.json` holds `quantization_config`, the [`PackedScheme`] as JSON. Instead of `X.weight`, a packed linear `X`
//! has two tensors: `X.codes`, U8 `[rows, row bytes]`, and `X.scales`, F16 `[rows, scales per row]` (see FORMAT.md).
//! Any matrix `X` may also be stored in blocks of a GGUF type, as the U8 tensor `X.q8_0` (`X.q6_k`, ...) `[rows, row
//! bytes]`. Where linears are packed in several ways, codes are called `X.sherry-1.25`, `X.ternary-1.67` and so on. Everything
//! else is as usual.

use std::path::Path;

use serde_json::{Value, json};
use sherry_kernels::format::{PackedError, PackedLayout, PackedRows, QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use super::TensorInfo;
use super::json::{Fields, shown};
use super::safetensors::Writer;
use crate::{Error, Result};

/// The field of `config.json`.
const FIELD: &str = "quantization_config";
/// The format of checkpoints without ternary linears.
const BLOCKS: &str = "blocks";
/// The format of checkpoints whose linears are packed in several ways.
const MIXED: &str = "mixed";
/// The one version of the scheme.
const VERSION: u64 = 1;

/// How a checkpoint packs its linear layers.
///
/// ```
/// use serde_json::json;
/// use sherry::io::native::PackedScheme;
/// use sherry_kernels::format::{QuadOrder, ScaleGroup, TernaryFormat};
///
/// let (format, order) = (TernaryFormat::Sherry, QuadOrder::Contiguous);
/// let scheme = PackedScheme { format, order, scale: ScaleGroup::Group(128) };
/// let config = json!({ "quantization_config": scheme.to_json() });
/// assert_eq!(PackedScheme::from_config("config.json".as_ref(), &config)?, Some(scheme));
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedScheme {
    /// How codes hold weights.
    pub format: TernaryFormat,
    /// Which inputs form a quad.
    pub order: QuadOrder,
    /// Which weights share a scale.
    pub scale: ScaleGroup,
}

impl PackedScheme {
    /// The one scheme that the `config.json` at `path`, parsed as `config`, declares for all packed linears; `None` when it
    /// declares none, or each says its own ([`parse_format_name`]).
    ///
    /// # Errors
    /// [`Error::Malformed`], naming the field, when a value is missing, wrong or contradicts another one;
    /// [`Error::Unsupported`] for another method or a later version.
    pub fn from_config(path: &Path, config: &Value) -> Result<Option<Self>> {
        let Some(fields) = Fields::new(path, config)?.opt_fields(FIELD)? else { return Ok(None) };
        let method = fields.str("quant_method")?;
        if method != "sherry" {
            let what = format!("{FIELD}.quant_method is '{}'; only 'sherry' and 'bitnet' can be read", shown(method));
            return Err(Error::unsupported(path, what));
        }
        let version = fields.u64("version")?;
        if version != VERSION {
            let what = format!("{FIELD}.version is {version}; this program knows version {VERSION}");
            return Err(Error::unsupported(path, what));
        }
        let unknown = |name: &str, found: &str, known: &str| {
            fields.error(name, format!("expected {known}, found '{}'", shown(found)))
        };
        let name = fields.str("format")?;
        if name == BLOCKS || name == MIXED {
            return Ok(None);
        }
        let format = TernaryFormat::ALL.into_iter().find(|format| format.to_string() == name).ok_or_else(|| {
            unknown("format", name, "sherry-1.25, ternary-1.67, ternary-2, binary-1, mixed or blocks")
        })?;
        let order = match fields.opt_str("quad")? {
            None | Some("contiguous") => QuadOrder::Contiguous,
            Some("stride16") => QuadOrder::Stride16,
            Some(other) => return Err(unknown("quad", other, "contiguous or stride16")),
        };
        let group_size = fields.opt_usize("group_size")?;
        let scale = match (fields.str("scale")?, group_size) {
            ("row", None) => ScaleGroup::Row,
            ("row", Some(_)) => return Err(fields.error("group_size", "given although there is one scale per row")),
            ("group", Some(size)) => ScaleGroup::Group(size),
            ("group", None) => return Err(fields.error("group_size", "missing, although scales are per group")),
            (other, _) => return Err(unknown("scale", other, "row or group")),
        };
        if let Some(bits) = fields.opt_f64("bits")?
            && bits != bits_per_weight(format)
        {
            return Err(fields.error("bits", format!("{bits}, but {format} has {}", bits_per_weight(format))));
        }
        let scheme = Self { format, order, scale };
        // Any columns that are whole chunks show whether format, order and scale go together.
        scheme.layout(1, 768).check().map_err(|problem| {
            let name = if problem == PackedError::Order { "quad" } else { "group_size" };
            fields.error(name, problem.to_string())
        })?;
        Ok(Some(scheme))
    }

    /// The value of `quantization_config`.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "quant_method": "sherry",
            "version": VERSION,
            "format": self.format.to_string(),
            "bits": bits_per_weight(self.format),
        });
        if self.format == TernaryFormat::Sherry {
            value["quad"] = match self.order {
                QuadOrder::Contiguous => json!("contiguous"),
                QuadOrder::Stride16 => json!("stride16"),
            };
        }
        match self.scale {
            ScaleGroup::Tensor => value["scale"] = json!("tensor"),
            ScaleGroup::Row => value["scale"] = json!("row"),
            ScaleGroup::Group(size) => {
                value["scale"] = json!("group");
                value["group_size"] = json!(size);
            }
        }
        value
    }

    /// The scheme of a layout.
    pub const fn of(layout: &PackedLayout) -> Self {
        Self { format: layout.format, order: layout.order, scale: layout.scale }
    }

    /// The layout of a tensor of `rows` x `cols` weights; not checked.
    pub const fn layout(&self, rows: usize, cols: usize) -> PackedLayout {
        PackedLayout { format: self.format, rows, cols, order: self.order, scale: self.scale }
    }
}

/// Nominal bits per weight of the codes.
const fn bits_per_weight(format: TernaryFormat) -> f64 {
    match format {
        TernaryFormat::Sherry => 1.25,
        TernaryFormat::Ternary167 => 1.67,
        TernaryFormat::Ternary2 => 2.0,
        TernaryFormat::Binary => 1.0,
    }
}

/// The `quantization_config` of a checkpoint whose linears are matrices of a block type ([`blocks_name`]), none ternary.
pub fn blocks_config() -> Value {
    json!({ "quant_method": "sherry", "version": VERSION, "format": BLOCKS })
}

/// The `quantization_config` of a checkpoint whose linears are packed in several ways ([`format_name`]).
pub fn mixed_config() -> Value {
    json!({ "quant_method": "sherry", "version": VERSION, "format": MIXED })
}

/// The tensor of codes of the linear `module` where each linear says how it is packed: for example
/// `model.layers.0.mlp.up_proj.ternary-1.67`. Quads are contiguous, and rows have one scale.
pub fn format_name(module: &str, format: TernaryFormat) -> String {
    format!("{module}.{format}")
}

/// The module and format of a name made by [`format_name`].
pub fn parse_format_name(name: &str) -> Option<(&str, TernaryFormat)> {
    TernaryFormat::ALL.into_iter().find_map(|format| {
        let module = name.strip_suffix(&format.to_string())?.strip_suffix('.')?;
        Some((module, format))
    })
}

/// The tensor (U8, rows x bytes per row) that holds the matrix of `module` in blocks of the GGUF type `ty`: for example
/// `model.embed_tokens.q8_0`.
pub fn blocks_name(module: &str, ty: TensorType) -> String {
    format!("{module}.{}", ty.name().to_ascii_lowercase())
}

/// The module and type of a name made by [`blocks_name`].
pub fn parse_blocks_name(name: &str) -> Option<(&str, TensorType)> {
    let (module, suffix) = name.rsplit_once('.')?;
    let block_types = TensorType::ALL.into_iter().filter(|ty| ty.block_len() > 1);
    let ty = block_types.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(suffix))?;
    (suffix == suffix.to_ascii_lowercase()).then_some((module, ty))
}

/// The tensor of codes of the linear `module` (for example `model.layers.0.self_attn.q_proj`).
pub fn codes_name(module: &str) -> String {
    format!("{module}.codes")
}

/// The tensor of scales of the linear `module`.
pub fn scales_name(module: &str) -> String {
    format!("{module}.scales")
}

/// The two tensors of the linear `module`, for the plan of a [`Writer`]; `codes` is the name of the first.
pub fn plan(module: &str, codes: String, layout: &PackedLayout) -> [TensorInfo; 2] {
    let (rows, row_bytes, row_scales) = (layout.rows, layout.row_bytes(), layout.row_scales());
    [
        TensorInfo { name: codes, ty: TensorType::U8, shape: vec![rows, row_bytes], bytes: rows * row_bytes },
        TensorInfo {
            name: scales_name(module),
            ty: TensorType::F16,
            shape: vec![rows, row_scales],
            bytes: rows * row_scales * 2,
        },
    ]
}

/// Writes the two tensors of [`plan`].
///
/// # Errors
/// As [`Writer::write`].
pub fn write(writer: &mut Writer, module: &str, codes: &str, packed: &PackedRows) -> Result<()> {
    writer.write(codes, &packed.codes)?;
    let scales: Vec<u8> = packed.scales.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    writer.write(&scales_name(module), &scales)
}

#[cfg(test)]
mod tests;
