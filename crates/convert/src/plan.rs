//! What becomes of every tensor: its moves, its new type, or the reason why it cannot be done.

use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use super::channels::{Bridge, RopeRows};
use super::rows::Moves;
use crate::quant::{Projection, QuantSpec};
use sherry::io::native::PackedScheme;
use sherry::model::mlx::MlxWeights;
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint, Family, RopeLayout, Stored, config_gguf};
use sherry::{Error, Result};

/// The file format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A Hugging Face folder: plain when all weights are floats, native (see FORMAT.md) otherwise.
    Folder,
    /// One GGUF file.
    Gguf,
}

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
    pub packed: Option<PackedScheme>,
    /// Whether a folder needs the native extensions: some matrix is not made of floats.
    pub native: bool,
    /// Whether the model computes with ternary weights whatever its folder holds, so that the folder must say what it holds.
    pub is_bitnet: bool,
}

/// The packing of STQ1_0.
pub const STQ1_0: PackedScheme =
    PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Stride16, scale: ScaleGroup::Group(256) };

/// What GGUF files of 1.25-bit models hold: Sparse-AbsMean in the packing of STQ1_0.
pub const STQ1_0_SPEC: QuantSpec = QuantSpec {
    format: STQ1_0.format,
    order: STQ1_0.order,
    scale: STQ1_0.scale,
    projection: Projection::SparseAbsMean,
};

impl Plan {
    /// Decides what becomes of every tensor of `input`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the reason when the output cannot hold the input exactly, or the request makes no sense.
    pub fn new(input: &Checkpoint, container: Container, linears: Linears, embeddings: Embeddings) -> Result<Self> {
        let config = input.config();
        let stored = packed_input(input)?;
        if let (Some(scheme), Linears::Packed(_) | Linears::Dense(_)) = (stored, linears)
            && !matches!(linears, Linears::Dense(ty) if ty.is_float())
        {
            let problem =
                format!("its linear layers are {} already; quantizing twice only loses weights", scheme.format);
            return Err(Error::Invalid(problem));
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
        let packed = match (linears, stored, container) {
            (Linears::Dense(_), ..) | (Linears::Keep, None, _) => None,
            (Linears::Packed(spec), ..) => packed_output(config, spec, container)?,
            (Linears::Keep, Some(scheme), Container::Gguf) => {
                let (scheme, bridge) = exact_gguf(config, scheme)?;
                moves.bridge = bridge;
                scheme
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
        let native = packed.is_some() || blocks;
        let mut plan = Self { moves, tensors: Vec::new(), packed, native, is_bitnet };
        for role in Role::all(config) {
            let target =
                plan.target(config, role, input.tensors().get(role, input.source())?, container, linears, embeddings);
            if let Target::Dense(ty) = target {
                check_blocks(config, role, ty)?;
                plan.native |= container == Container::Folder && !ty.is_float();
            }
            plan.tensors.push(Planned { role, target });
        }
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
            (true, Linears::Keep, Stored::Plain { ty, .. }) if folder && !ty.is_float() => {
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
        if self.moves.query_scale != 1.0 {
            notes.push(format!(
                "GGUF has no key for the scale of the queries (query_pre_attn_scalar): the weights of their norms are \
                 multiplied by {}, which comes to the same, to float rounding",
                self.moves.query_scale
            ));
        }
        notes
    }
}

/// How the input's linear layers are packed: all alike, or not at all.
fn packed_input(input: &Checkpoint) -> Result<Option<PackedScheme>> {
    let mut found: Option<Option<PackedScheme>> = None;
    for role in linear_roles(input.config()) {
        let scheme = match input.tensors().get(role, input.source())? {
            Stored::Packed { layout, .. } => {
                Some(PackedScheme { format: layout.format, order: layout.order, scale: layout.scale })
            }
            Stored::Plain { ty: TensorType::STQ1_0, .. } => Some(STQ1_0),
            Stored::Plain { .. } | Stored::BitNet { .. } | Stored::Mlx { .. } => None,
        };
        if *found.get_or_insert(scheme) != scheme {
            let problem = "some linear layers are packed and others are not; only uniform models can be converted";
            return Err(Error::Invalid(problem.to_owned()));
        }
    }
    Ok(found.flatten())
}

/// The packing that quantizing by `spec` gives in `container`; `None` where blocks of a dense GGUF type hold it.
fn packed_output(config: &ArchConfig, spec: QuantSpec, container: Container) -> Result<Option<PackedScheme>> {
    let scheme = PackedScheme { format: spec.format, order: spec.order, scale: spec.scale };
    for role in linear_roles(config) {
        if let Err(problem) = spec.layout(1, columns(config, role)) {
            return Err(Error::Invalid(format!("cannot quantize to {}: {}: {problem}", spec.format, describe(role))));
        }
    }
    match container {
        Container::Folder => Ok(Some(scheme)),
        Container::Gguf if scheme == STQ1_0 => exact_gguf(config, scheme).map(|(scheme, _)| scheme),
        Container::Gguf => {
            let problem = "quantizing into GGUF makes STQ1_0: stride-16 quads with a scale per 256 weights; write a folder \
                           for other formats, quad orders and scales (`sherry convert` then makes a GGUF file of it \
                           where that is exact)";
            Err(Error::Invalid(problem.to_owned()))
        }
    }
}

/// What packed codes become in a GGUF file without losing anything, and the permutation it takes.
fn exact_gguf(config: &ArchConfig, scheme: PackedScheme) -> Result<(Option<PackedScheme>, Option<Bridge>)> {
    let refuse = |reason: String| {
        Err(Error::Invalid(format!("a {} model like this has no exact GGUF form: {reason}", scheme.format)))
    };
    let block = if scheme.format == TernaryFormat::Binary { TensorType::Q1_0.block_len() } else { 256 };
    for role in linear_roles(config) {
        let cols = columns(config, role);
        if !cols.is_multiple_of(block) {
            return refuse(format!("{} has rows of {cols} weights, GGUF blocks hold {block}", describe(role)));
        }
    }
    match scheme.scale {
        ScaleGroup::Row => {}
        ScaleGroup::Tensor => return refuse("it has one f32 scale per tensor, a GGUF block has one in f16".to_owned()),
        ScaleGroup::Group(size) if size.is_multiple_of(block) => {}
        ScaleGroup::Group(size) => {
            return refuse(format!("it has a scale per {size} weights, a GGUF block has one per {block}"));
        }
    }
    match (scheme.format, scheme.order, Bridge::problem(config)) {
        (TernaryFormat::Ternary2 | TernaryFormat::Ternary167 | TernaryFormat::Binary, ..) => Ok((None, None)),
        (TernaryFormat::Sherry, QuadOrder::Stride16, _) => Ok((Some(STQ1_0), None)),
        (TernaryFormat::Sherry, QuadOrder::Contiguous, None) => Ok((Some(STQ1_0), Some(Bridge::ToStride16))),
        (TernaryFormat::Sherry, QuadOrder::Contiguous, Some(problem)) => {
            refuse(format!("its quads are contiguous, those of STQ1_0 are stride-16, and {problem}"))
        }
    }
}

/// The dense GGUF type that holds a baseline format exactly.
const fn gguf_block_type(format: TernaryFormat) -> Option<TensorType> {
    match format {
        TernaryFormat::Sherry => None,
        TernaryFormat::Ternary2 => Some(TensorType::TQ2_0),
        TernaryFormat::Ternary167 => Some(TensorType::TQ1_0),
        TernaryFormat::Binary => Some(TensorType::Q1_0),
    }
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

fn check_blocks(config: &ArchConfig, role: Role, ty: TensorType) -> Result<()> {
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
