//! Models from one form into another: quantizing, changing the container, and both at once.
//!
//! Everything goes tensor by tensor, so that memory holds about one tensor, and into files that appear only when they
//! are complete. What is not asked to be quantized keeps its values exactly, or the conversion is refused with the
//! reason.
//!
//! ```
//! use sherry::{NoProgress, io::ReadMode, model::Checkpoint};
//! use sherry_convert::{Linears, Request, convert, quant::QuantSpec};
//! use sherry_kernels::format::ScaleGroup;
//!
//! fn quantize(model: &std::path::Path, out: &std::path::Path) -> sherry::Result<usize> {
//!     let checkpoint = Checkpoint::open(model, ReadMode::Map)?;
//!     let linears = Linears::Packed(QuantSpec::sherry(ScaleGroup::Row));
//!     let request = Request { linears, ..Request::keep() };
//!     let summary = convert(&checkpoint, out, &request, &NoProgress, |tensor| println!("{}", tensor.name))?;
//!     Ok(summary.tensors.len())
//! }
//!
//! let error = quantize("no/such/model".as_ref(), "out.gguf".as_ref()).unwrap_err();
//! assert!(error.to_string().contains("no/such/model"));
//! ```

#![forbid(unsafe_code)]

mod channels;
mod container;
mod folder;
mod gguf_metadata;
pub mod importance;
pub mod inspect;
pub mod nearest;
mod output;
mod plan;
pub mod quant;
pub mod recipe;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use channels::{Bridge, RopeRows};
pub use container::{Container, STQ1_0_SPEC, container_of};
pub use output::Written;
pub use plan::{Embeddings, Linears};
pub use rows::{Moves, Rounding, Rows};

use output::{Input, Output};
use plan::{Plan, Target};
use quant::Projection;
use recipe::Recipe;
use sherry::io::gguf::{GgufWriter, StqId};
use sherry::io::{AtomicFolder, TensorInfo, safetensors};
use sherry::model::Checkpoint;
use sherry::model::names::Role;
use sherry::{Error, Progress, Result};
use sherry_kernels::format::TensorType;

/// What to make of a model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The linear layers of the blocks.
    pub linears: Linears,
    /// Embedding and head.
    pub embeddings: Embeddings,
    /// The types of all matrices instead; `linears`, `embeddings` and `fallback` are not looked at then.
    pub recipe: Option<Recipe>,
    /// Whether weights that a recipe makes ternary are so already, and are refused where they are not.
    pub exact: bool,
    /// What becomes of linear layers that packed codes of a GGUF file cannot hold; `None`: the conversion is refused.
    pub fallback: Option<TensorType>,
    /// The type id of STQ1_0 tensors in GGUF files.
    pub stq_id: StqId,
    /// Importance of every input channel of a linear layer, by Hugging Face weight name; see [`crate::quant`].
    pub importance: HashMap<String, Vec<f32>>,
    /// Replace an existing output.
    pub overwrite: bool,
}

impl Request {
    /// Only the container changes.
    pub fn keep() -> Self {
        Self {
            linears: Linears::Keep,
            embeddings: Embeddings::Keep,
            recipe: None,
            exact: false,
            fallback: None,
            stq_id: StqId::default(),
            importance: HashMap::new(),
            overwrite: false,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The output.
    pub path: PathBuf,
    /// Its tensors, in order.
    pub tensors: Vec<Written>,
    /// Bytes of the input's tensors.
    pub input_bytes: u64,
    /// Remarks for the user: permutations, roundings.
    pub notes: Vec<String>,
}

/// Sizes by kind, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Linear layers of the blocks, scales included.
    pub linears: u64,
    /// Weights in them.
    pub linear_weights: u64,
    /// Embedding and head.
    pub embeddings: u64,
    /// Norms and biases.
    pub vectors: u64,
    /// Weights of everything.
    pub weights: u64,
}

impl Sizes {
    fn add(&mut self, bytes: u64, weights: u64, linear: bool, embedding: bool) {
        self.weights += weights;
        if linear {
            self.linears += bytes;
            self.linear_weights += weights;
        } else if embedding {
            self.embeddings += bytes;
        } else {
            self.vectors += bytes;
        }
    }

    /// All tensors.
    pub fn total(&self) -> u64 {
        self.linears + self.embeddings + self.vectors
    }

    /// Bits per weight of the linear layers, scales included.
    pub fn linear_bits_per_weight(&self) -> f64 {
        8.0 * self.linears as f64 / self.linear_weights.max(1) as f64
    }

    /// Bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.total() as f64 / self.weights.max(1) as f64
    }
}

impl Summary {
    /// Sizes by kind.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for tensor in &self.tensors {
            sizes.add(tensor.bytes, tensor.rows as u64 * tensor.cols as u64, tensor.linear, tensor.embedding);
        }
        sizes
    }
}

/// Sizes by kind of a model as it is stored.
pub fn sizes_of(checkpoint: &Checkpoint) -> Sizes {
    let mut sizes = Sizes::default();
    for role in Role::all(checkpoint.config()) {
        let Some(stored) = checkpoint.tensors().find(role) else { continue };
        let bytes = stored.bytes(checkpoint.source());
        let weights = role.elements(checkpoint.config());
        sizes.add(bytes, weights, role.is_linear(), role.is_embedding());
    }
    sizes
}

/// Bytes of a file of `checkpoint` made by a recipe besides its matrices, at most: header, metadata, norms and biases. Of a
/// folder the file is `model.safetensors`.
///
/// # Errors
/// As [`convert`].
pub fn room_beside_matrices(checkpoint: &Checkpoint, container: Container) -> Result<u64> {
    let plan = Plan::new(checkpoint, container, Linears::Dense(TensorType::F32), Embeddings::Keep, None)?;
    let config = checkpoint.config();
    let jobs =
        output::jobs(Input { source: checkpoint.source(), config, tensors: checkpoint.tensors() }, &plan, container)?;
    let bytes = match container {
        Container::Gguf => {
            let (metadata, _) = gguf_metadata::entries(checkpoint, &plan, StqId::default())?;
            let infos = output::infos(&jobs, container, None)?;
            let vectors: usize = infos.iter().filter(|info| info.shape.len() == 1).map(|info| info.bytes).sum();
            // Every tensor begins at a multiple of 32.
            GgufWriter::header_bytes(metadata, &infos)? + vectors + 32 * infos.len()
        }
        Container::Folder => {
            // Packed matrices have the longest entries, two each; F32 is the largest type of vectors.
            let infos: Vec<TensorInfo> = jobs.iter().flat_map(output::Job::longest_infos).collect();
            let vectors: usize = infos.iter().filter(|info| info.shape.len() == 1).map(|info| 2 * info.bytes).sum();
            safetensors::Writer::header_bytes(checkpoint.path(), &infos, &output::folder_metadata())? + vectors
        }
    };
    Ok(bytes as u64)
}

/// Writes `checkpoint` to `out` as `request` says. `tensor_done` is called after every tensor.
///
/// # Errors
/// [`Error::Invalid`] when the request cannot be met exactly or the output exists; [`Error::Malformed`] naming the
/// tensor; [`Error::Io`]; [`Error::Interrupted`]. No output is left behind then, and an older one is untouched.
pub fn convert(
    checkpoint: &Checkpoint,
    out: &Path,
    request: &Request,
    progress: &dyn Progress,
    mut tensor_done: impl FnMut(&Written),
) -> Result<Summary> {
    let container = container_of(out);
    check_target(checkpoint.path(), out, request.overwrite)?;
    let config = checkpoint.config();
    let plan = match &request.recipe {
        Some(recipe) => Plan::by_recipe(checkpoint, container, recipe, request.exact),
        None => Plan::new(checkpoint, container, request.linears, request.embeddings, request.fallback),
    };
    let plan = plan.map_err(|error| match error {
        Error::Invalid(problem) => Error::Invalid(format!("{}: {problem}", checkpoint.path().display())),
        other => other,
    })?;
    let input = Input { source: checkpoint.source(), config, tensors: checkpoint.tensors() };
    let mut jobs = output::jobs(input, &plan, container)?;
    for job in &mut jobs {
        // Dense ternary and blocks know no importance.
        if request.recipe.is_none()
            || matches!(job.planned.target, Target::Quantize(spec) if spec.projection == Projection::SparseAbsMean)
        {
            job.importance = importance(&request.importance, job.planned.role, config.family)?;
        }
    }
    let work: u64 = jobs.iter().map(|job| job.planned.role.elements(config)).sum();

    let what = if jobs.iter().any(|job| !matches!(job.planned.target, Target::Dense(_) | Target::Codes)) {
        "quantize"
    } else {
        "convert"
    };
    let mut tensors = Vec::with_capacity(jobs.len());
    let mut run = |mut output: Output| -> Result<()> {
        progress.start(what, work);
        for job in &jobs {
            let written = output.write(job, progress)?;
            tensor_done(&written);
            tensors.push(written);
        }
        progress.finish();
        output.finish()
    };
    let mut notes = plan.notes();
    match container {
        Container::Folder => {
            let staged = AtomicFolder::create(out)?;
            folder::write_companions(checkpoint, &plan, staged.path())?;
            let weights = staged.path().join("model.safetensors");
            run(Output::create(&weights, container, &jobs, plan.packed, Vec::new(), request.stq_id)?)?;
            staged.commit(request.overwrite)?;
        }
        Container::Gguf => {
            let (metadata, remarks) = gguf_metadata::entries(checkpoint, &plan, request.stq_id)?;
            notes.extend(remarks);
            let mut output = Output::create(out, container, &jobs, plan.packed, metadata, request.stq_id)?;
            output.set_replace(request.overwrite);
            run(output)?;
        }
    }
    let input_bytes = checkpoint.source().tensors().iter().map(|info| info.bytes as u64).sum();
    Ok(Summary { path: out.to_path_buf(), tensors, input_bytes, notes })
}

/// Refuses to overwrite anything by accident: the input, what contains it, and folders that are not models.
fn check_target(input: &Path, out: &Path, overwrite: bool) -> Result<()> {
    let refuse = |problem: &str| Err(Error::Invalid(format!("{}: {problem}", out.display())));
    if out.file_name().is_none() {
        return refuse("not the name of a file or folder");
    }
    if let (Ok(input), Ok(out)) = (input.canonicalize(), out.canonicalize()) {
        if input == out {
            return refuse("the output is the input");
        }
        if input.starts_with(&out) {
            return refuse("the output contains the input");
        }
    }
    if !out.exists() {
        return Ok(());
    }
    if !overwrite {
        return refuse("exists already; --force replaces it");
    }
    let empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.is_dir() && !out.join("config.json").is_file() && !empty() {
        return refuse("a folder without config.json, so not a model; it is not replaced");
    }
    Ok(())
}

fn importance(all: &HashMap<String, Vec<f32>>, role: Role, family: sherry::model::Family) -> Result<Option<&[f32]>> {
    if all.is_empty() || !role.is_linear() {
        return Ok(None);
    }
    let name = role.name(family, sherry::model::names::Naming::HuggingFace).unwrap_or_default();
    match all.get(&name) {
        Some(importance) => Ok(Some(importance)),
        None => Err(Error::Invalid(format!("the importance file has no entry for '{name}'"))),
    }
}
