//! What is asked for, whether it can be done, and what the result depends on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sherry::Progress;
use sherry::io::hex;
use sherry::model::ArchConfig;
use sherry_convert::Embeddings;
use sherry_convert::recipe::{self, Recipe};
use sherry_measure::file_sha256;
use sherry_sgemm::MatmulPrecision;

use super::SUMS;
use super::adapt::Adaptation;
use super::block::Rounding;
use super::budget::Limit;
use super::reconstruct::Reconstruction;
use super::text::Text;
use super::tune::Tuning;
use crate::error::Result;

/// What to make of a model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model, dense or of a block type.
    pub model: PathBuf,
    /// Where the quantized model goes, a folder or a `.gguf` file.
    pub out: PathBuf,
    /// The work folder.
    pub work: PathBuf,
    /// Files with text, each with the same share of the tokens.
    pub data: Vec<PathBuf>,
    /// Share of the tokens that the model writes itself, half of them documents, half conversations where it has a chat
    /// template. Without files, all.
    pub own_text: f64,
    /// Share of the text of files that is written with blanks around punctuation marks; see [`spaced`](super::spaced).
    pub spaced_text: f64,
    /// Field or column that holds the text.
    pub text_field: String,
    /// Tokens to fit to.
    pub tokens: usize,
    /// Tokens to measure on.
    pub held_out: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Who says what each matrix becomes.
    pub types: Types,
    /// Tokens on which sensitivities are measured, for a budget.
    pub sensitivity_tokens: usize,
    /// Where sensitivities are kept; they are read when they are there.
    pub sensitivity: Option<PathBuf>,
    /// Where the recipe goes that a budget leads to.
    pub recipe_out: PathBuf,
    /// Stop when that is written.
    pub only_recipe: bool,
    /// How weights are rounded.
    pub rounding: Rounding,
    /// How every block is trained after it was rounded.
    pub reconstruction: Reconstruction,
    /// How the blocks that are not rounded yet are trained.
    pub adaptation: Adaptation,
    /// How scales and norms are tuned afterwards; its codes stay.
    pub tuning: Tuning,
    /// How everything is trained after that.
    pub training: Tuning,
    /// How exact products are where the model runs: in tuning, training, adaptation and for sensitivities. (Rounding and its
    /// moments are always computed in f32.)
    pub precision: MatmulPrecision,
    /// What embedding and head become.
    pub embeddings: Embeddings,
    /// Stop after this many blocks and write nothing: for trying settings.
    pub blocks: Option<usize>,
    /// Where the importance of the inputs of every linear layer goes; see [`sherry_convert::importance`].
    pub importance: Option<PathBuf>,
    /// Replace an existing output.
    pub overwrite: bool,
}

/// Who says what each matrix becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum Types {
    /// Linear layers are all rounded to one grid; embedding and head are as [`Request::embeddings`] says.
    Alike,
    /// A recipe file; see [`sherry_convert::recipe`].
    Recipe(PathBuf),
    /// The recipe with the least loss within a budget.
    Budget(Limit),
}

/// Refuses what cannot be done before anything is computed.
pub(super) fn check(request: &Request, arch: &ArchConfig) -> Result<()> {
    let invalid = |problem: String| Err(sherry::Error::Invalid(problem).into());
    if request.length < 2 || request.length > arch.context {
        return invalid(format!(
            "sequences of {} tokens: expected at least 2, and the model has a context of {}",
            request.length, arch.context
        ));
    }
    let Adaptation { tokens, every, rate, .. } = request.adaptation;
    if tokens > 0 && (every == 0 || !(rate > 0.0 && rate < 1.0)) {
        return invalid(format!(
            "adaptation every {every} blocks at a rate of {rate}: expected at least 1, and 0 to 1"
        ));
    }
    if tokens > 0 && request.importance.is_some() {
        return invalid(
            "importance is that of the original's inputs, which adaptation changes; --adapt-tokens 0 keeps them"
                .to_owned(),
        );
    }
    let has_recipe = request.types != Types::Alike;
    if has_recipe && (request.reconstruction.epochs > 0 || request.rounding.group.is_some()) {
        return invalid(
            "a recipe or a budget goes with scales per row, and with training of all blocks together: neither \
             --group-size nor --reconstruct"
                .to_owned(),
        );
    }
    for (what, share) in [("own", request.own_text), ("spaced", request.spaced_text)] {
        if !(0.0..=1.0).contains(&share) {
            return invalid(format!("a share of {what} text of {share}; expected 0 to 1"));
        }
    }
    if request.tokens < request.length || request.held_out < request.length {
        return invalid(format!("fewer tokens than one sequence of {}", request.length));
    }
    // Both streams, the inputs of the map in work, and the networks of tuning: the original, the quantized one, its gradients.
    let tokens = request.tokens.saturating_add(request.held_out) as f64;
    let width = 2 * arch.hidden + arch.ffn.max(arch.q_dim());
    // Training of codes: latent weights and two means besides. Adaptation: weights, gradients and two means; the original's last
    // hidden states.
    let (trains, adapts) = (request.training.tokens > 0, request.adaptation.tokens > 0);
    let models = if trains {
        6.0
    } else if adapts {
        4.0
    } else {
        3.0
    };
    let width = if adapts { width + arch.hidden } else { width };
    let needed = 4.0 * (tokens * width as f64 + models * arch.parameters() as f64) + SUMS as f64;
    if let Some(available) = sherry::available_memory().filter(|available| needed > *available as f64) {
        let gib = |bytes: f64| bytes / f64::from(1 << 30);
        return invalid(format!(
            "{tokens} tokens need about {:.1} GiB of memory, {:.1} GiB are available; --tokens asks for fewer",
            gib(needed),
            gib(available as f64)
        ));
    }
    if has_recipe {
        return Ok(());
    }
    for cols in [arch.hidden, arch.q_dim(), arch.ffn] {
        let group = request.rounding.group.unwrap_or(cols);
        if group == 0 || cols % group != 0 || cols % 4 != 0 || (group != cols && !group.is_multiple_of(4)) {
            return invalid(format!("rows of {cols} weights are no whole groups of {group}"));
        }
    }
    Ok(())
}

/// Everything that the result depends on.
pub(super) fn settings(
    request: &Request,
    text: &Text,
    held_out: &Text,
    progress: &dyn Progress,
) -> Result<serde_json::Value> {
    let mut hash = Sha256::new();
    for token in text.tokens.iter().chain(&held_out.tokens) {
        hash.update(token.to_le_bytes());
    }
    let Rounding { grid, group, damping, effort } = request.rounding;
    let Reconstruction { epochs, batch, rate, code_rate, residual } = request.reconstruction;
    let Adaptation { tokens, every, batch: adapted_batch, rate: adapted_rate } = request.adaptation;
    let adaptation = (tokens > 0).then_some((tokens, every, adapted_batch, adapted_rate, request.seed));
    let reconstruction = (epochs > 0).then_some((epochs, batch, rate, code_rate, residual, request.seed));
    Ok(serde_json::json!({
        "model": hex(&model_hash(&request.model, progress)?),
        "text": hex(&hash.finalize()),
        "tokens": text.tokens.len(),
        "held_out": held_out.tokens.len(),
        "length": request.length,
        "grid": format!("{grid:?}"),
        "group": group,
        "damping": damping,
        "sweeps": effort.sweeps,
        "column_fits": effort.column_fits,
        "reconstruction": reconstruction,
        "adaptation": adaptation,
    }))
}

/// SHA-256 of a model file, or of all weights and the configuration of a folder.
fn model_hash(path: &Path, progress: &dyn Progress) -> Result<[u8; 32]> {
    if !path.is_dir() {
        return Ok(file_sha256(path, progress)?);
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(sherry::Error::io(path, "list"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|x| x == "safetensors") || path.ends_with("config.json"))
        .collect();
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        hash.update(file_sha256(&name, progress)?);
    }
    Ok(hash.finalize().into())
}

/// A recipe in a line, for messages: how many matrices have each type, and a hash of the whole.
pub(super) fn described(recipe: &Recipe, arch: &ArchConfig) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let types = || recipe::matrices(arch).filter_map(|role| recipe.get(role));
    types().for_each(|ty| *counts.entry(ty.to_string()).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(ty, count)| format!("{count} {ty}")).collect();
    let hash = hex(&Sha256::digest(recipe.to_json(arch).to_string()));
    format!("{} ({})", counts.join(", "), &hash[..12])
}
