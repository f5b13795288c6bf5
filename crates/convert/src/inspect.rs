//! What is in a model, as JSON for programs.

use serde_json::{Value, json};
use sherry::io::gguf::{self, GgufFile};
use sherry::io::{TensorInfo, TensorSource, verify_tensor};
use sherry::model::names::Role;
use sherry::model::{Checkpoint, Container, Stored};
use sherry::tokenizer::Tokenizer;
use sherry::{Error, Progress, Result};

use crate::rows::{Moves, Rows};
use crate::sizes_of;

/// What a report lists besides the model itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listings {
    /// Every tensor.
    pub tensors: bool,
    /// All metadata of a GGUF file, long values shortened.
    pub metadata: bool,
}

/// What a model is: configuration, sizes, tokenizer, remarks, and what `listings` ask for.
pub fn report(checkpoint: &Checkpoint, listings: Listings) -> Value {
    let faults = checkpoint.generation().faults.iter().map(|fault| fault.problem.clone());
    let notes: Vec<String> = checkpoint.notes().into_iter().chain(faults).collect();
    let sizes = sizes_of(checkpoint);
    let mut report = json!({
        "path": checkpoint.path().display().to_string(),
        "description": checkpoint.describe(),
        "sizes": {
            "linear layers": { "bytes": sizes.linears, "bits_per_weight": sizes.linear_bits_per_weight() },
            "embedding and head": { "bytes": sizes.embeddings },
            "norms and biases": { "bytes": sizes.vectors },
            "all": { "bytes": sizes.total(), "bits_per_weight": sizes.bits_per_weight() },
        },
        "config": checkpoint.config_json().ok(),
        "tokenizer": tokenizer(checkpoint.tokenizer()),
        "notes": notes,
    });
    if listings.metadata
        && let Container::Gguf(file) = checkpoint.container()
    {
        report["metadata"] = metadata(file);
    }
    if listings.tensors {
        report["tensors"] = tensors(checkpoint.source());
    }
    report
}

/// What is in a GGUF file that is no model for this program, because of `problem`: a vocabulary, another architecture, a
/// damaged model.
pub fn report_file(file: &GgufFile, problem: &Error, listings: Listings) -> Value {
    let infos = file.tensors();
    let total: u64 = infos.iter().map(|info| info.bytes as u64).sum();
    let architecture = match file.metadata().find("general.architecture") {
        Some(gguf::Value::String(name)) => format!("architecture {}", name.escape_debug()),
        _ => "no architecture".to_owned(),
    };
    let holds = match infos.len() {
        0 => "no tensors".to_owned(),
        count => format!("{count} tensors of {total} bytes"),
    };
    let found = Tokenizer::from_metadata(file.metadata(), None)
        .and_then(|found| found.ok_or_else(|| Error::unsupported(file.path(), "the file has no tokenizer")));
    let mut report = json!({
        "path": file.path().display().to_string(),
        "description": format!("GGUF file, {architecture}, {holds}"),
        "not_run": problem.to_string(),
        "tokenizer": tokenizer(found),
    });
    if listings.metadata {
        report["metadata"] = metadata(file);
    }
    if listings.tensors {
        report["tensors"] = tensors(file);
    }
    report
}

/// Everything wrong with a model's data, one line each; all of it is read.
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::Io`] when data cannot be read.
pub fn problems(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Vec<String>> {
    let source = checkpoint.source();
    let mut problems = Vec::new();
    if let Err(error) = checkpoint.tokenizer() {
        problems.push(format!("tokenizer: {error}"));
    }
    let mut roles: Vec<(Role, &Stored)> = checkpoint.tensors().iter().collect();
    roles.sort_by_key(|(_, stored)| stored.name().to_owned());
    progress.start("verify", roles.len() as u64);
    for (role, stored) in roles {
        if progress.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let problem = match stored {
            Stored::Plain { name, ty } => {
                let (shape, bytes) = (role.shape(checkpoint.config()), source.data(name)?.len());
                verify_tensor(source, &TensorInfo { name: name.clone(), ty: *ty, shape, bytes }).err()
            }
            // Opening packed rows checks codes, padding and scales.
            Stored::Packed { .. } | Stored::BitNet { .. } | Stored::Mlx { .. } => {
                Rows::open(source, checkpoint.config(), role, stored, Moves::default()).err()
            }
        };
        problems.extend(problem.map(|error| error.to_string()));
        progress.advance(1);
    }
    progress.finish();
    Ok(problems)
}

fn tokenizer(found: Result<Tokenizer>) -> Value {
    match found {
        Ok(tokenizer) => json!({
            "tokens": tokenizer.vocab_size(),
            "bos": tokenizer.bos().and_then(|id| tokenizer.id_to_token(id)),
            "eos": tokenizer.eos().and_then(|id| tokenizer.id_to_token(id)),
            "adds_bos": tokenizer.adds_bos(),
            "chat_template": tokenizer.chat_template().is_some(),
            "notes": tokenizer.notes(),
        }),
        Err(error) => json!({ "problem": error.to_string() }),
    }
}

fn metadata(file: &GgufFile) -> Value {
    let entries = file.metadata().entries().iter();
    entries.map(|(key, value)| (key.clone(), json!(shown(value)))).collect::<serde_json::Map<_, _>>().into()
}

fn tensors(source: &dyn TensorSource) -> Value {
    let infos = source.tensors().iter();
    infos
        .map(|info| json!({ "name": info.name, "type": info.ty.name(), "shape": info.shape, "bytes": info.bytes }))
        .collect()
}

/// A GGUF value in one line.
fn shown(value: &gguf::Value) -> String {
    match value {
        gguf::Value::String(text) if text.chars().count() > 80 => {
            format!("{:?}... ({} bytes)", text.chars().take(77).collect::<String>(), text.len())
        }
        gguf::Value::String(text) => format!("{text:?}"),
        gguf::Value::Array(array) => format!("{} of {}", value.type_name(), array.len()),
        number => number.to_string(),
    }
}
