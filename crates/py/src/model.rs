//! A model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use numpy::{IntoPyArray as _, PyArray1, PyArrayMethods as _};
use pyo3::exceptions::{PyFileNotFoundError, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sherry::generate::{Summation, TokenSet, token_scores};
use sherry::io::ReadMode;
use sherry::io::gguf::GgufFile;
use sherry::model::{Checkpoint, Decoder, Wanted};
use sherry::{BatchEngine, Isa, KvType, Llm, LoadOptions, Precision, Progress};
use sherry_kernels::Bytes;
use sherry_measure::eval::{Windows, perplexity};

use crate::desk::{Desk, STEP};
use crate::errors::exception;
use crate::json;
use crate::options::Options;
use crate::parts::{Parts, one_of};
use crate::process::PerProcess;
use crate::results;
use crate::sequence::{Direct, Sequence};
use crate::session::Session;
use crate::stream::{Source, Stream};
use crate::tokenizer::{Tokenizer, conversation};
use crate::work::{Watch, detached, long_job};

/// The model inside the wheel: a 1.25-bit GGUF file with its tokenizer.
static BUILTIN: &[u8] = include_bytes!("../model/sherry-tiny.gguf");
const BUILTIN_NAME: &str = "sherry-tiny";

/// A language model. It may be used by several threads at the same time: their generations run together.
#[pyclass(subclass, frozen, module = "sherry")]
pub struct Model {
    pub parts: Arc<Parts>,
    desk: PerProcess<Desk>,
}

impl Model {
    /// The engine of this process.
    fn desk(&self, py: Python<'_>) -> PyResult<Arc<Desk>> {
        let parts = &self.parts;
        let make = || BatchEngine::new(parts.decoder(), Arc::clone(&parts.tokenizer), parts.engine).map(Desk::new);
        self.desk.get(py, make).map_err(|error| exception(&error))
    }

    /// Starts a generation, and runs it to its end unless it is to be streamed.
    fn start<'py>(
        &self,
        py: Python<'py>,
        prompt: Vec<u32>,
        stream: bool,
        interval: f64,
        options: Options,
    ) -> PyResult<Bound<'py, PyAny>> {
        let desk = self.desk(py)?;
        let watch = Watch::new(py, options.stop_event.as_ref().map(|event| event.clone_ref(py)))?;
        let tokens = prompt.len();
        let source = match options.logits_processor {
            None => {
                let job = options.job(&prompt, &self.parts.end);
                let id = detached(py, || Ok(desk.submit(job)?))?;
                Source::Job(desk, id)
            }
            Some(_) => {
                let direct = detached(py, || {
                    let context = self.parts.engine.context;
                    if prompt.len() > context {
                        return Err(sherry::Error::ContextFull { needed: prompt.len(), capacity: context }.into());
                    }
                    let room = prompt.len().saturating_add(options.max_new_tokens.unwrap_or(context)).min(context);
                    let sequence = Arc::new(Sequence::new(&self.parts, desk, room.max(1))?);
                    Direct::new(sequence, prompt, options)
                })?;
                Source::Direct(Box::new(direct))
            }
        };
        let generation = Stream::new(source, tokens, watch, interval);
        match stream {
            true => Ok(Bound::new(py, generation)?.into_any()),
            false => generation.complete(py),
        }
    }

    /// Computes rows of logits, part by part; `take` gets each part's rows.
    fn forward(
        &self,
        py: Python<'_>,
        ids: &[u32],
        wanted: Wanted,
        mut take: impl FnMut(&Decoder, usize) + Send,
    ) -> PyResult<()> {
        let desk = self.desk(py)?;
        let mut watch = Watch::new(py, None)?;
        detached(py, || {
            if ids.is_empty() {
                return Err(sherry::Error::Invalid("the text has no tokens".to_owned()).into());
            }
            let mut cache = desk.cache(ids.len())?;
            for (index, part) in ids.chunks(STEP).enumerate() {
                desk.with_decoder(|decoder| {
                    decoder.forward_one(&mut cache, part, wanted)?;
                    take(decoder, index * STEP);
                    Ok::<(), sherry::Error>(())
                })?;
                watch.stopped()?;
            }
            Ok(())
        })
    }
}

#[pymethods]
impl Model {
    /// Opens a folder or a GGUF file; without `path` the model inside the wheel.
    #[new]
    #[pyo3(signature = (
        path = None, *, threads = None, context = None, kv = "f16", precision = "int8", head = "full", sequences = 4,
        isa = None, progress = None
    ))]
    #[allow(clippy::too_many_arguments)] // they are keyword arguments
    fn new(
        py: Python<'_>,
        path: Option<PathBuf>,
        threads: Option<usize>,
        context: Option<usize>,
        kv: &str,
        precision: &str,
        head: &str,
        sequences: usize,
        isa: Option<&str>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let kv =
            one_of("kv", kv, &[("f16", KvType::F16), ("f32", KvType::F32), ("q8", KvType::Q8), ("q4", KvType::Q4)])?;
        let precision = one_of("precision", precision, &[("int8", Precision::Int8), ("f32", Precision::F32)])?;
        let two_stage_head = one_of("head", head, &[("full", false), ("two-stage", true)])?;
        if threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            return Err(PyValueError::new_err("threads: expected 1 to 1024"));
        }
        if !(1..=256).contains(&sequences) {
            return Err(PyValueError::new_err("sequences: expected 1 to 256"));
        }
        let isa = isa.map(parse_isa).transpose()?;
        let options =
            LoadOptions { threads, isa, precision, kv, context, sequences, two_stage_head, ..LoadOptions::default() };
        if let Some(path) = path.as_deref().filter(|path| !path.exists()) {
            return Err(no_such_model(path));
        }
        let (parts, engine) = long_job(py, progress, |progress| open(path.as_deref(), &options, progress))?;
        Ok(Self { parts: Arc::new(parts), desk: PerProcess::with(Desk::new(engine)) })
    }

    /// Continues `prompt`: text, or token ids. With `stream` an iterator over pieces of text (at least `interval` seconds
    /// apart), otherwise a `Completion`.
    #[pyo3(signature = (prompt, *, stream = false, interval = 0.02, **options))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: &Bound<'py, PyAny>,
        stream: bool,
        interval: f64,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = Options::new(options, &self.parts)?;
        let prompt = self.parts.prompt(prompt)?;
        self.start(py, prompt, stream, interval, options)
    }

    /// Answers a conversation: a list of dicts with "role" and "content", which the model's chat template renders.
    /// `chat_template_kwargs` are further variables of the template. Otherwise as `generate`.
    #[pyo3(signature = (
        messages, *, tools = None, documents = None, chat_template_kwargs = None, stream = false, interval = 0.02, **options
    ))]
    #[allow(clippy::too_many_arguments)] // they are keyword arguments
    fn chat<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        tools: Option<&Bound<'py, PyAny>>,
        documents: Option<&Bound<'py, PyAny>>,
        chat_template_kwargs: Option<&Bound<'py, PyAny>>,
        stream: bool,
        interval: f64,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = Options::new(options, &self.parts)?;
        let conversation = conversation(messages, tools, documents, chat_template_kwargs)?;
        let prompt = detached(py, || {
            let prompt = conversation.render(&self.parts.tokenizer, true, false)?;
            Ok(prompt.encode(&self.parts.tokenizer)?)
        })?;
        self.start(py, prompt, stream, interval, options)
    }

    /// Logits of what comes after each token: float32 [tokens, vocabulary]; with `last` of what comes after all: [vocabulary].
    #[pyo3(signature = (prompt, *, last = false))]
    fn logits<'py>(&self, py: Python<'py>, prompt: &Bound<'py, PyAny>, last: bool) -> PyResult<Bound<'py, PyAny>> {
        let ids = self.parts.prompt(prompt)?;
        let vocab = self.parts.vocab();
        let rows = if last { 1 } else { ids.len() };
        let mut values: Vec<f32> = Vec::new();
        let room = rows.checked_mul(vocab).filter(|size| fits(*size, 4) && values.try_reserve_exact(*size).is_ok());
        if room.is_none() {
            return Err(PyMemoryError::new_err(format!(
                "not enough memory for {rows} x {vocab} logits; last=True gives those of the last token alone"
            )));
        }
        let wanted = if last { Wanted::Last } else { Wanted::All };
        self.forward(py, &ids, wanted, |decoder, _| {
            let rows = decoder.logits();
            if last {
                values.clear();
            }
            (0..rows.rows()).for_each(|row| values.extend_from_slice(rows.row(row)));
        })?;
        let array = values.into_pyarray(py);
        match last {
            true => Ok(array.into_any()),
            false => Ok(array.reshape([rows, vocab])?.into_any()),
        }
    }

    /// Natural log-probabilities of all tokens but the first, each given those before it: float64 [tokens - 1].
    fn log_probs<'py>(&self, py: Python<'py>, prompt: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let ids = self.parts.prompt(prompt)?;
        let mut scores = Vec::with_capacity(ids.len());
        if let Some((_, inputs)) = ids.split_last().filter(|(_, inputs)| !inputs.is_empty()) {
            self.forward(py, inputs, Wanted::All, |decoder, start| {
                let rows = decoder.logits();
                let rows: Vec<(&[f32], u32)> =
                    (0..rows.rows()).map(|row| rows.row(row)).zip(ids[start + 1..].iter().copied()).collect();
                let scored = token_scores(decoder.engine().pool(), &rows, Summation::Exact);
                scores.extend(scored.iter().map(|score| score.logprob));
            })?;
        }
        Ok(scores.into_pyarray(py))
    }

    /// Perplexity of a text in windows of `window` tokens that do not overlap.
    #[pyo3(signature = (text, *, window = 512, progress = None))]
    fn perplexity<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        window: usize,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let found = long_job(py, progress, |progress| {
            perplexity(&mut self.parts.lm(), text, Windows::Disjoint { size: window }, progress, &mut |_, _| {})
        })?;
        results::perplexity(py, found.value(), found.stderr(), found.tokens)
    }

    /// A sequence with a cache of its own, for up to `context` tokens.
    #[pyo3(signature = (*, context = None))]
    fn session(&self, py: Python<'_>, context: Option<usize>) -> PyResult<Session> {
        let desk = self.desk(py)?;
        let context = context.unwrap_or(self.parts.engine.context);
        let sequence = detached(py, || Ok(Sequence::new(&self.parts, desk, context)?))?;
        Ok(Session::new(sequence, Arc::clone(&self.parts)))
    }

    /// The tokenizer.
    #[getter]
    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::new(Arc::clone(&self.parts.tokenizer), Arc::clone(&self.parts.end))
    }

    /// The model's config.json.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::to_python(py, &self.parts.config)
    }

    /// Where it was loaded from; None for the model inside the wheel.
    #[getter]
    fn path(&self) -> Option<&Path> {
        Some(self.parts.path.as_path()).filter(|path| *path != Path::new(BUILTIN_NAME))
    }

    /// Most tokens of prompt and answer together.
    #[getter]
    fn context(&self) -> usize {
        self.parts.engine.context
    }

    /// Bytes of the weights in memory.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.parts.model.weights.bytes()
    }

    /// Bits per weight of the linear layers as they are stored, scales included.
    #[getter]
    fn bits_per_weight(&self) -> f64 {
        self.parts.sizes.linear_bits_per_weight()
    }

    /// The instruction set of its kernels.
    #[getter]
    fn isa(&self) -> String {
        self.parts.isa.to_string()
    }

    /// Threads it computes on.
    #[getter]
    fn threads(&self) -> usize {
        self.parts.threads
    }

    fn __repr__(&self) -> String {
        format!("<sherry.Model {}: {}>", self.parts.path.display(), self.parts.description)
    }
}

/// Opens and loads a model.
fn open(path: Option<&Path>, options: &LoadOptions, progress: &dyn Progress) -> sherry::Result<(Parts, BatchEngine)> {
    let checkpoint = match path {
        Some(path) => Checkpoint::open(path, ReadMode::Map)?,
        None => {
            let file = GgufFile::from_bytes(BUILTIN_NAME, Bytes::new(Arc::new(BUILTIN)))?;
            Checkpoint::from_gguf(Path::new(BUILTIN_NAME), file)?
        }
    };
    let llm = Llm::from_checkpoint(&checkpoint, options, progress)?;
    let vocab = llm.decoder().config().vocab;
    let usable = TokenSet::of(vocab, |id| llm.tokenizer().is_token(id));
    let end = llm.end_ids().into();
    let engine = llm.into_engine();
    let decoder = engine.decoder();
    let kernels = decoder.engine();
    let parts = Parts {
        model: Arc::clone(decoder.model()),
        tokenizer: Arc::clone(engine.tokenizer()),
        generation: checkpoint.generation().clone(),
        end,
        usable: Some(usable).filter(|usable| usable.count() < usable.len()).map(Arc::new),
        engine: *engine.options(),
        threads: kernels.pool().threads(),
        isa: kernels.isa(),
        precision: options.precision,
        path: checkpoint.path().to_path_buf(),
        description: checkpoint.describe(),
        // A GGUF file may hold what config.json has no words for.
        config: checkpoint.config_json().unwrap_or_default(),
        sizes: sherry_convert::sizes_of(&checkpoint),
    };
    Ok((parts, engine))
}

/// An instruction set that this processor has.
fn parse_isa(name: &str) -> PyResult<Isa> {
    let available: Vec<(String, Isa)> =
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(|isa| (isa.to_string(), isa)).collect();
    let available: Vec<(&str, Isa)> = available.iter().map(|(name, isa)| (name.as_str(), *isa)).collect();
    one_of("isa", name, &available)
}

/// Whether so many elements of `size` bytes are less than the memory there is.
fn fits(elements: usize, size: u64) -> bool {
    sherry::available_memory().is_none_or(|available| (elements as u64).saturating_mul(size) < available)
}

fn no_such_model(path: &Path) -> PyErr {
    let shown = path.display();
    let hint = match path.components().count() <= 2 && path.extension().is_none() && !path.is_absolute() {
        true => format!("; models have to be on this machine: `sherry pull {shown}` gets it from the hub"),
        false => String::new(),
    };
    PyFileNotFoundError::new_err(format!("{shown}: no such file or folder{hint}"))
}
