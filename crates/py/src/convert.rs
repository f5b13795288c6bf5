//! Whole models: quantizing, converting, looking into them.

use std::path::{Path, PathBuf};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::json;
use sherry::io::ReadMode;
use sherry::io::gguf::{GgufFile, StqId};
use sherry::model::Checkpoint;
use sherry_convert::inspect::Listings;
use sherry_convert::quant::{Projection, QuantSpec};
use sherry_convert::{Container, Embeddings, Linears, Request, STQ1_0_SPEC, Summary, importance};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use crate::json;
use crate::parts::one_of;
use crate::work::long_job;

/// Types of dense linear layers.
const DENSE: [(&str, TensorType); 9] = [
    ("f32", TensorType::F32),
    ("f16", TensorType::F16),
    ("bf16", TensorType::BF16),
    ("q8_0", TensorType::Q8_0),
    ("tq1_0", TensorType::TQ1_0),
    ("tq2_0", TensorType::TQ2_0),
    ("q2_0", TensorType::Q2_0),
    ("q1_0", TensorType::Q1_0),
    ("i2_s", TensorType::I2_S),
];

const EMBEDDINGS: [(&str, Embeddings); 8] = [
    ("auto", Embeddings::Auto),
    ("keep", Embeddings::Keep),
    ("f32", Embeddings::As(TensorType::F32)),
    ("f16", Embeddings::As(TensorType::F16)),
    ("bf16", Embeddings::As(TensorType::BF16)),
    ("q8_0", Embeddings::As(TensorType::Q8_0)),
    ("q6_k", Embeddings::As(TensorType::Q6_K)),
    ("q4_k", Embeddings::As(TensorType::Q4_K)),
];

const FALLBACKS: [(&str, TensorType); 2] = [("q8_0", TensorType::Q8_0), ("f16", TensorType::F16)];

/// Quantizes a model: a folder or GGUF file in, a native folder or (an output that ends in .gguf) a GGUF file out.
/// Returns what was written, as a dict.
#[pyfunction]
#[pyo3(signature = (
    source, target, *, format = "sherry-1.25", scale = None, group_size = None, quad = None, projection = None,
    embed = "auto", importance = None, fallback = None, overwrite = false, progress = None
))]
#[allow(clippy::too_many_arguments)] // they are keyword arguments
pub fn quantize_model<'py>(
    py: Python<'py>,
    source: PathBuf,
    target: PathBuf,
    format: &str,
    scale: Option<&str>,
    group_size: Option<usize>,
    quad: Option<&str>,
    projection: Option<&str>,
    embed: &str,
    importance: Option<PathBuf>,
    fallback: Option<&str>,
    overwrite: bool,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let formats = [
        ("sherry-1.25", TernaryFormat::Sherry),
        ("ternary-1.67", TernaryFormat::Ternary167),
        ("ternary-2", TernaryFormat::Ternary2),
    ];
    let format = one_of("format", format, &formats)?;
    let sherry = format == TernaryFormat::Sherry;
    let gguf = sherry_convert::container_of(&target) == Container::Gguf;
    let refuse = |problem: &str| Err(PyValueError::new_err(problem.to_owned()));
    if !sherry && quad.is_some() {
        return refuse("quad is for sherry-1.25");
    }
    if !sherry && importance.is_some() {
        return refuse("importance is for sherry-1.25");
    }
    if sherry && projection.is_some() {
        return refuse("projection is for ternary-1.67 and ternary-2; sherry-1.25 has its own");
    }
    if fallback.is_some() && !(sherry && gguf) {
        return refuse("fallback is for sherry-1.25 in GGUF files (a target that ends in .gguf)");
    }
    if group_size.is_some() && scale != Some("group") {
        return refuse("group_size needs scale='group'");
    }
    let base = if sherry && gguf { STQ1_0_SPEC } else { QuantSpec::sherry(ScaleGroup::Row) };
    let groups = group_size.unwrap_or(if format == TernaryFormat::Ternary167 { 96 } else { 128 });
    let scales = [("row", ScaleGroup::Row), ("group", ScaleGroup::Group(groups))];
    let projections =
        [("absmean", Projection::AbsMean), ("absmedian", Projection::AbsMedian), ("twn", Projection::Twn)];
    let orders = [("contiguous", QuadOrder::Contiguous), ("stride16", QuadOrder::Stride16)];
    let spec = QuantSpec {
        format,
        order: quad.map_or(Ok(if sherry { base.order } else { QuadOrder::Contiguous }), |quad| {
            one_of("quad", quad, &orders)
        })?,
        scale: scale.map_or(Ok(base.scale), |scale| one_of("scale", scale, &scales))?,
        projection: match sherry {
            true => base.projection,
            false => one_of("projection", projection.unwrap_or("absmean"), &projections)?,
        },
    };
    let (linears, embeddings) = (Linears::Packed(spec), one_of("embed", embed, &EMBEDDINGS)?);
    let fallback = fallback.map(|fallback| one_of("fallback", fallback, &FALLBACKS)).transpose()?;
    let request = Request { linears, embeddings, fallback, overwrite, ..Request::keep() };
    write(py, source, target, request, importance, progress)
}

/// Changes the container of a model: folder <-> GGUF (a target that ends in .gguf); packed weights keep every code.
/// Returns what was written, as a dict.
#[pyfunction]
#[pyo3(signature = (
    source, target, *, dtype = None, embed = "keep", fallback = None, stq_id = 43, overwrite = false, progress = None
))]
#[allow(clippy::too_many_arguments)] // they are keyword arguments
pub fn convert<'py>(
    py: Python<'py>,
    source: PathBuf,
    target: PathBuf,
    dtype: Option<&str>,
    embed: &str,
    fallback: Option<&str>,
    stq_id: u32,
    overwrite: bool,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let dtype = dtype.map(|dtype| one_of("dtype", dtype, &DENSE)).transpose()?;
    let request = Request {
        linears: dtype.map_or(Linears::Keep, Linears::Dense),
        embeddings: one_of("embed", embed, &EMBEDDINGS)?,
        fallback: fallback.map(|fallback| one_of("fallback", fallback, &FALLBACKS)).transpose()?,
        stq_id: match stq_id {
            43 => StqId::Id43,
            42 => StqId::Id42,
            other => return Err(PyValueError::new_err(format!("stq_id is {other}; expected 42 or 43"))),
        },
        overwrite,
        ..Request::keep()
    };
    write(py, source, target, request, None, progress)
}

fn write<'py>(
    py: Python<'py>,
    source: PathBuf,
    target: PathBuf,
    mut request: Request,
    importance: Option<PathBuf>,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let summary = long_job(py, progress, |progress| {
        let checkpoint = Checkpoint::open(&source, ReadMode::Map)?;
        if let Some(path) = &importance {
            request.importance = importance::read(path, checkpoint.config().family)?;
        }
        sherry_convert::convert(&checkpoint, &target, &request, progress, |_| {})
    })
    .map_err(|error| in_words_of_python(py, error))?;
    json::to_python(py, &document(&summary))
}

/// Options have other names here than on the command line.
fn in_words_of_python(py: Python<'_>, error: PyErr) -> PyErr {
    let message = error.value(py).to_string();
    match message.contains("--force replaces it") && error.is_instance_of::<PyValueError>(py) {
        true => pyo3::exceptions::PyFileExistsError::new_err(
            message.replace("--force replaces it", "overwrite=True replaces it"),
        ),
        false => error,
    }
}

fn document(summary: &Summary) -> serde_json::Value {
    let sizes = summary.sizes();
    json!({
        "path": summary.path.display().to_string(),
        "input_bytes": summary.input_bytes,
        "sizes": sizes,
        "linear_bits_per_weight": sizes.linear_bits_per_weight(),
        "bits_per_weight": sizes.bits_per_weight(),
        "notes": summary.notes,
        "tensors": summary.tensors,
    })
}

/// What is in a model, as a dict: configuration, sizes, tokenizer; with `tensors` and `metadata` lists of those, with `verify`
/// all that is wrong with its data, under "problems".
#[pyfunction]
#[pyo3(signature = (path, *, tensors = false, metadata = false, verify = false))]
pub fn inspect(
    py: Python<'_>,
    path: PathBuf,
    tensors: bool,
    metadata: bool,
    verify: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let listings = Listings { tensors, metadata };
    let report = long_job(py, None, |progress| {
        let checkpoint = match Checkpoint::open(&path, ReadMode::Map) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return report_file(&path, error, listings),
        };
        let mut report = sherry_convert::inspect::report(&checkpoint, listings);
        if verify {
            report["problems"] = json!(sherry_convert::inspect::problems(&checkpoint, progress)?);
        }
        Ok(report)
    })?;
    json::to_python(py, &report)
}

/// Whatever is in it, a sound GGUF file can be looked at.
fn report_file(path: &Path, problem: sherry::Error, listings: Listings) -> sherry::Result<serde_json::Value> {
    match GgufFile::open(path, ReadMode::Map) {
        Ok(file) => Ok(sherry_convert::inspect::report_file(&file, &problem, listings)),
        Err(_) => Err(problem),
    }
}
