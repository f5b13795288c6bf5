//! How much memory a run needs, counted before anything is made, and which field of its configuration asks for too much.

use sherry::model::ArchConfig;
use sherry::model::names::{Part, Role};

use crate::config::Config;
use crate::methods::{Method, Quantizer};
use crate::{loss, ops};

/// Bytes of a float.
const FLOAT: f64 = 4.0;

/// Bytes that a run needs at its peak. Floating point, so that absurd sizes do not overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Parameters, gradients and both moments.
    pub model: f64,
    /// What a step computes and keeps for its backward pass, and the tokens that it works on.
    pub activations: f64,
    /// The teacher's parameters.
    pub teacher: f64,
}

impl Memory {
    /// What the run `config` of a model `arch` needs, with a teacher where it has one, on `threads` threads.
    pub fn of(config: &Config, arch: &ArchConfig, teacher: Option<&ArchConfig>, threads: usize) -> Self {
        let batch = &config.batch;
        let quantizer = config.quantizer.build();
        let student =
            Pass { arch, quantizer, length: batch.length as f64, tokens: batch.length as f64 * batch.size as f64 };
        let layers = arch.layers as f64;
        let kept = if batch.recompute { 1.0 } else { layers };
        let mut floats = (layers + 2.0) * student.stream() + kept * student.kept() + student.shared(threads);
        floats += student.logits();
        if let Some(arch) = teacher {
            let teacher = Pass { arch, quantizer: Quantizer::FULL, ..student };
            floats += 2.0 * teacher.stream() + teacher.kept() + teacher.shared(threads) + teacher.logits();
        }
        let linears: f64 = linear_parts().map(|part| elements(arch, Role::Layer(0, part))).sum();
        // Signs of the codes before and after a step that is looked at closely, and the tokens and targets of a pass.
        let codes = if config.metrics.probe_every > 0 { 2.0 * layers * linears } else { 0.0 };
        let windows = batch.size as f64 * batch.accumulate as f64;
        Self {
            model: 4.0 * FLOAT * parameters(arch, &quantizer),
            activations: FLOAT * floats + codes + 8.0 * student.tokens + 8.0 * windows,
            teacher: teacher.map_or(0.0, |arch| FLOAT * parameters(arch, &Quantizer::FULL)),
        }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.model + self.activations + self.teacher
    }

    fn describe(&self) -> String {
        let mut parts = vec![
            format!("{} for parameters and optimizer", gib(self.model)),
            format!("{} for activations", gib(self.activations)),
        ];
        if self.teacher > 0.0 {
            parts.push(format!("{} for the teacher", gib(self.teacher)));
        }
        format!("needs about {} of memory ({})", gib(self.total()), parts.join(", "))
    }
}

fn gib(bytes: f64) -> String {
    format!("{:.1} GiB", bytes / f64::from(1u32 << 30))
}

fn linear_parts() -> impl Iterator<Item = Part> {
    crate::layout::Kind::ALL.into_iter().map(|kind| kind.part())
}

/// Elements of a tensor.
fn elements(arch: &ArchConfig, role: Role) -> f64 {
    role.elements(arch) as f64
}

/// Parameters of a model, learned numbers of its quantizer included.
fn parameters(arch: &ArchConfig, quantizer: &Quantizer) -> f64 {
    let parts = crate::layout::PARTS.into_iter().filter(|part| part.is_in(arch));
    let block: f64 = parts.map(|part| elements(arch, Role::Layer(0, part))).sum();
    let learned = quantizer.method.learned().len() as f64;
    let units = |part| {
        let shape = Role::Layer(0, part).shape(arch);
        elements(arch, Role::Layer(0, part)) / quantizer.unit(shape[0], shape[1]).max(1) as f64
    };
    let learned: f64 = if learned > 0.0 { learned * linear_parts().map(units).sum::<f64>() } else { 0.0 };
    let head = if arch.tied { 0.0 } else { elements(arch, Role::Head) };
    elements(arch, Role::Embed) + head + arch.hidden as f64 + arch.layers as f64 * (block + learned)
}

/// Floats of a pass through a model; see the buffers of [`block`](crate::block) and [`network`](crate::network).
#[derive(Clone, Copy)]
struct Pass<'a> {
    arch: &'a ArchConfig,
    quantizer: Quantizer,
    length: f64,
    tokens: f64,
}

impl Pass<'_> {
    fn q_dim(&self) -> f64 {
        self.arch.heads as f64 * self.arch.head_dim as f64
    }

    fn qkv_dim(&self) -> f64 {
        self.q_dim() + 2.0 * self.arch.kv_heads as f64 * self.arch.head_dim as f64
    }

    /// The residual stream at one place.
    fn stream(&self) -> f64 {
        self.tokens * self.arch.hidden as f64
    }

    /// What one block keeps.
    fn kept(&self) -> f64 {
        let (arch, hidden) = (self.arch, self.arch.hidden as f64);
        let raw = if arch.qk_norm.is_some() { self.qkv_dim() } else { 0.0 };
        let outputs = if arch.post_norms { 2.0 * hidden } else { 0.0 };
        let own = self.qkv_dim() + self.q_dim() + arch.heads as f64 + hidden + 2.0 * arch.ffn as f64;
        self.tokens * (own + raw + outputs)
    }

    /// Buffers that all blocks share: norms, intermediates, effective weights, rotations, scores of attention.
    fn shared(&self, threads: usize) -> f64 {
        let (hidden, ffn) = (self.arch.hidden as f64, self.arch.ffn as f64);
        let widest = self.qkv_dim().max(ffn).max(hidden);
        let weights = if self.quantizer.method == Method::None { 0.0 } else { hidden * self.qkv_dim().max(2.0 * ffn) };
        let rotations = 2.0 * self.length * self.arch.head_dim as f64;
        let scores = 2.0 * threads as f64 * ops::attention::BLOCK as f64 * self.length;
        self.tokens * (hidden + 2.0 * widest) + weights + rotations + scores
    }

    /// Logits held at once.
    fn logits(&self) -> f64 {
        let vocab = self.arch.vocab;
        loss::rows_at_once(vocab, self.tokens as usize) as f64 * vocab as f64
    }
}

/// Refuses a run that does not fit into `available` bytes: the field that asks for too much, and the way out.
///
/// # Errors
/// Field and problem.
pub fn check(
    config: &Config,
    arch: &ArchConfig,
    teacher: Option<&ArchConfig>,
    threads: usize,
    available: f64,
) -> Result<(), (&'static str, String)> {
    let need = |config: &Config| Memory::of(config, arch, teacher, threads);
    let memory = need(config);
    if memory.total() <= available {
        return Ok(());
    }
    let have = format!("the run {}, {} are available", memory.describe(), gib(available));
    let smallest = {
        let mut smallest = config.clone();
        (smallest.batch.length, smallest.batch.size, smallest.batch.accumulate) = (1, 1, 1);
        smallest.batch.recompute = true;
        need(&smallest)
    };
    if smallest.total() > available {
        if teacher.is_some() && smallest.total() - smallest.teacher <= available {
            return Err(("loss.teacher", format!("{have}; without a teacher, or with a smaller one, it may fit")));
        }
        let field = largest_of_model(config, arch);
        return Err((field, format!("{have}; no batch is small enough for that: choose a smaller model")));
    }
    let mut ways = Vec::new();
    let fits = |change: &dyn Fn(&mut Config)| {
        let mut other = config.clone();
        change(&mut other);
        need(&other).total() <= available
    };
    if !config.batch.recompute && fits(&|other| other.batch.recompute = true) {
        ways.push("with batch.recompute=true it fits".to_owned());
    }
    let largest = |below: usize, fits: &dyn Fn(usize) -> bool| {
        let (mut good, mut bad) = (0, below);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits(middle) { good = middle } else { bad = middle }
        }
        good
    };
    let size = largest(config.batch.size, &|size| fits(&|other| other.batch.size = size));
    if size > 0 {
        ways.push(format!("batch.size={size} fits (more sequences in a step: batch.accumulate)"));
    }
    let length = largest(config.batch.length, &|length| fits(&|other| other.batch.length = length));
    if length > 0 {
        ways.push(format!("batch.length={length} fits"));
    }
    if ways.is_empty() {
        ways.push("lower batch.length and batch.size".to_owned());
    }
    // Sequences are usually some hundred times as long as a batch is wide.
    let field = if config.batch.length / 256 >= config.batch.size { "batch.length" } else { "batch.size" };
    Err((field, format!("{have}; {}", ways.join("; "))))
}

/// The field that makes a model large: the one that is most out of proportion.
fn largest_of_model(config: &Config, arch: &ArchConfig) -> &'static str {
    if config.model.from.is_some() {
        return "model.from";
    }
    let embedding = if config.model.vocab.is_some() { "model.vocab" } else { "data.tokenizer" };
    let sizes = [
        ("model.hidden", arch.hidden as f64 / 2048.0),
        ("model.ffn", arch.ffn as f64 / 8192.0),
        ("model.layers", arch.layers as f64 / 24.0),
        ("model.heads", arch.heads as f64 / 32.0),
        ("model.head_dim", config.model.head_dim.unwrap_or(0) as f64 / 128.0),
        (embedding, arch.vocab as f64 / 65536.0),
    ];
    sizes.into_iter().fold(sizes[0], |a, b| if b.1 > a.1 { b } else { a }).0
}

#[cfg(test)]
mod tests;
