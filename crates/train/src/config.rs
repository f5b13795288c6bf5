//! The configuration of a run: a TOML file with `key=value` overrides.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sherry::tokenizer::Learner;
use sherry_kernels::format::QuadOrder;
use sherry_sgemm::MatmulPrecision;

use crate::adamw::AdamW;
use crate::checkpoint::State;
use crate::config_error::{explain, misspelt};
use crate::error::{Error, Result};
use crate::loss::{Divergence, Mix};
use crate::methods::{Method, Quantizer, Scale};
use crate::schedule::{Arenas, ArenasShape, Rate, RateShape};

/// Everything a run depends on.
///
/// ```
/// use sherry_train::Config;
///
/// let text = r#"
///     steps = 10
///     model = { hidden = 64, ffn = 128, layers = 2, heads = 4 }
///     optimizer = { lr = 1e-3 }
///     batch = { length = 32, size = 2 }
///     data = { train = ["my.txt"], tokenizer = "bytes" }
/// "#;
/// let config = Config::parse("run.toml".as_ref(), text, &["optimizer.lr=3e-3".to_owned()])?;
/// assert_eq!((config.steps, config.optimizer.lr), (10, 3e-3));
/// let error = Config::parse("run.toml".as_ref(), text, &["steps=0".to_owned()]).unwrap_err();
/// assert!(error.to_string().contains("'steps'"));
/// # Ok::<(), sherry_train::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Optimizer steps in all.
    pub steps: u64,
    /// Seed of initial weights and data order.
    #[serde(default = "one")]
    pub seed: u64,
    /// Threads; 0: all processors. The same number gives the same bits.
    #[serde(default)]
    pub threads: usize,
    /// How exact matrix products are.
    #[serde(default)]
    pub matmul_precision: MatmulPrecision,
    /// The model.
    pub model: Model,
    /// How its linear layers are quantized.
    #[serde(default)]
    pub quantizer: QuantizerConfig,
    /// The Arenas schedule.
    #[serde(default)]
    pub arenas: ArenasConfig,
    /// AdamW and the learning rate.
    pub optimizer: Optimizer,
    /// Batches.
    pub batch: Batch,
    /// Text.
    pub data: Data,
    /// The loss.
    #[serde(default)]
    pub loss: Loss,
    /// Saving.
    #[serde(default)]
    pub checkpoint: Saving,
    /// Measuring.
    #[serde(default)]
    pub metrics: Metrics,
}

/// A model to continue from, or the shape of a new one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Hugging Face folder or GGUF file to continue from; nothing else may be given then.
    pub from: Option<PathBuf>,
    /// What blocks consist of; default: llama.
    pub family: Option<Family>,
    /// Width of the residual stream.
    pub hidden: Option<usize>,
    /// Width of the feed-forward.
    pub ffn: Option<usize>,
    /// Blocks.
    pub layers: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    /// Key and value heads; default: as many as query heads.
    pub kv_heads: Option<usize>,
    /// Components per head; default: hidden / heads.
    pub head_dim: Option<usize>,
    /// Rows of the embedding; default: the tokenizer's vocabulary.
    pub vocab: Option<usize>,
    /// Whether the head is the embedding; default: yes.
    pub tied: Option<bool>,
    /// Base of the rotary frequencies; default 10000 for llama, 1000000 for the others. Layers of gemma3 with a window
    /// always have 10000.
    pub rope_theta: Option<f32>,
    /// Epsilon of the norms; default 1e-5 for llama, 1e-6 for the others.
    pub norm_eps: Option<f32>,
    /// Positions that a layer with a window sees, gemma3 only; default 512.
    pub window: Option<usize>,
    /// Every how many layers one has no window, gemma3 only; default 6.
    pub window_pattern: Option<usize>,
}

/// Model families that can be trained from scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// LLaMA 3.
    #[default]
    Llama,
    /// LLaMA with norms of query and key heads.
    Qwen3,
    /// Qwen3 with GELU, sliding windows, scaled embeddings and norms of what a block adds to the residual stream.
    Gemma3,
}

/// See [`Quantizer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizerConfig {
    /// none, sherry, absmean, absmedian, twn, binary, lsq, seq, dlt or tequila.
    pub method: Method,
    /// row, group or tensor.
    pub scale: Scale,
    /// Weights per group.
    pub group_size: usize,
    /// contiguous, or stride16 for models that become STQ1_0 files.
    pub quads: Quads,
    /// Weight of the zeroed weights in Tequila's bias.
    pub tequila: f32,
}

/// Which inputs form a quad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quads {
    /// Four neighbours.
    Contiguous,
    /// Every sixteenth of 64.
    Stride16,
}

impl Default for QuantizerConfig {
    fn default() -> Self {
        Self { method: Method::Sherry, scale: Scale::Row, group_size: 128, quads: Quads::Contiguous, tequila: 1e-3 }
    }
}

impl QuantizerConfig {
    /// The quantizer.
    pub fn build(&self) -> Quantizer {
        let quads = match self.quads {
            Quads::Contiguous => QuadOrder::Contiguous,
            Quads::Stride16 => QuadOrder::Stride16,
        };
        Quantizer { method: self.method, scale: self.scale, group_size: self.group_size, quads, tequila: self.tequila }
    }
}

/// See [`Arenas`]; shares are of all steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArenasConfig {
    /// off, linear, cosine or exponential.
    pub shape: ArenasShape,
    /// Highest lambda.
    pub lambda_max: f64,
    /// Share of linear warm-up.
    pub warmup: f64,
    /// Share at the end where lambda is exactly zero.
    pub tail: f64,
}

impl Default for ArenasConfig {
    fn default() -> Self {
        Self { shape: ArenasShape::Cosine, lambda_max: 1.0, warmup: 0.1, tail: 0.02 }
    }
}

/// See [`AdamW`] and [`Rate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate at the end.
    #[serde(default)]
    pub min_lr: f64,
    /// constant, cosine or wsd.
    #[serde(default = "cosine")]
    pub schedule: RateShape,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// Share of all steps over which wsd decays.
    #[serde(default = "fifth")]
    pub decay: f64,
    /// Decay of the mean of gradients.
    #[serde(default = "beta1")]
    pub beta1: f32,
    /// Decay of the mean of squares.
    #[serde(default = "beta2")]
    pub beta2: f32,
    /// Added to the root.
    #[serde(default = "adam_eps")]
    pub eps: f32,
    /// Weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f32,
    /// Largest gradient norm; 0: no clipping.
    #[serde(default = "clip")]
    pub clip: f32,
}

/// Batches of one optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Tokens per sequence.
    pub length: usize,
    /// Sequences per pass.
    pub size: usize,
    /// Passes whose gradients are added up.
    #[serde(default = "one_usize")]
    pub accumulate: usize,
    /// Compute a block's intermediates again in backward: less memory, a third more time.
    #[serde(default)]
    pub recompute: bool,
    /// Attention does not cross from one document of a sequence into another.
    #[serde(default)]
    pub document_mask: bool,
}

/// Text and how it becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Text, JSONL or Parquet files (`.txt`, `.jsonl`, plain, `.gz` or `.zst`; `.parquet`), or patterns such as
    /// `shards/*.parquet` for all files of such names, in the order of their names.
    pub train: Vec<PathBuf>,
    /// The same for validation; never trained on.
    #[serde(default)]
    pub valid: Vec<PathBuf>,
    /// In place of `valid`: the share of the documents of `train` that is held out for validation, chosen by a hash of the
    /// document's text.
    #[serde(default)]
    pub valid_fraction: f64,
    /// Training text ends with the document that reaches so many tokens.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Where tokens come from; default: the tokenizer of `model.from`.
    #[serde(default)]
    pub tokenizer: Option<TokenizerChoice>,
    /// The field of a JSONL line, or the Parquet column, that holds the text.
    #[serde(default = "text")]
    pub text_field: String,
    /// Folder for tokenized data; default: `data` in the run folder.
    #[serde(default)]
    pub cache: Option<PathBuf>,
}

/// A tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "must be a path, \"bytes\" or { vocab = N }")]
pub enum TokenizerChoice {
    /// A folder or file with a tokenizer, or "bytes".
    Path(PathBuf),
    /// Learned from the training text.
    Learned {
        /// Tokens in all.
        vocab: usize,
    },
}

/// The mix of losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Weight of the cross entropy.
    pub cross_entropy: f32,
    /// Weight of the divergence from the teacher.
    pub distillation: f32,
    /// forward, reverse, cakld or top-k.
    pub divergence: Divergence,
    /// Tokens kept by top-k.
    pub top_k: usize,
    /// The teacher: Hugging Face folder or GGUF file.
    pub teacher: Option<PathBuf>,
}

impl Default for Loss {
    fn default() -> Self {
        Self { cross_entropy: 1.0, distillation: 0.0, divergence: Divergence::Cakld, top_k: 64, teacher: None }
    }
}

/// Checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Saving {
    /// Steps between checkpoints.
    pub every: u64,
    /// Checkpoints kept besides the best.
    pub keep: usize,
}

impl Default for Saving {
    fn default() -> Self {
        Self { every: 500, keep: 2 }
    }
}

/// Measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Steps between metric lines.
    pub every: u64,
    /// Steps between effective ranks, valley shares and flip rates; 0: never.
    pub probe_every: u64,
    /// Steps between validations; 0: only at the end.
    pub valid_every: u64,
    /// Most validation sequences; 0: all.
    pub valid_sequences: usize,
    /// Whether event files for TensorBoard are written beside `metrics.jsonl`.
    pub tensorboard: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { every: 10, probe_every: 100, valid_every: 200, valid_sequences: 256, tensorboard: true }
    }
}

fn one() -> u64 {
    1
}
fn one_usize() -> usize {
    1
}
fn cosine() -> RateShape {
    RateShape::Cosine
}
fn fifth() -> f64 {
    0.2
}
fn beta1() -> f32 {
    0.9
}
fn beta2() -> f32 {
    0.95
}
fn adam_eps() -> f32 {
    1e-8
}
fn clip() -> f32 {
    1.0
}
fn text() -> String {
    "text".to_owned()
}

impl Config {
    /// Reads `path` and applies `overrides` such as `optimizer.lr=1e-3` (a value that is not TOML counts as a string).
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let bytes = sherry::io::read_regular(path, sherry::io::json::MAX_JSON_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| sherry::Error::malformed(path, "file", "is not UTF-8"))?;
        Self::parse(path, &text, overrides)
    }

    /// Like [`load`](Self::load) for the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, text: &str, overrides: &[String]) -> Result<Self> {
        let error = |problem: String| Error::Config { path: path.to_path_buf(), problem };
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(misspelt(text, &e)))?;
        for entry in overrides {
            let Some((key, value)) = entry.split_once('=') else {
                return Err(error(format!("override '{entry}' is not KEY=VALUE")));
            };
            let parsed = format!("x = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("x"));
            let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
            set(&mut table, key, value).map_err(|at| error(format!("override '{entry}': '{at}' is not a section")))?;
        }
        let config: Self = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
            let at = if e.path().iter().len() == 0 { String::new() } else { e.path().to_string() };
            error(explain(&at, e.inner().message(), &Self::fields()))
        })?;
        match config.problem() {
            Some((field, problem)) => Err(error(format!("field '{field}': {problem}"))),
            None => Ok(config),
        }
    }

    /// The dotted names of all fields.
    fn fields() -> Vec<String> {
        fn add(path: &str, value: &Value, fields: &mut Vec<String>) {
            for (key, value) in value.as_object().into_iter().flatten() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                add(&path, value, fields);
                fields.push(path);
            }
        }
        let smallest = "steps = 1\nmodel = {}\noptimizer = { lr = 1.0 }\nbatch = { length = 1, size = 1 }\n\
                        data = { train = [] }";
        let config: Option<Self> = toml::from_str(smallest).ok();
        let mut fields = Vec::new();
        add("", &serde_json::to_value(config).unwrap_or_default(), &mut fields);
        fields
    }

    /// The first field that is out of range and why.
    fn problem(&self) -> Option<(&'static str, String)> {
        let zero = [
            ("steps", self.steps == 0),
            ("batch.length", self.batch.length == 0),
            ("batch.size", self.batch.size == 0),
            ("batch.accumulate", self.batch.accumulate == 0),
            ("checkpoint.every", self.checkpoint.every == 0),
            ("checkpoint.keep", self.checkpoint.keep == 0),
            ("metrics.every", self.metrics.every == 0),
        ];
        if let Some((field, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Some((field, "must be at least 1".to_owned()));
        }
        let tokens = self.batch.length.checked_mul(self.batch.size).and_then(|n| n.checked_mul(self.batch.accumulate));
        if tokens.is_none_or(|n| n > 1 << 30) {
            return Some(("batch.size", "a step of more than 2^30 tokens".to_owned()));
        }
        if self.threads > 4096 {
            return Some(("threads", format!("is {}, at most 4096", self.threads)));
        }
        let optimizer = &self.optimizer;
        let within = [
            ("optimizer.lr", optimizer.lr, 0.0, 1e3),
            ("optimizer.min_lr", optimizer.min_lr, 0.0, optimizer.lr),
            ("optimizer.decay", optimizer.decay, 0.0, 1.0),
            ("optimizer.beta1", f64::from(optimizer.beta1), 0.0, 0.999_999),
            ("optimizer.beta2", f64::from(optimizer.beta2), 0.0, 0.999_999_9),
            ("optimizer.eps", f64::from(optimizer.eps), 0.0, 1.0),
            ("optimizer.weight_decay", f64::from(optimizer.weight_decay), 0.0, 1e3),
            ("optimizer.clip", f64::from(optimizer.clip), 0.0, 1e30),
            ("arenas.lambda_max", self.arenas.lambda_max, 0.0, 1e3),
            ("arenas.warmup", self.arenas.warmup, 0.0, 1.0),
            ("arenas.tail", self.arenas.tail, 0.0, 1.0),
            ("quantizer.tequila", f64::from(self.quantizer.tequila), 0.0, 1.0),
            ("data.valid_fraction", self.data.valid_fraction, 0.0, 0.5),
            ("loss.cross_entropy", f64::from(self.loss.cross_entropy), 0.0, 1e6),
            ("loss.distillation", f64::from(self.loss.distillation), 0.0, 1e6),
        ];
        for (field, value, low, high) in within {
            if !(value >= low && value <= high) {
                return Some((field, format!("is {value}, must be between {low} and {high}")));
            }
        }
        if self.loss.distillation > 0.0 && self.loss.teacher.is_none() {
            return Some(("loss.teacher", "missing, but loss.distillation is above 0".to_owned()));
        }
        if self.loss.cross_entropy == 0.0 && self.loss.distillation == 0.0 {
            return Some(("loss.cross_entropy", "no loss at all: it and loss.distillation are 0".to_owned()));
        }
        if self.loss.top_k == 0 {
            return Some(("loss.top_k", "must be at least 1".to_owned()));
        }
        if self.data.train.is_empty() {
            return Some(("data.train", "names no file".to_owned()));
        }
        if let Some(TokenizerChoice::Learned { vocab }) = self.data.tokenizer
            && !Learner::VOCAB.contains(&vocab)
        {
            let (low, high) = (Learner::VOCAB.start(), Learner::VOCAB.end());
            return Some(("data.tokenizer.vocab", format!("is {vocab}, must be between {low} and {high}")));
        }
        if self.data.valid_fraction > 0.0 && !self.data.valid.is_empty() {
            let problem = "data.valid names validation text already: give one of them";
            return Some(("data.valid_fraction", problem.to_owned()));
        }
        if self.data.max_tokens.is_some_and(|tokens| tokens < 2) {
            return Some(("data.max_tokens", "must be at least 2".to_owned()));
        }
        if let Some(path) = self.data.valid.iter().find(|path| self.data.train.contains(path)) {
            return Some(("data.valid", format!("{} is also trained on", path.display())));
        }
        self.model_problem()
    }

    fn model_problem(&self) -> Option<(&'static str, String)> {
        let model = &self.model;
        let sizes = [
            ("model.hidden", model.hidden, true),
            ("model.ffn", model.ffn, true),
            ("model.layers", model.layers, true),
            ("model.heads", model.heads, true),
            ("model.kv_heads", model.kv_heads, false),
            ("model.head_dim", model.head_dim, false),
            ("model.vocab", model.vocab, false),
            ("model.window", model.window, false),
            ("model.window_pattern", model.window_pattern, false),
        ];
        if let Some(from) = &model.from {
            let other = sizes.into_iter().find(|(_, size, _)| size.is_some());
            let other = other.map(|(field, ..)| field).or(model.tied.map(|_| "model.tied"));
            let other = other.or(model.family.map(|_| "model.family"));
            let other = other.or(model.rope_theta.map(|_| "model.rope_theta"));
            let other = other.or(model.norm_eps.map(|_| "model.norm_eps"))?;
            return Some((other, format!("given although the model comes from {}", from.display())));
        }
        for (field, size, needed) in sizes {
            match size {
                None if needed => return Some((field, "missing (or give model.from)".to_owned())),
                Some(0) => return Some((field, "must be at least 1".to_owned())),
                Some(size) if size > 1 << 22 => return Some((field, format!("{size} is absurd"))),
                _ => {}
            }
        }
        let windows = [("model.window", model.window), ("model.window_pattern", model.window_pattern)];
        if model.family != Some(Family::Gemma3)
            && let Some((field, _)) = windows.into_iter().find(|(_, value)| value.is_some())
        {
            return Some((field, "only model.family gemma3 has windows".to_owned()));
        }
        let (hidden, heads) = (model.hidden?, model.heads?);
        let kv_heads = model.kv_heads.unwrap_or(heads);
        if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
            return Some(("model.kv_heads", format!("{kv_heads} does not divide the {heads} heads")));
        }
        if model.head_dim.is_none() && !hidden.is_multiple_of(heads) {
            return Some(("model.heads", format!("{heads} does not divide hidden {hidden}; give model.head_dim")));
        }
        let head_dim = model.head_dim.unwrap_or(hidden / heads);
        if !head_dim.is_multiple_of(2) {
            return Some(("model.head_dim", format!("{head_dim} is odd; rotation needs pairs")));
        }
        None
    }

    /// The learning rate's schedule.
    pub fn rate(&self) -> Rate {
        let o = &self.optimizer;
        Rate { shape: o.schedule, peak: o.lr, minimum: o.min_lr, warmup: o.warmup, decay: o.decay }
    }

    /// Lambda's schedule; off for full precision.
    pub fn arenas(&self) -> Arenas {
        let a = &self.arenas;
        let shape = if self.quantizer.method == Method::None { ArenasShape::Off } else { a.shape };
        Arenas { shape, peak: a.lambda_max, warmup: a.warmup, tail: a.tail }
    }

    /// The optimizer's constants.
    pub fn adamw(&self) -> AdamW {
        let o = &self.optimizer;
        AdamW { beta1: o.beta1, beta2: o.beta2, eps: o.eps, weight_decay: o.weight_decay, clip: o.clip }
    }

    /// The mix of losses.
    pub fn mix(&self) -> Mix {
        let Loss { cross_entropy, distillation, divergence, top_k, .. } = self.loss;
        Mix { cross_entropy, distillation, divergence, top_k }
    }

    /// Refuses to go on from a checkpoint of another run: `state` is what the checkpoint `path` says.
    ///
    /// # Errors
    /// [`Error::Changed`] with the first differing field; [`Error::Checkpoint`] when the checkpoint's configuration has
    /// fields that this version does not know.
    pub fn resumes(&self, path: &Path, state: &State) -> Result<()> {
        // Compared by meaning: fields that a version before did not write have the values that they had then.
        let was: Self = serde_json::from_value(state.config.clone()).map_err(|error| {
            Error::checkpoint(path, format!("its configuration is not one of this version of the program: {error}"))
        })?;
        let was_from = was.model.from.is_some();
        let [was, now] = [&was, self].map(|config| serde_json::to_value(config).unwrap_or_default());
        let is_free = |field: &str| match field {
            "threads" | "checkpoint" | "metrics" | "data.cache" => true,
            // Contents are compared, whatever their names, where the checkpoint says what they were.
            "data.train" => true,
            "model.from" => self.model.from.is_some() && was_from,
            "data.valid" => state.valid.is_some(),
            "loss.teacher" => state.teacher.is_some(),
            _ => false,
        };
        match first_difference("", &was, &now, &is_free) {
            Some((field, was, now)) => Err(Error::Changed { path: path.to_path_buf(), field, was, now }),
            None => Ok(()),
        }
    }
}

/// The first field that differs, with both values.
fn first_difference(
    path: &str,
    was: &Value,
    now: &Value,
    is_free: &dyn Fn(&str) -> bool,
) -> Option<(String, String, String)> {
    if is_free(path) || was == now {
        return None;
    }
    if let (Some(a), Some(b)) = (was.as_object(), now.as_object()) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        return keys.into_iter().find_map(|key| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let of = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
            first_difference(&path, &of(a), &of(b), is_free)
        });
    }
    Some((path.to_owned(), was.to_string(), now.to_string()))
}

/// Sets the dotted `key`; the error is the part that is no table.
fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match entry {
                toml::Value::Table(inner) => set(inner, rest, value),
                _ => Err(section.to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
