//! Models: loaded once, shared by their sessions.

use std::ffi::c_char;
use std::path::PathBuf;
use std::sync::Arc;

use sherry::chat::{ChatTemplate, Conversation, Prompt};
use sherry::io::ReadMode;
use sherry::model::{Checkpoint, Decoder, GenerationConfig, Model};
use sherry::{Isa, KvType, Llm, NoProgress, Precision, Tokenizer, batch};
use sherry_kernels::Engine;

use crate::failure::{Failure, Outcome, Status, guard};
use crate::pointers::{Structure, fill, give, handle, place, structure, take, text};

/// `sherry_options`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherryOptions {
    size: u32,
    threads: u32,
    precision: u32,
    kv: u32,
    two_stage_head: u32,
    no_mmap: u32,
    scalar: u32,
}

// SAFETY: seven numbers, the first of them `size`.
unsafe impl Structure for SherryOptions {
    const NAME: &'static str = "sherry_options";
}

/// What those options say.
#[derive(Clone, Copy, Default)]
pub struct Options {
    threads: usize,
    precision: Precision,
    kv: KvType,
    two_stage_head: bool,
    mode: ReadMode,
    isa: Option<Isa>,
}

impl Options {
    pub unsafe fn read(given: *const SherryOptions) -> Outcome<Self> {
        // SAFETY: the caller's promise about structures.
        let Some(given) = (unsafe { structure(given) })? else { return Ok(Self::default()) };
        let unknown = |field: &str, value: u32| Err(Failure::invalid(format!("sherry_options.{field} is {value}")));
        Ok(Self {
            threads: given.threads as usize,
            precision: match given.precision {
                0 => Precision::Int8,
                1 => Precision::F32,
                other => return unknown("precision", other),
            },
            kv: match given.kv {
                0 => KvType::F16,
                1 => KvType::F32,
                2 => KvType::Q8,
                3 => KvType::Q4,
                other => return unknown("kv", other),
            },
            two_stage_head: given.two_stage_head != 0,
            mode: if given.no_mmap != 0 { ReadMode::Read } else { ReadMode::Map },
            isa: match given.scalar {
                0 => None,
                _ if Isa::Scalar.is_available() => Some(Isa::Scalar),
                _ => return Err(Failure::invalid("sherry_options.scalar: this build has no scalar kernels")),
            },
        })
    }

    pub fn engine(&self) -> Engine {
        let threads = match self.threads {
            0 if cfg!(target_family = "wasm") => 1,
            0 => sherry::threads::default_threads().threads,
            threads => threads,
        };
        Engine::new(self.isa.unwrap_or_else(Isa::best), threads, self.precision)
    }
}

/// `sherry_model`.
#[derive(Clone)]
pub struct SherryModel(pub Arc<Loaded>);

/// A model with all that its sessions share.
pub struct Loaded {
    model: Arc<Model>,
    pub tokenizer: Arc<Tokenizer>,
    /// Or why the model cannot chat.
    template: sherry::Result<ChatTemplate>,
    generation: GenerationConfig,
    options: Options,
    description: String,
}

impl Loaded {
    pub fn new(checkpoint: &Checkpoint, tokenizer: Arc<Tokenizer>, mut model: Model, options: Options) -> Self {
        if options.two_stage_head {
            model.weights.add_coarse_head(options.engine().pool());
        }
        Self {
            model: Arc::new(model),
            template: ChatTemplate::for_tokenizer(&tokenizer),
            tokenizer,
            generation: checkpoint.generation().clone(),
            options,
            description: checkpoint.describe(),
        }
    }

    fn load(checkpoint: &Checkpoint, options: Options) -> Outcome<Self> {
        let tokenizer = Arc::new(checkpoint.tokenizer()?);
        let model = checkpoint.load(options.engine().pool(), &NoProgress)?;
        Ok(Self::new(checkpoint, tokenizer, model, options))
    }

    /// The prompt of a conversation.
    pub fn render(&self, conversation: &Conversation<'_>) -> Outcome<Prompt> {
        #[cfg(target_family = "wasm")]
        if let Some(now) = crate::wasm::now() {
            return Ok(ChatTemplate::for_tokenizer(&self.tokenizer)?
                .with_time(now)
                .render_conversation(conversation)?);
        }
        let template = self.template.as_ref().map_err(|error| Failure::invalid(error.to_string()))?;
        Ok(template.render_conversation(conversation)?)
    }

    /// What a session computes with; `context` 0 is the model's, at most 4096.
    pub fn llm(&self, context: usize) -> Outcome<Llm> {
        let context = if context == 0 { self.model.config.context.min(4096) } else { context };
        let size = batch::Options { kv: self.options.kv, ..batch::Options::new(context, 1) };
        // Refused before the tables of positions are made, however long they would be.
        if context > self.model.config.context {
            let trained = self.model.config.context;
            return Err(Failure::invalid(format!(
                "a context of {context} tokens; the model was made for 1 to {trained}"
            )));
        }
        let decoder = Decoder::new(Arc::clone(&self.model), self.options.engine()).with_context(context);
        Ok(Llm::new(decoder, Arc::clone(&self.tokenizer), &self.generation, size)?)
    }
}

/// `sherry_model_info`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherryModelInfo {
    size: u32,
    can_chat: u32,
    vocab: u32,
    layers: u32,
    hidden: u32,
    context: u32,
    parameters: u64,
    bytes: u64,
    description: *const c_char,
    description_len: usize,
}

// SAFETY: numbers and a pointer, the first of them `size`.
unsafe impl Structure for SherryModelInfo {
    const NAME: &'static str = "sherry_model_info";
}

/// Opens a GGUF file or a folder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_model_open(
    path: *const c_char,
    len: usize,
    options: *const SherryOptions,
    out: *mut *mut SherryModel,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about pointers.
        let (path, options) = unsafe {
            place(out)?;
            (text(path, len, "path")?, Options::read(options)?)
        };
        let checkpoint = Checkpoint::open(&PathBuf::from(path), options.mode)?;
        let loaded = Loaded::load(&checkpoint, options)?;
        // SAFETY: `place` has checked it.
        unsafe { give(out, SherryModel(Arc::new(loaded))) };
        Ok(())
    })
}

/// Opens the model inside the program.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_model_builtin(options: *const SherryOptions, out: *mut *mut SherryModel) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about pointers.
        let options = unsafe {
            place(out)?;
            Options::read(options)?
        };
        let loaded = Loaded::load(&builtin()?, options)?;
        // SAFETY: `place` has checked it.
        unsafe { give(out, SherryModel(Arc::new(loaded))) };
        Ok(())
    })
}

#[cfg(feature = "builtin")]
fn builtin() -> Outcome<Checkpoint> {
    use sherry::io::gguf::GgufFile;
    use sherry_kernels::Bytes;
    const NAME: &str = "sherry-tiny";
    static GGUF: &[u8] = include_bytes!("../../cli/model/sherry-tiny.gguf");
    Ok(Checkpoint::from_gguf(NAME.as_ref(), GgufFile::from_bytes(NAME, Bytes::new(Arc::new(GGUF)))?)?)
}

#[cfg(not(feature = "builtin"))]
fn builtin() -> Outcome<Checkpoint> {
    Err(Failure::invalid("this build has no model inside"))
}

/// Gives a model up; its sessions keep what they need of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_model_free(model: *mut SherryModel) {
    let _ = guard(|| {
        // SAFETY: the caller's promise about handles.
        drop(unsafe { take(model) });
        Ok(())
    });
}

/// What a model is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_model_describe(model: *const SherryModel, out: *mut SherryModelInfo) -> Status {
    guard(|| {
        // SAFETY: the caller's promise about handles.
        let loaded = &unsafe { handle(model, "model") }?.0;
        let (config, weights) = (&loaded.model.config, &loaded.model.weights);
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let info = SherryModelInfo {
            size: 0,
            can_chat: u32::from(loaded.template.is_ok()),
            vocab: number(config.vocab),
            layers: number(config.layers),
            hidden: number(config.hidden),
            context: number(config.context),
            parameters: config.parameters(),
            bytes: weights.bytes(),
            description: loaded.description.as_ptr().cast(),
            description_len: loaded.description.len(),
        };
        // SAFETY: the caller's promise about structures.
        unsafe { fill(out, info) }
    })
}
