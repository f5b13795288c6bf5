//! A stored model, opened and checked but not yet loaded.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sherry_kernels::format::TensorType;
use sherry_kernels::{Pool, TernaryBits};

use super::bitnet::BitNetScheme;
use super::doubts;
use super::mlx::MlxScheme;
use super::names::{Naming, Role};
use super::{
    ArchConfig, Family, GenerationConfig, KvCache, KvType, Model, Stored, TensorMap, Weights, config_gguf, config_hf,
};
use crate::chat::Preset;
use crate::io::gguf::GgufFile;
use crate::io::json;
use crate::io::native::PackedScheme;
use crate::io::safetensors::Safetensors;
use crate::io::{ModelFiles, ReadMode, TensorSource};
use crate::tokenizer::Tokenizer;
use crate::{Error, Progress, Result};

/// A model on disk whose configuration and tensors have been checked against each other.
///
/// ```
/// use sherry::io::ReadMode;
/// use sherry::model::Checkpoint;
/// # use sherry::model::{Family, config_hf, names::Naming, synthetic};
/// # let (folder, config) = (tempfile::tempdir().unwrap(), synthetic::tiny(Family::Llama));
/// # synthetic::source(&config, Naming::HuggingFace, 1).save(&folder.path().join("model.safetensors"))?;
/// # std::fs::write(folder.path().join("config.json"), config_hf::write(&config).unwrap().to_string()).unwrap();
/// # let path = folder.path();
/// let checkpoint = Checkpoint::open(path, ReadMode::Map)?; // a folder or a GGUF file
/// println!("{}, {} layers", checkpoint.describe(), checkpoint.config().layers);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: ArchConfig,
    tensors: TensorMap,
    container: Container,
    generation: GenerationConfig,
}

/// What the model is stored in.
#[derive(Debug)]
pub enum Container {
    /// A folder with `config.json` and safetensors.
    HuggingFace {
        /// All files.
        files: ModelFiles,
        /// The tensors.
        source: Safetensors,
        /// `config.json`.
        config: Value,
        /// How linear layers are packed, in a native 1.25-bit (or baseline ternary) checkpoint.
        packed: Option<PackedScheme>,
    },
    /// A GGUF file, or all parts of a split one.
    Gguf(GgufFile),
}

/// Memory a model takes to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Bytes of all weights in the form they run in.
    pub weights: u64,
    /// Bytes of the KV caches.
    pub kv_cache: u64,
}

impl MemoryEstimate {
    /// Both together; saturates.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache)
    }

    /// Refuses a model that does not fit into `available` bytes, before anything is loaded.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the size needed.
    pub fn check(&self, available: u64) -> Result<()> {
        if self.total() <= available {
            return Ok(());
        }
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let what = format!(
            "{:.2} GiB of weights and {:.2} GiB of KV cache ({:.2} GiB are available; a shorter context needs less)",
            gib(self.weights),
            gib(self.kv_cache),
            gib(available)
        );
        Err(Error::OutOfMemory { what, needed: self.total() })
    }
}

impl Checkpoint {
    /// Opens a Hugging Face folder (dense or native packed) or a GGUF file and checks every tensor's presence, type and
    /// shape against the configuration.
    ///
    /// # Errors
    /// Whatever is wrong with a file, naming it and the place; [`Error::Unsupported`] for models this program does not
    /// run and for paths that are neither.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(ModelFiles::Folder { path: path.to_path_buf(), mode });
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "safetensors" => {
                let what =
                    "a .safetensors file alone does not say what model it is; give the folder with its config.json";
                Err(Error::unsupported(path, what))
            }
            "json" => Err(Error::unsupported(path, "is not a model; give the folder it is in")),
            _ => Self::open_gguf(path, mode),
        }
    }

    /// [`open`](Self::open) of files that may be anywhere: those of a folder, or one GGUF file or all parts of a split one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_files(files: ModelFiles) -> Result<Self> {
        let ModelFiles::Parts { parts, .. } = &files else { return Self::open_folder(files) };
        // The first part of a split file comes first; a file alone may have any name.
        let gguf = parts.keys().find(|name| parts.len() == 1 || name.to_ascii_lowercase().ends_with(".gguf"));
        match gguf {
            Some(name) if !files.contains("config.json") => {
                Self::from_gguf(&files.path().join(name), GgufFile::open_among(&files, name)?)
            }
            _ => Self::open_folder(files),
        }
    }

    fn open_folder(files: ModelFiles) -> Result<Self> {
        let folder = files.path();
        let config_path = folder.join("config.json");
        if !files.contains("config.json") {
            return Err(Error::unsupported(folder, "the folder has no config.json, so it is not a model"));
        }
        let value = json::read_among(&files, "config.json")?;
        let config = config_hf::parse(&config_path, &value)?;
        let bitnet = BitNetScheme::from_config(&config_path, &value, config.family)?;
        let mlx = if bitnet.is_some() { None } else { MlxScheme::from_config(&config_path, &value)? };
        let unpacked = bitnet.is_some() || mlx.is_some();
        let packed = if unpacked { None } else { PackedScheme::from_config(&config_path, &value)? };
        let generation = generation_of_folder(&files, &config_path, &value);
        let source = Safetensors::open_among(&files)?;
        let tensors = match (bitnet, mlx) {
            (Some(scheme), _) => TensorMap::of_bitnet(&source, &config, scheme)?,
            (None, Some(scheme)) => TensorMap::of_mlx(&source, &config, scheme)?,
            (None, None) => TensorMap::new(&source, &config, Naming::HuggingFace, packed)?,
        };
        let path = folder.to_path_buf();
        let container = Container::HuggingFace { files, source, config: value, packed };
        Ok(Self { path, config, tensors, container, generation })
    }

    fn open_gguf(path: &Path, mode: ReadMode) -> Result<Self> {
        Self::from_gguf(path, GgufFile::open(path, mode)?)
    }

    /// The model in an opened GGUF file, checked as by [`open`](Self::open); `path` stands in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_gguf(path: &Path, file: GgufFile) -> Result<Self> {
        let config = config_gguf::parse(file.metadata(), &file)?;
        let tensors = TensorMap::new(&file, &config, Naming::Gguf, None)?;
        let generation = GenerationConfig::from_gguf(file.metadata());
        Ok(Self { path: path.to_path_buf(), config, tensors, container: Container::Gguf(file), generation })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &ArchConfig {
        &self.config
    }

    /// What the model is stored in.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// The stored tensors.
    pub fn source(&self) -> &dyn TensorSource {
        match &self.container {
            Container::HuggingFace { source, .. } => source,
            Container::Gguf(file) => file,
        }
    }

    /// Which names the tensors have.
    pub fn naming(&self) -> Naming {
        match self.container {
            Container::HuggingFace { .. } => Naming::HuggingFace,
            Container::Gguf(_) => Naming::Gguf,
        }
    }

    /// The tensors by role.
    pub fn tensors(&self) -> &TensorMap {
        &self.tensors
    }

    /// Recommendations for generation, and what could not be understood of them.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The tokenizer stored with the model, chat template included.
    ///
    /// # Errors
    /// When there is none, or it is damaged or of an unsupported kind.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let mut tokenizer = match &self.container {
            Container::HuggingFace { files, .. } => Tokenizer::from_files(files)?,
            Container::Gguf(file) => Tokenizer::from_metadata(file.metadata(), self.default_pre())?
                .ok_or_else(|| Error::malformed(&self.path, "key 'tokenizer.ggml.model'", "missing: no tokenizer"))?,
        };
        let is_bitnet = match tokenizer.chat_template() {
            // The file of BitNet-b1.58-2B-4T holds a template that ends the prompt with the end of text.
            Some(template) => template.contains("BITNETAssistant"),
            // The first models of this family were not made for conversations and have another vocabulary.
            None => self.config.family == Family::BitNet && Preset::detect(&tokenizer) == Some(Preset::Llama3),
        };
        if is_bitnet {
            tokenizer.set_chat_template(Some(Preset::BitNet.source().to_owned()));
        }
        Ok(tokenizer)
    }

    /// How a GGUF file that does not say it cuts text. The published BitNet has LLaMA 3's vocabulary and does not say so.
    fn default_pre(&self) -> Option<&'static str> {
        (self.config.family == Family::BitNet).then_some("llama-bpe")
    }

    /// One line: "HF folder, LlamaForCausalLM, 16 layers, 1.24 B parameters, BF16, tied embeddings".
    pub fn describe(&self) -> String {
        let container = match &self.container {
            Container::HuggingFace { .. } => "HF folder",
            Container::Gguf(_) => "GGUF file",
        };
        let family = match self.config.family {
            Family::Llama => "LLaMA",
            Family::Qwen3 => "Qwen3",
            Family::HunyuanDense => "Hunyuan dense",
            Family::Gemma3 => "Gemma 3",
            Family::BitNet => "BitNet",
            Family::MiniCpm => "MiniCPM",
        };
        let parameters = self.config.parameters() as f64;
        let parameters = match parameters {
            p if p >= 1e9 => format!("{:.2} B", p / 1e9),
            p if p >= 1e6 => format!("{:.1} M", p / 1e6),
            p => format!("{:.1} k", p / 1e3),
        };
        let layers = self.config.layers;
        let tied = if self.config.tied { "tied" } else { "untied" };
        format!("{container}, {family}, {layers} layers, {parameters} parameters, {}, {tied} embeddings", self.types())
    }

    /// What about the stored weights makes wrong answers likely: files that other programs made in a known wrong way.
    pub fn notes(&self) -> Vec<String> {
        doubts::of(self)
    }

    /// The types of the linear layers, the commonest first.
    fn types(&self) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for (_, stored) in self.tensors.iter().filter(|(role, _)| role.is_linear()) {
            let name = stored.type_name();
            match counts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("/")
    }

    /// Memory the model takes with caches for `sequences` sequences of `context` positions.
    pub fn estimate(&self, context: usize, sequences: usize, kv: KvType) -> MemoryEstimate {
        let weights = self.tensors.iter().filter(|(role, _)| !(self.config.tied && *role == Role::Head));
        let weights = weights.map(|(_, stored)| stored.bytes(self.source())).sum();
        let kv_cache = KvCache::bytes_needed(&self.config, context, kv).saturating_mul(sequences as u64);
        MemoryEstimate { weights, kv_cache }
    }

    /// Whether every linear layer is packed ternary.
    pub fn is_packed(&self) -> bool {
        let packed =
            |stored: &Stored| matches!(stored, Stored::Packed { .. } | Stored::Plain { ty: TensorType::STQ1_0, .. });
        self.tensors.iter().filter(|(role, _)| role.is_linear()).all(|(_, stored)| packed(stored))
    }

    /// Loads the weights on the threads of `pool`.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn load(&self, pool: &Pool, progress: &dyn Progress) -> Result<Model> {
        self.load_as(TernaryBits::Auto, pool, progress)
    }

    /// [`load`](Self::load) with ternary weights as `bits` says.
    ///
    /// # Errors
    /// As there.
    pub fn load_as(&self, bits: TernaryBits, pool: &Pool, progress: &dyn Progress) -> Result<Model> {
        let weights = Weights::load_as(self.source(), &self.tensors, &self.config, bits, pool, progress)?;
        Ok(Model { config: self.config.clone(), weights })
    }
}

/// `generation_config.json`, with the ids that end a text from `config.json` where it has none.
fn generation_of_folder(files: &ModelFiles, config_path: &Path, config: &Value) -> GenerationConfig {
    const NAME: &str = "generation_config.json";
    let bytes = files.read(NAME, json::MAX_JSON_BYTES).transpose();
    let bytes = bytes.map(|bytes| GenerationConfig::from_bytes(&files.path().join(NAME), bytes));
    let mut generation = bytes.unwrap_or_default();
    if generation.eos_token_ids.is_empty() {
        let ids = config.get("eos_token_id").cloned().unwrap_or(Value::Null);
        let ends = GenerationConfig::from_json(config_path, &serde_json::json!({ "eos_token_id": ids }));
        generation.eos_token_ids = ends.eos_token_ids;
        generation.faults.extend(ends.faults);
    }
    generation
}
