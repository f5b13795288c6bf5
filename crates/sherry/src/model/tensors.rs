//! Which stored tensor plays which role, checked against the configuration.

use std::collections::HashMap;

use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TensorType};

use super::bitnet::{BitNetScheme, BitNetWeights};
use super::mlx::{MlxScheme, MlxWeights};
use super::names::{HF_PREFIXES, Naming, Role};
use super::{ArchConfig, Family};
use crate::io::json::shown;
use crate::io::native::{self, PackedScheme, scales_name};
use crate::io::{TensorInfo, TensorSource};
use crate::{Error, Result};

/// Where the weights of one role are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A tensor of a float or block type.
    Plain {
        /// Its name.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// Packed ternary codes and scales of a native checkpoint.
    Packed {
        /// The name the weight would have.
        name: String,
        /// The tensor of codes.
        codes: String,
        /// The tensor of scales.
        scales: String,
        /// Shape and packing.
        layout: PackedLayout,
    },
    /// A linear layer of a BitNet folder.
    BitNet {
        /// The name of the tensor.
        name: String,
        /// Its type.
        ty: TensorType,
        /// What it holds.
        weights: BitNetWeights,
    },
    /// A matrix of an MLX folder.
    Mlx {
        /// The name of the tensor of codes.
        name: String,
        /// What belongs to it.
        weights: MlxWeights,
    },
}

impl Stored {
    /// The name of the weight, for messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Plain { name, .. }
            | Self::Packed { name, .. }
            | Self::BitNet { name, .. }
            | Self::Mlx { name, .. } => name,
        }
    }

    /// The names of the tensors it is made of.
    pub fn tensors(&self) -> Vec<&str> {
        match self {
            Self::Plain { name, .. } => vec![name],
            Self::Packed { codes, scales, .. } => vec![codes, scales],
            Self::BitNet { name, weights: BitNetWeights::Packed { scale, .. }, .. } => vec![name, scale],
            Self::BitNet { name, .. } => vec![name],
            Self::Mlx { name, weights } => vec![name, &weights.scales, &weights.biases],
        }
    }

    /// Bytes of its tensors in `source`.
    pub fn bytes(&self, source: &dyn TensorSource) -> u64 {
        self.tensors().into_iter().filter_map(|name| source.find(name)).map(|info| info.bytes as u64).sum()
    }

    /// The type as users know it: "Q8_0", "sherry-1.25".
    pub fn type_name(&self) -> String {
        match self {
            Self::Plain { ty, .. } => ty.to_string(),
            Self::Packed { layout, .. } => layout.format.to_string(),
            Self::BitNet { ty, weights, .. } => match weights {
                BitNetWeights::Packed { .. } => "BitNet".to_owned(),
                BitNetWeights::Latent => format!("{ty}, latent"),
                BitNetWeights::Ternary => format!("{ty}, ternary"),
            },
            Self::Mlx { weights, .. } => weights.type_name().to_owned(),
        }
    }
}

/// How linear layers are packed.
#[derive(Clone, Copy)]
enum Packing {
    /// Each tensor says it by its type.
    None,
    Native(PackedScheme),
    BitNet(BitNetScheme),
    Mlx(MlxScheme),
}

/// The tensors of a checkpoint by role.
#[derive(Clone, Debug)]
pub struct TensorMap {
    naming: Naming,
    config: ArchConfig,
    stored: HashMap<Role, Stored>,
}

impl TensorMap {
    /// Finds every tensor `config` asks for and checks its shape and type. Tensors outside of the text model (vision
    /// towers) and those that only repeat the configuration (stored rotary tables) are left alone.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor: missing, of another shape, there twice, or contradicting the
    /// configuration (a head although tied, a bias although there are none, a layer too many). [`Error::Unsupported`]
    /// naming the tensor: of a type that is not read, or one that the family does not have, so that the model would
    /// compute something else without it.
    pub fn new(
        source: &dyn TensorSource,
        config: &ArchConfig,
        naming: Naming,
        packed: Option<PackedScheme>,
    ) -> Result<Self> {
        Self::build(source, config, naming, packed.map_or(Packing::None, Packing::Native))
    }

    /// [`new`](Self::new) for a BitNet folder.
    ///
    /// # Errors
    /// As there.
    pub fn of_bitnet(source: &dyn TensorSource, config: &ArchConfig, scheme: BitNetScheme) -> Result<Self> {
        Self::build(source, config, Naming::HuggingFace, Packing::BitNet(scheme))
    }

    /// [`new`](Self::new) for a folder of MLX.
    ///
    /// # Errors
    /// As there.
    pub fn of_mlx(source: &dyn TensorSource, config: &ArchConfig, scheme: MlxScheme) -> Result<Self> {
        Self::build(source, config, Naming::HuggingFace, Packing::Mlx(scheme))
    }

    fn build(source: &dyn TensorSource, config: &ArchConfig, naming: Naming, packing: Packing) -> Result<Self> {
        let (packed, bitnet, mlx) = match packing {
            // Float weights of a GGUF file of this family are ternary, or not understood.
            Packing::None if naming == Naming::Gguf && config.family == Family::BitNet => {
                (None, Some(BitNetScheme { latent: false, inverse: false }), None)
            }
            Packing::None => (None, None, None),
            Packing::Native(scheme) => (Some(scheme), None, None),
            Packing::BitNet(scheme) => (None, Some(scheme), None),
            Packing::Mlx(scheme) => (None, None, Some(scheme)),
        };
        let mut map = Self { naming, config: config.clone(), stored: HashMap::new() };
        for (name, dtype) in source.unreadable() {
            if is_of_text_model(name, naming) && !repeats_configuration(name) {
                let what = format!(
                    "tensor '{}': type {} is not supported; F32, F16 and BF16 weights are",
                    shown(name),
                    shown(dtype)
                );
                return Err(Error::unsupported(source.path(), what));
            }
        }
        let is_native =
            |info: &TensorInfo| naming == Naming::HuggingFace && info.ty == TensorType::U8 && bitnet.is_none();
        let format = |info: &TensorInfo| native::parse_format_name(&info.name).is_some() && is_native(info);
        let mixed = packed.is_none() && source.tensors().iter().any(format);
        for info in source.tensors() {
            let blocks = if is_native(info) { native::parse_blocks_name(&info.name) } else { None };
            let own = if mixed && is_native(info) { native::parse_format_name(&info.name) } else { None };
            let (name, is_packed) = match (info.name.strip_suffix(".codes"), own, blocks) {
                (Some(base), ..) if packed.is_some() => (format!("{base}.weight"), true),
                (_, Some((base, _)), _) => (format!("{base}.weight"), true),
                (_, _, Some((base, _))) => (format!("{base}.weight"), false),
                _ => (info.name.clone(), false),
            };
            let scales = (packed.is_some() || mixed) && info.name.ends_with(".scales")
                || naming == Naming::HuggingFace && bitnet.is_some() && info.name.ends_with(".weight_scale")
                || mlx.is_some() && MlxScheme::is_part(source, &info.name);
            let Some(role) = Role::parse(&name, config.family, naming) else {
                if is_of_text_model(&info.name, naming) && !repeats_configuration(&info.name) && !scales {
                    let problem = "the models of this family have no such tensor, and without it this one would compute \
                                   something else";
                    let what = format!("tensor '{}': {problem}", shown(&info.name));
                    return Err(Error::unsupported(source.path(), what));
                }
                continue;
            };
            if role == Role::RopeFreqs {
                continue; // part of the configuration, see config_gguf
            }
            map.refuse_unexpected(source, role, info)?;
            if let (Some(scheme), TensorType::U32, &[rows, cols]) = (mlx, info.ty, &role.shape(config)[..]) {
                let weights = scheme.weights(source, info, rows, cols)?;
                map.insert(source, info, role, Stored::Mlx { name: info.name.clone(), weights })?;
                continue;
            }
            let stored = match (bitnet, packed) {
                (Some(scheme), _) if role.is_linear() && (naming == Naming::HuggingFace || info.ty.is_float()) => {
                    let shape = role.shape(config);
                    let weights = scheme.weights(source, info, shape[0], shape[1])?;
                    Stored::BitNet { name: info.name.clone(), ty: info.ty, weights }
                }
                _ if is_packed => {
                    let scheme = match (packed, own) {
                        (None, Some((_, format))) => {
                            PackedScheme { format, order: QuadOrder::Contiguous, scale: ScaleGroup::Row }
                        }
                        (Some(scheme), _) => scheme,
                        (None, None) => unreachable!("codes have a scheme"),
                    };
                    packed_tensor(source, role, config, info, name, scheme)?
                }
                _ => plain_tensor(source, role, config, info, blocks.map(|(_, ty)| ty))?,
            };
            map.insert(source, info, role, stored)?;
        }
        // By name rather than by counting, so that the message can say which.
        for role in Role::all(config) {
            map.get(role, source)?;
        }
        if config.tied && map.stored.contains_key(&Role::Head) {
            map.refuse_second_head(source)?;
        }
        Ok(map)
    }

    fn insert(&mut self, source: &dyn TensorSource, info: &TensorInfo, role: Role, stored: Stored) -> Result<()> {
        match self.stored.insert(role, stored) {
            None => Ok(()),
            Some(other) => {
                let problem = format!("there twice, also as '{}'", shown(other.name()));
                Err(malformed(source, &info.name, problem))
            }
        }
    }

    /// The tensor of `role`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when there is none.
    pub fn get(&self, role: Role, source: &dyn TensorSource) -> Result<&Stored> {
        self.stored.get(&role).ok_or_else(|| {
            let name = role.name(self.config.family, self.naming).unwrap_or_default();
            let problem = match role {
                Role::Head => "missing, although the configuration says that the head is not tied to the embedding",
                _ => "missing",
            };
            malformed(source, &name, problem)
        })
    }

    /// The tensor of `role`, if there is one.
    pub fn find(&self, role: Role) -> Option<&Stored> {
        self.stored.get(&role)
    }

    /// Every role found with its tensor, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &Stored)> {
        self.stored.iter().map(|(role, stored)| (*role, stored))
    }

    /// A tensor that the configuration says is not there would be silently ignored, and the output silently wrong.
    fn refuse_unexpected(&self, source: &dyn TensorSource, role: Role, info: &TensorInfo) -> Result<()> {
        let Role::Layer(index, part) = role else { return Ok(()) };
        let layers = self.config.layers;
        if index >= layers {
            return Err(malformed(source, &info.name, format!("the configuration has only {layers} layers")));
        }
        if !part.is_in(&self.config) {
            return Err(malformed(source, &info.name, "the configuration says that there is no such tensor"));
        }
        Ok(())
    }

    /// Some tools store a tied head a second time. That is harmless when it is the same, byte for byte.
    fn refuse_second_head(&self, source: &dyn TensorSource) -> Result<()> {
        let (head, embed) = (self.get(Role::Head, source)?, self.get(Role::Embed, source)?);
        let same = match (head, embed) {
            (Stored::Plain { name: head, ty: a }, Stored::Plain { name: embed, ty: b }) => {
                a == b && *source.data(head)? == *source.data(embed)?
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        let problem = "the configuration ties the head to the embedding (tie_word_embeddings), but it has other values";
        Err(malformed(source, head.name(), problem))
    }
}

/// Whether a tensor is part of the text model, going by its name.
fn is_of_text_model(name: &str, naming: Naming) -> bool {
    let parts: &[&str] = match naming {
        Naming::HuggingFace => &["embed_tokens.", "layers.", "norm.", "lm_head."],
        Naming::Gguf => &["token_embd.", "token_embd_", "blk.", "output.", "output_norm.", "rope_freqs."],
    };
    let rest = match naming {
        Naming::HuggingFace => HF_PREFIXES.iter().rev().find_map(|prefix| name.strip_prefix(prefix)),
        Naming::Gguf => None,
    };
    let rest = rest.unwrap_or_else(|| name.strip_prefix("language_model.").unwrap_or(name));
    parts.iter().any(|part| rest.starts_with(part))
}

/// Rotary tables and attention masks that older files store: the configuration says the same.
fn repeats_configuration(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    name.contains(".rotary_emb.")
        || ["inv_freq", "masked_bias", "attn_rot_embd"].contains(&last)
        || name.ends_with(".attn_rot_embd.weight")
        || name.ends_with(".attention.bias")
        || name.ends_with(".attn.bias")
}

fn malformed(source: &dyn TensorSource, name: &str, problem: impl Into<String>) -> Error {
    Error::malformed(source.path(), format!("tensor '{}'", shown(name)), problem)
}

/// `blocks`: the block type whose bytes the tensor holds, in a native checkpoint.
fn plain_tensor(
    source: &dyn TensorSource,
    role: Role,
    config: &ArchConfig,
    info: &TensorInfo,
    blocks: Option<TensorType>,
) -> Result<Stored> {
    let expected = role.shape(config);
    if let (Some(ty), &[rows, cols]) = (blocks, &expected[..]) {
        let stored = ty.row_bytes(cols).map(|row_bytes| vec![rows, row_bytes]);
        if stored.as_ref() != Some(&info.shape) {
            let problem = format!("{ty} blocks of {rows} x {cols} weights do not have shape {:?}", info.shape);
            return Err(malformed(source, &info.name, problem));
        }
        return Ok(Stored::Plain { name: info.name.clone(), ty });
    }
    if info.shape != expected {
        let problem = format!("expected shape {expected:?} from the configuration, found {:?}", info.shape);
        return Err(malformed(source, &info.name, problem));
    }
    let float = info.ty.is_float();
    let integer = matches!(info.ty, TensorType::U8 | TensorType::I32 | TensorType::U32 | TensorType::I64);
    if integer || expected.len() == 1 && !float {
        return Err(malformed(source, &info.name, format!("expected floating-point weights, found {}", info.ty)));
    }
    Ok(Stored::Plain { name: info.name.clone(), ty: info.ty })
}

fn packed_tensor(
    source: &dyn TensorSource,
    role: Role,
    config: &ArchConfig,
    info: &TensorInfo,
    name: String,
    scheme: PackedScheme,
) -> Result<Stored> {
    let [rows, cols] = role.shape(config)[..] else {
        return Err(malformed(source, &info.name, "only matrices can be packed"));
    };
    let layout = scheme.layout(rows, cols);
    layout.check().map_err(|problem| malformed(source, &info.name, problem.to_string()))?;
    let scales = scales_name(name.strip_suffix(".weight").unwrap_or(&name));
    let Some(scale_info) = source.find(&scales) else {
        return Err(malformed(source, &scales, format!("missing, the scales of '{}'", shown(&info.name))));
    };
    let code_shape = vec![rows, layout.row_bytes()];
    let scale_shape = vec![rows, layout.row_scales()];
    for (info, ty, expected) in [(info, TensorType::U8, code_shape), (scale_info, TensorType::F16, scale_shape)] {
        if info.ty != ty {
            return Err(malformed(source, &info.name, format!("expected type {ty}, found {}", info.ty)));
        }
        if info.shape != expected {
            let problem = format!("expected shape {expected:?} from the configuration, found {:?}", info.shape);
            return Err(malformed(source, &info.name, problem));
        }
    }
    Ok(Stored::Packed { name, codes: info.name.clone(), scales, layout })
}
