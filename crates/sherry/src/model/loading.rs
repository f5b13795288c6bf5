//! Loading that is pulled: a piece per call, so that whoever reads the tensors can be asked for those of one piece only, and no
//! more than one piece lies in memory twice.

use sherry_kernels::{Matrix, Pool, TernaryBits};

use super::names::{Part, Role};
use super::weights::{Layer, Loader, Weights};
use super::{Checkpoint, Model};
use crate::Result;

/// A model on its way into memory. The pieces are the embedding and the head, which are the largest and come while there is
/// most room, then the layers, and the norm at the end.
///
/// ```
/// # use sherry::model::{Checkpoint, Family, Loading, config_hf, names::Naming, synthetic};
/// # use sherry::io::ReadMode;
/// # use sherry_kernels::Pool;
/// # let (folder, config) = (tempfile::tempdir().unwrap(), synthetic::tiny(Family::Llama));
/// # synthetic::source(&config, Naming::HuggingFace, 1).save(&folder.path().join("model.safetensors"))?;
/// # std::fs::write(folder.path().join("config.json"), config_hf::write(&config).unwrap().to_string()).unwrap();
/// let checkpoint = Checkpoint::open(folder.path(), ReadMode::Map)?;
/// let pool = Pool::new(1);
/// let mut loading = Loading::default();
/// while loading.step(&checkpoint, &pool)? {}
/// let model = loading.finish(&checkpoint).expect("it is complete");
/// assert_eq!(model.config.layers, config.layers);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Loading {
    embed: Option<Matrix>,
    head: Option<Matrix>,
    layers: Vec<Layer>,
    output_norm: Option<Vec<f32>>,
}

/// What comes next.
enum Piece {
    Embed,
    Head,
    Layer(usize),
    OutputNorm,
}

impl Loading {
    fn next(&self, checkpoint: &Checkpoint) -> Option<Piece> {
        let config = checkpoint.config();
        Some(match self {
            Self { embed: None, .. } => Piece::Embed,
            Self { head: None, .. } if !config.tied => Piece::Head,
            Self { layers, .. } if layers.len() < config.layers => Piece::Layer(layers.len()),
            Self { output_norm: None, .. } => Piece::OutputNorm,
            _ => return None,
        })
    }

    /// The tensors that [`step`](Self::step) reads next; none when the model is complete.
    pub fn wanted<'c>(&self, checkpoint: &'c Checkpoint) -> Vec<&'c str> {
        let roles: Vec<Role> = match self.next(checkpoint) {
            None => Vec::new(),
            Some(Piece::Embed) => vec![Role::Embed],
            Some(Piece::Head) => vec![Role::Head],
            Some(Piece::OutputNorm) => vec![Role::OutputNorm],
            Some(Piece::Layer(index)) => Part::ALL.into_iter().map(|part| Role::Layer(index, part)).collect(),
        };
        roles
            .into_iter()
            .filter_map(|role| checkpoint.tensors().find(role))
            .flat_map(|stored| stored.tensors())
            .collect()
    }

    /// Loads the next piece of `checkpoint`, which must be the same in every call. Whether there was one.
    ///
    /// # Errors
    /// As [`Weights::load`]; the piece can be tried again.
    pub fn step(&mut self, checkpoint: &Checkpoint, pool: &Pool) -> Result<bool> {
        let (source, tensors, config) = (checkpoint.source(), checkpoint.tensors(), checkpoint.config());
        let loader = Loader { source, tensors, config, bits: TernaryBits::Auto, pool };
        match self.next(checkpoint) {
            None => return Ok(false),
            Some(Piece::Embed) => self.embed = Some(loader.matrix(Role::Embed)?),
            Some(Piece::Head) => self.head = Some(loader.matrix(Role::Head)?),
            Some(Piece::Layer(index)) => self.layers.push(loader.layer(index)?),
            Some(Piece::OutputNorm) => self.output_norm = Some(loader.vector(Role::OutputNorm)?),
        }
        Ok(true)
    }

    /// The model; `None` as long as a piece is missing.
    pub fn finish(self, checkpoint: &Checkpoint) -> Option<Model> {
        if self.next(checkpoint).is_some() {
            return None;
        }
        let Self { embed, head, layers, output_norm } = self;
        let weights = Weights { embed: embed?, layers, output_norm: output_norm?, head };
        Some(Model { config: checkpoint.config().clone(), weights })
    }
}
