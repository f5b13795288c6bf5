//! What becomes of every tensor: its moves, its new type, or the reason why it cannot be done.

use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use super::channels::{Bridge, RopeRows};
use super::container::{Container, STQ1_0};
use super::rows::Moves;
use crate::quant::QuantSpec;
use crate::recipe::{self, MatrixType, Recipe};
use sherry::io::native::{self, PackedScheme};
use sherry::model::mlx::MlxWeights;
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint, Family, RopeLayout, Stored, config_gguf};
use sherry::{Error, Result};

/// What to make of the linear layers of the blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Floats become Q8_0 (folder) or what released GGUF files use (Q6_K; Q4_K for an untied embedding); block types
    /// stay.
    Auto,
    /// This type.
    As(TensorType),
}

/// What one tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// A float or block type.
    Dense(TensorType),
    /// A float or block type for weights that were not made for it.
    Nearest(TensorType),
    /// Packed codes made from dense weights.
    Quantize(QuantSpec),
    /// Such codes, held by a ternary block type of GGUF files.
    Blocks(QuantSpec, TensorType),
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
    /// Packing of the output's linear layers, where they are packed and all alike.
    pub packed: Option<PackedScheme>,
    /// Whether the linear layers of a folder are packed in several ways, so that each says its own.
    pub mixed: bool,
    /// Whether a folder needs the native extensions: some matrix is not made of floats.
    pub native: bool,
    /// Whether the model computes with ternary weights whatever its folder holds, so that the folder must say what it holds.
    pub is_bitnet: bool,
    /// Linear layers that become a block type because packed codes of a GGUF file cannot hold them.
    pub fallback: Option<Fallback>,
}

/// What a GGUF file cannot hold as packed codes, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// Its type.
    ty: TensorType,
    /// Rows of a multiple of so many weights can be held; `None` where none can.
    block: Option<usize>,
    /// Why.
    reason: String,
}

impl Fallback {
    /// The type of a linear layer with rows of `cols` weights; `None` where it can be packed. Rows that are no whole blocks
    /// of the type are kept in f16, as llama.cpp does.
    fn ty(&self, cols: usize) -> Option<TensorType> {
        let fits = |ty: TensorType| if cols.is_multiple_of(ty.block_len()) { ty } else { TensorType::F16 };
        (!self.block.is_some_and(|block| cols.is_multiple_of(block))).then(|| fits(self.ty))
    }
}

/// What packed linear layers become in a GGUF file.
struct GgufForm {
    /// The packing of STQ1_0; `None` where blocks of a dense GGUF type hold the codes.
    packed: Option<PackedScheme>,
    bridge: Option<Bridge>,
    fallback: Option<Fallback>,
}

impl Plan {
    /// Decides what becomes of every tensor of `input`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason when the output cannot hold the input exactly, or the request makes no sense.
    pub fn new(
        input: &Checkpoint,
        container: Container,
        linears: Linears,
        embeddings: Embeddings,
        fallback: Option<TensorType>,
    ) -> Result<Self> {
        let config = input.config();
        let stored = packed_input(input)?;
        let mixed = stored.is_some_and(|packing| packing == Packing::Mixed);
        let keeps = linears == Linears::Keep && container == Container::Folder;
        if mixed && !keeps && !matches!(linears, Linears::Dense(ty) if ty.is_float()) {
            let problem = "its linear layers are packed in several ways, which only a native folder holds; floats (--dtype f16) \
                           can be made of it";
            return Err(Error::Invalid(problem.to_owned()));
        }
        let stored = match stored {
            Some(Packing::Alike(scheme)) => Some(scheme),
            Some(Packing::Mixed) | None => None,
        };
        if let (Some(scheme), Linears::Packed(_) | Linears::Dense(_)) = (stored, linears)
            // Floats and the ternary types hold what is there, or are refused where they do not.
            && !matches!(linears, Linears::Dense(ty) if ty.is_float() || ty.is_ternary())
        {
            let problem =
                format!("its linear layers are {} already; quantizing twice only loses weights", scheme.format);
            return Err(Error::Invalid(problem));
        }
        if container == Container::Folder && linears == Linears::Dense(TensorType::I2_S) {
            let problem = "I2_S is a type of GGUF files: its blocks run across rows and end in a scale";
            return Err(Error::Invalid(problem.to_owned()));
        }
        let mut moves = Moves {
            bridge: None,
            rope: rope_rows(config, container),
            norm_shift: norm_shift(config.family, input.naming(), container),
            query_scale: match container {
                Container::Gguf => config_gguf::query_scale(config),
                Container::Folder => 1.0,
            },
        };
        let mut misfits = None;
        let packed = match (linears, stored, container) {
            (Linears::Dense(_), ..) | (Linears::Keep, None, _) => None,
            (Linears::Packed(spec), ..) => {
                let form = packed_output(config, spec, container, fallback)?;
                misfits = form.fallback;
                form.packed
            }
            (Linears::Keep, Some(scheme), Container::Gguf) => {
                let form = gguf_form(config, scheme, fallback)?;
                (moves.bridge, misfits) = (form.bridge, form.fallback);
                form.packed
            }
            (Linears::Keep, Some(scheme), Container::Folder) if input.is_bridged() => {
                moves.bridge = Some(Bridge::ToContiguous);
                Some(PackedScheme { order: QuadOrder::Contiguous, ..scheme })
            }
            (Linears::Keep, scheme, Container::Folder) => scheme,
        };
        let blocks = matches!(linears, Linears::Dense(ty) if !ty.is_float());
        let is_bitnet = config.family == Family::BitNet
            || input.tensors().iter().any(|(_, stored)| {
                matches!(stored, Stored::BitNet { .. } | Stored::Plain { ty: TensorType::I2_S, .. })
            });
        let mixed = mixed && keeps;
        // A folder of blocks alone stays one.
        let has_blocks = input.tensors().iter().any(|(role, stored)| {
            role.is_linear()
                && matches!(stored, Stored::Plain { name, .. } if native::parse_blocks_name(name).is_some())
        });
        let native = packed.is_some() || blocks || mixed || keeps && has_blocks;
        let mut plan = Self { moves, tensors: Vec::new(), packed, mixed, native, is_bitnet, fallback: misfits };
        for role in Role::all(config) {
            let target =
                plan.target(config, role, input.tensors().get(role, input.source())?, container, linears, embeddings);
            if let Target::Dense(ty) = target {
                check_blocks(config, role, ty, container)?;
                plan.native |= container == Container::Folder && !ty.is_float();
            }
            plan.tensors.push(Planned { role, target });
        }
        Ok(plan)
    }

    /// Decides by `recipe` what becomes of every matrix of `input`. `exact`: weights that become ternary are so already, and
    /// others are refused when they are written.
    ///
    /// # Errors
    /// As [`new`](Self::new); what is wrong with the recipe names it and the tensor.
    pub fn by_recipe(input: &Checkpoint, container: Container, recipe: &Recipe, exact: bool) -> Result<Self> {
        let config = input.config();
        if packed_input(input)?.is_some() {
            let problem = "its linear layers are packed already; quantizing twice only loses weights";
            return Err(Error::Invalid(problem.to_owned()));
        }
        recipe.check(config, container)?;
        // Floats and blocks first, everything else after the recipe.
        let mut plan = Self::new(input, container, Linears::Dense(TensorType::F32), Embeddings::Keep, None)?;
        let folder = container == Container::Folder;
        let mut schemes = Vec::new();
        plan.native = false;
        for planned in &mut plan.tensors {
            let Some(ty) = recipe.get(planned.role) else { continue };
            planned.target = match (ty, ty.spec(container, exact)) {
                // Blocks that are of this type already are copied.
                (MatrixType::Dense(ty), _) => Target::Nearest(ty),
                (MatrixType::Packed(TernaryFormat::Sherry), Some(spec)) => Target::Quantize(spec),
                (MatrixType::Packed(format), Some(spec)) if !folder => Target::Blocks(spec, recipe::gguf_type(format)),
                (MatrixType::Packed(_), Some(spec)) => Target::Quantize(spec),
                (MatrixType::Packed(_), None) => unreachable!("packed types have a way to be made"),
            };
            match planned.target {
                Target::Quantize(spec) if !schemes.contains(&scheme_of(spec)) => schemes.push(scheme_of(spec)),
                Target::Dense(ty) | Target::Nearest(ty) => plan.native |= folder && !ty.is_float(),
                _ => {}
            }
        }
        plan.native |= folder && !schemes.is_empty();
        plan.mixed = schemes.len() > 1;
        plan.packed = schemes.first().copied().filter(|_| !plan.mixed);
        Ok(plan)
    }

    fn target(
        &self,
        config: &ArchConfig,
        role: Role,
        stored: &Stored,
        container: Container,
        linears: Linears,
        embeddings: Embeddings,
    ) -> Target {
        let folder = container == Container::Folder;
        let packs = match linears {
            Linears::Packed(_) => true,
            Linears::Dense(_) => false,
            Linears::Keep => matches!(stored, Stored::Packed { .. } | Stored::Plain { ty: TensorType::STQ1_0, .. }),
        };
        if role.is_linear()
            && packs
            && let Some(ty) = self.fallback.as_ref().and_then(|fallback| fallback.ty(columns(config, role)))
        {
            return Target::Dense(ty);
        }
        match (role.is_linear(), linears, stored) {
            (true, Linears::Packed(spec), _) => Target::Quantize(spec),
            (true, Linears::Dense(ty), _) => Target::Dense(ty),
            (true, Linears::Keep, Stored::Packed { layout, .. }) => match gguf_block_type(layout.format) {
                Some(ty) if !folder => Target::Dense(ty),
                _ => Target::Codes,
            },
            (true, Linears::Keep, Stored::Plain { ty: TensorType::STQ1_0, .. }) => Target::Codes,
            // One scale for the whole matrix: I2_S, or floats.
            (true, Linears::Keep, Stored::BitNet { .. }) => {
                Target::Dense(if folder { TensorType::F32 } else { TensorType::I2_S })
            }
            (true, Linears::Keep, Stored::Mlx { weights, .. }) => {
                Target::Dense(mlx_type(weights, columns(config, role), folder))
            }
            // A folder without packed layers is for other tools too: floats only. F32 holds every block type exactly.
            // Nor can blocks follow a permutation of their columns.
            (true, Linears::Keep, Stored::Plain { ty, .. })
                if (folder && !self.native || self.moves.bridge.is_some()) && !ty.is_float() =>
            {
                Target::Dense(TensorType::F32)
            }
            (true, Linears::Keep, Stored::Plain { ty, .. }) => Target::Dense(*ty),
            (false, _, Stored::Plain { ty, .. }) if role.is_embedding() => {
                Target::Dense(self.embedding_type(config, role, *ty, embeddings, folder))
            }
            (false, _, Stored::Mlx { weights, .. }) if role.is_embedding() => {
                let ty = mlx_type(weights, columns(config, role), folder);
                Target::Dense(self.embedding_type(config, role, ty, embeddings, folder))
            }
            // Norms and biases: GGUF keeps them in F32, folders in the type they have.
            (false, _, Stored::Plain { ty, .. }) if folder && self.moves.norm_shift == 0.0 => Target::Dense(*ty),
            (false, ..) => Target::Dense(TensorType::F32),
        }
    }

    fn embedding_type(
        &self,
        config: &ArchConfig,
        role: Role,
        stored: TensorType,
        choice: Embeddings,
        folder: bool,
    ) -> TensorType {
        // Blocks cannot follow a permutation of their columns, and plain folders hold floats only. F32 is exact.
        let exact = if stored.is_float() || self.moves.bridge.is_none() && (!folder || self.native) {
            stored
        } else {
            TensorType::F32
        };
        let wanted = match (choice, role) {
            (Embeddings::As(ty), _) => return ty,
            (Embeddings::Keep, _) => return exact,
            (Embeddings::Auto, _) if !exact.is_float() => return exact,
            (Embeddings::Auto, _) if folder => TensorType::Q8_0,
            (Embeddings::Auto, Role::Embed) if !config.tied => TensorType::Q4_K,
            (Embeddings::Auto, _) => TensorType::Q6_K,
        };
        let fits = |ty: &TensorType| config.hidden.is_multiple_of(ty.block_len());
        [wanted, TensorType::Q8_0].into_iter().find(fits).unwrap_or(exact)
    }

    /// Remarks for the user.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        match self.moves.bridge {
            Some(Bridge::ToStride16) => notes.push(
                "channels permuted inside chunks of 64, so that contiguous quads became the stride-16 quads of STQ1_0: \
                 every code is kept, the logits agree to float rounding"
                    .to_owned(),
            ),
            Some(Bridge::ToContiguous) => {
                notes.push("channel permutation undone: the quads are contiguous again".to_owned());
            }
            None => {}
        }
        if let Some(fallback) = &self.fallback {
            let linears = || self.tensors.iter().filter(|planned| planned.role.is_linear());
            let types: Vec<TensorType> = linears()
                .filter_map(|planned| match planned.target {
                    Target::Dense(ty) if !ty.is_ternary() => Some(ty),
                    _ => None,
                })
                .collect();
            let mut names: Vec<String> = types.iter().map(ToString::to_string).collect();
            names.sort();
            names.dedup();
            notes.push(format!(
                "{} of {} linear layers are {}, since packed codes of a GGUF file cannot hold them: {}",
                types.len(),
                linears().count(),
                names.join(" and "),
                fallback.reason
            ));
        }
        if self.moves.query_scale != 1.0 {
            notes.push(format!(
                "GGUF has no key for the scale of the queries (query_pre_attn_scalar): the weights of their norms are \
                 multiplied by {}, which comes to the same, to float rounding",
                self.moves.query_scale
            ));
        }
        let i2_s = |planned: &Planned| planned.target == Target::Dense(TensorType::I2_S);
        if !self.is_bitnet && self.tensors.iter().any(i2_s) {
            notes.push(
                "I2_S is the type of BitNet models, which round activations to int8 with one scale per token; this one does \
                 so from now on"
                    .to_owned(),
            );
        }
        notes
    }
}

/// How linear layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// All those that are packed in the same way.
    Alike(PackedScheme),
    /// In several ways.
    Mixed,
}

/// How codes of `spec` are packed.
pub(super) const fn scheme_of(spec: QuantSpec) -> PackedScheme {
    PackedScheme { format: spec.format, order: spec.order, scale: spec.scale }
}

/// How the input's linear layers are packed; `None` where none is.
fn packed_input(input: &Checkpoint) -> Result<Option<Packing>> {
    let mut found: Option<PackedScheme> = None;
    for role in linear_roles(input.config()) {
        let scheme = match input.tensors().get(role, input.source())? {
            Stored::Packed { layout, .. } => PackedScheme::of(layout),
            Stored::Plain { ty: TensorType::STQ1_0, .. } => STQ1_0,
            // What packed codes could not hold stands beside them as it is.
            Stored::Plain { .. } | Stored::BitNet { .. } | Stored::Mlx { .. } => continue,
        };
        if *found.get_or_insert(scheme) != scheme {
            return Ok(Some(Packing::Mixed));
        }
    }
    Ok(found.map(Packing::Alike))
}

/// The packing that quantizing by `spec` gives in `container`.
fn packed_output(
    config: &ArchConfig,
    spec: QuantSpec,
    container: Container,
    fallback: Option<TensorType>,
) -> Result<GgufForm> {
    let scheme = scheme_of(spec);
    if container == Container::Gguf && scheme == STQ1_0 {
        return gguf_form(config, scheme, fallback);
    }
    for role in linear_roles(config) {
        if let Err(problem) = spec.layout(1, columns(config, role)) {
            return Err(Error::Invalid(format!("cannot quantize to {}: {}: {problem}", spec.format, describe(role))));
        }
    }
    if container == Container::Gguf {
        let problem = "quantizing into GGUF makes STQ1_0: stride-16 quads with a scale per 256 weights; write a folder \
                       for other formats, quad orders and scales (`sherry convert` then makes a GGUF file of it where \
                       that is exact, or with --fallback)";
        return Err(Error::Invalid(problem.to_owned()));
    }
    Ok(GgufForm { packed: Some(scheme), bridge: None, fallback: None })
}

/// What packed codes become in a GGUF file without losing anything, and the permutation it takes. Where that does not exist
/// and a type is given to fall back on, as few layers as possible get it.
fn gguf_form(config: &ArchConfig, scheme: PackedScheme, fallback: Option<TensorType>) -> Result<GgufForm> {
    let block = if scheme.format == TernaryFormat::Binary { TensorType::Q1_0.block_len() } else { 256 };
    let rows = linear_roles(config).find(|role| !columns(config, *role).is_multiple_of(block)).map(|role| {
        format!("{} has rows of {} weights, GGUF blocks hold {block}", describe(role), columns(config, role))
    });
    let scale = match scheme.scale {
        ScaleGroup::Row => None,
        ScaleGroup::Tensor => Some("it has one f32 scale per tensor, a GGUF block has one in f16".to_owned()),
        ScaleGroup::Group(size) if size.is_multiple_of(block) => None,
        ScaleGroup::Group(size) => Some(format!("it has a scale per {size} weights, a GGUF block has one per {block}")),
    };
    let moved = (scheme.format, scheme.order) == (TernaryFormat::Sherry, QuadOrder::Contiguous);
    let quads = Bridge::problem(config)
        .filter(|_| moved)
        .map(|problem| format!("its quads are contiguous, those of STQ1_0 are stride-16, and {problem}"));
    // Scales and quads concern every layer, rows single ones.
    let none_fits = scale.is_some() || quads.is_some();
    let reason = rows.or(scale).or(quads);
    if let (Some(reason), None) = (&reason, fallback) {
        return Err(Error::Invalid(format!(
            "a {} model like this has no exact GGUF form: {reason}; write a folder, or keep what does not fit in 8 bits \
             (--fallback q8_0 of `sherry quantize`, `convert` and `export`)",
            scheme.format
        )));
    }
    let fallback =
        reason.zip(fallback).map(|(reason, ty)| Fallback { ty, block: (!none_fits).then_some(block), reason });
    Ok(match (scheme.format, none_fits) {
        (TernaryFormat::Sherry, false) => {
            GgufForm { packed: Some(STQ1_0), bridge: moved.then_some(Bridge::ToStride16), fallback }
        }
        _ => GgufForm { packed: None, bridge: None, fallback },
    })
}

/// The dense GGUF type that holds a baseline format exactly.
fn gguf_block_type(format: TernaryFormat) -> Option<TensorType> {
    (format != TernaryFormat::Sherry).then(|| recipe::gguf_type(format))
}

/// The type that holds a matrix of MLX, of rows of `cols` weights, exactly: its scales are f16.
fn mlx_type(weights: &MlxWeights, cols: usize, folder: bool) -> TensorType {
    if folder { TensorType::F16 } else { weights.exact_type(cols) }
}

impl Moves {
    /// What brings the tensors of `checkpoint` into the layout of a Hugging Face folder.
    pub fn for_folder(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        Self {
            bridge: checkpoint.is_bridged().then_some(Bridge::ToContiguous),
            rope: rope_rows(config, Container::Folder),
            norm_shift: norm_shift(config.family, checkpoint.naming(), Container::Folder),
            query_scale: 1.0,
        }
    }
}

fn rope_rows(config: &ArchConfig, container: Container) -> Option<RopeRows> {
    match (config.rope.layout, container) {
        (RopeLayout::Halves, Container::Gguf) if matches!(config.family, Family::Llama | Family::MiniCpm) => {
            Some(RopeRows::ToInterleaved)
        }
        (RopeLayout::Interleaved, Container::Folder) => Some(RopeRows::ToHalves),
        _ => None,
    }
}

/// Gemma norms: safetensors hold `w`, GGUF files `1 + w`.
fn norm_shift(family: Family, naming: Naming, container: Container) -> f32 {
    match (family, naming, container) {
        (Family::Gemma3, Naming::HuggingFace, Container::Gguf) => 1.0,
        (Family::Gemma3, Naming::Gguf, Container::Folder) => -1.0,
        _ => 0.0,
    }
}

fn check_blocks(config: &ArchConfig, role: Role, ty: TensorType, container: Container) -> Result<()> {
    if !container.has(ty) {
        let problem = format!(
            "{} is {ty}, which only a native folder holds; floats can be made of linear layers (--dtype f16), other blocks of \
             embedding and head (--embed q8_0)",
            describe(role)
        );
        return Err(Error::Invalid(problem));
    }
    let cols = columns(config, role);
    match ty.tensor_bytes(1, cols) {
        Some(_) => Ok(()),
        None => {
            let problem = format!("{} has rows of {cols} values, {ty} blocks hold {}", describe(role), ty.block_len());
            Err(Error::Invalid(problem))
        }
    }
}

fn columns(config: &ArchConfig, role: Role) -> usize {
    role.shape(config).last().copied().unwrap_or(0)
}

fn linear_roles(config: &ArchConfig) -> impl Iterator<Item = Role> {
    Role::all(config).filter(|role| role.is_linear())
}

/// A role as Hugging Face calls it.
fn describe(role: Role) -> String {
    role.name(Family::Llama, Naming::HuggingFace).unwrap_or_else(|| format!("{role:?}"))
}
