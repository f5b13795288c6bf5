//! Preparing a run: where it begins, its data, its model, its teacher.

use std::path::{Path, PathBuf};

use sherry::Progress;
use sherry::io::{ReadMode, write_atomic};
use sherry::model::{Checkpoint, config_hf};

use super::{Teacher, Trainer};
use crate::adamw::Moments;
use crate::checkpoint::{self, RunFolder, State};
use crate::config::{Config, TokenizerChoice};
use crate::data::{Coder, Dataset, Sources};
use crate::error::{Error, Result};
use crate::methods::Quantizer;
use crate::network::Network;
use crate::{pretrained, scratch};

/// The file in the run folder that says which files of the cache hold its tokens.
const DATA_INDEX: &str = "data.json";

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
    pool: rayon::ThreadPool,
    /// Where tokenized text is kept.
    cache: PathBuf,
    progress: &'a dyn Progress,
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
        let (train_text, valid_text) = opening.sources()?;
        let coder = opening.coder(&train_text)?;
        let network = opening.network(&coder)?;
        let (train, valid) = opening.datasets(&train_text, &valid_text, &coder)?;
        let (params, moments, state) = match &from {
            Some(path) => opening.resumed(path, &network, &train)?,
            None => opening.fresh(&network, &train)?,
        };
        let teacher = opening.teacher(&network)?;
        let files = opening.files(&coder, &network)?;
        let (pool, saved) = (opening.pool, from.map(|path| (state.step, path)));
        Ok(Self { config, folder, network, params, moments, state, train, valid, teacher, files, pool, saved })
    }
}

/// The checkpoint to begin at. A changed configuration is refused here, before the data is tokenized.
fn starting_point(
    folder: &RunFolder,
    config: &Config,
    resume: &Resume,
    progress: &dyn Progress,
) -> Result<Option<PathBuf>> {
    let run = folder.path();
    let from = match resume {
        Resume::Auto => checkpoint::newest(run, progress)?,
        Resume::From(path) => Some(path.clone()),
        Resume::Never => match folder.checkpoints()?.first() {
            Some((step, _)) => {
                let problem = format!("already holds a checkpoint of step {step}; resume it or use another folder");
                return Err(Error::checkpoint(run, problem));
            }
            None => None,
        },
    };
    if let Some(path) = &from {
        let state = checkpoint::read_state(path)?;
        if let Some((field, was, now)) = config.difference(&state.config) {
            return Err(Error::Changed { path: path.clone(), field, was, now });
        }
    }
    Ok(from)
}

impl<'a> Opening<'a> {
    fn new(config: &'a Config, run: &'a Path, progress: &'a dyn Progress) -> Result<Self> {
        let base = match &config.model.from {
            Some(path) => Some(Checkpoint::open(path, ReadMode::Map)?),
            None => None,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
        let pool = pool.map_err(|error| Error::field(run, "threads", error.to_string()))?;
        let cache = config.data.cache.clone().unwrap_or_else(|| run.join("data"));
        Ok(Self { config, run, base, pool, cache, progress })
    }

    fn invalid(&self, field: &str, problem: String) -> Error {
        Error::field(self.run, field, problem)
    }

    /// Training and validation text.
    fn sources(&self) -> Result<(Sources, Sources)> {
        let data = &self.config.data;
        let open = |files: &[PathBuf]| self.pool.install(|| Sources::open(files, &data.text_field));
        let (train, valid) = (open(&data.train)?, open(&data.valid)?);
        if let Some((valid, train)) = valid.shared_with(&train) {
            let problem = format!("{} holds the same as {}, which is trained on", valid.display(), train.display());
            return Err(self.invalid("data.valid", problem));
        }
        Ok((train, valid))
    }

    fn coder(&self, train: &Sources) -> Result<Coder> {
        match (&self.config.data.tokenizer, &self.base) {
            (Some(TokenizerChoice::Path(path)), _) => Coder::open(path),
            (Some(TokenizerChoice::Learned { vocab }), _) => {
                self.pool.install(|| Coder::learned(train, *vocab, &self.cache, self.progress))
            }
            (None, Some(base)) => Coder::of_checkpoint(base),
            (None, None) => Err(self.invalid("data.tokenizer", "missing".to_owned())),
        }
    }

    fn network(&self, coder: &Coder) -> Result<Network> {
        let arch = match &self.base {
            Some(base) => pretrained::architecture(base)?,
            None => scratch::architecture(self.config, coder.vocab()),
        };
        if coder.vocab() > arch.vocab {
            let problem = format!("{} rows for a tokenizer of {} tokens", arch.vocab, coder.vocab());
            return Err(self.invalid("model.vocab", problem));
        }
        let quantizer = self.config.quantizer.build();
        for cols in [arch.hidden, arch.heads * arch.head_dim, arch.ffn] {
            if let Some(problem) = quantizer.problem(cols) {
                return Err(self.invalid("quantizer", problem));
            }
        }
        Ok(Network::new(arch, quantizer))
    }

    /// The tokens of both texts; the run folder says where they lie.
    fn datasets(&self, train: &Sources, valid: &Sources, coder: &Coder) -> Result<(Dataset, Option<Dataset>)> {
        let (length, cache, progress) = (self.config.batch.length, &self.cache, self.progress);
        let open = |sources: &Sources| self.pool.install(|| Dataset::open(sources, coder, length, cache, progress));
        let train = open(train)?;
        let valid = if self.config.data.valid.is_empty() { None } else { Some(open(valid)?) };
        progress.note(&format!(
            "{} training tokens in {} windows, {} for validation",
            train.tokens(),
            train.windows(),
            valid.as_ref().map_or(0, Dataset::tokens)
        ));
        let index = serde_json::json!({ "train": train.describe(), "valid": valid.as_ref().map(Dataset::describe) });
        write_atomic(&self.run.join(DATA_INDEX), &serde_json::to_vec_pretty(&index).unwrap_or_default())?;
        Ok((train, valid))
    }

    /// Parameters, moments and state of the checkpoint `path`.
    fn resumed(&self, path: &Path, network: &Network, train: &Dataset) -> Result<(Vec<f32>, Moments, State)> {
        let loaded = checkpoint::load(path, &network.layout)?;
        let was = loaded.state.data.clone();
        if was != train.hash() {
            let (path, field) = (path.to_path_buf(), "data.train (contents)".to_owned());
            return Err(Error::Changed { path, field, was, now: train.hash() });
        }
        self.progress.note(&format!("resuming at step {} of {}", loaded.state.step, path.display()));
        let config = serde_json::to_value(self.config).unwrap_or_default();
        Ok((loaded.params, loaded.moments, State { config, ..loaded.state }))
    }

    /// The same of a run that begins.
    fn fresh(&self, network: &Network, train: &Dataset) -> Result<(Vec<f32>, Moments, State)> {
        let params = match &self.base {
            Some(base) => pretrained::parameters(base, &network.layout, &network.quantizer)?,
            None => network.layout.init(&network.quantizer, self.config.seed),
        };
        let state = State {
            step: 0,
            cursor: 0,
            tokens: 0,
            lambda: 0.0,
            best: None,
            data: train.hash(),
            config: serde_json::to_value(self.config).unwrap_or_default(),
        };
        Ok((params, Moments::new(network.layout.len), state))
    }

    fn teacher(&self, student: &Network) -> Result<Option<Teacher>> {
        let Some(path) = self.config.loss.teacher.as_ref().filter(|_| self.config.loss.distillation > 0.0) else {
            return Ok(None);
        };
        let checkpoint = Checkpoint::open(path, ReadMode::Map)?;
        let network = Network::new(pretrained::architecture(&checkpoint)?, Quantizer::FULL);
        if network.arch.vocab != student.arch.vocab {
            let problem = format!("has {} tokens, the student {}", network.arch.vocab, student.arch.vocab);
            return Err(self.invalid("loss.teacher", problem));
        }
        let params = pretrained::parameters(&checkpoint, &network.layout, &Quantizer::FULL)?;
        Ok(Some(Teacher { network, params }))
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
            files.push(("config.json".to_owned(), serde_json::to_vec_pretty(&described).unwrap_or_default()));
        }
        Ok(files)
    }
}
