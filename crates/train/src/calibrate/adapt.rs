//! Adaptation: whenever some more blocks are rounded, those that are not yet are trained as floats.
//!
//! They take the stream that the rounded blocks leave behind and learn to give the original's next-token distributions
//! again. What rounding did is so made up for by weights that can still move freely, and the weights found are what is
//! rounded next (QuIP#, arXiv 2402.04396, tunes the layers after each quantized one in the same way). Rounded blocks stay
//! as they are, so nothing is computed again below the first block that is trained.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use sherry::Progress;
use sherry::io::safetensors::Writer;
use sherry::io::{ReadMode, Safetensors};
use sherry::model::names::{Naming, Part, Role};
use sherry::model::{ArchConfig, Checkpoint};
use sherry_sgemm::MatmulPrecision;

use super::adam::{Adam, Rates, Weights, schedule};
use super::stream::{BlockWeights, Shard};
use super::text::Text;
use super::work::{Work, floats};
use super::{block_weights, targets};
use crate::checkpoint::{read_floats, write_floats};
use crate::error::{Error, Result};
use crate::layout::{Learn, Purpose, Tensor};
use crate::linear::Pass;
use crate::loss::{self, Divergence, Mix, Side};
use crate::methods::Quantizer;
use crate::network::{Examples, Input, Network};
use crate::pretrained;
use crate::rng::Rng;

/// How the blocks that are not rounded yet are trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptation {
    /// Tokens to go through at a time, with repetition; 0: no adaptation.
    pub tokens: usize,
    /// Blocks that are rounded between two times.
    pub every: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Largest step of a weight, relative to the mean magnitude of its tensor.
    pub rate: f64,
}

/// What one adaptation has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptationReport {
    /// Blocks that were rounded by then.
    pub blocks: usize,
    /// Divergence from the original on text held out, nats per token, before.
    pub before: f64,
    /// After.
    pub after: f64,
    /// On the text of the last quarter of the steps.
    pub fitted: f64,
    /// Wall-clock time.
    pub seconds: f64,
}

const MIX: Mix = Mix { cross_entropy: 0.0, distillation: 1.0, divergence: Divergence::Forward, top_k: 0 };
/// Sequences that forward passes take at a time.
const SEQUENCES: usize = 4;
/// Streams of random numbers of a seed, one per number of blocks.
const ORDER: u64 = 3 << 40;

/// The model whose blocks are not all rounded.
pub(super) struct Rest {
    network: Network,
    /// Of all blocks; those of rounded ones are no longer used.
    params: Vec<f32>,
    /// The original's final hidden states, shard by shard.
    goal: Vec<Vec<f32>>,
    length: usize,
    /// How exact products are.
    precision: MatmulPrecision,
}

/// The file that holds what was trained when `blocks` were rounded.
pub(super) fn file_name(blocks: usize) -> String {
    format!("rest-{blocks:04}.safetensors")
}

impl Adaptation {
    /// Whether blocks are trained when `blocks` of `layers` are rounded.
    pub fn is_due(&self, blocks: usize, layers: usize) -> bool {
        self.tokens > 0 && blocks > 0 && blocks < layers && blocks.is_multiple_of(self.every)
    }
}

impl Rest {
    /// The original, and where it takes `shards`, which hold the embedded text.
    pub fn new(
        checkpoint: &Checkpoint,
        arch: &ArchConfig,
        shards: &[Shard],
        length: usize,
        precision: MatmulPrecision,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let network = Network::new(arch.clone(), Quantizer::FULL);
        let params = pretrained::parameters(checkpoint, &network.layout, &network.quantizer, progress)?;
        let mut rest = Self { network, params, goal: Vec::new(), length, precision };
        progress.start("run the original", shards.len() as u64);
        for shard in shards {
            let mut hidden = Vec::with_capacity(shard.original.len());
            rest.run(0, &shard.original, progress, |states, _| {
                hidden.extend_from_slice(states);
                Ok(())
            })?;
            rest.goal.push(hidden);
            progress.advance(1);
        }
        progress.finish();
        Ok(rest)
    }

    /// Final hidden states for the residual stream `x` before block `first`, some sequences at a time, with their place
    /// in `x`.
    fn run(
        &self,
        first: usize,
        x: &[f32],
        progress: &dyn Progress,
        mut each: impl FnMut(&[f32], Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let step = SEQUENCES * self.length * self.network.arch.hidden;
        let space_of = |sequences| {
            let mut space = self.network.forward_workspace(sequences, self.length);
            space.set_precision(self.precision);
            space
        };
        let mut space = space_of(SEQUENCES);
        let pass = Pass { params: &self.params, lambda: 0.0, progress };
        for at in (0..x.len()).step_by(step) {
            let whole = at..x.len().min(at + step);
            if whole.len() < step {
                let sequences = whole.len() / (self.length * self.network.arch.hidden);
                space = space_of(sequences);
            }
            let input = Input::Stream(first, &x[whole.clone()]);
            each(self.network.forward_from(pass, input, &mut space)?, whole)?;
        }
        Ok(())
    }

    /// The weights of block `index` as they are now.
    pub fn block(&self, index: usize) -> Result<BlockWeights> {
        let (arch, layout) = (&self.network.arch, &self.network.layout);
        block_weights(arch, |part| {
            let name = Role::Layer(index, part).name(arch.family, Naming::HuggingFace).unwrap_or_default();
            let tensor = layout.tensors.iter().find(|tensor| tensor.name == name);
            Ok(tensor.map(|tensor| self.params[tensor.range()].to_vec()).unwrap_or_default())
        })
    }

    /// What is trained: linear layers and the norms before them, of the blocks from `first` on.
    fn learned(&self, first: usize) -> Vec<Tensor> {
        let family = self.network.arch.family;
        let is_learned = |tensor: &&Tensor| {
            let role = Role::parse(&tensor.name, family, Naming::HuggingFace);
            let Some(Role::Layer(layer, part)) = role else { return false };
            let is_norm = matches!(part, Part::AttnNorm | Part::FfnNorm);
            layer >= first && (is_norm || matches!(tensor.purpose, Purpose::Linear(..)))
        };
        self.network.layout.tensors.iter().filter(is_learned).cloned().collect()
    }

    /// Divergence from the original on the text held out, from the quantized streams before block `first`.
    fn divergence(&self, first: usize, shards: &[Shard], progress: &dyn Progress) -> Result<f64> {
        let width = self.network.arch.hidden;
        let mut sums = loss::Sums::default();
        for (shard, goal) in shards.iter().zip(&self.goal).filter(|(shard, _)| shard.held_out) {
            self.run(first, &shard.quantized, progress, |hidden, at| {
                let student = self.network.side(&self.params, hidden);
                let teacher = Side { hidden: &goal[at], ..student };
                let targets = self.targets(hidden.len() / width);
                sums =
                    sums.plus(loss::head_loss(student, Some(teacher), &targets, &MIX, None, self.precision, progress)?);
                Ok(())
            })?;
        }
        Ok(sums.divergence / sums.tokens.max(1) as f64)
    }

    /// All positions but the last of every sequence, whose next tokens nobody has, count; what follows is not looked at.
    fn targets(&self, tokens: usize) -> Vec<u32> {
        targets(&Text { length: self.length, tokens: vec![0; tokens] })
    }

    /// Trains the blocks from `first` on for the quantized streams in `shards`, which are before that block.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`], and a divergence that is not finite.
    pub fn train(
        &mut self,
        first: usize,
        shards: &[Shard],
        how: &Adaptation,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<AdaptationReport> {
        let start = std::time::Instant::now();
        let (length, width) = (self.length, self.network.arch.hidden);
        let places: Vec<(usize, usize)> = shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| !shard.held_out)
            .flat_map(|(i, shard)| (0..shard.quantized.len() / (length * width)).map(move |at| (i, at)))
            .collect();
        let batch = how.batch.clamp(1, places.len().max(1));
        let steps = (how.tokens / (batch * length)).max(1) as u64;
        let before = self.divergence(first, shards, progress)?;
        let learned = self.learned(first);
        let kept: Vec<Vec<f32>> = learned.iter().map(|tensor| self.params[tensor.range()].to_vec()).collect();
        let mut adam = Adam::new(learned.iter().map(|tensor| tensor.range().len()).sum());
        let mut grads = vec![0.0; self.network.layout.len];
        let mut space = self.network.workspace(batch, length, false);
        space.set_precision(self.precision);
        let targets = self.targets(batch * length);
        let mut rng = Rng::new(seed, ORDER + first as u64);
        let mut order = Vec::new();
        let mut last = loss::Sums::default();
        progress.start("adapt the other blocks", steps);
        for step in 1..=steps {
            if order.len() < batch {
                order = rng.permutation(places.len());
            }
            let (mut x, mut goal) = (Vec::new(), Vec::new());
            for i in order.drain(..batch) {
                let (shard, at) = places[i as usize];
                let whole = at * length * width..(at + 1) * length * width;
                x.extend_from_slice(&shards[shard].quantized[whole.clone()]);
                goal.extend_from_slice(&self.goal[shard][whole]);
            }
            learned.iter().for_each(|tensor| grads[tensor.range()].fill(0.0));
            let teacher = self.network.side(&self.params, &goal);
            let examples = Examples {
                input: Input::Stream(first, &x),
                targets: &targets,
                teacher: Some(teacher),
                mix: &MIX,
                scale: 1.0 / (batch * (length - 1)) as f32,
            };
            let pass = Pass { params: &self.params, lambda: 0.0, progress };
            let sums = self.network.train(pass, examples, Learn::Blocks, &mut grads, &mut space, None)?;
            if !sums.divergence.is_finite() {
                let kept = format!("what was done before, {first} blocks");
                return Err(Error::NotFinite { step, what: "the divergence", kept });
            }
            if 4 * step > 3 * steps {
                last = last.plus(sums);
            }
            let rates = Rates { weights: Weights::Float(how.rate), scales: how.rate }.times(schedule(step, steps));
            adam.step(learned.iter(), &mut self.params, &grads, rates);
            progress.advance(1);
        }
        progress.finish();
        let mut after = self.divergence(first, shards, progress)?;
        // Too large steps must not leave a worse model behind.
        if after.is_nan() || after > before {
            learned.iter().zip(kept).for_each(|(tensor, kept)| self.params[tensor.range()].copy_from_slice(&kept));
            after = before;
        }
        let fitted = last.divergence / last.tokens.max(1) as f64;
        Ok(AdaptationReport { blocks: first, before, after, fitted, seconds: start.elapsed().as_secs_f64() })
    }

    /// Keeps what was trained when `first` blocks were rounded; it counts once this returns.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn keep(&self, work: &mut Work, report: AdaptationReport, progress: &dyn Progress) -> Result<()> {
        let name = file_name(report.blocks);
        let learned = self.learned(report.blocks);
        let plan: Vec<_> =
            learned.iter().map(|tensor| floats(tensor.name.clone(), vec![tensor.range().len()])).collect();
        let mut writer = Writer::create(&work.file(&name), &plan, &BTreeMap::new())?;
        for tensor in &learned {
            write_floats(&mut writer, &tensor.name, &self.params[tensor.range()])?;
        }
        writer.finish()?;
        work.adapted(&name, report, progress)
    }

    /// The original's final hidden states on the text held out.
    pub fn into_held_out(self, shards: &[Shard]) -> Vec<f32> {
        let parts = shards.iter().zip(self.goal).filter(|(shard, _)| shard.held_out);
        parts.flat_map(|(_, goal)| goal).collect()
    }

    /// Reads what [`keep`](Self::keep) has written when `first` blocks were rounded.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is not what was written.
    pub fn load(&mut self, first: usize, work: &Work, progress: &dyn Progress) -> Result<()> {
        let path = work.file(&file_name(first));
        let source = Safetensors::open(&path, ReadMode::Map)?;
        for tensor in self.learned(first) {
            let range = tensor.range();
            read_floats(&source, &tensor.name, &[range.len()], &mut self.params[range], progress)?;
        }
        Ok(())
    }
}
