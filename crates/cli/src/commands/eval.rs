//! `sherry eval`: benchmarks, perplexity, comparison.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use sherry::Progress;
use sherry_measure::eval::data::{DataSource, read_text};
use sherry_measure::eval::divergence::Uncertain;
use sherry_measure::eval::results::PerplexityOutcome;
use sherry_measure::eval::tasks::{Chat, FEWSHOT_SEED};
use sherry_measure::eval::{
    DecoderLm, Divergence, Evaluation, Journal, Limit, Lm, Metric, ModelCard, Outcome, Paired, ResultsFile, Task,
    TaskRun, Windows, divergence, harness, perplexity, results,
};

use sha2::{Digest, Sha256};
use sherry::chat::ChatTemplate;
use sherry::io::hex;
use sherry::model::Checkpoint;
use sherry::tokenizer::Tokenizer;

use super::Context;
use super::engine::{ContextSize, EngineArgs};
use super::number::{count, not_negative, positive, seed};
use crate::output::{Align, Console, Stdout, Table, bytes, printable};
use crate::pull::{Cache, Hub, HubError, Settings};

/// Measure a model: benchmarks equal to lm-evaluation-harness 0.4.13, perplexity, KL divergence
#[derive(Args)]
#[command(after_help = "\
Examples:
  sherry eval smol.sherry
      the paper's five tasks, all items
  sherry eval smol.sherry --tasks piqa,winogrande --limit 200
  sherry eval smol.sherry -o smol.json --log-samples
      the results, and every item, as files
  sherry eval smol.sherry --against HuggingFaceTB/SmolLM2-135M
      paired comparison per item
  sherry eval smol.sherry --against smol.json
      the same with an earlier run (made with --log-samples)
  sherry eval smol.sherry --ppl wiki.test.raw --ppl-mode chunks
  sherry eval smol.sherry --ppl wiki.test.raw --kld HuggingFaceTB/SmolLM2-135M
  sherry eval chat.gguf --tasks mmlu --num-fewshot 5 --apply-chat-template
      as lm-evaluation-harness asks models for conversations
  sherry eval smol.sherry --tasks my_task.yaml,piqa
      a task of your own, in the harness's form (docs/evaluation.md)

Data: JSON lines or Parquet files in the folder; what is missing there comes
from the hub's cache, or from the hub (HF_HOME, HF_ENDPOINT, HF_TOKEN; not with
HF_HUB_OFFLINE=1). `sherry pull --dataset TASKS` gets it beforehand.
Tasks: arc_easy arc_challenge hellaswag piqa winogrande (together: sherry5)
openbookqa boolq lambada_openai mmlu mmlu_SUBJECT, and files that end in .yaml
With -o, a run that was stopped continues where it was; start it again with the
same command.")]
pub struct EvalArgs {
    /// Model: a GGUF file or a Hugging Face folder
    model: PathBuf,

    /// Tasks, comma-separated [default: sherry5, or none with --ppl]
    #[arg(long, value_name = "LIST")]
    tasks: Option<String>,
    /// First N items of each task, or a share below 1
    #[arg(long, value_name = "N", value_parser = not_negative)]
    limit: Option<f64>,
    /// Solved examples before each question [default: what the task says, else 0]
    #[arg(long, value_name = "N", value_parser = count)]
    num_fewshot: Option<usize>,
    /// Seed of the few-shot sampler
    #[arg(long, value_name = "N", default_value_t = FEWSHOT_SEED, value_parser = seed)]
    fewshot_seed: u64,
    /// Ask behind the model's chat template: the question as a user's turn, the answer as the assistant's
    #[arg(long)]
    apply_chat_template: bool,
    /// With a chat template: each solved example as turns of its own, or all in one turn with the question
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, requires = "apply_chat_template")]
    fewshot_as_multiturn: bool,
    /// Folder of benchmark data, and only that [default: $SHERRY_DATA/eval, else ./data, then the hub]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Longest token sequence [default: what the model was made for]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    ctx_size: Option<usize>,

    /// Text file to measure perplexity on (plain, .gz or .zst)
    #[arg(long, value_name = "FILE", help_heading = "Perplexity")]
    ppl: Option<PathBuf>,
    /// How the text is cut into windows
    #[arg(long, value_enum, value_name = "MODE", default_value_t = PplMode::Chunks, help_heading = "Perplexity")]
    ppl_mode: PplMode,
    /// Tokens per window [default: 512, or the model's context where that is shorter]
    #[arg(long, value_name = "N", help_heading = "Perplexity", value_parser = positive)]
    ppl_window: Option<usize>,
    /// Tokens between the beginnings of strided windows [default: half a window]
    #[arg(long, value_name = "N", help_heading = "Perplexity", value_parser = positive)]
    ppl_stride: Option<usize>,
    /// Reference model for the KL divergence on the --ppl text
    #[arg(long, value_name = "MODEL", requires = "ppl", help_heading = "Perplexity")]
    kld: Option<PathBuf>,

    /// Write results as JSON
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,
    /// Write every item's log-likelihoods beside the results
    #[arg(long, requires = "output", help_heading = "Output")]
    log_samples: bool,
    /// Compare item by item with another model, or with results written with --log-samples
    #[arg(long, value_name = "MODEL|RESULTS.json", help_heading = "Output")]
    against: Option<PathBuf>,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Conventions of perplexity; numbers of different ones cannot be compared.
#[derive(Clone, Copy, ValueEnum)]
enum PplMode {
    /// llama.cpp: chunks, second half scored
    Chunks,
    /// Non-overlapping windows, as in most papers (there with 2048)
    Disjoint,
    /// Hugging Face guide: sliding windows
    Strided,
    /// lm-evaluation-harness: rolling log-likelihood
    Rolling,
}

/// Running estimates on a terminal are worth a line this often.
const SHOW_EVERY: Duration = Duration::from_secs(5);

pub fn run(args: &EvalArgs, context: &Context) -> Result<ExitCode> {
    let started = Instant::now();
    let date = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    // Everything that can be wrong with the question is found before a model is loaded.
    let chat = args.chat()?;
    let runs = args.prepare(chat.as_ref(), context)?;
    let text = args.ppl.as_deref().map(read_text).transpose()?;
    if let Some(output) = &args.output
        && let Some(parent) = output.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir())
    {
        bail!("--output {}: no such folder '{}' to write results into", output.display(), parent.display());
    }
    let model = args.open(&args.model, text.as_deref(), context)?;
    let reference = args.kld.as_deref().map(|path| args.open(path, text.as_deref(), context)).transpose()?;
    let against = args.against.as_deref().map(|path| Against::open(path, &runs, args, context)).transpose()?;

    let (mut lm, card) = args.load(model, context)?;
    let mut journal = args.journal("partial", &card, context)?;
    let outcomes = args.run_tasks(&mut lm, runs, journal.as_mut(), context)?;
    let mut perplexities = Vec::new();
    if let (Some(path), Some(text)) = (&args.ppl, &text) {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        perplexities.push(args.perplexity(&mut lm, file, text, context)?);
    }
    let divergence = match (reference, &text) {
        (Some(reference), Some(text)) => {
            let (mut reference, _) = args.load(reference, context)?;
            let windows = args.windows(lm.max_length());
            Some(divergence(&mut reference, &mut lm, text, windows, &context.console)?)
        }
        _ => None,
    };
    let evaluation = Evaluation {
        model: card,
        settings: args.settings(&lm, chat.as_ref())?,
        outcomes,
        perplexities,
        date,
        seconds: started.elapsed().as_secs_f64(),
        git_hash: env!("SHERRY_GIT_HASH").to_owned(),
        command: printable::typed(),
    };
    if let Some(path) = &args.output {
        evaluation.write(path, args.log_samples)?;
    }
    drop(lm);
    let (comparison, base_journal) = match against {
        Some(Against::Results(file)) => (Some(Comparison::with_results(&file, &evaluation)?), None),
        Some(Against::Model(model)) => {
            args.compare(*model, &evaluation, context).map(|(c, journal)| (Some(c), journal))?
        }
        None => (None, None),
    };
    let document = document(&evaluation, comparison.as_ref(), divergence.as_ref());
    if let Some(path) = args.output.as_deref().filter(|_| comparison.is_some() || divergence.is_some()) {
        results::write_document(path, &document)?;
    }
    // Only now would a crash cost nothing.
    for journal in journal.into_iter().chain(base_journal) {
        journal.remove()?;
    }
    show(&evaluation, comparison.as_ref(), divergence.as_ref(), &document, context)?;
    Ok(ExitCode::SUCCESS)
}

impl EvalArgs {
    /// The model's chat template, where it is wanted.
    fn chat(&self) -> Result<Option<Chat>> {
        if !self.apply_chat_template {
            return Ok(None);
        }
        let path = self.model.display();
        let tokenizer = self.engine.open(&self.model, &Console::new(true))?.tokenizer()?;
        if tokenizer.chat_template().is_none() {
            bail!("--apply-chat-template: {path} has no chat template");
        }
        if let Some(against) = self.against.as_ref().filter(|path| path.extension().is_none_or(|end| end != "json")) {
            bail!(
                "--against {}: with --apply-chat-template each model is asked in its own way; evaluate the other one by \
                 itself and compare the results with sherry report",
                against.display()
            );
        }
        let template = ChatTemplate::for_tokenizer(&tokenizer)?;
        Ok(Some(Chat { template, multiturn: self.fewshot_as_multiturn }))
    }

    fn prepare(&self, chat: Option<&Chat>, context: &Context) -> Result<Vec<TaskRun>> {
        let limit = match self.limit {
            None => Limit::All,
            Some(limit) if limit > 0.0 && limit < 1.0 => Limit::Share(limit),
            Some(limit) if limit >= 1.0 && limit.is_finite() => Limit::Items(limit as usize),
            Some(limit) => bail!("--limit {limit}: expected a number of items, or a share between 0 and 1"),
        };
        let list = match (&self.tasks, &self.ppl) {
            (Some(list), _) => list,
            (None, None) => "sherry5",
            (None, Some(_)) => return Ok(Vec::new()),
        };
        let mut runs = Vec::new();
        for task in Task::find_all(list)? {
            let num_fewshot = task.fewshot_count(self.num_fewshot);
            let (sources, refusal) = self.sources(task, num_fewshot, context)?;
            for split in task.splits(0) {
                if !task.has_data(&sources, split)? {
                    let refusal = match refusal.as_ref().map(|refusal| (refusal, refusal.downcast_ref())) {
                        Some((_, Some(HubError::Unreachable { endpoint, .. }))) => {
                            format!(", and the hub at {endpoint} cannot be reached")
                        }
                        Some((refusal, _)) => format!(", and {refusal:#}"),
                        None => String::new(),
                    };
                    // What was asked for may lack all of its data: one command for it.
                    let wanted = if list.contains(['/', '.']) { task.name } else { list };
                    bail!(
                        "task {}: no {} data in {}{refusal}; `sherry pull --dataset {wanted}` gets it, and --data names \
                         another folder",
                        task.name,
                        split.name(),
                        self.data_folder().display()
                    );
                }
            }
            let run = task.prepare_for(&sources, limit, num_fewshot, self.fewshot_seed, chat);
            runs.push(run.map_err(|error| match refusal {
                Some(refusal) => anyhow!("{error}; {refusal:#}"),
                None => error.into(),
            })?);
        }
        Ok(runs)
    }

    /// Where the data of `task` may be: the folder; unless one was named also the hub's cache, into which is fetched
    /// what is missing. If the hub refuses, its reason: what is missing may be needed, or something can stand in.
    fn sources(
        &self,
        task: &Task,
        num_fewshot: usize,
        context: &Context,
    ) -> Result<(Vec<DataSource>, Option<anyhow::Error>)> {
        let mut sources = vec![DataSource::Folder(self.data_folder())];
        let splits = task.splits(num_fewshot);
        let missing = |sources: &[DataSource]| -> Result<Vec<&'static str>> {
            let mut names = Vec::new();
            for &split in &splits {
                if !task.has_data(sources, split)? {
                    names.push(split.name());
                }
            }
            Ok(names)
        };
        if self.data.is_some() || missing(&sources)?.is_empty() {
            return Ok((sources, None));
        }
        let settings = Settings::from_env()?;
        let Some(cache) = Cache::new(&settings) else { return Ok((sources, None)) };
        sources.extend(cache.dataset(task.dataset).map(DataSource::HubSet));
        let wanted = missing(&sources)?;
        if wanted.is_empty() || settings.offline {
            return Ok((sources, None));
        }
        match cache.fetch(&Hub::new(settings), task.dataset, task.dataset_config, Some(&wanted), &context.console) {
            Ok(folder) => {
                sources.truncate(1);
                sources.push(DataSource::HubSet(folder));
                Ok((sources, None))
            }
            Err(error) if matches!(error.downcast_ref(), Some(HubError::Interrupted)) => Err(error),
            Err(error) => Ok((sources, Some(error))),
        }
    }

    fn data_folder(&self) -> PathBuf {
        match (&self.data, std::env::var_os("SHERRY_DATA")) {
            (Some(folder), _) => folder.clone(),
            (None, Some(folder)) => Path::new(&folder).join("eval"),
            (None, None) => PathBuf::from("data"),
        }
    }

    /// Opens the model at `path` and checks that it can do what is asked, with `text` for its perplexity.
    fn open(&self, path: &Path, text: Option<&str>, context: &Context) -> Result<Opened> {
        let checkpoint = self.engine.open(path, &context.console)?;
        let size = ContextSize { asked: self.ctx_size.map(|n| ("--ctx-size", n)), default: usize::MAX };
        let max_length = size.of(checkpoint.config())?;
        let tokenizer = Arc::new(checkpoint.tokenizer()?);
        tokenizer.notes().iter().for_each(|note| context.console.note(note));
        if let Some(text) = text {
            let windows = self.windows(max_length);
            if windows.longest() > max_length {
                bail!("--ppl-window {}: the context has {max_length} tokens", windows.longest());
            }
            windows.over(tokenizer.encode_long(text, false, false, &context.console)?.len())?;
        }
        Ok(Opened { checkpoint, tokenizer, max_length })
    }

    fn load(&self, opened: Opened, context: &Context) -> Result<(DecoderLm, ModelCard)> {
        let Opened { checkpoint, tokenizer, max_length } = opened;
        let card = ModelCard::of(&checkpoint, &context.console)?;
        let decoder = self.engine.decoder(&checkpoint, max_length, &context.console)?;
        let lm = DecoderLm::new(decoder, tokenizer, self.engine.kv(), max_length);
        Ok((lm.stopped_by(Console::new(true)), card))
    }

    /// Everything the scores depend on besides model and prompts, and some more that is good to know.
    fn settings(&self, lm: &DecoderLm, chat: Option<&Chat>) -> Result<Map<String, Value>> {
        let settings = json!({
            "model": self.model.display().to_string(),
            "precision": self.engine.precision_name(),
            "kv": format!("{:?}", self.engine.kv()).to_lowercase(),
            "max_length": lm.max_length(),
            "threads": self.engine.threads(),
            "isa": self.engine.isa()?.to_string(),
            "apply_chat_template": chat.is_some(),
            "chat_template_sha": chat.map(|chat| hex(&Sha256::digest(chat.template.source()))),
            "fewshot_as_multiturn": chat.is_some_and(|chat| chat.multiturn),
        });
        Ok(settings.as_object().cloned().unwrap_or_default())
    }

    /// The journal of a model's items, `OUTPUT.{name}.jsonl`.
    fn journal(&self, name: &str, card: &ModelCard, context: &Context) -> Result<Option<Journal>> {
        let Some(output) = &self.output else { return Ok(None) };
        let identity =
            format!("{} {} {:?} {:?}", card.sha256, self.engine.precision_name(), self.engine.kv(), self.ctx_size);
        let mut file = output.file_stem().context("-o: expected a file name")?.to_os_string();
        file.push(format!(".{name}.jsonl"));
        let journal = Journal::open(&output.with_file_name(file), identity)?;
        if !journal.is_empty() {
            context.console.note(&format!("continuing: {} items of an earlier run are kept", journal.len()));
        }
        Ok(Some(journal))
    }

    fn run_tasks(
        &self,
        lm: &mut DecoderLm,
        runs: Vec<TaskRun>,
        mut journal: Option<&mut Journal>,
        context: &Context,
    ) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for run in runs {
            if let Some(split) = run.fewshot_split
                && run.task.stands_in(split)
            {
                let task = run.task.name;
                let note = format!(
                    "{task}: no training split, few-shot examples come from {}: not the harness's numbers",
                    split.name()
                );
                context.console.note(&note);
            }
            let scores = harness::run(lm, &run, journal.as_deref_mut(), &context.console)?;
            if let Some(rate) = scores.rate() {
                context.console.note(&format!("{}: {} items, {rate:.2} items/s", run.task.name, run.items.len()));
            }
            outcomes.push(Outcome::new(run, scores));
        }
        Ok(outcomes)
    }

    fn windows(&self, longest: usize) -> Windows {
        let size = self.ppl_window.unwrap_or(512.min(longest));
        match self.ppl_mode {
            PplMode::Chunks => Windows::Chunks { size },
            PplMode::Disjoint => Windows::Disjoint { size },
            PplMode::Strided => Windows::Strided { size, stride: self.ppl_stride.unwrap_or(size / 2) },
            PplMode::Rolling => Windows::Rolling { size: longest },
        }
    }

    fn perplexity(&self, lm: &mut DecoderLm, file: String, text: &str, context: &Context) -> Result<PerplexityOutcome> {
        let windows = self.windows(lm.max_length());
        let mut shown = Instant::now();
        let sums = perplexity(lm, text, windows, &context.console, &mut |done, sums| {
            if shown.elapsed() > SHOW_EVERY {
                shown = Instant::now();
                context.console.note(&format!("[{done}] {sums}"));
            }
        })?;
        Ok(PerplexityOutcome { file, windows, sums })
    }

    /// Asks another model the same items. It has a journal of its own.
    fn compare(
        &self,
        model: Opened,
        evaluation: &Evaluation,
        context: &Context,
    ) -> Result<(Comparison, Option<Journal>)> {
        let base = model.checkpoint.path().display().to_string();
        let (mut lm, card) = self.load(model, context)?;
        let mut journal = self.journal("against.partial", &card, context)?;
        let mut rows = Vec::new();
        for outcome in &evaluation.outcomes {
            let scores = harness::run(&mut lm, &outcome.run, journal.as_mut(), &context.console)?;
            for metric in paired_metrics(outcome) {
                let base = scores.values(&outcome.run, metric);
                let own = outcome.scores.values(&outcome.run, metric);
                rows.push((outcome.run.task, metric, Paired::new(&base, &own)?));
            }
        }
        Ok((Comparison { base, rows }, journal))
    }
}

/// Perplexities are not hits and misses: nothing to test by counting.
fn paired_metrics(outcome: &Outcome) -> impl Iterator<Item = Metric> {
    outcome.run.task.metrics.iter().copied().filter(|metric| *metric != Metric::Perplexity)
}

/// A model that is not loaded yet.
struct Opened {
    checkpoint: Checkpoint,
    tokenizer: Arc<Tokenizer>,
    /// Longest token sequence.
    max_length: usize,
}

/// What a run is compared with.
enum Against {
    Model(Box<Opened>),
    Results(Box<ResultsFile>),
}

impl Against {
    /// Opens what `path` names and checks that the items of `runs` can be compared.
    fn open(path: &Path, runs: &[TaskRun], args: &EvalArgs, context: &Context) -> Result<Self> {
        if path.extension().is_none_or(|ending| ending != "json") {
            let model = args.open(path, None, context).with_context(|| format!("--against {}", path.display()))?;
            return Ok(Self::Model(Box::new(model)));
        }
        let file = ResultsFile::read(path)?;
        for run in runs {
            file.item_values(run, run.task.metrics[0])?;
        }
        Ok(Self::Results(Box::new(file)))
    }
}

struct Comparison {
    base: String,
    rows: Vec<(&'static Task, Metric, Paired)>,
}

/// Everything that was found, as it stands in the results file.
fn document(evaluation: &Evaluation, comparison: Option<&Comparison>, divergence: Option<&Divergence>) -> Value {
    let mut value = evaluation.to_json();
    if let Some(comparison) = comparison {
        value["sherry"]["comparison"] = comparison.to_json();
    }
    if let Some(divergence) = divergence {
        value["sherry"]["divergence"] = divergence_json(divergence);
    }
    value
}

fn show(
    evaluation: &Evaluation,
    comparison: Option<&Comparison>,
    divergence: Option<&Divergence>,
    document: &Value,
    context: &Context,
) -> Result<()> {
    let mut out = Stdout::lock();
    if context.json {
        out.json(document)?;
        return Ok(());
    }
    if !evaluation.outcomes.is_empty() {
        write!(out, "{}", results::markdown(&evaluation.outcomes))?;
    }
    if let Some(mean) = results::paper_mean(&evaluation.outcomes) {
        writeln!(out, "\nmean acc of the five tasks: {:.4}{}", mean.value, plus_minus(mean.stderr))?;
    }
    for perplexity in &evaluation.perplexities {
        writeln!(out, "Final estimate: {}", perplexity.sums)?;
        let (tokens, windows) = (perplexity.sums.tokens, perplexity.sums.windows.len());
        writeln!(out, "({}, {tokens} tokens scored in {windows} windows: {})", perplexity.file, perplexity.windows)?;
    }
    if let Some(comparison) = comparison {
        writeln!(out, "\nagainst {} on the same items:\n", comparison.base)?;
        write!(out, "{}", comparison.table())?;
    }
    if let Some(divergence) = divergence {
        writeln!(out, "\n{divergence}")?;
    }
    let model = &evaluation.model;
    context.console.note(&format!(
        "{}: {}, {:.2} bits per linear weight, {:.0} s",
        model.format,
        bytes(model.bytes),
        model.linear_bits,
        evaluation.seconds
    ));
    Ok(())
}

/// " ± 0.0123"; nothing where there is no standard error.
fn plus_minus(stderr: Option<f64>) -> String {
    stderr.map(|stderr| format!(" ± {stderr:.4}")).unwrap_or_default()
}

impl Comparison {
    /// With the items of an earlier run.
    fn with_results(file: &ResultsFile, evaluation: &Evaluation) -> Result<Self> {
        let mut rows = Vec::new();
        for outcome in &evaluation.outcomes {
            for metric in paired_metrics(outcome) {
                let base = file.item_values(&outcome.run, metric)?;
                let own = outcome.scores.values(&outcome.run, metric);
                rows.push((outcome.run.task, metric, Paired::new(&base, &own)?));
            }
        }
        Ok(Self { base: file.label(), rows })
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("task", Align::Left),
            ("metric", Align::Left),
            ("items", Align::Right),
            ("base", Align::Right),
            ("this", Align::Right),
            ("difference", Align::Right),
            ("only base right", Align::Right),
            ("only this right", Align::Right),
            ("McNemar p", Align::Right),
            ("chi2 p", Align::Right),
        ]);
        for (task, metric, paired) in &self.rows {
            table.row([
                task.name.to_string(),
                metric.name().to_string(),
                paired.items.to_string(),
                format!("{:.4}", paired.base),
                format!("{:.4}", paired.other),
                format!("{:+.4}{}", paired.difference, plus_minus(paired.stderr)),
                paired.only_base.to_string(),
                paired.only_other.to_string(),
                format!("{:.3}", paired.p_exact),
                format!("{:.3}", paired.p_chi2),
            ]);
        }
        table
    }

    fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|(task, metric, paired)| {
            json!({
                "task": task.name, "metric": metric.name(), "items": paired.items, "base": paired.base,
                "this": paired.other, "difference": paired.difference, "stderr": paired.stderr,
                "only_base": paired.only_base, "only_this": paired.only_other,
                "mcnemar_p_exact": paired.p_exact, "mcnemar_chi2": paired.chi2, "mcnemar_p_chi2": paired.p_chi2,
            })
        });
        json!({ "base": self.base, "rows": rows.collect::<Vec<_>>() })
    }
}

/// Which percentiles of the divergence go into the results; 50 is the median, 100 the maximum.
const PERCENTILES: [f64; 12] = [0.0, 0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 100.0];

fn divergence_json(divergence: &Divergence) -> Value {
    let pair = |of: Uncertain| json!({ "value": of.value, "stderr": of.stderr });
    json!({
        "tokens": divergence.tokens(),
        "mean": pair(divergence.mean()),
        "percentiles": PERCENTILES.iter().map(|&percent| {
            (percent.to_string(), json!(divergence.percentile(percent / 100.0)))
        }).collect::<Map<String, Value>>(),
        "mean_change_of_probability": pair(divergence.mean_change()),
        "rms_change_of_probability": pair(divergence.rms_change()),
        "same_top": pair(divergence.same_top()),
        "log_perplexity_ratio": pair(divergence.log_ratio()),
    })
}
