//! `sherry serve`: an OpenAI-compatible server with a chat page.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};
use sherry::batch::{BatchEngine, Options};
use sherry::chat::ChatTemplate;
use sherry::io::hex;
use sherry::model::{KvPool, PAGE};
use sherry_measure::machine;
use sherry_server::{Config, EngineInfo, Keys, Listen, Loaded, ModelInfo};

use super::Context;
use super::engine::{ContextSize, EngineArgs, HeadArg, obtain};
use super::number::{count, port, positive};
use super::sampling::{SamplingArgs, note_faults};
use crate::output::{Console, LogLines};

/// Serve a model over HTTP: OpenAI's interface and a chat page
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry serve
      the model inside this program, at http://127.0.0.1:8080
  sherry serve bonsai-1.7b
      a released model (`sherry models`), downloaded after asking
  sherry serve smol.sherry --port 9000
  curl http://127.0.0.1:8080/v1/chat/completions \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'
  sherry serve smol.sherry --host 0.0.0.0 --api-key-file keys.txt

Programs written for OpenAI's API work with the base URL
http://127.0.0.1:8080/v1 and any model name that /v1/models lists. Answers
depend on the request alone, not on what else runs.")]
pub struct ServeArgs {
    /// A Hugging Face folder, a GGUF file, or the name of a released model [default: the small English model inside this
    /// program]
    model: Option<PathBuf>,
    /// Do not ask before a download
    #[arg(short, long)]
    yes: bool,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: String,
    /// Port; 0 takes a free one
    #[arg(short, long, default_value_t = 8080, value_parser = port)]
    port: u16,
    /// Listen on a Unix socket instead
    #[arg(long, value_name = "unix:PATH", conflicts_with_all = ["host", "port"])]
    listen: Option<String>,
    /// Tokens of context for each request [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    ctx_size: Option<usize>,
    /// Sequences that are computed together
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    max_running: usize,
    /// Requests that may wait
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count)]
    max_queue: usize,
    /// Memory for keys and values, in MB [default: a quarter of what is free, at most what can be used]
    #[arg(long, value_name = "MB", value_parser = positive)]
    kv_memory: Option<usize>,
    /// Compute every prompt from its beginning
    #[arg(long)]
    no_prefix_cache: bool,
    /// Compute one token after the other; otherwise tokens that stood there before are computed together where that is quicker.
    /// Texts are the same
    #[arg(long, help_heading = "Performance")]
    no_speculation: bool,
    /// Time that a step should take while answers are written, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 80, value_parser = positive)]
    step_ms: usize,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Another name for the model (repeatable)
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Every model name in a request means this model
    #[arg(long)]
    any_model: bool,
    /// Unknown fields in requests are errors
    #[arg(long)]
    strict: bool,
    /// Without the chat page
    #[arg(long)]
    no_page: bool,
    /// Form of the log on stderr
    #[arg(long, value_enum, default_value = "text")]
    log: LogForm,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Who may ask.
#[derive(Args)]
#[command(next_help_heading = "Access")]
struct AccessArgs {
    /// File with API keys, one per line: KEY or NAME:KEY (or the variable SHERRY_API_KEY)
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Serve other machines without keys
    #[arg(long)]
    insecure: bool,
    /// Host name under which the server may be called (repeatable)
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    allow_host: Vec<String>,
    /// Origin of web pages that may use the server (repeatable)
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors_origin: Vec<String>,
}

/// A host as requests name it, without a port.
fn host_name(text: &str) -> Result<String, String> {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    if is_address || !text.is_empty() && text.chars().all(is_inside) {
        return Ok(text.to_owned());
    }
    Err("expected a host name such as models.example.org, without http:// and port".to_owned())
}

/// Where a web page comes from, as browsers say it.
fn origin(text: &str) -> Result<String, String> {
    let host = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, host)| host);
    let is_inside = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    if text == "null" || host.is_some_and(|host| !host.is_empty() && host.chars().all(is_inside)) {
        return Ok(text.to_owned());
    }
    Err("expected an origin such as https://example.org or http://localhost:3000, without a path".to_owned())
}

/// What a request and a client may take.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = positive)]
    max_connections: usize,
    /// Bytes of a request
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = positive)]
    max_body: usize,
    /// Requests of one client at a time
    #[arg(long, value_name = "N", value_parser = positive)]
    max_per_client: Option<usize>,
    /// Seconds for a request
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = positive)]
    timeout: usize,
    /// Seconds of them in the queue
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = positive)]
    queue_timeout: usize,
    /// Seconds for running requests after a signal to end
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = count)]
    drain: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogForm {
    Text,
    Json,
    None,
}

/// Context when nobody asks for one, as in `sherry run`.
const DEFAULT_CONTEXT: usize = 4096;

pub fn run(mut args: ServeArgs, context: &Context) -> Result<ExitCode> {
    let config = args.config()?;
    args.model = args.model.map(|model| obtain(&model, args.yes, &context.console)).transpose()?;
    start_log(args.log, context.quiet);
    // The model is loaded on a thread of its own, which tells what it does itself.
    let console = || Console::new(context.quiet);
    let (console, shown) = (console(), console());
    let ended = sherry_server::serve(
        config,
        move || args.load(&console).map_err(|error| format!("{error:#}").into()),
        move |address| shown.say(&format!("listening on {address}   (Ctrl-C ends)")),
    )?;
    Ok(ExitCode::from(ended.code()))
}

fn start_log(form: LogForm, quiet: bool) {
    use tracing_subscriber::fmt;
    let level = if quiet { tracing::Level::WARN } else { tracing::Level::INFO };
    let log = fmt().with_writer(|| LogLines).with_max_level(level).with_target(false);
    match form {
        LogForm::Text => log.with_ansi(false).init(),
        LogForm::Json => log.json().flatten_event(true).init(),
        LogForm::None => {}
    }
}

impl ServeArgs {
    fn config(&self) -> Result<Config> {
        let listen = match &self.listen {
            Some(text) => match text.strip_prefix("unix:") {
                Some(path) if !path.is_empty() => Listen::Unix(PathBuf::from(path)),
                _ => bail!("--listen {text}: expected unix:PATH"),
            },
            None => Listen::Tcp(address(&self.host, self.port)?),
        };
        let keys = match (&self.access.api_key_file, std::env::var("SHERRY_API_KEY")) {
            (Some(path), _) => Keys::from_file(path).with_context(|| format!("--api-key-file {}", path.display()))?,
            (None, Ok(text)) => Keys::parse(&text),
            (None, Err(_)) => Keys::default(),
        };
        let seconds = |n: usize| Duration::from_secs(n as u64);
        Ok(Config {
            listen,
            keys,
            insecure: self.access.insecure,
            allow_hosts: self.access.allow_host.clone(),
            cors_origins: self.access.cors_origin.clone(),
            max_connections: self.limits.max_connections,
            max_body: self.limits.max_body,
            timeout: seconds(self.limits.timeout),
            queue_timeout: seconds(self.limits.queue_timeout),
            drain: seconds(self.limits.drain),
            max_queue: self.max_queue,
            max_per_client: self.limits.max_per_client,
            max_tokens: self.sampling.max_tokens,
            aliases: self.aliases(),
            any_model: self.any_model,
            strict: self.strict,
            page: !self.no_page,
            step: Duration::from_millis(self.step_ms as u64),
            ..Config::default()
        })
    }

    /// The further names of the model: those asked for, and the word that it was named with, unless that is a path, which is
    /// nobody else's business.
    fn aliases(&self) -> Vec<String> {
        let word = self.model.as_ref().and_then(|path| path.to_str()).filter(|word| !word.contains(['/', '\\']));
        self.alias.iter().cloned().chain(word.map(str::to_owned)).collect()
    }

    fn load(&self, console: &Console) -> Result<Loaded> {
        let size = ContextSize { asked: self.ctx_size.map(|n| ("--ctx-size", n)), default: DEFAULT_CONTEXT };
        let loaded = self.engine.load(self.model.as_deref(), size, console)?;
        let super::engine::Loaded { checkpoint, decoder, tokenizer, context, .. } = loaded;
        let config = checkpoint.config().clone();
        let mut options = Options::new(context, self.max_running);
        options.kv = self.engine.kv();
        options.prefix_cache = !self.no_prefix_cache;
        options.speculation = !self.no_speculation;
        // The server bounds what waits before it answers anything.
        (options.max_waiting, options.max_waiting_tokens) = (usize::MAX, usize::MAX);
        options.pages = self.pages(options.pages, context, KvPool::page_bytes(&config, options.kv))?;
        let isa = decoder.engine().isa();
        // The model inside goes on with texts.
        let known = tokenizer.chat_template().is_some() || sherry::chat::Preset::detect(&tokenizer).is_some();
        let template = match self.model.is_some() && known {
            true => Some(ChatTemplate::for_tokenizer(&tokenizer)?),
            false => None,
        };
        note_faults(checkpoint.generation(), console);
        let (defaults, line) = self.sampling.resolve(checkpoint.generation())?;
        console.say(&format!("sampling  {line}"));
        let mut end = checkpoint.generation().eos_token_ids.clone();
        end.extend(tokenizer.end_ids());
        let sizes = sherry_convert::sizes_of(&checkpoint);
        let bytes = sizes.total();
        let name = checkpoint.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parameters = config.parameters();
        let bits = 8.0 * bytes as f64 / parameters.max(1) as f64;
        let info = EngineInfo {
            isa: isa.to_string(),
            threads: self.engine.threads(),
            kv: self.engine.kv.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned()),
            precision: self.engine.precision_name().to_owned(),
            head: if self.engine.head == HeadArg::TwoStage { "two-stage" } else { "whole" }.to_owned(),
        };
        let build = env!("CARGO_PKG_VERSION");
        let identity =
            format!("{name} {bytes} {parameters} {build} {} {} {} {}", info.isa, info.precision, info.kv, info.head);
        let fingerprint = format!("bits1-{}", &hex(&Sha256::digest(identity.as_bytes()))[..12]);
        let model = ModelInfo { id: name, context, vocabulary: config.vocab, parameters, bytes, bits_per_weight: bits };
        let engine = BatchEngine::new(decoder, tokenizer, options)?;
        Ok(Loaded { engine, template, defaults, end, model, info, fingerprint })
    }

    /// Pages of the cache: at most `most`, at least for one sequence.
    fn pages(&self, most: usize, context: usize, page_bytes: u64) -> Result<usize> {
        let least = context.div_ceil(PAGE);
        let given = match self.kv_memory {
            Some(megabytes) => (megabytes as u64).saturating_mul(1_000_000),
            None => machine::memory().map_or(u64::MAX, |(_, available)| available / 4),
        };
        let pages = usize::try_from(given / page_bytes.max(1)).unwrap_or(usize::MAX).min(most);
        if pages < least {
            if self.kv_memory.is_some() {
                let needed = (least as u64).saturating_mul(page_bytes).div_ceil(1_000_000);
                bail!("--kv-memory is too small for one sequence of {context} tokens: {needed} MB are needed");
            }
            return Ok(least);
        }
        Ok(pages)
    }
}

fn address(host: &str, port: u16) -> Result<SocketAddr> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let found = (host, port).to_socket_addrs().with_context(|| format!("--host {host}"))?.next();
    found.with_context(|| format!("--host {host}: no such address"))
}
