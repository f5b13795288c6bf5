//! Distillation of what rounding leaves free: scales and norms, all blocks together, towards the original's next-token
//! distributions.
//!
//! Codes stay, so no gradient of a weight is computed. Steps are relative to the size of what is learned: Adam on the logarithm of every scale, and
//! on norms in units of their mean magnitude.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sherry::Progress;
use sherry::io::safetensors::Writer;
use sherry::io::{ReadMode, Safetensors, TensorInfo};
use sherry::model::names::{Naming, Part, Role};
use sherry::model::{ArchConfig, Checkpoint};
use sherry_kernels::format::{QuadOrder, TensorType};

use super::block::QuantizedBlock;
use super::text::Text;
use super::work::Work;
use super::{Measured, targets};
use crate::checkpoint::{read_floats, write_floats};
use crate::data::Order;
use crate::error::{Error, Result};
use crate::layout::{Learn, Purpose, Tensor};
use crate::linear::Pass;
use crate::loss::{self, Divergence, Mix, Side};
use crate::methods::{Method, Quantizer, Scale};
use crate::network::{Examples, Network, Workspace};
use crate::pretrained;

/// How scales and norms are tuned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// Tokens to go through, with repetition; 0: no tuning.
    pub tokens: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Largest relative step.
    pub rate: f64,
}

/// One line of progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneReport {
    /// Steps done.
    pub step: u64,
    /// Tokens gone through.
    pub tokens: u64,
    /// Divergence from the original on the tokens of the last steps, in nats per token.
    pub divergence: f64,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.95;
/// Share of the steps in which the rate rises; then it falls along a cosine to a tenth.
const WARM_UP: f64 = 0.1;
/// Steps between two saves.
const SAVE_EVERY: u64 = 8;
/// Steps that a reported divergence is the mean of.
const REPORT_EVERY: u64 = 4;

const MIX: Mix = Mix { cross_entropy: 0.0, distillation: 1.0, divergence: Divergence::Forward, top_k: 0 };

/// The original model.
pub(super) struct Teacher {
    network: Network,
    params: Vec<f32>,
}

impl Teacher {
    /// Reads its weights.
    pub fn new(checkpoint: &Checkpoint, arch: &ArchConfig, progress: &dyn Progress) -> Result<Self> {
        let network = Network::new(arch.clone(), Quantizer::FULL);
        let params = pretrained::parameters(checkpoint, &network.layout, &network.quantizer, progress)?;
        Ok(Self { network, params })
    }

    /// What it makes of `tokens`.
    fn side<'a>(&'a self, tokens: &[u32], space: &'a mut Workspace, progress: &dyn Progress) -> Result<Side<'a>> {
        let pass = Pass { params: &self.params, lambda: 0.0, progress };
        let hidden = self.network.forward(pass, tokens, space)?;
        Ok(self.network.side(&self.params, hidden))
    }
}

/// The quantized model as a network whose scales and norms can be learned.
pub(super) struct Student {
    network: Network,
    params: Vec<f32>,
}

/// What is learned.
fn learned(network: &Network) -> impl Iterator<Item = &Tensor> {
    network.layout.tensors.iter().filter(|tensor| Learn::ScalesAndNorms.includes(tensor.purpose))
}

impl Student {
    /// The model after rounding.
    pub fn new(
        checkpoint: &Checkpoint,
        arch: &ArchConfig,
        work: &Work,
        group: Option<usize>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let quantizer = Quantizer {
            method: Method::Frozen,
            scale: if group.is_some() { Scale::Group } else { Scale::Row },
            group_size: group.unwrap_or(0),
            quads: QuadOrder::Contiguous,
            tequila: 0.0,
        };
        let network = Network::new(arch.clone(), quantizer);
        let mut params = vec![0.0; network.layout.len];
        let mut now: Option<(usize, QuantizedBlock)> = None;
        for tensor in &network.layout.tensors {
            let Some(role) = Role::parse(&tensor.name, arch.family, Naming::HuggingFace) else { continue };
            let out = &mut params[tensor.range()];
            if let Role::Layer(index, part) = role {
                if now.as_ref().is_none_or(|(of, _)| *of != index) {
                    now = Some((index, work.block(arch, index, progress)?));
                }
                let Some((_, block)) = &now else { continue };
                match (part, tensor.purpose) {
                    (_, Purpose::Linear(_, kind)) => {
                        let codes = &block.linears[kind as usize].codes;
                        out.iter_mut().zip(codes).for_each(|(out, code)| *out = 0.5 * f32::from(*code));
                        continue;
                    }
                    (Part::AttnNorm, _) => {
                        out.copy_from_slice(&block.norm_weights(arch, &block.attn_norm));
                        continue;
                    }
                    (Part::FfnNorm, _) => {
                        out.copy_from_slice(&block.norm_weights(arch, &block.ffn_norm));
                        continue;
                    }
                    _ => {}
                }
            }
            out.copy_from_slice(&pretrained::tensor(checkpoint, role, progress)?);
        }
        for (layer, places) in network.layout.blocks.iter().enumerate() {
            let block = work.block(arch, layer, progress)?;
            for (matrix, linear) in places.linears.iter().zip(&block.linears) {
                params[matrix.learned..][..linear.scales.len()].copy_from_slice(&linear.scales);
            }
        }
        Ok(Self { network, params })
    }

    /// Perplexity and divergence on `text`, for the original's hidden states there.
    pub fn measure(&self, text: &Text, original: Side<'_>, progress: &dyn Progress) -> Result<Measured> {
        let width = self.network.arch.hidden;
        let mut space = self.network.workspace(1, text.length, true);
        let mut sums = loss::Sums::default();
        let pass = Pass { params: &self.params, lambda: 0.0, progress };
        let targets = targets(text);
        let sequences = text.tokens.chunks_exact(text.length).zip(targets.chunks_exact(text.length));
        for ((tokens, targets), hidden) in sequences.zip(original.hidden.chunks_exact(text.length * width)) {
            let student = self.network.side(&self.params, self.network.forward(pass, tokens, &mut space)?);
            let teacher = Side { hidden, ..original };
            sums = sums.plus(loss::head_loss(student, Some(teacher), targets, &MIX, None, progress)?);
        }
        Ok(Measured::of(sums))
    }

    /// Weights of the tensor `name` as they are now: quantized ones as f32, norms. `None` for those that never change.
    pub fn weights(&self, tensor: &Tensor) -> Option<Vec<f32>> {
        match tensor.purpose {
            Purpose::Linear(layer, kind) => {
                let matrix = self.network.layout.blocks[layer].linears[kind as usize];
                let mut out = vec![0.0; matrix.count()];
                self.network.quantizer.effective(matrix, &self.params, 0.0, &mut out);
                Some(out)
            }
            Purpose::Norm => {
                let own = self.network.layout.tensors.iter().find(|own| own.name == tensor.name)?;
                Some(self.params[own.range()].to_vec())
            }
            _ => None,
        }
    }

    /// Tunes on `text`. `done` is called every few steps. Saves in the file `name` of the work folder, and goes on from there.
    ///
    /// # Errors
    /// I/O errors, [`sherry::Error::Interrupted`], and a divergence that is not finite.
    #[allow(clippy::too_many_arguments)] // what to learn from, where it is kept, and who hears of it
    pub fn tune(
        &mut self,
        text: &Text,
        teacher: &Teacher,
        tuning: &Tuning,
        seed: u64,
        (work, name): (&mut Work, &str),
        progress: &dyn Progress,
        mut done: impl FnMut(&TuneReport),
    ) -> Result<()> {
        let length = text.length;
        let batch = tuning.batch.clamp(1, text.sequences());
        let steps = (tuning.tokens / (batch * length)).max(1) as u64;
        let path = work.file(name);
        let mut state = if work.is_good(name, progress) { self.load(&path, progress)? } else { self.start() };
        let mut order = Order::new(seed, text.sequences(), state.step * batch as u64);
        let mut space = self.network.workspace(batch, length, false);
        let mut teachers = teacher.network.forward_workspace(batch, length);
        let mut grads = vec![0.0; self.network.layout.len];
        let mut tokens = Vec::new();
        let mut recent = loss::Sums::default();
        progress.start("tune scales and norms", steps - state.step.min(steps));
        while state.step < steps {
            tokens.clear();
            for _ in 0..batch {
                let at = order.next_window();
                tokens.extend(&text.tokens[at * length..(at + 1) * length]);
            }
            let targets = targets(&Text { length, tokens: tokens.clone() });
            let counted = batch * (length - 1);
            let examples = Examples {
                tokens: &tokens,
                targets: &targets,
                teacher: Some(teacher.side(&tokens, &mut teachers, progress)?),
                mix: &MIX,
                scale: 1.0 / counted as f32,
            };
            learned(&self.network).for_each(|tensor| grads[tensor.range()].fill(0.0));
            let pass = Pass { params: &self.params, lambda: 0.0, progress };
            let sums = self.network.train(pass, examples, Learn::ScalesAndNorms, &mut grads, &mut space, None)?;
            recent = recent.plus(sums);
            if !sums.divergence.is_finite() {
                return Err(Error::NotFinite {
                    step: state.step + 1,
                    what: "the divergence",
                    kept: path.display().to_string(),
                });
            }
            state.step += 1;
            let rate = rate(tuning.rate, state.step, steps);
            self.step(&grads, &mut state, rate);
            if state.step % REPORT_EVERY == 0 || state.step == steps {
                let divergence = recent.divergence / recent.tokens.max(1) as f64;
                done(&TuneReport { step: state.step, tokens: state.step * (batch * length) as u64, divergence });
                recent = loss::Sums::default();
            }
            if state.step % SAVE_EVERY == 0 || state.step == steps {
                self.save(&path, &state)?;
                work.record(name, progress)?;
            }
            progress.advance(1);
        }
        progress.finish();
        Ok(())
    }

    /// One step of Adam.
    fn step(&mut self, grads: &[f32], state: &mut State, rate: f64) {
        let power = |beta: f64| 1.0 - beta.powf(state.step as f64);
        let (first, second) = (power(BETA1), power(BETA2));
        let mut at = 0;
        for tensor in self.network.layout.tensors.iter().filter(|t| Learn::ScalesAndNorms.includes(t.purpose)) {
            let values = &mut self.params[tensor.range()];
            let mean = values.iter().map(|w| f64::from(w.abs())).sum::<f64>() / values.len().max(1) as f64;
            for (w, g) in values.iter_mut().zip(&grads[tensor.range()]) {
                let scale = tensor.purpose == Purpose::Learned;
                // In units of the number itself, or of the tensor's mean magnitude: norms may be negative or zero.
                let unit = if scale { f64::from(*w) } else { mean };
                let g = f64::from(*g) * unit;
                let (m, v) = (&mut state.mean[at], &mut state.square[at]);
                *m += ((g - f64::from(*m)) * (1.0 - BETA1)) as f32;
                *v = (f64::from(*v) * BETA2 + g * g * (1.0 - BETA2)) as f32;
                let by = rate * (f64::from(*m) / first) / ((f64::from(*v) / second).sqrt() + 1e-12);
                let next = if scale { f64::from(*w) * (-by).exp() } else { f64::from(*w) - mean * by };
                *w = next as f32;
                at += 1;
            }
        }
    }

    fn save(&self, path: &Path, state: &State) -> Result<()> {
        let info = |name: &str, len: usize| TensorInfo {
            name: name.to_owned(),
            ty: TensorType::F32,
            shape: vec![len],
            bytes: 4 * len,
        };
        let mut plan: Vec<TensorInfo> =
            learned(&self.network).map(|tensor| info(&tensor.name, tensor.range().len())).collect();
        plan.extend([info(MEAN, state.mean.len()), info(SQUARE, state.square.len())]);
        let metadata = BTreeMap::from([(STEP.to_owned(), state.step.to_string())]);
        let mut writer = Writer::create(path, &plan, &metadata)?;
        for tensor in learned(&self.network) {
            write_floats(&mut writer, &tensor.name, &self.params[tensor.range()])?;
        }
        write_floats(&mut writer, MEAN, &state.mean)?;
        write_floats(&mut writer, SQUARE, &state.square)?;
        Ok(writer.finish()?)
    }

    fn start(&self) -> State {
        let count = learned(&self.network).map(|tensor| tensor.range().len()).sum();
        State { step: 0, mean: vec![0.0; count], square: vec![0.0; count] }
    }

    fn load(&mut self, path: &Path, progress: &dyn Progress) -> Result<State> {
        let mut state = self.start();
        let count = state.mean.len();
        let source = Safetensors::open(path, ReadMode::Map)?;
        for tensor in self.network.layout.tensors.iter().filter(|t| Learn::ScalesAndNorms.includes(t.purpose)) {
            let range = tensor.range();
            read_floats(&source, &tensor.name, &[range.len()], &mut self.params[range], progress)?;
        }
        read_floats(&source, MEAN, &[count], &mut state.mean, progress)?;
        read_floats(&source, SQUARE, &[count], &mut state.square, progress)?;
        let step = source.metadata().get(STEP).and_then(|step| step.parse().ok());
        state.step = step.ok_or_else(|| Error::checkpoint(path, "does not say how many steps it is from"))?;
        Ok(state)
    }
}

const MEAN: &str = "adam.mean";
const SQUARE: &str = "adam.square";
const STEP: &str = "step";

/// The optimizer's state.
struct State {
    step: u64,
    mean: Vec<f32>,
    square: Vec<f32>,
}

/// The rate of step `step` (the first is 1) of `steps`.
fn rate(largest: f64, step: u64, steps: u64) -> f64 {
    let done = (step - 1) as f64 / steps as f64;
    let rising = (step as f64 / (WARM_UP * steps as f64).max(1.0)).min(1.0);
    let falling = 0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    largest * rising * falling
}
