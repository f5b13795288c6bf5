//! The model inside this program: `sherry run` speaks without a download.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use sherry::Progress;
use sherry::io::gguf::GgufFile;
use sherry::model::Checkpoint;
use sherry_kernels::Bytes;

/// Its name, where others have a path.
pub const NAME: &str = "sherry-tiny";

/// A 1.25-bit GGUF file (STQ1_0) with its tokenizer; `model/README.md` is its model card.
static GGUF: &[u8] = include_bytes!("../model/sherry-tiny.gguf");

/// Opens it and says what it is.
pub fn open(progress: &dyn Progress) -> Result<Checkpoint> {
    let file = GgufFile::from_bytes(NAME, Bytes::new(Arc::new(GGUF)))?;
    let checkpoint = Checkpoint::from_gguf(Path::new(NAME), file)?;
    progress.note(&format!("{NAME} (built in): {}", checkpoint.describe()));
    Ok(checkpoint)
}
