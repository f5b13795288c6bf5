//! What becomes of every tensor: its moves, its new type, or the reason why it cannot be done.

use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use super::channels::{Bridge, RopeRows};
use super::rows::Moves;
use crate::model::names::{Naming, Role};
use crate::model::{ArchConfig, Family, RopeLayout, Stored, TensorMap};
use crate::quant::{Projection, QuantSpec};
use crate::{Error, Result};

/// The file format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A Hugging Face folder: plain when all weights are floats, native (see FORMAT.md) otherwise.
    Folder,
    /// One GGUF file.
    Gguf,
}

/// What to make of the linear layers of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linears {
    /// The weights as they are; packed ones stay packed.
    Keep,
    /// This float or block type.
    Dense(TensorType),
    /// Quantize to ternary.
    Packed(QuantSpec),
}

/// What to make of embedding and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embeddings {
    /// The type they have.
    Keep,
    /// Floats become 8 bits (folder) or what released GGUF files use (Q6_K; Q4_K for an untied embedding); block types
    /// stay.
    Auto,
    /// This type.
    As(TensorType),
}

/// What one tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A float or block type.
    Dense(TensorType),
    /// Packed codes made from dense weights.
    Quantize(QuantSpec),
    /// The codes there are, their rows perhaps reordered.
    Codes,
}

/// One tensor of the output.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Its place in the model.
    pub role: Role,
    /// What it becomes.
    pub target: Target,
}

/// The whole conversion.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Moves common to all tensors.
    pub moves: Moves,
    /// Tensors in the order of the output.
    pub tensors: Vec<Planned>,
    /// Packing of the output's linear layers, where they are packed.
    pub packed: Option<Packing>,
}

/// Decides what becomes of every tensor of `tensors`.
///
/// # Errors
/// [`Error::Invalid`] with the reason when the output cannot hold the input exactly (or the request makes no sense).
pub fn plan(
    config: &ArchConfig,
    tensors: &TensorMap,
    naming: Naming,
    bridged: bool,
    container: Container,
    linears: Linears,
    embeddings: Embeddings,
) -> Result<Plan> {
    let packed_in = packed_input(config, tensors)?;
    if let (Some((format, ..)), Linears::Packed(_) | Linears::Dense(TensorType::Q8_0)) = (packed_in, linears) {
        let problem = format!("its linear layers are {format} already; quantizing twice would lose weights a second time");
        return Err(Error::Invalid(problem));
    }
    let mut moves = Moves { bridge: None, rope: rope_rows(config, container), norm_shift: norm_shift(config, naming, container) };
    let packed_out = match linears {
        Linears::Keep => match (packed_in, container) {
            (Some(packed), Container::Gguf) => {
                let (packed, bridge) = gguf_codes(config, packed)?;
                moves.bridge = bridge;
                packed
            }
            (Some((format, QuadOrder::Stride16, scale)), Container::Folder) if bridged => {
                // The file says that its channels were permuted for stride-16 quads: put them back.
                moves.bridge = Some(Bridge::ToContiguous);
                Some((format, QuadOrder::Contiguous, scale))
            }
            (packed, Container::Folder) => packed,
            (None, _) => None,
        },
        Linears::Packed(spec) => {
            for role in linear_roles(config) {
                let cols = role.shape(config)[1];
                if let Some(problem) = spec.problem(cols) {
                    return Err(Error::Invalid(format!("cannot quantize to {}: {}: {problem}", spec.format, describe(role))));
                }
            }
            if container == Container::Gguf {
                gguf_blocks(config, spec)?;
                (spec.format == TernaryFormat::Sherry).then_some((spec.format, spec.order, spec.scale))
            } else {
                Some((spec.format, spec.order, spec.scale))
            }
        }
        Linears::Dense(_) => None,
    };
    let native = packed_out.is_some() || matches!(linears, Linears::Dense(ty) if !is_float(ty));
    let mut planned = Vec::new();
    for role in Role::all(config) {
        let stored = tensors.find(role);
        let Some(stored) = stored else { continue };
        let target = match (role.is_linear(), stored) {
            (true, _) => linear_target(linears, stored, packed_in, container),
            (false, Stored::Plain { ty, .. }) if matches!(role, Role::Embed | Role::Head) => {
                let ty = embedding_type(config, role, *ty, embeddings, container, native, moves.bridge.is_some());
                check_blocks(role, config, ty)?;
                Target::Dense(ty)
            }
            // Norms and biases: GGUF keeps them in F32; folders in the type they have.
            (false, Stored::Plain { ty, .. }) => {
                let exact = container == Container::Folder && moves.norm_shift == 0.0;
                Target::Dense(if exact { *ty } else { TensorType::F32 })
            }
            (false, Stored::Packed { .. }) => Target::Codes,
        };
        if let Target::Dense(ty) = target {
            check_blocks(role, config, ty)?;
        }
        planned.push(Planned { role, target });
    }
    Ok(Plan { moves, tensors: planned, packed: packed_out })
}

fn linear_target(linears: Linears, stored: &Stored, packed_in: Option<Packing>, container: Container) -> Target {
    match (linears, stored) {
        (Linears::Packed(spec), _) => Target::Quantize(spec),
        (Linears::Dense(ty), _) => Target::Dense(ty),
        (Linears::Keep, _) if packed_in.is_some() => match (packed_in, container) {
            (Some((TernaryFormat::Ternary2, ..)), Container::Gguf) => Target::Dense(TensorType::TQ2_0),
            (Some((TernaryFormat::Ternary167, ..)), Container::Gguf) => Target::Dense(TensorType::TQ1_0),
            _ => Target::Codes,
        },
        // A folder without packed layers is for other tools too: floats only. f32 holds every block type exactly.
        (Linears::Keep, Stored::Plain { ty, .. }) if container == Container::Folder && !is_float(*ty) => {
            Target::Dense(TensorType::F32)
        }
        (Linears::Keep, Stored::Plain { ty, .. }) => Target::Dense(*ty),
        (Linears::Keep, Stored::Packed { .. }) => Target::Codes,
    }
}

/// Format, quad order and scales of packed linear layers.
pub type Packing = (TernaryFormat, QuadOrder, ScaleGroup);

/// How the input's linear layers are packed; all alike or not at all.
fn packed_input(config: &ArchConfig, tensors: &TensorMap) -> Result<Option<Packing>> {
    let mut found = None;
    for role in linear_roles(config) {
        let packing = match tensors.find(role) {
            Some(Stored::Packed { layout, .. }) => Some((layout.format, layout.order, layout.scale)),
            Some(Stored::Plain { ty: TensorType::STQ1_0, .. }) => {
                Some((TernaryFormat::Sherry, QuadOrder::Stride16, ScaleGroup::Group(256)))
            }
            _ => None,
        };
        match found {
            None => found = Some(packing),
            Some(first) if first != packing => {
                let name = describe(role);
                return Err(Error::Invalid(format!("{name} is packed differently from the layers before it")));
            }
            Some(_) => {}
        }
    }
    Ok(found.flatten())
}

/// What packed codes become in a GGUF file without losing anything, and the permutation it takes.
fn gguf_codes(config: &ArchConfig, (format, order, scale): Packing) -> Result<(Option<Packing>, Option<Bridge>)> {
    let refuse = |reason: String| {
        Err(Error::Invalid(format!("this {format} model has no exact GGUF form: {reason}")))
    };
    for role in linear_roles(config) {
        let cols = role.shape(config)[1];
        if !cols.is_multiple_of(256) {
            return refuse(format!("{} has rows of {cols} weights, GGUF blocks hold 256", describe(role)));
        }
    }
    match scale {
        ScaleGroup::Row | ScaleGroup::Group(256) => {}
        ScaleGroup::Group(size) => return refuse(format!("it has a scale per {size} weights, a GGUF block one per 256")),
    }
    if format != TernaryFormat::Sherry {
        return Ok((None, None));
    }
    let bridge = match order {
        QuadOrder::Stride16 => None,
        QuadOrder::Contiguous => match Bridge::problem(config) {
            Some(problem) => {
                return refuse(format!("its quads are contiguous, STQ1_0 has stride-16 quads, and {problem}"));
            }
            None => Some(Bridge::ToStride16),
        },
    };
    Ok((Some((TernaryFormat::Sherry, QuadOrder::Stride16, ScaleGroup::Group(256))), bridge))
}

/// Whether a GGUF block type holds what `spec` makes.
fn gguf_blocks(config: &ArchConfig, spec: QuantSpec) -> Result<()> {
    let fits = match spec.format {
        TernaryFormat::Sherry => spec.order == QuadOrder::Stride16 && spec.scale == ScaleGroup::Group(256),
        TernaryFormat::Ternary2 => matches!(spec.scale, ScaleGroup::Row | ScaleGroup::Group(256)),
        TernaryFormat::Ternary167 => spec.scale == ScaleGroup::Row,
    };
    if !fits {
        let problem = "GGUF holds stride-16 quads with a scale per 256 weights only; write a folder for other choices";
        return Err(Error::Invalid(problem.to_owned()));
    }
    gguf_codes(config, (spec.format, spec.order, ScaleGroup::Row)).map(|_| ())
}

fn rope_rows(config: &ArchConfig, container: Container) -> Option<RopeRows> {
    match (config.rope.layout, container) {
        (RopeLayout::Halves, Container::Gguf) if config.family == Family::Llama => Some(RopeRows::ToInterleaved),
        (RopeLayout::Interleaved, Container::Folder) => Some(RopeRows::ToHalves),
        _ => None,
    }
}

/// Gemma norms: safetensors hold `w`, GGUF files `1 + w`.
fn norm_shift(config: &ArchConfig, naming: Naming, container: Container) -> f32 {
    match (config.family, naming, container) {
        (Family::Gemma3, Naming::HuggingFace, Container::Gguf) => 1.0,
        (Family::Gemma3, Naming::Gguf, Container::Folder) => -1.0,
        _ => 0.0,
    }
}

fn embedding_type(
    config: &ArchConfig,
    role: Role,
    stored: TensorType,
    choice: Embeddings,
    container: Container,
    native: bool,
    bridged: bool,
) -> TensorType {
    let fits = |ty: TensorType| config.hidden.is_multiple_of(ty.block_len());
    let ty = match choice {
        Embeddings::As(ty) => return ty,
        Embeddings::Keep => stored,
        Embeddings::Auto if !is_float(stored) => stored,
        Embeddings::Auto => {
            let released = match (container, role) {
                (Container::Folder, _) => TensorType::Q8_0,
                (Container::Gguf, Role::Embed) if !config.tied => TensorType::Q4_K,
                (Container::Gguf, _) => TensorType::Q6_K,
            };
            [released, TensorType::Q8_0].into_iter().find(|ty| fits(*ty)).unwrap_or(stored)
        }
    };
    // Blocks cannot follow a permutation of their columns, and plain folders hold floats only.
    let blocks_impossible = container == Container::Folder && !native || bridged;
    if blocks_impossible && !is_float(ty) && choice != Embeddings::Auto { TensorType::F32 } else { ty }
}

fn check_blocks(role: Role, config: &ArchConfig, ty: TensorType) -> Result<()> {
    let shape = role.shape(config);
    let cols = shape.last().copied().unwrap_or(0);
    if ty.row_bytes(cols).is_none() {
        let problem = format!("{} has rows of {cols} values, {ty} blocks hold {}", describe(role), ty.block_len());
        return Err(Error::Invalid(problem));
    }
    Ok(())
}

fn linear_roles(config: &ArchConfig) -> impl Iterator<Item = Role> {
    Role::all(config).filter(|role| role.is_linear())
}

/// A role as Hugging Face calls it.
fn describe(role: Role) -> String {
    role.name(Family::Llama, Naming::HuggingFace).unwrap_or_else(|| format!("{role:?}"))
}

pub(super) const fn is_float(ty: TensorType) -> bool {
    matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// The spec of a released GGUF file.
pub const fn stq1_0_spec() -> QuantSpec {
    QuantSpec {
        format: TernaryFormat::Sherry,
        order: QuadOrder::Stride16,
        scale: ScaleGroup::Group(256),
        projection: Projection::SparseAbsMean,
    }
}
