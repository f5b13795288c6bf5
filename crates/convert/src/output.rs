//! The tensor data of a conversion, into either container.

use std::collections::BTreeMap;
use std::path::Path;

use sherry_kernels::format::{PackedRows, ScaleGroup, TensorType, TernaryFormat, ggml, stq1_0};

use super::container::Container;
use super::plan::{Plan, Planned, Target, scheme_of};
use super::rows::{Moves, Rounding, Rows};
use crate::quant::{TensorReport, quantize_rows};
use sherry::io::gguf::{self, GgufWriter, StqId};
use sherry::io::native::{self, PackedScheme};
use sherry::io::{TensorInfo, TensorSource, safetensors};
use sherry::model::names::Naming;
use sherry::model::{ArchConfig, Stored, TensorMap, rope_factors};
use sherry::{Error, Progress, Result};

/// One tensor of the output as it was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Written {
    /// Its name in the output.
    pub name: String,
    /// Rows (out features).
    pub rows: usize,
    /// Columns (in features); 1 for vectors.
    pub cols: usize,
    /// Type in the input.
    pub from: String,
    /// Type in the output.
    pub to: String,
    /// Bytes in the output.
    pub bytes: u64,
    /// Whether this is a linear layer of a block.
    pub linear: bool,
    /// Whether this is embedding or head.
    pub embedding: bool,
    /// What quantizing did, where it was quantized.
    pub report: Option<TensorReport>,
}

/// Where tensor data goes.
pub(super) enum Output {
    Folder(safetensors::Writer),
    Gguf(GgufWriter),
}

/// Everything needed to write one tensor; its data is read when its turn comes.
pub(super) struct Job<'a> {
    pub input: Input<'a>,
    pub stored: &'a Stored,
    pub moves: Moves,
    pub planned: Planned,
    /// Name of the weight in the output ("model.layers.0.mlp.up_proj.weight").
    pub name: String,
    pub importance: Option<&'a [f32]>,
    /// Whether linear layers of the folder are packed in several ways.
    pub mixed: bool,
}

/// The model that is read.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub source: &'a dyn TensorSource,
    pub config: &'a ArchConfig,
    pub tensors: &'a TensorMap,
}

/// The module of a weight: its name without ".weight".
fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

impl Output {
    /// Opens `path` (the safetensors file or the GGUF file) for the tensors of `jobs`.
    pub fn create(
        path: &Path,
        container: Container,
        jobs: &[Job<'_>],
        scheme: Option<PackedScheme>,
        metadata: Vec<(String, gguf::Value)>,
        stq_id: StqId,
    ) -> Result<Self> {
        let infos = infos(jobs, container, scheme)?;
        Ok(match container {
            Container::Folder => Self::Folder(safetensors::Writer::create(path, &infos, &folder_metadata())?),
            Container::Gguf => {
                let factors = jobs.first().map(|job| rope_factors(job.input.config)).unwrap_or_default();
                let mut writer = GgufWriter::create(path, metadata, infos, stq_id)?;
                for (name, factors) in factors {
                    let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
                    writer.write(name, &bytes)?;
                }
                Self::Gguf(writer)
            }
        })
    }

    /// Whether the file may take the place of another one.
    pub fn set_replace(&mut self, replace: bool) {
        match self {
            Self::Folder(_) => {} // its folder appears as a whole
            Self::Gguf(writer) => writer.set_replace(replace),
        }
    }

    /// Makes the file appear.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Folder(writer) => writer.finish(),
            Self::Gguf(writer) => writer.finish(),
        }
    }

    /// Writes the tensor of `job`.
    pub fn write(&mut self, job: &Job<'_>, progress: &dyn Progress) -> Result<Written> {
        if progress.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let Input { source, config, .. } = job.input;
        let data = Rows::open(source, config, job.planned.role, job.stored, job.moves)?;
        let (rows, cols) = data.shape();
        let mut report = None;
        let (to, bytes) = match job.planned.target {
            Target::Dense(ty) | Target::Nearest(ty) => {
                let name = job.dense_name(ty, self.container());
                let rounding =
                    if job.planned.target == Target::Nearest(ty) { Rounding::Nearest } else { Rounding::Exact };
                (ty.to_string(), self.write_dense(&data, &name, ty, rounding)?)
            }
            Target::Quantize(spec) | Target::Blocks(spec, _) => {
                let fill = |row: usize, out: &mut [f32]| data.fill(row, out);
                let place = (source.path(), job.stored.name());
                let (packed, made) = quantize_rows(place, (rows, cols), fill, &spec, job.importance)?;
                data.release();
                report = Some(made);
                match job.planned.target {
                    Target::Blocks(_, ty) => (ty.to_string(), self.write_blocks(job, &packed, ty)?),
                    _ => (spec.format.to_string(), self.write_packed(job, packed)?),
                }
            }
            Target::Codes => {
                let packed = data.packed().ok_or_else(|| Error::Invalid(format!("{} is not packed", job.name)))?;
                data.release();
                (packed.layout.format.to_string(), self.write_packed(job, packed)?)
            }
        };
        let role = job.planned.role;
        progress.advance(rows as u64 * cols as u64);
        Ok(Written {
            name: job.name.clone(),
            rows,
            cols,
            from: job.stored.type_name(),
            to,
            bytes,
            linear: role.is_linear(),
            embedding: role.is_embedding(),
            report,
        })
    }

    fn container(&self) -> Container {
        match self {
            Self::Folder(_) => Container::Folder,
            Self::Gguf(_) => Container::Gguf,
        }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Folder(writer) => writer.write(name, bytes),
            Self::Gguf(writer) => writer.write(name, bytes),
        }
    }

    /// Writes ternary codes as blocks of `ty`, which have the same scales.
    fn write_blocks(&mut self, job: &Job<'_>, packed: &PackedRows, ty: TensorType) -> Result<u64> {
        let (rows, cols) = (packed.layout.rows, packed.layout.cols);
        let row_bytes = ty.row_bytes(cols).unwrap_or(0);
        let mut blocks = vec![0; rows * row_bytes];
        let mut values = vec![0.0; cols];
        for (row, out) in blocks.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            packed.row_f32(row, &mut values);
            ggml::quantize(ty, &values, out).map_err(|problem| Error::Invalid(format!("{}: {problem}", job.name)))?;
        }
        self.append(&job.name, &blocks)?;
        Ok(blocks.len() as u64)
    }

    fn write_dense(&mut self, data: &Rows<'_>, name: &str, ty: TensorType, rounding: Rounding) -> Result<u64> {
        let mut total = 0;
        data.encode(ty, rounding, |bytes| {
            total += bytes.len() as u64;
            self.append(name, bytes)
        })?;
        Ok(total)
    }

    fn write_packed(&mut self, job: &Job<'_>, packed: PackedRows) -> Result<u64> {
        match self {
            Self::Folder(writer) => {
                native::write(writer, module(&job.name), &job.codes_name(packed.layout.format), &packed)?;
                Ok((packed.codes.len() + 2 * packed.scales.len()) as u64)
            }
            Self::Gguf(writer) => {
                let blocks = to_blocks(packed).map_err(|problem| Error::Invalid(format!("{}: {problem}", job.name)))?;
                writer.write(&job.name, &blocks)?;
                Ok(blocks.len() as u64)
            }
        }
    }
}

/// Sherry rows as STQ1_0 blocks; a scale per row is repeated in every block.
fn to_blocks(mut packed: PackedRows) -> std::result::Result<Vec<u8>, String> {
    if packed.layout.scale == ScaleGroup::Row {
        let per_row = packed.layout.cols / 256;
        packed.scales = packed.scales.iter().flat_map(|&scale| std::iter::repeat_n(scale, per_row)).collect();
        packed.layout.scale = ScaleGroup::Group(256);
    }
    stq1_0::from_packed(&packed).map_err(|error| error.to_string())
}

impl Job<'_> {
    fn codes_name(&self, format: TernaryFormat) -> String {
        match self.mixed {
            true => native::format_name(module(&self.name), format),
            false => native::codes_name(module(&self.name)),
        }
    }

    /// How its codes are packed in a folder.
    fn scheme(&self, common: Option<PackedScheme>) -> Option<PackedScheme> {
        match (self.planned.target, self.stored) {
            (Target::Quantize(spec), _) => Some(scheme_of(spec)),
            (Target::Codes, Stored::Packed { layout, .. }) if self.mixed => Some(PackedScheme::of(layout)),
            _ => common,
        }
    }

    fn dense_name(&self, ty: TensorType, container: Container) -> String {
        match container {
            Container::Folder if !ty.is_float() => native::blocks_name(module(&self.name), ty),
            _ => self.name.clone(),
        }
    }

    /// Whether this is a norm or a bias.
    pub fn is_vector(&self) -> bool {
        self.planned.role.shape(self.input.config).len() == 1
    }

    /// Entries of a folder's header that are no shorter than those of any type that the tensor can have.
    pub fn longest_infos(&self) -> Vec<TensorInfo> {
        let shape = self.planned.role.shape(self.input.config);
        let bytes = 2 * shape.iter().product::<usize>();
        let info = |name, shape: &[usize]| TensorInfo { name, ty: TensorType::BF16, shape: shape.to_vec(), bytes };
        if self.is_vector() {
            return vec![info(self.name.clone(), &shape)];
        }
        let module = module(&self.name);
        let codes = native::format_name(module, TernaryFormat::Ternary167);
        vec![info(codes, &shape), info(native::scales_name(module), &shape)]
    }

    /// The stored tensors of this job.
    fn infos(&self, container: Container, scheme: Option<PackedScheme>) -> Result<Vec<TensorInfo>> {
        let info = |name: String, ty: TensorType, shape: Vec<usize>| -> Result<TensorInfo> {
            let bytes = match shape[..] {
                [n] => ty.row_bytes(n),
                [rows, cols] => ty.tensor_bytes(rows, cols),
                _ => None,
            };
            let bytes = bytes.ok_or_else(|| Error::Invalid(format!("{name}: {shape:?} does not fit type {ty}")))?;
            Ok(TensorInfo { name, ty, shape, bytes })
        };
        let shape = self.planned.role.shape(self.input.config);
        match (self.planned.target, container, &shape[..], self.scheme(scheme)) {
            (Target::Dense(ty) | Target::Nearest(ty), Container::Folder, &[rows, cols], _) if !ty.is_float() => {
                let row_bytes = ty.row_bytes(cols).unwrap_or(0);
                Ok(vec![info(self.dense_name(ty, container), TensorType::U8, vec![rows, row_bytes])?])
            }
            (Target::Dense(ty) | Target::Nearest(ty) | Target::Blocks(_, ty), ..) => {
                Ok(vec![info(self.name.clone(), ty, shape)?])
            }
            (_, Container::Gguf, ..) => Ok(vec![info(self.name.clone(), TensorType::STQ1_0, shape)?]),
            (_, Container::Folder, &[rows, cols], Some(scheme)) => {
                let codes = self.codes_name(scheme.format);
                Ok(native::plan(module(&self.name), codes, &scheme.layout(rows, cols)).to_vec())
            }
            _ => Err(Error::Invalid(format!("{}: only matrices can be packed", self.name))),
        }
    }
}

/// The metadata of a folder's weights.
pub(super) fn folder_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// The stored tensors of `jobs`; those that GGUF files have in addition come first.
pub(super) fn infos(jobs: &[Job<'_>], container: Container, scheme: Option<PackedScheme>) -> Result<Vec<TensorInfo>> {
    let factors = match container {
        Container::Gguf => jobs.first().map(|job| rope_factors(job.input.config)).unwrap_or_default(),
        Container::Folder => Vec::new(),
    };
    let factors = factors.iter().map(|(name, factors)| {
        let len = factors.len();
        Ok(vec![TensorInfo { name: (*name).to_owned(), ty: TensorType::F32, shape: vec![len], bytes: 4 * len }])
    });
    let all = factors.chain(jobs.iter().map(|job| job.infos(container, scheme)));
    Ok(all.collect::<Result<Vec<_>>>()?.concat())
}

/// The jobs of `plan`.
pub(super) fn jobs<'a>(input: Input<'a>, plan: &Plan, container: Container) -> Result<Vec<Job<'a>>> {
    let naming = match container {
        Container::Folder => Naming::HuggingFace,
        Container::Gguf => Naming::Gguf,
    };
    plan.tensors
        .iter()
        .map(|planned| {
            let stored = input.tensors.get(planned.role, input.source)?;
            let name = planned
                .role
                .name(input.config.family, naming)
                .ok_or_else(|| Error::Invalid(format!("{}: the output format has no place for it", stored.name())))?;
            Ok(Job { input, stored, moves: plan.moves, planned: *planned, name, importance: None, mixed: plan.mixed })
        })
        .collect()
}
