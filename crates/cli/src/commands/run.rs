//! `sherry run`: one answer, or a conversation.

use std::io::{self, BufRead as _, IsTerminal, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use sherry::batch::{Finish, Options};
use sherry::model::Decoder;
use sherry::{Chat, Event, Generate, Generated, Llm};

use super::Context;
use super::engine::{ContextSize, EngineArgs, Loaded, positive};
use super::sampling::{SamplingArgs, note_faults};
use crate::output::{Stdout, bytes};
use crate::{builtin, interrupt, machine};

/// Chat with a model, or let it answer one prompt
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry run -p \"The history of the city\"             the small model inside this program continues a text
  sherry run smol.sherry                               a conversation (Ctrl-C stops an answer, Ctrl-D ends)
  sherry run smol.sherry \"Why is the sky blue?\"        one answer
  sherry run smol.sherry --raw --temp 0 -n 32 \"The capital of France is\"
  cat article.txt | sherry run smol.sherry --system \"Summarise the text.\"

The answer goes to stdout, everything else to stderr.")]
pub struct RunArgs {
    /// A Hugging Face folder or a GGUF file [default: the small English model inside this program]
    model: Option<PathBuf>,
    /// The prompt; without one it is read from stdin, or a conversation begins when stdin is a terminal
    prompt: Option<String>,
    /// The prompt, where no model is named
    #[arg(short, long = "prompt", value_name = "TEXT", conflicts_with = "prompt")]
    prompt_text: Option<String>,
    /// Tokens of context [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    ctx_size: Option<usize>,
    /// Instructions that precede the conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Context when nobody asks for one: enough for a conversation, small enough for a phone.
const DEFAULT_CONTEXT: usize = 4096;
/// Text read from stdin.
const MAX_STDIN_BYTES: u64 = 64 << 20;

/// A loaded model that answers.
pub struct Speaker {
    voice: Voice,
    load_time: Duration,
}

/// How it answers.
#[expect(clippy::large_enum_variant, reason = "there is one in a program")]
enum Voice {
    /// In a conversation.
    Chat(Chat),
    /// By going on with the text.
    Text(Llm, Generate),
}

impl Speaker {
    /// Prepares `loaded` for answering, and says how it samples. `raw`: without a chat template.
    pub fn new(loaded: Loaded, raw: bool, sampling: &SamplingArgs, engine: &EngineArgs) -> Result<(Self, String)> {
        let Loaded { checkpoint, decoder, tokenizer, context, load_time } = loaded;
        let (params, line) = sampling.resolve(checkpoint.generation())?;
        let options = Generate { max_tokens: sampling.max_tokens, sampling: Some(params), stop: sampling.stop.clone() };
        let size = Options { kv: engine.kv(), ..Options::new(context, 1) };
        let llm = Llm::new(decoder, tokenizer, checkpoint.generation(), size)?;
        let voice = if raw || !llm.can_chat() {
            Voice::Text(llm, options)
        } else {
            let mut chat = Chat::new(llm)?;
            chat.options = options;
            Voice::Chat(chat)
        };
        Ok((Self { voice, load_time }, line))
    }

    /// The answer to `text`, shown on stdout as it appears when `stream`. An interrupt breaks it off.
    pub fn answer(&mut self, text: &str, stream: bool) -> Result<Generated> {
        match &mut self.voice {
            Voice::Chat(chat) => {
                let mut answer = chat.say(text)?;
                show(stream, || answer.step())?;
                Ok(answer.so_far().clone())
            }
            Voice::Text(llm, options) => {
                let mut generation = llm.generate(text, options)?;
                show(stream, || generation.step())?;
                Ok(generation.stop())
            }
        }
    }

    /// The model.
    fn llm(&self) -> &Llm {
        match &self.voice {
            Voice::Chat(chat) => chat.llm(),
            Voice::Text(llm, _) => llm,
        }
    }

    /// The decoder, for other work.
    pub fn into_decoder(self) -> Decoder {
        let llm = match self.voice {
            Voice::Chat(chat) => chat.into_llm(),
            Voice::Text(llm, _) => llm,
        };
        llm.into_engine().into_decoder()
    }

    /// One line of statistics.
    pub fn statistics(&self, generated: &Generated) -> String {
        let s = &generated.statistics;
        let memory = machine::resident()
            .map_or(String::new(), |(now, peak)| format!(" | memory {} (peak {})", bytes(now), bytes(peak)));
        let head = self.llm().decoder().head_statistics();
        let tried = head.found + head.failed + head.skipped;
        let head = if tried == 0 {
            String::new()
        } else {
            let mean = head.exact as f64 / head.found.max(1) as f64;
            format!(" | two-stage head {} of {tried} tokens, {mean:.0} exact logits each", head.found)
        };
        format!(
            "prompt {} tokens, {:.1} tok/s | generated {} tokens, {:.1} tok/s | load {:.2} s{memory}{head}",
            s.prompt_tokens,
            s.prompt_rate(),
            s.generated_tokens,
            s.generation_rate(),
            self.load_time.as_secs_f64()
        )
    }
}

/// Pulls events until there are no more, the user interrupts or nobody reads them, and shows their text on stdout when
/// `stream`.
fn show(stream: bool, mut step: impl FnMut() -> Option<sherry::Result<Event>>) -> Result<()> {
    let mut out = Stdout::lock();
    while !interrupt::requested()
        && !Stdout::is_closed()
        && let Some(event) = step()
    {
        if let (Event::Text(text), true) = (event?, stream) {
            out.answer(&text)?;
        }
    }
    Ok(())
}

pub fn run(args: &RunArgs, context: &Context) -> Result<ExitCode> {
    if let (Some(model), None) = (&args.model, &args.prompt)
        && !model.exists()
        && model.to_string_lossy().contains(char::is_whitespace)
    {
        bail!("{}: no such model; a prompt for the built-in one is given by -p", model.display());
    }
    let prompt = args.prompt.as_ref().or(args.prompt_text.as_ref());
    let conversation = prompt.is_none() && io::stdin().is_terminal();
    if conversation && context.json {
        bail!("--json needs a prompt: as an argument or on stdin");
    }
    let prompt = match prompt {
        Some(prompt) => Some(prompt.clone()),
        None if conversation => None,
        None => Some(read_stdin()?),
    };
    let size = ContextSize { asked: args.ctx_size.map(|n| ("--ctx-size", n)), default: DEFAULT_CONTEXT };
    let loaded = args.engine.load(args.model.as_deref(), size, &context.console)?;
    // The model inside goes on with texts.
    let raw = args.raw || args.model.is_none();
    note_faults(loaded.checkpoint.generation(), &context.console);
    let (mut speaker, sampling) = Speaker::new(loaded, raw, &args.sampling, &args.engine)?;
    context.console.say(&format!("sampling  {sampling}"));
    if let Some(system) = &args.system {
        let Voice::Chat(chat) = &mut speaker.voice else {
            let model = args.model.as_deref().unwrap_or(Path::new(builtin::NAME));
            bail!("--system needs a chat template; {} has none", model.display());
        };
        chat.set_system(Some(system));
    }
    match prompt {
        Some(prompt) => one_answer(&mut speaker, &prompt, context),
        None => converse(&mut speaker, context),
    }
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(MAX_STDIN_BYTES).read_to_string(&mut text).context("cannot read the prompt from stdin")?;
    if text.len() as u64 == MAX_STDIN_BYTES {
        bail!("the prompt on stdin is longer than {}", bytes(MAX_STDIN_BYTES));
    }
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        bail!("no prompt: none on the command line, nothing on stdin");
    }
    Ok(text.to_owned())
}

fn one_answer(speaker: &mut Speaker, prompt: &str, context: &Context) -> Result<ExitCode> {
    let generated = speaker.answer(prompt, !context.json)?;
    if Stdout::is_closed() {
        return Ok(ExitCode::SUCCESS); // nobody wants to know the rest
    }
    let mut out = Stdout::lock();
    if context.json {
        let s = &generated.statistics;
        let document = json!({
            "text": generated.text,
            "tokens": generated.tokens,
            "finish": finish_name(generated.finish),
            "prompt_tokens": s.prompt_tokens,
            "prompt_tokens_per_second": s.prompt_rate(),
            "generated_tokens": s.generated_tokens,
            "generated_tokens_per_second": s.generation_rate(),
            "load_seconds": speaker.load_time.as_secs_f64(),
            "resident_bytes": machine::resident().map(|(now, _)| now),
        });
        out.json(&document)?;
    } else {
        writeln!(out)?;
        context.console.say(&speaker.statistics(&generated));
    }
    Ok(if generated.finish.is_none() { ExitCode::from(interrupt::EXIT_CODE) } else { ExitCode::SUCCESS })
}

fn finish_name(finish: Option<Finish>) -> &'static str {
    match finish {
        Some(Finish::Stop) => "stop",
        Some(Finish::Length) => "length",
        Some(Finish::ContextFull) => "context",
        None => "cancelled",
    }
}

fn converse(speaker: &mut Speaker, context: &Context) -> Result<ExitCode> {
    context.console.say("/clear forgets the conversation, /bye or Ctrl-D ends it");
    let mut lines = io::stdin().lock().lines();
    loop {
        let mut out = Stdout::lock();
        write!(out, "> ")?;
        out.flush()?;
        drop(out);
        if Stdout::is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
        let Some(line) = lines.next().transpose()? else {
            writeln!(Stdout::lock())?;
            return Ok(ExitCode::SUCCESS);
        };
        match line.trim() {
            "" => continue,
            "/bye" | "/exit" | "/quit" => return Ok(ExitCode::SUCCESS),
            "/clear" => {
                if let Voice::Chat(chat) = &mut speaker.voice {
                    chat.clear();
                }
                continue;
            }
            _ => {}
        }
        interrupt::clear();
        match speaker.answer(&line, true) {
            Ok(generated) => {
                writeln!(Stdout::lock())?;
                if generated.finish == Some(Finish::ContextFull) {
                    context.console.say("the context is full; /clear starts afresh");
                }
                context.console.say(&speaker.statistics(&generated));
            }
            // A conversation goes on after an answer that failed: the context may be full, the template may object.
            Err(error) => crate::report(&error),
        }
    }
}
