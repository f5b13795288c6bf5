//! The quantized model as files, compared with what was fitted.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use sherry::Progress;
use sherry::generate::log_prob;
use sherry::io::{AtomicFolder, ReadMode, TensorInfo, native, write_atomic};
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint, Decoder, KvCache, KvType, Wanted};
use sherry_convert::quant::{Projection, QuantSpec};
use sherry_convert::{Container, Linears};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};
use sherry_kernels::{Engine, Isa, Precision};

use super::rounding::{Blocks, Grid};
use super::text::Text;
use super::tune::Student;
use super::{Model, Request, targets};
use crate::checkpoint;
use crate::error::Result;
use crate::layout::{Layout, Purpose, Tensor};
use crate::loss::IGNORED;
use crate::methods::Quantizer;
use crate::pretrained;

/// Most that mean log-likelihoods of the written model and of what was fitted may differ, in nats per token: the types of
/// embedding and head may be others than the original's.
const LOSS_GAP: f64 = 0.03;

/// The written model beside what was fitted, on the text held out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Perplexity of what was fitted, f32.
    pub fitted_perplexity: f64,
    /// Perplexity of the written model in the engine, activations in f32.
    pub written_perplexity: f64,
    /// The same with int8 activations, as models usually run.
    pub int8_perplexity: f64,
}

impl Comparison {
    /// Whether the two agree.
    pub fn is_good(&self) -> bool {
        (self.written_perplexity.ln() - self.fitted_perplexity.ln()).abs() <= LOSS_GAP
    }
}

/// Writes `student` as a packed model, of the types of the recipe if there is one, and runs it.
///
/// # Errors
/// Whatever converting gives; nothing is left at the output then.
pub(super) fn write(
    request: &Request,
    model: Model<'_>,
    student: &Student,
    held_out: &Text,
    fitted_perplexity: f64,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let Model { checkpoint, arch, recipe } = model;
    let effective = AtomicFolder::create(&request.out)?;
    write_effective(checkpoint, arch, student, effective.path(), progress)?;
    let base = Checkpoint::open(effective.path(), ReadMode::Map)?;
    let scale = request.rounding.group.map_or(ScaleGroup::Row, ScaleGroup::Group);
    let spec = |format| QuantSpec { format, order: QuadOrder::Contiguous, scale, projection: Projection::Exact };
    let keep = sherry_convert::Request::keep();
    if let Some(recipe) = recipe {
        let (recipe, overwrite) = (Some(recipe.clone()), request.overwrite);
        let exactly = sherry_convert::Request { recipe, exact: true, overwrite, ..keep };
        sherry_convert::convert(&base, &request.out, &exactly, progress, |_| {})?;
        return compare(&request.out, held_out, fitted_perplexity, progress);
    }
    let linears = match request.rounding.grid {
        Grid::Sparse34 => Linears::Packed(spec(TernaryFormat::Sherry)),
        Grid::Ternary if scale == ScaleGroup::Row => Linears::Packed(spec(TernaryFormat::Ternary167)),
        Grid::Ternary => Linears::Packed(spec(TernaryFormat::Ternary2)),
        Grid::Steps { .. } | Grid::Levels { .. } => Linears::Keep,
    };
    let last = sherry_convert::Request { embeddings: request.embeddings, overwrite: request.overwrite, ..keep.clone() };
    let to_gguf = sherry_convert::container_of(&request.out) == Container::Gguf;
    if to_gguf && linears != Linears::Keep {
        // What a GGUF file can hold of a packed model is decided, and said, where packed models are converted.
        let packed = effective.path().join("packed");
        let first = sherry_convert::Request { linears, ..keep };
        sherry_convert::convert(&base, &packed, &first, progress, |_| {})?;
        let packed = Checkpoint::open(&packed, ReadMode::Map)?;
        sherry_convert::convert(&packed, &request.out, &last, progress, |_| {})?;
    } else {
        sherry_convert::convert(&base, &request.out, &sherry_convert::Request { linears, ..last }, progress, |_| {})?;
    }
    compare(&request.out, held_out, fitted_perplexity, progress)
}

/// Runs the written model.
fn compare(out: &Path, held_out: &Text, fitted_perplexity: f64, progress: &dyn Progress) -> Result<Comparison> {
    let written_perplexity = perplexity(out, held_out, Precision::F32, progress)?;
    let int8_perplexity = perplexity(out, held_out, Precision::Int8, progress)?;
    Ok(Comparison { fitted_perplexity, written_perplexity, int8_perplexity })
}

/// A Hugging Face folder with the quantized weights as f32, those of block types as the blocks they are.
fn write_effective(
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    student: &Student,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let layout = Layout::new(arch, &Quantizer::FULL);
    let blocks = |tensor: &Tensor| match tensor.purpose {
        Purpose::Linear(layer, kind) => student.blocks(layer, kind).filter(|blocks| !blocks.ty.is_float()),
        _ => None,
    };
    checkpoint::write_tensors(
        folder,
        layout.tensors.iter().map(|tensor| stored(tensor, blocks(tensor))),
        |i, writer| {
            let tensor = &layout.tensors[i];
            if let Some(blocks) = blocks(tensor) {
                return Ok(writer.write(&stored(tensor, Some(blocks)).name, &blocks.bytes)?);
            }
            let role = Role::parse(&tensor.name, arch.family, Naming::HuggingFace);
            let values = match (student.weights(tensor), role) {
                (Some(values), _) => values,
                (None, Some(role)) => pretrained::tensor(checkpoint, role, progress)?,
                (None, None) => Vec::new(),
            };
            checkpoint::write_floats(writer, &tensor.name, &values)
        },
    )?;
    for (name, bytes) in checkpoint.companion_files()? {
        write_atomic(&folder.join(name), &bytes)?;
    }
    let mut config = checkpoint.config_json()?;
    if let Some(fields) = config.as_object_mut() {
        fields.remove("quantization_config");
        fields.insert("torch_dtype".to_owned(), "float32".into());
    }
    let text = serde_json::to_vec_pretty(&config).unwrap_or_default();
    Ok(write_atomic(&folder.join("config.json"), &text)?)
}

/// How a tensor is stored.
fn stored(tensor: &Tensor, blocks: Option<&Blocks>) -> TensorInfo {
    let Some(Blocks { ty, bytes }) = blocks else { return checkpoint::info(&tensor.name, &tensor.shape) };
    let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
    let (rows, bytes) = (tensor.shape[0], bytes.len());
    TensorInfo { name: native::blocks_name(module, *ty), ty: TensorType::U8, shape: vec![rows, bytes / rows], bytes }
}

/// Perplexity of the model `path` on `text`, each sequence by itself.
fn perplexity(path: &Path, text: &Text, precision: Precision, progress: &dyn Progress) -> Result<f64> {
    let checkpoint = Checkpoint::open(path, ReadMode::Map)?;
    let engine = Engine::new(Isa::best(), rayon::current_num_threads(), precision);
    let mut decoder = Decoder::new(Arc::new(checkpoint.load(engine.pool(), progress)?), engine);
    let mut cache = KvCache::new(decoder.config(), text.length, KvType::F32)?;
    let (mut sum, mut count) = (0.0f64, 0usize);
    progress.start("compare", text.sequences() as u64);
    for (tokens, targets) in text.tokens.chunks(text.length).zip(targets(text).chunks(text.length)) {
        cache.truncate(0);
        let logits = decoder.forward_one(&mut cache, tokens, Wanted::All)?;
        for (row, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORED) {
            sum -= log_prob(logits.row(row), target);
            count += 1;
        }
        progress.advance(1);
    }
    progress.finish();
    Ok((sum / count.max(1) as f64).exp())
}
