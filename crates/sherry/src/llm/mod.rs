//! A model with everything that using it takes: load, generate, chat, logits.

mod chat;
mod generation;
mod tiny;

use std::path::Path;
use std::sync::Arc;

use sherry_kernels::{Engine, Isa, Precision};

pub use chat::{Answer, Chat};
pub use generation::{Event, Generate, Generated, Generation, Statistics};

use crate::batch::{BatchEngine, Job, Options};
use crate::chat::Preset;
use crate::generate::{SamplingParams, log_probs};
use crate::io::ReadMode;
use crate::model::{Checkpoint, Decoder, GenerationConfig, KvCache, KvType, PAGE, Wanted};
use crate::threads::default_threads;
use crate::tokenizer::Tokenizer;
use crate::{NoProgress, Progress, Result};

/// Context where nobody asks for one: enough for a conversation, small enough for a phone.
const DEFAULT_CONTEXT: usize = 4096;
/// Prompt tokens per step: enough for the kernels to be at full speed, few enough to stop within a moment.
const STEP: usize = 128;

/// How a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Worker threads; by default [one per physical core](crate::threads) that this process may use.
    pub threads: Option<usize>,
    /// Instruction set; by default the best that this processor has.
    pub isa: Option<Isa>,
    /// Activations in products with packed weights.
    pub precision: Precision,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// Most tokens of prompt and answer; by default the model's, at most 4096.
    pub context: Option<usize>,
    /// Sequences that [`Llm::batch`] runs at the same time.
    pub sequences: usize,
    /// Whether to keep a [coarse copy](crate::model::Weights::add_coarse_head) of the head, which makes greedy and top-k
    /// sampling faster and differs in a token in 10^9.
    pub two_stage_head: bool,
    /// How files are opened.
    pub mode: ReadMode,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            threads: None,
            isa: None,
            precision: Precision::default(),
            kv: KvType::default(),
            context: None,
            sequences: 1,
            two_stage_head: false,
            mode: ReadMode::default(),
        }
    }
}

/// A language model that is ready to be used.
///
/// ```no_run
/// use sherry::{Generate, Llm};
/// let mut llm = Llm::load("model.gguf")?; // or a Hugging Face folder
/// for piece in llm.generate("The capital of France is", &Generate::default())? {
///     print!("{}", piece?);
/// }
/// # Ok::<(), sherry::Error>(())
/// ```
pub struct Llm {
    engine: BatchEngine,
    /// What the model's authors recommend, and customary values for the rest; or why that cannot be said.
    sampling: std::result::Result<SamplingParams, String>,
    /// Tokens that end an answer.
    end: Arc<[u32]>,
}

impl Llm {
    /// Loads a Hugging Face folder or a GGUF file.
    ///
    /// # Errors
    /// Whatever is wrong with the model, naming file and place.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_with(path, &LoadOptions::default(), &NoProgress)
    }

    /// Loads a model as `options` say.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::Invalid`](crate::Error::Invalid) when the options do not fit the model or this
    /// machine.
    pub fn load_with(path: impl AsRef<Path>, options: &LoadOptions, progress: &dyn Progress) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::open(path.as_ref(), options.mode)?, options, progress)
    }

    /// Loads a model that has been opened.
    ///
    /// # Errors
    /// As [`load_with`](Self::load_with).
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions, progress: &dyn Progress) -> Result<Self> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            return Err(crate::Error::Invalid(format!("{isa} is not available on this processor")));
        }
        let threads = options.threads.unwrap_or_else(|| default_threads().threads);
        let engine = Engine::new(isa, threads, options.precision);
        let tokenizer = Arc::new(checkpoint.tokenizer()?);
        let mut model = checkpoint.load(engine.pool(), progress)?;
        if options.two_stage_head {
            model.weights.add_coarse_head(engine.pool());
        }
        let context = options.context.unwrap_or_else(|| model.config.context.min(DEFAULT_CONTEXT));
        let size = Options { kv: options.kv, ..Options::new(context, options.sequences) };
        let decoder = Decoder::new(Arc::new(model), engine).with_context(context);
        Self::new(decoder, tokenizer, checkpoint.generation(), size)
    }

    /// Puts a model together from its parts.
    ///
    /// # Errors
    /// As [`BatchEngine::new`].
    pub fn new(
        decoder: Decoder,
        tokenizer: Arc<Tokenizer>,
        generation: &GenerationConfig,
        options: Options,
    ) -> Result<Self> {
        let mut end = generation.eos_token_ids.clone();
        end.extend(tokenizer.end_ids());
        let sampling = SamplingParams::default().recommended(generation, &[]).map_err(|error| error.to_string());
        Ok(Self { engine: BatchEngine::new(decoder, tokenizer, options)?, sampling, end: end.into() })
    }

    /// A tiny model with random weights and a token for every byte: it says nonsense, and needs no file.
    ///
    /// # Errors
    /// None that should occur.
    pub fn tiny() -> Result<Self> {
        tiny::load()
    }

    /// Continues `prompt`, read as it is, without a chat template. What it has in common with earlier prompts and answers is
    /// not computed again.
    ///
    /// # Errors
    /// [`Error::ContextFull`](crate::Error::ContextFull) when the prompt is longer than the context,
    /// [`Error::Invalid`](crate::Error::Invalid) naming what is wrong with `options` or the prompt.
    pub fn generate(&mut self, prompt: &str, options: &Generate) -> Result<Generation<'_>> {
        let tokens = self.tokenizer().encode(prompt, true, false)?;
        self.generate_tokens(&tokens, options)
    }

    /// Continues a prompt given as tokens, special ones included.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_tokens(&mut self, prompt: &[u32], options: &Generate) -> Result<Generation<'_>> {
        let job = self.job(prompt, options)?;
        Generation::new(&mut self.engine, job)
    }

    /// The continuations of several prompts, computed together.
    ///
    /// ```
    /// use sherry::{Generate, Llm};
    /// let mut llm = Llm::tiny()?;
    /// let answers = llm.batch(&["one", "two"], &Generate { max_tokens: Some(4), ..Generate::default() })?;
    /// assert_eq!(answers.len(), 2);
    /// # Ok::<(), sherry::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`generate`](Self::generate), for the first prompt that cannot be continued.
    pub fn batch(&mut self, prompts: &[&str], options: &Generate) -> Result<Vec<Generated>> {
        let mut jobs = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let tokens = self.tokenizer().encode(prompt, true, false)?;
            jobs.push(self.job(&tokens, options)?);
        }
        generation::run_all(&mut self.engine, jobs)
    }

    /// The logits of the token that comes after `prompt`, one for each token of the vocabulary.
    ///
    /// ```
    /// let mut llm = sherry::Llm::tiny()?;
    /// let logits = llm.logits("The capital of France is")?;
    /// assert_eq!(logits.len(), llm.decoder().config().vocab);
    /// # Ok::<(), sherry::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn logits(&mut self, prompt: &str) -> Result<Vec<f32>> {
        let tokens = self.tokenizer().encode(prompt, true, false)?;
        self.logits_of(&tokens)
    }

    /// [`logits`](Self::logits) of a prompt given as tokens, special ones included.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn logits_of(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut cache = self.cache(tokens.len())?;
        let decoder = self.engine.decoder_mut();
        for part in tokens.chunks(STEP) {
            decoder.forward_one(&mut cache, part, Wanted::Last)?;
        }
        Ok(decoder.logits().last().unwrap_or_default().to_vec())
    }

    /// Natural log-probabilities of `tokens[1..]`, each given all tokens before it.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn log_probs(&mut self, tokens: &[u32]) -> Result<Vec<f64>> {
        let mut cache = self.cache(tokens.len())?;
        log_probs(self.engine.decoder_mut(), &mut cache, tokens)
    }

    /// A cache for a single sequence, beside those of the engine.
    fn cache(&self, tokens: usize) -> Result<KvCache> {
        let capacity = self.engine.options().context;
        if tokens == 0 {
            return Err(crate::Error::Invalid("the text has no tokens".to_owned()));
        }
        if tokens > capacity {
            return Err(crate::Error::ContextFull { needed: tokens, capacity });
        }
        KvCache::new(self.decoder().config(), tokens.next_multiple_of(PAGE), self.engine.options().kv)
    }

    fn job(&self, prompt: &[u32], options: &Generate) -> Result<Job> {
        let sampling = options.sampling.map_or_else(|| self.sampling(), Ok)?;
        let mut job = Job::new(prompt, options.max_tokens.unwrap_or(usize::MAX), sampling);
        job.stop = crate::generate::StopStrings::new(options.stop.iter().cloned())?;
        job.end = Arc::clone(&self.end);
        Ok(job)
    }

    /// What is sampled with unless somebody says otherwise: the values that the model's authors recommend, customary ones for
    /// the rest, and seed 0.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) naming what cannot be understood of the recommendations.
    pub fn sampling(&self) -> Result<SamplingParams> {
        self.sampling.clone().map_err(crate::Error::Invalid)
    }

    /// Tokens that end an answer.
    pub fn end_ids(&self) -> &[u32] {
        &self.end
    }

    /// Whether the model was made for [conversations](Chat): its tokenizer brings a chat template, or has the control tokens
    /// of a family whose template is known.
    pub fn can_chat(&self) -> bool {
        self.tokenizer().chat_template().is_some() || Preset::detect(self.tokenizer()).is_some()
    }

    /// Most tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        self.engine.options().context
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.engine.tokenizer()
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        self.engine.decoder()
    }

    /// The engine, for jobs that ask for more.
    pub fn engine(&mut self) -> &mut BatchEngine {
        &mut self.engine
    }

    /// The engine, for other work.
    pub fn into_engine(self) -> BatchEngine {
        self.engine
    }
}

#[cfg(test)]
mod tests;
