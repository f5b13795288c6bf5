//! Models of any shape with random weights in any format, made tensor by tensor while they are loaded: speed and memory
//! of a 1B model without a download, and without a dense copy in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sherry_kernels::format::{PackedLayout, QuadOrder, TensorType, random};
use sherry_kernels::{Bytes, Pool};

use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Model, PackedScheme, TensorMap, Weights};

use super::WeightFormat;
use sherry::io::native::{codes_name, scales_name};
use sherry::io::{TensorInfo, TensorSource};
use sherry::{Error, Progress, Result};

/// A model whose weights do not exist yet.
///
/// ```
/// use sherry::{NoProgress, model::{Family, synthetic}};
/// use sherry_kernels::{Pool, format::{ScaleGroup, TensorType, TernaryFormat}};
/// use sherry_measure::bench::{RandomModel, WeightFormat};
///
/// let linear = WeightFormat::Packed(TernaryFormat::Ternary2, ScaleGroup::Row);
/// let random = RandomModel::new(synthetic::tiny(Family::Llama), linear, TensorType::F16, 1)?;
/// assert!(random.linear_bits() > 2.0);
/// let model = random.load(&Pool::new(1), &NoProgress)?;
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct RandomModel {
    config: ArchConfig,
    linear: WeightFormat,
    source: Source,
    tensors: TensorMap,
}

impl RandomModel {
    /// The model of `config` with linear layers in `linear`, embedding and head in `head`, norms in f32.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a format cannot have rows of the lengths that the configuration asks for.
    pub fn new(config: ArchConfig, linear: WeightFormat, head: TensorType, seed: u64) -> Result<Self> {
        let mut source = Source { path: PathBuf::from("random weights"), infos: Vec::new(), contents: HashMap::new() };
        for (index, role) in Role::all(&config).enumerate() {
            let name = role.name(config.family, Naming::HuggingFace).unwrap_or_default();
            let shape = role.shape(&config);
            let seed = seed.wrapping_add((index as u64 + 1) << 32);
            let format = if role.is_linear() { linear } else { WeightFormat::Plain(head) };
            let &[rows, cols] = &shape[..] else {
                let values = if role.is_norm() { Content::Norm } else { Content::Zeros };
                let info = TensorInfo { name, ty: TensorType::F32, bytes: 4 * shape.iter().product::<usize>(), shape };
                source.add(info, values);
                continue;
            };
            let bytes = format.bytes(rows, cols)?;
            match format {
                WeightFormat::Plain(ty) => {
                    source.add(TensorInfo { name, ty, shape, bytes }, Content::Blocks { ty, cols, seed });
                }
                WeightFormat::Packed(format, scale) => {
                    let layout = PackedLayout { format, rows, cols, order: QuadOrder::Contiguous, scale };
                    let module = name.strip_suffix(".weight").unwrap_or(&name);
                    let (row_bytes, row_scales) = (layout.row_bytes(), layout.row_scales());
                    let codes = TensorInfo {
                        name: codes_name(module),
                        ty: TensorType::U8,
                        shape: vec![rows, row_bytes],
                        bytes: rows * row_bytes,
                    };
                    let scales = TensorInfo {
                        name: scales_name(module),
                        ty: TensorType::F16,
                        shape: vec![rows, row_scales],
                        bytes: 2 * rows * row_scales,
                    };
                    source.add(codes, Content::Codes { layout, seed });
                    source.add(scales, Content::Scales { layout, seed });
                }
            }
        }
        let scheme = match linear {
            WeightFormat::Packed(format, scale) => Some(PackedScheme { format, order: QuadOrder::Contiguous, scale }),
            WeightFormat::Plain(_) => None,
        };
        let tensors = TensorMap::new(&source, &config, Naming::HuggingFace, scheme)?;
        Ok(Self { config, linear, source, tensors })
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &ArchConfig {
        &self.config
    }

    /// The format of the linear layers.
    pub fn linear(&self) -> WeightFormat {
        self.linear
    }

    /// Bytes of all tensors as a file would hold them.
    pub fn bytes(&self) -> u64 {
        self.source.infos.iter().map(|info| info.bytes as u64).sum()
    }

    /// Bits per weight of the linear layers, scales included.
    pub fn linear_bits(&self) -> f64 {
        let (mut bytes, mut weights) = (0, 0u64);
        for role in Role::all(&self.config).filter(|role| role.is_linear()) {
            if let &[rows, cols] = &role.shape(&self.config)[..] {
                bytes += self.linear.bytes(rows, cols).unwrap_or(0) as u64;
                weights += role.elements(&self.config);
            }
        }
        bytes as f64 * 8.0 / weights.max(1) as f64
    }

    /// Makes the weights on the threads of `pool`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn load(self, pool: &Pool, progress: &dyn Progress) -> Result<Model> {
        let weights = Weights::load(&self.source, &self.tensors, &self.config, pool, progress)?;
        Ok(Model { config: self.config, weights })
    }
}

/// What a tensor will hold.
#[derive(Clone, Copy, Debug)]
enum Content {
    /// Ones.
    Norm,
    /// Zeros.
    Zeros,
    Blocks {
        ty: TensorType,
        cols: usize,
        seed: u64,
    },
    Codes {
        layout: PackedLayout,
        seed: u64,
    },
    Scales {
        layout: PackedLayout,
        seed: u64,
    },
}

/// Makes the bytes of a tensor when they are asked for.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    infos: Vec<TensorInfo>,
    contents: HashMap<String, (usize, Content)>,
}

impl Source {
    fn add(&mut self, info: TensorInfo, content: Content) {
        self.contents.insert(info.name.clone(), (self.infos.len(), content));
        self.infos.push(info);
    }
}

impl TensorSource for Source {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.contents.get(name).map(|(index, _)| &self.infos[*index])
    }

    fn data(&self, name: &str) -> Result<Bytes> {
        let missing = || Error::malformed(&self.path, format!("tensor '{name}'"), "missing");
        let &(index, content) = self.contents.get(name).ok_or_else(missing)?;
        let info = &self.infos[index];
        let refused = |_| Error::OutOfMemory { what: format!("tensor '{name}'"), needed: info.bytes as u64 };
        // Only asks whether there is room; what fills it could not report that there is none.
        Vec::<u8>::new().try_reserve_exact(info.bytes).map_err(refused)?;
        let values = info.shape.iter().product::<usize>();
        let rms = |cols: usize| (cols.max(1) as f32).sqrt().recip();
        Ok(match content {
            Content::Norm => 1f32.to_le_bytes().repeat(values).into(),
            Content::Zeros => vec![0; 4 * values].into(),
            Content::Blocks { ty, cols, seed } => random::blocks(ty, values, rms(cols), seed).into(),
            Content::Codes { layout, seed } => random::packed_codes(&layout, seed).into(),
            Content::Scales { layout, seed } => random::packed_scales(&layout, rms(layout.cols), seed).into(),
        })
    }

    fn release(&self, _: &str) {}
}
