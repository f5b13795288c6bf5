//! The head and the loss, a few hundred tokens at a time: logits of the whole batch never exist at once.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sherry::{Progress, Result};
use sherry_kernels::plain::exp;
use sherry_sgemm::{Mat, MatMut, MatmulPrecision, Old, matmul_by};

use crate::error::uninterrupted;
use crate::simd;

/// A target that does not count: padding.
pub const IGNORED: u32 = u32::MAX;

/// How the student is compared with a full-precision teacher, per token, `p` teacher and `q` student probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// `KL(p || q)`.
    Forward,
    /// `KL(q || p)`.
    Reverse,
    /// Confidence-aware (BitDistiller, arXiv 2402.10631): `c KL(q || p) + (1 - c) KL(p || q)`, `c` the teacher's
    /// probability of the target.
    Cakld,
    /// `KL(p' || q)`, `p'` the teacher's `top_k` largest probabilities made to sum to one.
    TopK,
}

/// The mix of losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Weight of the cross entropy.
    pub cross_entropy: f32,
    /// Weight of the divergence from the teacher.
    pub distillation: f32,
    /// Which divergence.
    pub divergence: Divergence,
    /// Tokens kept by [`Divergence::TopK`].
    pub top_k: usize,
}

impl Mix {
    /// Cross entropy alone.
    pub const CROSS_ENTROPY: Self =
        Self { cross_entropy: 1.0, distillation: 0.0, divergence: Divergence::Forward, top_k: 0 };
}

/// Sums over the tokens that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Cross entropy in nats.
    pub cross_entropy: f64,
    /// Divergence from the teacher in nats.
    pub divergence: f64,
    /// Tokens that counted.
    pub tokens: u64,
}

impl Sums {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cross_entropy: self.cross_entropy + other.cross_entropy,
            divergence: self.divergence + other.divergence,
            tokens: self.tokens + other.tokens,
        }
    }
}

/// Final hidden states and the head that turns them into logits.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Rows of `width`, after the last norm.
    pub hidden: &'a [f32],
    /// `vocab x width`.
    pub head: &'a [f32],
    /// Width of the hidden states.
    pub width: usize,
}

/// Where gradients go.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the student's hidden states; overwritten.
    pub hidden: &'a mut [f32],
    /// Of the student's head; added, if wanted.
    pub head: Option<&'a mut [f32]>,
    /// Factor on every token's loss: one over the tokens of the step that count.
    pub scale: f32,
}

/// Most logits held at once, per side.
const LOGITS: usize = 1 << 23;

/// Tokens whose logits are held at once, of `tokens`.
pub(crate) fn rows_at_once(vocab: usize, tokens: usize) -> usize {
    (LOGITS / vocab).clamp(64, 512).min(tokens.max(1))
}

/// The loss of `student` on `targets` and, when asked for, its gradients.
///
/// # Errors
/// [`sherry::Error::Interrupted`]; the gradients are then not whole.
pub fn head_loss(
    student: Side<'_>,
    teacher: Option<Side<'_>>,
    targets: &[u32],
    mix: &Mix,
    mut gradients: Option<Gradients<'_>>,
    precision: MatmulPrecision,
    progress: &dyn Progress,
) -> Result<Sums> {
    let (tokens, vocab) = (targets.len(), student.head.len() / student.width);
    let threads = rayon::current_num_threads();
    let chunk = rows_at_once(vocab, tokens);
    let mut logits = vec![0.0f32; chunk * vocab];
    let mut teacher_logits = vec![0.0f32; if teacher.is_some() { chunk * vocab } else { 0 }];
    let mut sums = Sums::default();
    for start in (0..tokens).step_by(chunk) {
        uninterrupted(progress)?;
        let rows = chunk.min(tokens - start);
        let product = |side: &Side<'_>, out: &mut [f32]| {
            let x = Mat::new(&side.hidden[start * side.width..], rows, side.width, side.width);
            let w = Mat::new(side.head, vocab, side.width, side.width);
            matmul_by(precision, MatMut::new(out, rows, vocab, vocab), Old::Replace, 1.0, x, w.t(), threads);
        };
        product(&student, &mut logits);
        if let Some(teacher) = &teacher {
            product(teacher, &mut teacher_logits);
        }
        let scale = gradients.as_ref().map_or(0.0, |gradients| gradients.scale);
        // Without a teacher there is nothing to split beside the logits.
        let teacher_rows = teacher_logits.par_chunks_mut(vocab);
        let rows_of = logits[..rows * vocab].par_chunks_mut(vocab).zip(&targets[start..start + rows]);
        let losses: Vec<[f64; 2]> = if teacher.is_some() {
            rows_of.zip(teacher_rows).map(|((row, &t), p)| token_loss(row, Some(p), t, mix, scale)).collect()
        } else {
            rows_of.map(|(row, &t)| token_loss(row, None, t, mix, scale)).collect()
        };
        for (loss, &target) in losses.iter().zip(&targets[start..]) {
            sums.cross_entropy += loss[0];
            sums.divergence += loss[1];
            sums.tokens += u64::from(target != IGNORED);
        }
        if let Some(gradients) = &mut gradients {
            let width = student.width;
            let d = Mat::new(&logits, rows, vocab, vocab);
            let x = Mat::new(&student.hidden[start * width..], rows, width, width);
            let dx = MatMut::new(&mut gradients.hidden[start * width..], rows, width, width);
            matmul_by(precision, dx, Old::Replace, 1.0, d, Mat::new(student.head, vocab, width, width), threads);
            if let Some(head) = &mut gradients.head {
                matmul_by(precision, MatMut::new(head, vocab, width, width), Old::Add, 1.0, d.t(), x, threads);
            }
        }
    }
    Ok(sums)
}

/// Cross entropy and divergence of one token; `logits` become `scale` times the gradient of the mix.
fn token_loss(logits: &mut [f32], teacher: Option<&mut [f32]>, target: u32, mix: &Mix, scale: f32) -> [f64; 2] {
    if target == IGNORED {
        logits.fill(0.0);
        return [0.0; 2];
    }
    let target = target as usize;
    simd::with(
        #[inline(always)]
        || {
            let gold = logits[target];
            let lse = log_softmax(logits);
            let cross_entropy = f64::from(lse) - f64::from(gold);
            let Some(teacher) = teacher else {
                let factor = mix.cross_entropy * scale;
                for x in logits.iter_mut() {
                    *x = exp(*x) * factor;
                }
                logits[target] -= factor;
                return [cross_entropy, 0.0];
            };
            log_softmax(teacher);
            let divergence = match mix.divergence {
                Divergence::Forward => forward_kl(logits, teacher, mix, scale, target, 0.0),
                Divergence::Reverse => forward_kl(logits, teacher, mix, scale, target, 1.0),
                Divergence::Cakld => {
                    let confidence = exp(teacher[target]);
                    forward_kl(logits, teacher, mix, scale, target, confidence)
                }
                Divergence::TopK => {
                    keep_top(teacher, mix.top_k);
                    forward_kl(logits, teacher, mix, scale, target, 0.0)
                }
            };
            [cross_entropy, divergence]
        },
    )
}

/// Log probabilities in place; returns the log of the sum of exponentials.
#[inline(always)]
fn log_softmax(x: &mut [f32]) -> f32 {
    let top = simd::max(x);
    let mut lanes = [0.0f32; 16];
    let (body, tail) = x.as_chunks::<16>();
    for chunk in body {
        for i in 0..16 {
            lanes[i] += exp(chunk[i] - top);
        }
    }
    for (i, x) in tail.iter().enumerate() {
        lanes[i] += exp(x - top);
    }
    let lse = top + simd::sum(&lanes).ln();
    for x in x.iter_mut() {
        *x -= lse;
    }
    lse
}

/// `(1 - reverse) KL(p || q) + reverse KL(q || p)` of log probabilities; `q` becomes the gradient of the mix.
#[inline(always)]
fn forward_kl(q: &mut [f32], p: &[f32], mix: &Mix, scale: f32, target: usize, reverse: f32) -> f64 {
    let forward = kl(p, q);
    let backward = if reverse > 0.0 { kl(q, p) } else { 0.0 };
    let (ce, kd) = (mix.cross_entropy * scale, mix.distillation * scale);
    let (to_forward, to_reverse, total) = (kd * (1.0 - reverse), kd * reverse, backward as f32);
    for (q, p) in q.iter_mut().zip(p) {
        let (ep, eq) = (exp(*p), exp(*q));
        let pull = if eq > 0.0 && to_reverse > 0.0 { eq * (*q - p - total) } else { 0.0 };
        *q = ce * eq + to_forward * (eq - ep) + to_reverse * pull;
    }
    q[target] -= ce;
    f64::from(1.0 - reverse) * forward + f64::from(reverse) * backward
}

/// `KL(p || q)` of log probabilities.
#[inline(always)]
fn kl(p: &[f32], q: &[f32]) -> f64 {
    // A probability of zero contributes nothing, whatever its log.
    let term = |p: f32, q: f32| {
        let probability = exp(p);
        f64::from(if probability > 0.0 { probability * (p - q) } else { 0.0 })
    };
    let mut lanes = [0.0f64; 16];
    let ((ps, p_tail), (qs, q_tail)) = (p.as_chunks::<16>(), q.as_chunks::<16>());
    for (p, q) in ps.iter().zip(qs) {
        for i in 0..16 {
            lanes[i] += term(p[i], q[i]);
        }
    }
    for (i, (p, q)) in p_tail.iter().zip(q_tail).enumerate() {
        lanes[i] += term(*p, *q);
    }
    lanes.iter().sum()
}

/// Keeps the `k` largest log probabilities, renormalised; the others become negative infinity. Of equal ones the
/// earlier are kept.
fn keep_top(p: &mut [f32], k: usize) {
    if k >= p.len() {
        return;
    }
    let mut order: Vec<u32> = (0..p.len() as u32).collect();
    let cut = k.saturating_sub(1);
    order.select_nth_unstable_by(cut, |&a, &b| p[b as usize].total_cmp(&p[a as usize]).then(a.cmp(&b)));
    let mut kept = vec![false; p.len()];
    let mut mass = 0.0f64;
    order[..=cut].sort_unstable();
    for &i in &order[..=cut] {
        kept[i as usize] = true;
        mass += f64::from(p[i as usize]).exp();
    }
    let shift = mass.ln() as f32;
    for (p, kept) in p.iter_mut().zip(kept) {
        *p = if kept { *p - shift } else { f32::NEG_INFINITY };
    }
}
