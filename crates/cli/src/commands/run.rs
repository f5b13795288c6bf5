//! `sherry run`: one answer, or a conversation.

use std::io::{self, IsTerminal, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;
use sherry::batch::Finish;
use sherry_measure::machine;

use super::Context;
use super::chat;
use super::engine::{ContextSize, EngineArgs, obtain};
use super::number::{count, positive};
use super::sampling::{SamplingArgs, note_faults};
use crate::commands::speaker::Speaker;
use crate::output::{Stdout, bytes};
use crate::{builtin, interrupt, output};

/// Chat with a model, or let it answer one prompt
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry run -p \"Once upon a time\"
      the small model inside this program tells a story
  sherry run bonsai-1.7b
      a released model (`sherry models`), downloaded after asking
  sherry run smol.sherry
      a conversation (Ctrl-C stops an answer, Ctrl-D ends)
  sherry run smol.sherry \"Why is the sky blue?\"
      one answer
  sherry run smol.sherry --raw --temp 0 -n 32 \"The capital of France is\"
  cat article.txt | sherry run smol.sherry --system \"Summarise the text.\"

The answer goes to stdout, everything else to stderr.")]
pub struct RunArgs {
    /// A Hugging Face folder, a GGUF file, or a name that `sherry models` lists [default: the small model inside this
    /// program, which tells stories]
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
    /// When the context of a conversation is full, leave out the oldest turns but the first N without asking; the instructions
    /// always stay
    #[arg(long, value_name = "N", value_parser = count)]
    keep: Option<usize>,
    /// Statistics after every answer of a conversation; /stats shows them for one
    #[arg(long)]
    verbose: bool,
    /// Do not remember messages for the next conversation
    #[arg(long, env = "SHERRY_NO_HISTORY", value_parser = FalseyValueParser::new())]
    no_history: bool,
    /// Do not ask before a download
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Compute one token after the other; otherwise tokens that stood there before are computed together where that is quicker.
    /// The text is the same
    #[arg(long, help_heading = "Performance")]
    no_speculation: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Context when nobody asks for one: enough for a conversation, small enough for a phone.
const DEFAULT_CONTEXT: usize = 4096;
/// Text read from stdin.
const MAX_STDIN_BYTES: u64 = 64 << 20;

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
    let path = args.model.as_deref().map(|model| obtain(model, args.yes, &context.console)).transpose()?;
    let loaded = args.engine.load(path.as_deref(), size, &context.console)?;
    // The model inside goes on with texts.
    let raw = args.raw || args.model.is_none();
    note_faults(loaded.checkpoint.generation(), &context.console);
    let trained_context = loaded.checkpoint.config().context;
    let (mut speaker, sampling) = Speaker::new(loaded, raw, &args.sampling, &args.engine, !args.no_speculation)?;
    let model = args.model.as_deref().unwrap_or(Path::new(builtin::NAME)).display().to_string();
    if let Some(system) = &args.system {
        let Some(chat) = speaker.chat_mut() else { bail!("--system needs a chat template; {model} has none") };
        chat.set_system(Some(system));
    }
    let Some(prompt) = prompt else {
        let options = chat::Options {
            model,
            is_builtin: args.model.is_none(),
            trained_context,
            verbose: args.verbose,
            keep: args.keep,
            history: if args.no_history { None } else { chat::history_file() },
        };
        return chat::converse(speaker, options, context);
    };
    context.console.say(&format!("sampling  {sampling}"));
    if args.model.is_none() {
        context.console.say(&format!(
            "{} is very small: it tells stories, and answers no questions; `sherry models` lists models that do",
            builtin::NAME
        ));
    }
    let size = speaker.llm().context();
    one_answer(&mut speaker, &prompt, args.sampling.max_tokens, context)
        .map_err(|error| chat::way_out(error, size, trained_context))
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

/// Answers `prompt`; `asked` is the number of tokens that the user wants.
fn one_answer(speaker: &mut Speaker, prompt: &str, asked: Option<usize>, context: &Context) -> Result<ExitCode> {
    let mut show = (!context.json).then(|| chat::Show::new(output::stdout_is_terminal(), &context.console));
    let generated = speaker.answer(prompt, |event| show.as_mut().map_or(Ok(()), |show| show.event(&event)))?;
    if Stdout::is_closed() {
        return Ok(ExitCode::SUCCESS); // nobody wants to know the rest
    }
    if let Some(show) = show {
        show.finish()?;
    }
    if context.json {
        let s = &generated.statistics;
        let document = json!({
            "text": generated.text,
            "tokens": generated.tokens,
            "finish": finish_name(generated.finish),
            "prompt_tokens": s.prompt_tokens,
            "prompt_tokens_per_second": s.prompt_rate(),
            "generated_tokens": s.generated_tokens,
            "proposed_tokens": s.proposed_tokens,
            "accepted_tokens": s.accepted_tokens,
            "generated_tokens_per_second": s.generation_rate(),
            "load_seconds": speaker.load_time.as_secs_f64(),
            "resident_bytes": machine::resident().map(|(now, _)| now),
        });
        Stdout::lock().json(&document)?;
    } else {
        if generated.finish == Some(Finish::Length) && asked.is_none() {
            context.console.say(&format!("(ended after {} tokens; -n N asks for N)", generated.tokens.len()));
        }
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
