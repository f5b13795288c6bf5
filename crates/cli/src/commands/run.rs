//! `sherry run`: one answer, or a conversation.

use std::io::{self, BufRead as _, IsTerminal, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use sherry::chat::{ChatTemplate, Message};
use sherry::generate::{Event, Finish, Generated, Request, Sampler, SamplingParams, Session, StopStrings};
use sherry::model::Decoder;

use super::Context;
use super::engine::{ContextSize, EngineArgs, Loaded, positive};
use super::sampling::SamplingArgs;
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

/// A loaded model with everything that answering takes.
pub struct Chat {
    session: Session,
    template: Option<ChatTemplate>,
    end: Vec<u32>,
    stop: StopStrings,
    params: SamplingParams,
    max_tokens: usize,
    load_time: Duration,
}

impl Chat {
    /// Prepares `loaded` for answering. `raw`: without a chat template.
    pub fn new(loaded: Loaded, raw: bool, sampling: &SamplingArgs, engine: &EngineArgs) -> Result<(Self, String)> {
        let Loaded { checkpoint, decoder, tokenizer, context, load_time } = loaded;
        let template = if raw { None } else { chat_template(&tokenizer)? };
        let (params, line) = sampling.resolve(checkpoint.generation())?;
        let mut end = checkpoint.generation().eos_token_ids.clone();
        end.extend(tokenizer.end_ids());
        let chat = Self {
            template,
            end,
            stop: sampling.stop_strings()?,
            params,
            max_tokens: sampling.max_tokens.unwrap_or(usize::MAX),
            load_time,
            session: Session::new(decoder, Arc::clone(&tokenizer), context, engine.kv())?,
        };
        Ok((chat, line))
    }

    /// The tokens of the conversation `messages`, or of the last message alone when there is no template.
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let tokenizer = self.session.tokenizer();
        match (&self.template, messages.last()) {
            (Some(template), _) => Ok(template.render(tokenizer, messages, true)?.encode(tokenizer)?),
            (None, Some(last)) => Ok(tokenizer.encode(&last.content, true, false)?),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// The answer to `messages`, shown on stdout as it appears when `stream`.
    pub fn answer(&mut self, messages: &[Message], stream: bool) -> Result<Generated> {
        let prompt = self.prompt(messages)?;
        let request = Request { prompt: &prompt, max_tokens: self.max_tokens, end: &self.end, stop: &self.stop };
        let mut out = Stdout::lock();
        let mut written = Ok(());
        let generated = self.session.generate(&request, &mut Sampler::new(self.params)?, &mut |event| {
            if let (Event::Text(text), true) = (event, stream) {
                written = out.answer(text);
            }
            let enough = interrupt::requested() || written.is_err() || Stdout::is_closed();
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        written?;
        Ok(generated)
    }

    /// The decoder, for other work.
    pub fn into_decoder(self) -> Decoder {
        self.session.into_decoder()
    }

    /// One line of statistics.
    pub fn statistics(&mut self, generated: &Generated) -> String {
        let s = &generated.statistics;
        let memory = machine::resident()
            .map_or(String::new(), |(now, peak)| format!(" | memory {} (peak {})", bytes(now), bytes(peak)));
        let head = self.session.decoder().head_statistics();
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

/// The model's chat template, or the one its special tokens point to; `None` for models without either.
fn chat_template(tokenizer: &sherry::tokenizer::Tokenizer) -> Result<Option<ChatTemplate>> {
    let known = tokenizer.chat_template().is_some() || sherry::chat::Preset::detect(tokenizer).is_some();
    if known { Ok(Some(ChatTemplate::for_tokenizer(tokenizer)?)) } else { Ok(None) }
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
    let (mut chat, sampling) = Chat::new(loaded, raw, &args.sampling, &args.engine)?;
    context.console.say(&format!("sampling  {sampling}"));
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        if chat.template.is_none() {
            let model = args.model.as_deref().unwrap_or(Path::new(builtin::NAME));
            bail!("--system needs a chat template; {} has none", model.display());
        }
        messages.push(Message::new("system", system.as_str()));
    }
    match prompt {
        Some(prompt) => one_answer(&mut chat, messages, prompt, context),
        None => converse(&mut chat, messages, context),
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

fn one_answer(chat: &mut Chat, mut messages: Vec<Message>, prompt: String, context: &Context) -> Result<ExitCode> {
    messages.push(Message::new("user", prompt));
    let generated = chat.answer(&messages, !context.json)?;
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
            "load_seconds": chat.load_time.as_secs_f64(),
            "resident_bytes": machine::resident().map(|(now, _)| now),
        });
        out.json(&document)?;
    } else {
        writeln!(out)?;
        context.console.say(&chat.statistics(&generated));
    }
    Ok(if generated.finish == Finish::Cancelled { ExitCode::from(interrupt::EXIT_CODE) } else { ExitCode::SUCCESS })
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ContextFull => "context",
        Finish::Cancelled => "cancelled",
    }
}

fn converse(chat: &mut Chat, start: Vec<Message>, context: &Context) -> Result<ExitCode> {
    context.console.say("/clear forgets the conversation, /bye or Ctrl-D ends it");
    let mut messages = start.clone();
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
                messages.clone_from(&start);
                continue;
            }
            _ => messages.push(Message::new("user", line)),
        }
        interrupt::clear();
        match chat.answer(&messages, true) {
            Ok(generated) => {
                writeln!(Stdout::lock())?;
                if generated.finish == Finish::ContextFull {
                    context.console.say("the context is full; /clear starts afresh");
                }
                context.console.say(&chat.statistics(&generated));
                messages.push(Message::new("assistant", generated.text));
            }
            // A conversation goes on after an answer that failed: the context may be full, the template may object.
            Err(error) => {
                messages.pop();
                crate::report(&error);
            }
        }
    }
}
