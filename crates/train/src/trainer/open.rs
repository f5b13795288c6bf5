//! Preparing a run: where it begins, its data, its model, its teacher.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sherry::io::{ReadMode, write_atomic};
use sherry::model::{ArchConfig, Checkpoint, config_hf};
use sherry::{Progress, available_memory};

use super::{Teacher, Trainer};
use crate::adamw::Moments;
use crate::checkpoint::{Loaded, State, Verified};
use crate::config::{Config, TokenizerChoice};
use crate::data::{Coder, Dataset, Sources};
use crate::error::{Error, Result};
use crate::methods::Quantizer;
use crate::network::Network;
use crate::run_folder::{self, RunFolder};
use crate::{memory, pretrained, scratch};

/// The file in the run folder that says which files of the cache hold its tokens.
const DATA_INDEX: &str = "data.json";
/// Most passes over the training text in one step.
const MAX_PASSES: usize = 16;

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the newest good checkpoint of the run folder, or afresh when there is none.
    Auto,
    /// Afresh; refused when the run folder holds checkpoints.
    Never,
    /// At this checkpoint.
    From(PathBuf),
}

/// What a run is prepared from.
struct Opening<'a> {
    config: &'a Config,
    run: &'a Path,
    /// The model that training goes on from.
    base: Option<Checkpoint>,
    /// The model to learn from besides the text.
    teacher: Option<Checkpoint>,
    pool: rayon::ThreadPool,
    /// Where tokenized text is kept.
    cache: PathBuf,
    progress: &'a dyn Progress,
}

/// Training and validation text.
struct Texts {
    train: Sources,
    valid: Option<Sources>,
}

/// The same as tokens.
struct Data {
    train: Dataset,
    valid: Option<Dataset>,
}

impl Trainer {
    /// Prepares the run `config` in the folder `run`: data, model, and where to begin.
    ///
    /// # Errors
    /// See [`Error`]; nothing of an existing run is lost.
    pub fn open(config: Config, run: &Path, resume: &Resume, progress: &dyn Progress) -> Result<Self> {
        let folder = RunFolder::open(run)?;
        let from = starting_point(&folder, &config, resume, progress)?;
        let opening = Opening::new(&config, run, progress)?;
        let coder = opening.given_coder()?;
        let arch = opening.architecture(coder.as_ref())?;
        opening.check_memory(&arch)?;
        let texts = opening.texts()?;
        let coder = coder.map_or_else(|| opening.learned_coder(&texts.train), Ok)?;
        let network = opening.network(arch, &coder)?;
        let files = opening.files(&coder, &network)?;
        let data = opening.data(&texts, &coder)?;
        let teacher = opening.teacher(&network)?;
        let state = opening.state(&data, teacher.as_ref());
        let saved = from.as_ref().map(|from| (from.state().step, from.path().to_path_buf()));
        let Loaded { params, moments, state } = match from {
            Some(from) => {
                unchanged(&from, &config, &state, &files)?;
                opening.resumed(from, &network, state)?
            }
            None => opening.fresh(&network, state)?,
        };
        for path in folder.abandon_after(saved.as_ref().map(|(step, path)| (*step, path.as_path())))? {
            progress.note(&format!("set aside as {}: it lies ahead of where this run goes on", path.display()));
        }
        let (pool, Data { train, valid }) = (opening.pool, data);
        Ok(Self { config, folder, network, params, moments, state, train, valid, teacher, files, pool, saved })
    }
}

/// The checkpoint to begin at. A changed configuration is refused here, before the data is tokenized.
fn starting_point(
    folder: &RunFolder,
    config: &Config,
    resume: &Resume,
    progress: &dyn Progress,
) -> Result<Option<Verified>> {
    let run = folder.path();
    let newest = folder.checkpoints()?.into_iter().next();
    let from = match (resume, newest) {
        (Resume::Auto, _) => run_folder::newest(run, progress)?,
        (Resume::Never, None) => None,
        (Resume::Never, Some((step, _))) => {
            let problem = format!("already holds a checkpoint of step {step}; resume it or use another folder");
            return Err(Error::checkpoint(run, problem));
        }
        (Resume::From(path), newest) => {
            let from = Verified::open(path, progress)?;
            let canonical = |path: &Path| path.canonicalize().map_err(sherry::Error::io(path, "open"));
            let own = canonical(path)?.parent() == Some(&canonical(run)?);
            if let Some((step, _)) = newest.filter(|_| !own) {
                let problem = format!(
                    "holds a checkpoint of step {step} of its own; go on from {} in another folder",
                    path.display()
                );
                return Err(Error::checkpoint(run, problem));
            }
            Some(from)
        }
    };
    if let Some(from) = &from {
        config.resumes(from.path(), from.state())?;
    }
    Ok(from)
}

/// Refuses what the configuration cannot show: contents that changed under the same name. `now` is the state of a run that
/// begins, `files` are what goes with its checkpoints.
fn unchanged(from: &Verified, config: &Config, now: &State, files: &[(String, Vec<u8>)]) -> Result<()> {
    let was = from.state();
    // A run of an earlier version does not say what it was validated with or taught by.
    let said = |was: &Option<String>, is_used: bool| was.is_some() || !is_used;
    let describe = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "none".to_owned());
    let contents = [
        (true, "data.train (contents)", was.data.clone(), now.data.clone()),
        (said(&was.valid, now.valid.is_some()), "data.valid (contents)", describe(&was.valid), describe(&now.valid)),
        (
            said(&was.teacher, now.teacher.is_some()),
            "loss.teacher (contents)",
            describe(&was.teacher),
            describe(&now.teacher),
        ),
    ];
    let changed = |field: &str, was: String, now: String| {
        Err(Error::Changed { path: from.path().to_path_buf(), field: field.to_owned(), was, now })
    };
    for (is_known, field, was, now) in contents {
        if is_known && was != now {
            return changed(field, was, now);
        }
    }
    // Both read by the same program: what another version writes differently may still mean the same.
    let path = from.path().join(CONFIG);
    let now = files.iter().find(|(name, _)| name == CONFIG).map(|(_, bytes)| bytes);
    if let (Ok(was), Some(now)) = (std::fs::read(&path), now) {
        let parse = |bytes: &[u8]| -> Result<(ArchConfig, Value)> {
            let value: Value =
                serde_json::from_slice(bytes).map_err(|error| Error::checkpoint(&path, error.to_string()))?;
            Ok((config_hf::parse(&path, &value)?, value))
        };
        let (was, now) = (parse(&was)?, parse(now)?);
        if was.0 != now.0 {
            let field =
                config.model.from.as_ref().map_or("model".to_owned(), |_| "model.from (config.json)".to_owned());
            let different = was.1.as_object().into_iter().flatten().find(|(key, value)| now.1.get(key) != Some(value));
            let key = different.map_or_else(String::new, |(key, _)| key.clone());
            let of = |value: &Value| value.get(&key).map_or_else(|| "none".to_owned(), Value::to_string);
            return changed(&format!("{field}: {key}"), of(&was.1), of(&now.1));
        }
    }
    Ok(())
}

/// The file that describes the architecture.
const CONFIG: &str = "config.json";

impl<'a> Opening<'a> {
    fn new(config: &'a Config, run: &'a Path, progress: &'a dyn Progress) -> Result<Self> {
        let open = |field: &str, path: &PathBuf| {
            if path.exists() {
                return Ok(Checkpoint::open(path, ReadMode::Map)?);
            }
            let problem = format!(
                "{}: no such file or folder, as seen from where the command was started; `sherry pull OWNER/NAME --to {0}` \
                 gets a model of the hub, and a recipe says at its head which one it begins with",
                path.display()
            );
            Err(Error::field(run, field, problem))
        };
        let base = config.model.from.as_ref().map(|path| open("model.from", path)).transpose()?;
        let teacher = config.loss.teacher.as_ref().filter(|_| config.loss.distillation > 0.0);
        let teacher = teacher.map(|path| open("loss.teacher", path)).transpose()?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
        let pool = pool.map_err(|error| Error::field(run, "threads", error.to_string()))?;
        let cache = config.data.cache.clone().unwrap_or_else(|| run.join("data"));
        Ok(Self { config, run, base, teacher, pool, cache, progress })
    }

    fn invalid(&self, field: &str, problem: impl AsRef<str>) -> Error {
        Error::field(self.run, field, problem)
    }

    /// The tokenizer that there is already; `None` when it is to be learned.
    fn given_coder(&self) -> Result<Option<Coder>> {
        match (&self.config.data.tokenizer, &self.base) {
            (Some(TokenizerChoice::Path(path)), _) => Coder::open(path).map(Some),
            (Some(TokenizerChoice::Learned { .. }), _) => Ok(None),
            (None, Some(base)) => Coder::of_checkpoint(base).map(Some),
            (None, None) => Err(self.invalid("data.tokenizer", "missing")),
        }
    }

    fn learned_coder(&self, train: &Sources) -> Result<Coder> {
        let Some(TokenizerChoice::Learned { vocab }) = self.config.data.tokenizer else {
            return Err(self.invalid("data.tokenizer", "missing"));
        };
        self.pool.install(|| Coder::learned(train, vocab, &self.cache, self.progress))
    }

    /// The architecture; a vocabulary that is still to be learned counts as full.
    fn architecture(&self, coder: Option<&Coder>) -> Result<ArchConfig> {
        let vocab = match (&self.config.data.tokenizer, coder) {
            (_, Some(coder)) => coder.vocab(),
            (Some(TokenizerChoice::Learned { vocab }), None) => *vocab,
            _ => return Err(self.invalid("data.tokenizer", "missing")),
        };
        let arch = match &self.base {
            Some(base) => pretrained::architecture(base)?,
            None => scratch::architecture(self.config, vocab),
        };
        let quantizer = self.config.quantizer.build();
        for cols in [arch.hidden, arch.heads * arch.head_dim, arch.ffn] {
            if let Some(problem) = quantizer.problem(cols) {
                return Err(self.invalid("quantizer", problem));
            }
        }
        Ok(arch)
    }

    /// Refuses a run that does not fit into memory, before anything is read or made.
    fn check_memory(&self, arch: &ArchConfig) -> Result<()> {
        let Some(available) = available_memory() else { return Ok(()) };
        let teacher = self.teacher.as_ref().map(pretrained::architecture).transpose()?;
        let threads = self.pool.current_num_threads();
        memory::check(self.config, arch, teacher.as_ref(), threads, available as f64)
            .map_err(|(field, problem)| self.invalid(field, problem))
    }

    fn texts(&self) -> Result<Texts> {
        let data = &self.config.data;
        let (train, valid) = self.pool.install(|| Sources::of_run(data, self.progress))?;
        let shared = valid.as_ref().filter(|_| data.valid_fraction == 0.0).and_then(|valid| valid.shared_with(&train));
        if let Some((valid, train)) = shared {
            let problem = format!("{} holds the same as {}, which is trained on", valid.display(), train.display());
            return Err(self.invalid("data.valid", problem));
        }
        Ok(Texts { train, valid })
    }

    fn network(&self, arch: ArchConfig, coder: &Coder) -> Result<Network> {
        // A text may have had patterns for fewer tokens than were asked for.
        let vocab = match (&self.base, self.config.model.vocab) {
            (None, None) => coder.vocab(),
            _ => arch.vocab,
        };
        if coder.vocab() > vocab {
            let problem = format!("{vocab} rows for a tokenizer of {} tokens", coder.vocab());
            return Err(self.invalid("model.vocab", problem));
        }
        Ok(Network::new(ArchConfig { vocab, ..arch }, self.config.quantizer.build()))
    }

    /// The tokens of both texts; the run folder says where they lie.
    fn data(&self, texts: &Texts, coder: &Coder) -> Result<Data> {
        let (length, cache, progress) = (self.config.batch.length, &self.cache, self.progress);
        let open = |sources: &Sources| self.pool.install(|| Dataset::open(sources, coder, length, cache, progress));
        let train = open(&texts.train)?;
        self.check_text(&train)?;
        let valid = texts.valid.as_ref().map(open).transpose()?;
        progress.note(&format!(
            "{} training tokens in {} windows, {} for validation",
            train.tokens(),
            train.windows(),
            valid.as_ref().map_or(0, Dataset::tokens)
        ));
        let index = serde_json::json!({ "train": train.describe(), "valid": valid.as_ref().map(Dataset::describe) });
        write_atomic(&self.run.join(DATA_INDEX), &serde_json::to_vec_pretty(&index).unwrap_or_default())?;
        Ok(Data { train, valid })
    }

    /// Refuses batches that the training text cannot fill.
    fn check_text(&self, train: &Dataset) -> Result<()> {
        let (batch, windows) = (&self.config.batch, train.windows());
        let most = train.tokens() - 1;
        if batch.length > most {
            let problem = format!("{} tokens per sequence, but the training text has {most} to predict", batch.length);
            return Err(self.invalid("batch.length", format!("{problem}: lower it, or give more text")));
        }
        if windows > u32::MAX as usize {
            let problem = format!("{windows} windows of training text, at most {} can be put into order", u32::MAX);
            return Err(self.invalid("batch.length", format!("{problem}: raise it")));
        }
        let sequences = batch.size.saturating_mul(batch.accumulate);
        if sequences > windows.saturating_mul(MAX_PASSES) {
            let field = if batch.size > batch.accumulate { "batch.size" } else { "batch.accumulate" };
            let problem = format!("{sequences} sequences in a step, but the training text has {windows}");
            return Err(self.invalid(field, format!("{problem} of {} tokens: lower it", batch.length)));
        }
        if sequences > windows {
            self.progress
                .note(&format!("a step of {sequences} sequences sees each of the text's {windows} more than once"));
        }
        Ok(())
    }

    fn teacher(&self, student: &Network) -> Result<Option<Teacher>> {
        let Some(checkpoint) = &self.teacher else { return Ok(None) };
        let network = Network::new(pretrained::architecture(checkpoint)?, Quantizer::FULL);
        if network.arch.vocab != student.arch.vocab {
            let problem = format!("has {} tokens, the student {}", network.arch.vocab, student.arch.vocab);
            return Err(self.invalid("loss.teacher", problem));
        }
        let params = pretrained::parameters(checkpoint, &network.layout, &Quantizer::FULL, self.progress)?;
        let hash = pretrained::hash(&network.arch, &params, self.progress)?;
        Ok(Some(Teacher { network, params, hash }))
    }

    /// The state of a run that begins.
    fn state(&self, data: &Data, teacher: Option<&Teacher>) -> State {
        State {
            step: 0,
            cursor: 0,
            tokens: 0,
            lambda: 0.0,
            best: None,
            validated: None,
            extensions: Vec::new(),
            data: data.train.hash(),
            valid: data.valid.as_ref().map(Dataset::hash),
            teacher: teacher.map(|teacher| teacher.hash.clone()),
            config: serde_json::to_value(self.config).unwrap_or_default(),
        }
    }

    /// What the checkpoint `from` holds, with what `now` says of configuration and contents.
    fn resumed(&self, from: Verified, network: &Network, now: State) -> Result<Loaded> {
        let path = from.path().display().to_string();
        let loaded = from.load(&network.layout, self.progress)?;
        let was = loaded.state;
        self.progress.note(&format!("resuming at step {} of {path}", was.step));
        let (step, cursor, tokens, lambda) = (was.step, was.cursor, was.tokens, was.lambda);
        let (best, validated, extensions) = (was.best, was.validated, was.extensions);
        let state = State { step, cursor, tokens, lambda, best, validated, extensions, ..now };
        Ok(Loaded { state, ..loaded })
    }

    fn fresh(&self, network: &Network, state: State) -> Result<Loaded> {
        let layout = &network.layout;
        let params = match &self.base {
            Some(base) => pretrained::parameters(base, layout, &network.quantizer, self.progress)?,
            None => layout.init(&network.quantizer, self.config.seed, self.progress)?,
        };
        Ok(Loaded { state, params, moments: Moments::new(layout.len) })
    }

    /// Files that go with every checkpoint: the tokenizer and the architecture.
    fn files(&self, coder: &Coder, network: &Network) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files: Vec<(String, Vec<u8>)> = coder.files().to_vec();
        let described = match &self.base {
            Some(base) => Some(base.config_json()?),
            None => config_hf::write(&network.arch),
        };
        if let Some(mut described) = described {
            if let Some(fields) = described.as_object_mut() {
                // The checkpoint holds latent weights, whatever the base was stored as.
                fields.remove("quantization_config");
                fields.insert("torch_dtype".to_owned(), "float32".into());
            }
            files.push((CONFIG.to_owned(), serde_json::to_vec_pretty(&described).unwrap_or_default()));
        }
        Ok(files)
    }
}
