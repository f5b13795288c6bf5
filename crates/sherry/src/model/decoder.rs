//! The forward pass of every supported model.

use std::sync::Arc;

use sherry_kernels::{AttentionShape, Engine, Largest, Matrix, Pool, Precision, Product};

use super::rope::{Frequencies, rotate};
use super::weights::{Layer, Weights};
use super::{Activation, ArchConfig, Candidates, KvCache, KvPages, KvPool, QkNorm};
use crate::{Error, Result};

/// A model ready to run: what it is and what it weighs.
#[derive(Debug)]
pub struct Model {
    /// Hyper-parameters.
    pub config: ArchConfig,
    /// Weights in executable form.
    pub weights: Weights,
}

/// Which rows of logits a step asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// None: a part of a prompt that is not its end.
    None,
    /// Of the last token: what generation needs.
    Last,
    /// Of the last token, but only the largest have to be there, as many as greedy decoding and most sampling need. The
    /// others may be -inf. Cheaper when the head has a [coarse copy](Weights::add_coarse_head), that tells them apart, and no
    /// other row of the batch needs more; otherwise the same as `Last`.
    Top(Candidates),
    /// Of every token: what evaluation needs.
    All,
    /// Of every token, the largest, as [`Top`](Self::Top): what generation by proposed tokens needs.
    EachTop(Candidates),
}

/// How often the [coarse copy](Weights::add_coarse_head) of a head was enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadStatistics {
    /// Tokens whose largest logits were found without the whole head.
    pub found: u64,
    /// Logits computed exactly for them, in all.
    pub exact: u64,
    /// Tokens for which that was tried in vain.
    pub failed: u64,
    /// Tokens for which it was not tried, because it had just failed.
    pub skipped: u64,
}

/// After a failure it is not tried in this many passes, in twice as many after the next, up to the second number.
const HEAD_PAUSE: [u32; 2] = [1, 64];

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct Step<'a> {
    /// The sequence so far; the tokens continue it.
    pub cache: &'a mut KvPages,
    /// The tokens.
    pub tokens: &'a [u32],
    /// Rows of logits to compute.
    pub logits: Wanted,
}

/// A place in a block that a [`Tap`] sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapPoint {
    /// The residual stream before the block, tokens x hidden.
    BlockInput,
    /// What q, k and v multiply, before a norm that one of them has for itself: the stream normed, tokens x hidden.
    Qkv,
    /// What o multiplies, before a norm of its own: the heads' outputs, tokens x (heads * head_dim).
    O,
    /// What gate and up multiply, before norms of their own: the stream after attention normed, tokens x hidden.
    GateUp,
    /// What down multiplies, before a norm of its own: act(gate) * up, tokens x ffn.
    Down,
    /// The residual stream after the block, tokens x hidden.
    BlockOutput,
}

/// Sees what flows through the blocks of a [`Decoder`]: activations in f32, before any rounding that the engine does to
/// multiply with them.
pub trait Tap {
    /// `rows` is what block `layer` holds at `point`, a row per token in the order of the steps and of the tokens in
    /// them. Called for every layer, and in a layer for every point in the order of [`TapPoint`].
    fn see(&mut self, layer: usize, point: TapPoint, rows: &[f32]);
}

/// Rows of logits, in the order of the steps and of the tokens in them.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocab: usize,
}

impl<'a> Logits<'a> {
    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab
    }

    /// Row `i`: one value per token of the vocabulary.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.vocab..(i + 1) * self.vocab]
    }

    /// The last row, `None` when no step asked for one.
    pub fn last(&self) -> Option<&'a [f32]> {
        self.rows().checked_sub(1).map(|i| self.row(i))
    }
}

/// Runs a [`Model`]. Buffers grow to the largest batch seen and are then reused.
///
/// The logits of a token depend on the tokens before it in its own sequence and on nothing else: for any number of
/// threads, any cutting of the prompt into steps and any other sequences in the batch they have the same bits.
///
/// ```
/// # use std::sync::Arc;
/// use sherry::model::{Decoder, Family, KvPages, KvPool, KvType, Step, Wanted, synthetic};
/// use sherry_kernels::{Engine, Isa, Precision};
///
/// let model = Arc::new(synthetic::model(&synthetic::tiny(Family::Qwen3), 1)?);
/// let mut decoder = Decoder::new(model, Engine::new(Isa::best(), 2, Precision::Int8));
/// // Two sequences in one pass over the weights.
/// let mut pool = KvPool::new(decoder.config(), 2, KvType::F16)?;
/// let (mut one, mut two) = (KvPages::default(), KvPages::default());
/// let logits = decoder.forward(&mut pool, &mut [
///     Step { cache: &mut one, tokens: &[3, 1, 4], logits: Wanted::Last },
///     Step { cache: &mut two, tokens: &[1, 5], logits: Wanted::All },
/// ])?;
/// assert_eq!(logits.rows(), 3);
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    model: Arc<Model>,
    engine: Engine,
    frequencies: Frequencies,
    buffers: Buffers,
    head: HeadState,
}

/// When to try the coarse copy of the head.
#[derive(Debug, Default)]
struct HeadState {
    statistics: HeadStatistics,
    /// Passes still to be skipped.
    wait: u32,
    /// How long to skip after the next failure; 0: the shortest pause.
    pause: u32,
}

/// Activations of a batch, tokens x width each.
#[derive(Debug, Default)]
struct Buffers {
    /// The residual stream, tokens x hidden.
    x: Vec<f32>,
    /// Its normalised copy, tokens x hidden.
    normed: Vec<f32>,
    /// What a block adds to it, tokens x hidden.
    delta: Vec<f32>,
    /// The input of one linear layer, where it has a norm of its own, tokens x its inputs.
    input: Vec<f32>,
    /// tokens x (heads * head_dim).
    q: Vec<f32>,
    /// tokens x (kv_heads * head_dim).
    k: Vec<f32>,
    /// tokens x (kv_heads * head_dim).
    v: Vec<f32>,
    /// Attention output, tokens x (heads * head_dim).
    attended: Vec<f32>,
    /// tokens x ffn.
    gate: Vec<f32>,
    /// tokens x ffn.
    up: Vec<f32>,
    /// Wanted rows x vocab.
    logits: Vec<f32>,
    /// Rotation of each token in global layers: cosines, then sines, head_dim / 2 each.
    rotation: Vec<f32>,
    /// The same for sliding-window layers, where it differs.
    local_rotation: Vec<f32>,
    /// Step and absolute position of each token.
    place: Vec<(usize, usize)>,
    /// Tokens whose logits are wanted, and which if not all.
    wanted: Vec<(usize, Option<Candidates>)>,
}

impl Decoder {
    /// A decoder of `model` on `engine`, for runs as long as the model was made for. Where the engine rounds activations, it
    /// does so as the model was trained.
    pub fn new(model: Arc<Model>, mut engine: Engine) -> Self {
        if model.config.int8_per_token && engine.precision() == Precision::Int8 {
            engine.set_precision(Precision::Int8PerToken);
        }
        let frequencies = Frequencies::new(&model.config);
        Self { model, engine, frequencies, buffers: Buffers::default(), head: HeadState::default() }
    }

    /// The same for runs of at most `context` positions, which makes a difference to models with LongRoPE.
    #[must_use]
    pub fn with_context(mut self, context: usize) -> Self {
        self.frequencies = Frequencies::for_context(&self.model.config, context);
        self
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its hyper-parameters.
    pub fn config(&self) -> &ArchConfig {
        &self.model.config
    }

    /// The kernels it runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How often the coarse copy of the head was enough so far.
    pub fn head_statistics(&self) -> HeadStatistics {
        self.head.statistics
    }

    /// Continues the sequences of `steps`, whose keys and values are in `pool`, by their tokens, all in one pass over the
    /// weights, and returns the logits that were asked for.
    ///
    /// # Errors
    /// [`Error::KvFull`] when the pool has not enough pages, [`Error::Invalid`] when a token is not in the vocabulary, a
    /// sequence is in another pool, or the pool belongs to another model. Nothing has changed then.
    pub fn forward(&mut self, pool: &mut KvPool, steps: &mut [Step<'_>]) -> Result<Logits<'_>> {
        self.run(pool, steps, &mut None)
    }

    /// Like [`forward`](Self::forward), showing `tap` the inputs of every linear layer and the residual stream around every
    /// block. The logits are the same.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_tapped(
        &mut self,
        pool: &mut KvPool,
        steps: &mut [Step<'_>],
        tap: &mut dyn Tap,
    ) -> Result<Logits<'_>> {
        self.run(pool, steps, &mut Some(tap))
    }

    fn run(&mut self, pool: &mut KvPool, steps: &mut [Step<'_>], tap: &mut Option<&mut dyn Tap>) -> Result<Logits<'_>> {
        let model = Arc::clone(&self.model);
        let (config, weights) = (&model.config, &model.weights);
        check(config, pool, steps)?;
        for step in steps.iter_mut() {
            pool.reserve(step.cache, step.tokens.len())?;
        }
        self.place(steps);
        let tokens = self.buffers.place.len();
        self.embed(config, weights, steps);
        for (index, layer) in weights.layers.iter().enumerate() {
            let stream = tokens * config.hidden;
            show(tap, index, TapPoint::BlockInput, &self.buffers.x[..stream]);
            self.attention(config, layer, index, pool, steps, tap);
            self.feed_forward(config, layer, index, tokens, tap);
            show(tap, index, TapPoint::BlockOutput, &self.buffers.x[..stream]);
        }
        for step in steps.iter_mut() {
            step.cache.advance(step.tokens.len());
        }
        self.head(config, weights);
        Ok(self.logits())
    }

    /// [`forward`](Self::forward) for a single sequence with a cache of its own.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when the cache has not enough room, otherwise as [`forward`](Self::forward).
    pub fn forward_one(&mut self, cache: &mut KvCache, tokens: &[u32], logits: Wanted) -> Result<Logits<'_>> {
        let (needed, capacity) = (cache.len().saturating_add(tokens.len()), cache.capacity());
        if needed > capacity {
            return Err(Error::ContextFull { needed, capacity });
        }
        self.forward(&mut cache.pool, &mut [Step { cache: &mut cache.pages, tokens, logits }])
    }

    /// The logits of the last [`forward`](Self::forward) again, beside what else the decoder lends; none before the first.
    pub fn logits(&self) -> Logits<'_> {
        let vocab = self.model.config.vocab;
        Logits { values: &self.buffers.logits[..self.buffers.wanted.len() * vocab], vocab }
    }

    /// Notes where each token of the batch is, which logits are wanted, and how each position rotates.
    fn place(&mut self, steps: &[Step<'_>]) {
        let b = &mut self.buffers;
        b.place.clear();
        b.wanted.clear();
        b.rotation.clear();
        b.local_rotation.clear();
        for (s, step) in steps.iter().enumerate() {
            for i in 0..step.tokens.len() {
                let last = i + 1 == step.tokens.len();
                match step.logits {
                    Wanted::Last if last => b.wanted.push((b.place.len(), None)),
                    Wanted::Top(k) if last => b.wanted.push((b.place.len(), Some(k))),
                    Wanted::All => b.wanted.push((b.place.len(), None)),
                    Wanted::EachTop(k) => b.wanted.push((b.place.len(), Some(k))),
                    _ => {}
                }
                let position = step.cache.len() + i;
                b.place.push((s, position));
                self.frequencies.push_table(false, position, &mut b.rotation);
                if self.frequencies.has_local() {
                    self.frequencies.push_table(true, position, &mut b.local_rotation);
                }
            }
        }
    }

    fn embed(&mut self, config: &ArchConfig, weights: &Weights, steps: &[Step<'_>]) {
        let x = sized(&mut self.buffers.x, self.buffers.place.len() * config.hidden);
        let tokens = steps.iter().flat_map(|step| step.tokens);
        for (row, &token) in x.chunks_exact_mut(config.hidden).zip(tokens) {
            weights.embed.row_f32(token as usize, row);
            if config.embed_scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= config.embed_scale);
            }
        }
    }

    /// `x += o(attend(rope(q(norm(x))), ...))` for the whole batch.
    fn attention(
        &mut self,
        config: &ArchConfig,
        layer: &Layer,
        index: usize,
        pool: &mut KvPool,
        steps: &[Step<'_>],
        tap: &mut Option<&mut dyn Tap>,
    ) {
        let (q_dim, kv_dim, head_dim) = (config.q_dim(), config.kv_dim(), config.head_dim);
        let b = &mut self.buffers;
        let tokens = b.place.len();
        let sliding = config.is_sliding(index);
        norm(&self.engine, config, &b.x, &layer.attn_norm, sized(&mut b.normed, tokens * config.hidden));

        let q = sized(&mut b.q, tokens * q_dim);
        let k = sized(&mut b.k, tokens * kv_dim);
        let v = sized(&mut b.v, tokens * kv_dim);
        let normed = &b.normed[..tokens * config.hidden];
        show(tap, index, TapPoint::Qkv, normed);
        let products = &mut [
            Product { w: &layer.q, y: &mut *q },
            Product { w: &layer.k, y: &mut *k },
            Product { w: &layer.v, y: &mut *v },
        ];
        let norms = [&layer.q_input_norm, &layer.k_input_norm, &layer.v_input_norm];
        multiply(&mut self.engine, config, normed, tokens, products, norms, &mut b.input);
        for (y, bias) in [(&mut *q, &layer.q_bias), (&mut *k, &layer.k_bias), (&mut *v, &layer.v_bias)] {
            add_bias(&self.engine, y, bias.as_deref());
        }

        let rotation = if sliding && self.frequencies.has_local() { &b.local_rotation } else { &b.rotation };
        for (heads, dim, weight) in [(&mut *q, q_dim, &layer.q_norm), (&mut *k, kv_dim, &layer.k_norm)] {
            let engine = &self.engine;
            engine.pool().for_chunks(heads, dim, |token, heads| {
                let table = &rotation[token * head_dim..(token + 1) * head_dim];
                let norm = weight.as_deref().zip(config.qk_norm);
                if let Some((weight, QkNorm::BeforeRope)) = norm {
                    norm_heads(engine, config, heads, weight);
                }
                rotate(engine, heads, table, config.rope.layout);
                if let Some((weight, QkNorm::AfterRope)) = norm {
                    norm_heads(engine, config, heads, weight);
                }
            });
        }

        let mut done = 0;
        for step in steps {
            let part = done * kv_dim..(done + step.tokens.len()) * kv_dim;
            pool.write(&self.engine, step.cache, index, &k[part.clone()], &v[part]);
            done += step.tokens.len();
        }

        let attended = sized(&mut b.attended, tokens * q_dim);
        let (place, pool) = (&b.place, &*pool);
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim,
            kv: pool.ty(),
            scale: config.attn_scale,
        };
        let kv = |token: usize, head: usize| {
            let (step, position) = place[token];
            let first = match config.window {
                Some(window) if sliding => (position + 1).saturating_sub(window),
                _ => 0,
            };
            pool.head(steps[step].cache, index, head, first..position + 1)
        };
        self.engine.attention(shape, q, kv, attended);
        let attended = sub_norm(&self.engine, config, attended, layer.attn_sub_norm.as_deref(), &mut b.normed);
        show(tap, index, TapPoint::O, attended);

        let delta = sized(&mut b.delta, tokens * config.hidden);
        let products = &mut [Product { w: &layer.o, y: &mut *delta }];
        multiply(&mut self.engine, config, attended, tokens, products, [&layer.o_input_norm], &mut b.input);
        add_bias(&self.engine, delta, layer.o_bias.as_deref());
        join(&self.engine, config, &mut b.x, delta, layer.post_attn_norm.as_deref(), &mut b.normed);
    }

    /// `x += down(act(gate(norm(x))) * up(norm(x)))` for the whole batch.
    fn feed_forward(
        &mut self,
        config: &ArchConfig,
        layer: &Layer,
        index: usize,
        tokens: usize,
        tap: &mut Option<&mut dyn Tap>,
    ) {
        let b = &mut self.buffers;
        norm(&self.engine, config, &b.x, &layer.ffn_norm, sized(&mut b.normed, tokens * config.hidden));
        let gate = sized(&mut b.gate, tokens * config.ffn);
        let up = sized(&mut b.up, tokens * config.ffn);
        let normed = &b.normed[..tokens * config.hidden];
        show(tap, index, TapPoint::GateUp, normed);
        let products = &mut [Product { w: &layer.gate, y: &mut *gate }, Product { w: &layer.up, y: &mut *up }];
        let norms = [&layer.gate_input_norm, &layer.up_input_norm];
        multiply(&mut self.engine, config, normed, tokens, products, norms, &mut b.input);
        let (engine, up) = (&self.engine, &*up);
        engine.pool().for_chunks(gate, config.ffn, |token, gate| {
            let up = &up[token * config.ffn..(token + 1) * config.ffn];
            match config.activation {
                Activation::Silu => engine.silu_mul(gate, up),
                Activation::GeluTanh => engine.gelu_mul(gate, up),
                Activation::ReluSquared => {
                    // Written so that what is not a number stays that.
                    let positive = |x: f32| if x < 0.0 { 0.0 } else { x };
                    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = positive(*gate) * positive(*gate) * up);
                }
            }
        });
        let gate = sub_norm(&self.engine, config, gate, layer.ffn_sub_norm.as_deref(), &mut b.normed);
        show(tap, index, TapPoint::Down, gate);
        let delta = sized(&mut b.delta, tokens * config.hidden);
        let products = &mut [Product { w: &layer.down, y: &mut *delta }];
        multiply(&mut self.engine, config, gate, tokens, products, [&layer.down_input_norm], &mut b.input);
        join(&self.engine, config, &mut b.x, delta, layer.post_ffn_norm.as_deref(), &mut b.normed);
    }

    /// Norm and head for the wanted rows only.
    fn head(&mut self, config: &ArchConfig, weights: &Weights) {
        let b = &mut self.buffers;
        let (rows, hidden, vocab) = (b.wanted.len(), config.hidden, config.vocab);
        if rows == 0 {
            return;
        }
        let x = sized(&mut b.delta, rows * hidden);
        for (row, &(token, _)) in x.chunks_exact_mut(hidden).zip(&b.wanted) {
            row.copy_from_slice(&b.x[token * hidden..(token + 1) * hidden]);
        }
        let normed = sized(&mut b.normed, rows * hidden);
        norm(&self.engine, config, x, &weights.output_norm, normed);
        if config.logit_divisor != 1.0 {
            normed.iter_mut().for_each(|x| *x /= config.logit_divisor);
        }
        let logits = sized(&mut b.logits, rows * vocab);
        let head = weights.head();
        let missing = self.head.top(&mut self.engine, normed, head, &b.wanted, logits);
        if missing.len() == rows {
            self.engine.matmul(normed, rows, &mut [Product { w: head, y: &mut *logits }]);
        } else if !missing.is_empty() {
            // Those that are left over, side by side.
            let inputs: Vec<f32> = missing.iter().flat_map(|&row| &normed[row * hidden..][..hidden]).copied().collect();
            let mut outputs = vec![0.0; missing.len() * vocab];
            self.engine.matmul(&inputs, missing.len(), &mut [Product { w: head, y: &mut outputs }]);
            for (&row, output) in missing.iter().zip(outputs.chunks_exact(vocab)) {
                logits[row * vocab..][..vocab].copy_from_slice(output);
            }
        }
    }
}

impl HeadState {
    /// Tries to find the largest logits of the rows of `x` that `wanted` asks for, without the whole head, unless that has
    /// just failed or some row wants all of them. Returns the rows that are still to be computed.
    fn top(
        &mut self,
        engine: &mut Engine,
        x: &[f32],
        head: &Matrix,
        wanted: &[(usize, Option<Candidates>)],
        logits: &mut [f32],
    ) -> Vec<usize> {
        let all = || (0..wanted.len()).collect();
        // One row that needs the whole head has it read for all.
        let Some(wanted) = wanted.iter().map(|(_, wanted)| *wanted).collect::<Option<Vec<Candidates>>>() else {
            return all();
        };
        if !head.has_coarse() {
            return all();
        }
        if self.wait > 0 {
            self.wait -= 1;
            self.statistics.skipped += wanted.len() as u64;
            return all();
        }
        let largest: Vec<Largest> = wanted.iter().map(Candidates::largest).collect();
        let mut found = engine.top(x, head, &largest, logits);
        let decided = |row: usize| wanted[row].are_decided_by(&logits[row * head.rows()..][..head.rows()]);
        for (row, found) in found.iter_mut().enumerate() {
            *found = found.filter(|_| decided(row));
        }
        let missing: Vec<usize> = (0..found.len()).filter(|&row| found[row].is_none()).collect();
        self.statistics.found += (found.len() - missing.len()) as u64;
        self.statistics.exact += found.iter().flatten().map(|exact| *exact as u64).sum::<u64>();
        self.statistics.failed += missing.len() as u64;
        if missing.is_empty() {
            self.pause = 0;
        } else {
            let [shortest, longest] = HEAD_PAUSE;
            self.wait = self.pause.max(shortest);
            self.pause = (2 * self.wait).min(longest);
        }
        missing
    }
}

/// Refuses what cannot run before anything changes.
fn check(config: &ArchConfig, pool: &KvPool, steps: &[Step<'_>]) -> Result<()> {
    if !pool.fits(config) {
        return Err(Error::Invalid("the KV cache was made for another model".to_owned()));
    }
    let mut needed = 0;
    for step in steps {
        pool.check(step.cache)?;
        needed += pool.needed(step.cache, step.tokens.len());
        if let Some(token) = step.tokens.iter().find(|&&token| token as usize >= config.vocab) {
            let vocab = config.vocab;
            return Err(Error::Invalid(format!("token {token} is not in the vocabulary of {vocab}")));
        }
    }
    let free = pool.free();
    if needed > free { Err(Error::KvFull { needed, free }) } else { Ok(()) }
}

/// Shows `rows` to a tap, where there is one.
fn show(tap: &mut Option<&mut dyn Tap>, layer: usize, point: TapPoint, rows: &[f32]) {
    if let Some(tap) = tap {
        tap.see(layer, point, rows);
    }
}

/// The first `len` values of a buffer that grows as needed.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// RMSNorm of each row of `x` into `out`, rows as wide as `weight` (`x` may be longer).
fn norm(engine: &Engine, config: &ArchConfig, x: &[f32], weight: &[f32], out: &mut [f32]) {
    norm_with(engine, config.norm_eps, plus(config), x, weight, out);
}

fn norm_with(engine: &Engine, eps: f32, plus: f32, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let width = weight.len();
    engine.pool().for_chunks(out, width, |row, out| {
        engine.rms_norm(&x[row * width..(row + 1) * width], weight, eps, plus, out);
    });
}

/// The products of `x` (a row per token) with linear layers, each of which may have a norm of its own for it; `scratch` holds
/// the normalised rows.
fn multiply<const N: usize>(
    engine: &mut Engine,
    config: &ArchConfig,
    x: &[f32],
    tokens: usize,
    products: &mut [Product<'_>; N],
    norms: [&Option<Vec<f32>>; N],
    scratch: &mut Vec<f32>,
) {
    let Some(eps) = config.input_norms else {
        engine.matmul(x, tokens, products);
        return;
    };
    for (product, weight) in products.chunks_exact_mut(1).zip(norms) {
        let weight = weight.as_ref().expect("a model with these norms was loaded with all of them");
        let normed = sized(scratch, x.len());
        norm_with(engine, eps, 0.0, x, weight, normed);
        engine.matmul(normed, tokens, product);
    }
}

/// What goes into an output projection: `rows`, normalised into `scratch` where there is a norm for it.
fn sub_norm<'a>(
    engine: &Engine,
    config: &ArchConfig,
    rows: &'a [f32],
    weight: Option<&[f32]>,
    scratch: &'a mut Vec<f32>,
) -> &'a [f32] {
    let Some(weight) = weight else { return rows };
    let normed = sized(scratch, rows.len());
    norm(engine, config, rows, weight, normed);
    normed
}

/// RMSNorm of each head in place, through a copy on the stack: heads have at most 4096 components.
fn norm_heads(engine: &Engine, config: &ArchConfig, heads: &mut [f32], weight: &[f32]) {
    let mut copy = [0.0; super::config::MAX_HEAD_DIM];
    let copy = &mut copy[..config.head_dim];
    for head in heads.chunks_exact_mut(config.head_dim) {
        copy.copy_from_slice(head);
        engine.rms_norm(copy, weight, config.norm_eps, plus(config), head);
    }
}

fn plus(config: &ArchConfig) -> f32 {
    if config.norm_plus_one { 1.0 } else { 0.0 }
}

/// `y[t] += bias` for every token.
fn add_bias(engine: &Engine, y: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        y.chunks_exact_mut(bias.len()).for_each(|row| engine.add(row, bias));
    }
}

/// `x += norm(delta)`, or `x += delta` without a norm, times the factor of the residual stream. `scratch` holds the
/// normalised rows.
fn join(
    engine: &Engine,
    config: &ArchConfig,
    x: &mut [f32],
    delta: &mut [f32],
    weight: Option<&[f32]>,
    scratch: &mut Vec<f32>,
) {
    let x = &mut x[..delta.len()];
    let added = match weight {
        None => delta,
        Some(weight) => {
            let normed = sized(scratch, delta.len());
            norm(engine, config, delta, weight, normed);
            normed
        }
    };
    if config.residual_scale != 1.0 {
        added.iter_mut().for_each(|x| *x *= config.residual_scale);
    }
    engine.add(x, added);
}

impl Weights {
    /// The matrix that makes logits: the head, or the embedding it is tied to.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Gives the head the coarse copy (3 bits a weight) that makes [`Wanted::Top`] cheaper; returns whether there is one for
    /// it (block-quantized, all weights finite).
    pub fn add_coarse_head(&mut self, pool: &Pool) -> bool {
        let head = self.head.as_mut().unwrap_or(&mut self.embed);
        *head = head.clone().with_coarse_on(pool);
        head.has_coarse()
    }
}
