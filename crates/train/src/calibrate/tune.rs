//! Distillation of all blocks together towards the original's next-token distributions: first of what rounding leaves free,
//! scales and norms, then of everything but embedding and head.
//!
//! Where codes stay, no gradient of a weight is computed. Steps are relative to the size of what is learned: Adam on the logarithm of every scale, and
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
use sherry_sgemm::MatmulPrecision;

use super::adam::{Adam, Rates, Weights, fading, schedule};
use super::block::{Formats, QuantizedBlock};
use super::latent::Latents;
use super::rounding::Blocks;
use super::text::Text;
use super::work::Work;
use super::{Measured, Model, targets};
use crate::checkpoint::{read_floats, write_floats};
use crate::data::Order;
use crate::error::{Error, Result};
use crate::layout::{Kind, Purpose, Tensor};
use crate::linear::Pass;
use crate::loss::{self, Divergence, Mix, Side};
use crate::methods::{Method, Quantizer, Scale};
use crate::network::{Examples, Input, Network, Workspace};
use crate::pretrained;

/// How all blocks are tuned together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// Tokens to go through, with repetition; 0: no tuning.
    pub tokens: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Largest relative step of scales and norms.
    pub rate: f64,
    /// Largest step of a latent weight that decides a code, in units of the scale; 0: codes stay.
    pub code_rate: f64,
    /// Where codes do not stay: strength of the residual path (Arenas) at the beginning, which falls to zero over half of the
    /// steps.
    pub residual: f32,
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

/// The quantized model as a network of codes and scales: scales and norms can be learned and, once [thawed](Student::thaw),
/// codes.
pub(super) struct Student {
    network: Network,
    params: Vec<f32>,
    /// Linear layers of float and block types, by block and [`Kind`]. Their scales learn as factors of whole rows, ones when
    /// nothing is in training.
    blocks: BTreeMap<(usize, usize), Blocks>,
    /// What decides codes that are learned; none where all stay.
    latents: Latents,
}

impl Student {
    /// What is learned.
    fn learned(&self) -> Vec<Tensor> {
        self.network.layout.tensors.iter().filter(|tensor| self.latents.includes(tensor)).cloned().collect()
    }

    /// The model after rounding.
    pub fn new(model: Model<'_>, work: &Work, group: Option<usize>, progress: &dyn Progress) -> Result<Self> {
        let arch = model.arch;
        let quantizer = Quantizer {
            method: Method::Codes,
            scale: if group.is_some() { Scale::Group } else { Scale::Row },
            group_size: group.unwrap_or(0),
            quads: QuadOrder::Contiguous,
            tequila: 0.0,
        };
        let network = Network::new(arch.clone(), quantizer);
        let mut params = vec![0.0; network.layout.len];
        let mut blocks = BTreeMap::new();
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
                        let linear = &block.linears[kind as usize];
                        if let Some(held) = &linear.blocks {
                            out.copy_from_slice(&linear.weights());
                            blocks.insert((index, kind as usize), held.clone());
                            continue;
                        }
                        let codes = &linear.codes;
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
            out.copy_from_slice(&model.held(role, progress)?);
        }
        for (layer, places) in network.layout.blocks.iter().enumerate() {
            let block = work.block(arch, layer, progress)?;
            for (matrix, linear) in places.linears.iter().zip(&block.linears) {
                params[matrix.learned..][..linear.scales.len()].copy_from_slice(&linear.scales);
            }
        }
        Ok(Self { network, params, blocks, latents: Latents::default() })
    }

    /// What a file holds of the linear layer `kind` of block `layer`, where that is of a float or block type.
    pub fn blocks(&self, layer: usize, kind: Kind) -> Option<&Blocks> {
        self.blocks.get(&(layer, kind as usize))
    }

    /// Makes everything what a file holds: codes without a residual path, and factors of rows that were learned in the scales of
    /// their blocks, as nearly as those hold them.
    fn settle(&mut self) {
        self.latents.apply(0.0, &mut self.params);
        for (&(layer, kind), blocks) in &mut self.blocks {
            let matrix = self.network.layout.blocks[layer].linears[kind];
            self.latents.pack(matrix, blocks);
            let factors = &mut self.params[matrix.learned..][..matrix.rows];
            blocks.scale_rows(factors);
            factors.fill(1.0);
            let weights = blocks.weights(matrix.cols);
            self.params[matrix.weights..][..weights.len()].copy_from_slice(&weights);
        }
    }

    /// Lets codes follow latent weights, from those on that rounding or reconstruction has left. Scales and norms stay as they
    /// are. `formats` says what the matrices of a block are.
    pub fn thaw(&mut self, work: &Work, formats: impl Fn(usize) -> Formats, progress: &dyn Progress) -> Result<()> {
        for (layer, places) in self.network.layout.blocks.iter().enumerate() {
            let (block, formats) = (work.block(&self.network.arch, layer, progress)?, formats(layer));
            for (kind, linear) in block.linears.iter().enumerate() {
                // Tuning has moved the scales of blocks.
                let blocks = self.blocks.get(&(layer, kind));
                self.latents.add(places.linears[kind], formats.of[kind], formats.quads, &linear.latents, blocks);
            }
        }
        Ok(())
    }

    /// Perplexity and divergence on `text`, for the original's hidden states there.
    pub fn measure(
        &self,
        text: &Text,
        original: Side<'_>,
        precision: MatmulPrecision,
        progress: &dyn Progress,
    ) -> Result<Measured> {
        let width = self.network.arch.hidden;
        let mut space = self.network.workspace(1, text.length, true);
        space.set_precision(precision);
        let mut sums = loss::Sums::default();
        let pass = Pass { params: &self.params, lambda: 0.0, progress };
        let targets = targets(text);
        let sequences = text.tokens.chunks_exact(text.length).zip(targets.chunks_exact(text.length));
        for ((tokens, targets), hidden) in sequences.zip(original.hidden.chunks_exact(text.length * width)) {
            let student = self.network.side(&self.params, self.network.forward(pass, tokens, &mut space)?);
            let teacher = Side { hidden, ..original };
            sums = sums.plus(loss::head_loss(student, Some(teacher), targets, &MIX, None, precision, progress)?);
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
        precision: MatmulPrecision,
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
        // Large steps are the sum of several passes.
        let at_once = if batch.is_multiple_of(2) { 2 } else { 1 };
        let mut space = self.network.workspace(at_once, length, false);
        let mut teachers = teacher.network.forward_workspace(at_once, length);
        [&mut space, &mut teachers].into_iter().for_each(|space| space.set_precision(precision));
        let mut grads = vec![0.0; self.network.layout.len];
        let learned = self.learned();
        let learn = self.latents.learn();
        let mut recent = loss::Sums::default();
        progress.start(
            if tuning.code_rate > 0.0 { "train" } else { "tune scales and norms" },
            steps - state.step.min(steps),
        );
        while state.step < steps {
            let lambda = fading(tuning.residual, state.step + 1, steps);
            self.latents.apply(lambda, &mut self.params);
            let mut sums = loss::Sums::default();
            learned.iter().for_each(|tensor| grads[tensor.range()].fill(0.0));
            for _ in 0..batch / at_once {
                let mut tokens = Vec::new();
                for _ in 0..at_once {
                    let at = order.next_window();
                    tokens.extend(&text.tokens[at * length..(at + 1) * length]);
                }
                let part = Text { length, tokens };
                let examples = Examples {
                    input: Input::Tokens(&part.tokens),
                    targets: &targets(&part),
                    teacher: Some(teacher.side(&part.tokens, &mut teachers, progress)?),
                    mix: &MIX,
                    scale: 1.0 / (batch * (length - 1)) as f32,
                };
                let pass = Pass { params: &self.params, lambda: 0.0, progress };
                sums = sums.plus(self.network.train(pass, examples, learn, &mut grads, &mut space, None)?);
            }
            recent = recent.plus(sums);
            if !sums.divergence.is_finite() {
                return Err(Error::NotFinite {
                    step: state.step + 1,
                    what: "the divergence",
                    kept: path.display().to_string(),
                });
            }
            let rates = Rates { weights: Weights::Latent(tuning.code_rate), scales: tuning.rate }
                .times(schedule(state.step + 1, steps));
            self.latents.step(&mut self.params, &mut grads, |params, grads| {
                state.step(learned.iter(), params, grads, rates);
            });
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
        self.settle();
        Ok(())
    }

    fn save(&self, path: &Path, state: &Adam) -> Result<()> {
        let info = |name: &str, len: usize| TensorInfo {
            name: name.to_owned(),
            ty: TensorType::F32,
            shape: vec![len],
            bytes: 4 * len,
        };
        let learned = self.learned();
        let mut plan: Vec<TensorInfo> = learned.iter().map(|tensor| info(&tensor.name, tensor.range().len())).collect();
        plan.extend([info(MEAN, state.mean.len()), info(SQUARE, state.square.len())]);
        let metadata = BTreeMap::from([(STEP.to_owned(), state.step.to_string())]);
        let mut writer = Writer::create(path, &plan, &metadata)?;
        for tensor in &learned {
            let values = self.latents.of(tensor).unwrap_or(&self.params[tensor.range()]);
            write_floats(&mut writer, &tensor.name, values)?;
        }
        write_floats(&mut writer, MEAN, &state.mean)?;
        write_floats(&mut writer, SQUARE, &state.square)?;
        Ok(writer.finish()?)
    }

    fn start(&self) -> Adam {
        let count = self.learned().iter().map(|tensor| tensor.range().len()).sum();
        Adam::new(count)
    }

    fn load(&mut self, path: &Path, progress: &dyn Progress) -> Result<Adam> {
        let mut state = self.start();
        let count = state.mean.len();
        let source = Safetensors::open(path, ReadMode::Map)?;
        for tensor in &self.learned() {
            let range = tensor.range();
            let values = match self.latents.of_mut(tensor) {
                Some(latents) => latents,
                None => &mut self.params[range.clone()],
            };
            read_floats(&source, &tensor.name, &[range.len()], values, progress)?;
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
