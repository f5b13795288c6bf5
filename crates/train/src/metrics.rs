//! What training looks like from inside: effective ranks, valley shares, flip rates, and the file they go to.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use sherry::Progress;
use sherry::io::write_atomic;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use crate::block::Probe;
use crate::error::{Result, uninterrupted};
use crate::layout::{Kind, Layout};
use crate::methods::{MatrixPlace, Method, Quantizer};

/// Tokens whose gradients are looked at.
const SAMPLE: usize = 128;

/// `exp(-sum p ln p)`, `p` the singular values of the `rows x cols` matrix `x` over their sum (Roy & Vetterli 2007):
/// between 1 and the smaller dimension. NaN for a zero matrix.
pub fn effective_rank(x: &[f32], rows: usize, cols: usize) -> f64 {
    let n = rows.min(cols);
    let at = |i: usize, j: usize| if rows <= cols { x[i * cols + j] } else { x[j * cols + i] };
    let inner = rows.max(cols);
    // Scaled so that squares of tiny gradients keep their digits.
    let top = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let scale = 1.0 / f64::from(top);
    let gram: Vec<f64> = (0..n * n)
        .into_par_iter()
        .map(|k| {
            let (i, j) = (k / n, k % n);
            if j > i {
                return 0.0;
            }
            (0..inner).map(|l| f64::from(at(i, l)) * scale * (f64::from(at(j, l)) * scale)).sum()
        })
        .collect();
    let singular: Vec<f64> = eigenvalues(gram, n).into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let total: f64 = singular.iter().sum();
    let entropy: f64 = singular.iter().map(|s| s / total).filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
    if total > 0.0 { entropy.exp() } else { f64::NAN }
}

/// Eigenvalues of the symmetric `n x n` matrix whose lower triangle is given: Householder to tridiagonal form, then
/// implicit QL (Golub & Van Loan, section 8.3).
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut off = vec![0.0f64; n];
    for k in (1..n).rev() {
        // Reflect row k left of the diagonal onto its last element.
        let (rest, row) = a.split_at_mut(k * n);
        let v = &mut row[..k];
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if k == 1 || norm == 0.0 {
            off[k] = v[k - 1];
            continue;
        }
        let alpha = if v[k - 1] > 0.0 { -norm } else { norm };
        off[k] = alpha;
        v[k - 1] -= alpha;
        let half = v.iter().map(|x| x * x).sum::<f64>() / 2.0;
        // A' = A - v w^T - w v^T with p = A v / half, w = p - (v.p / 2 half) v.
        let mut w = vec![0.0f64; k];
        for i in 0..k {
            let row = &rest[i * n..][..i + 1];
            for j in 0..i {
                w[i] += row[j] * v[j];
                w[j] += row[j] * v[i];
            }
            w[i] += row[i] * v[i];
        }
        w.iter_mut().for_each(|p| *p /= half);
        let along = w.iter().zip(&*v).map(|(p, v)| p * v).sum::<f64>() / (2.0 * half);
        w.iter_mut().zip(&*v).for_each(|(p, v)| *p -= along * v);
        for i in 0..k {
            for j in 0..=i {
                rest[i * n + j] -= v[i] * w[j] + w[i] * v[j];
            }
        }
    }
    let mut d: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    let mut e: Vec<f64> = off[1..].iter().copied().chain([0.0]).collect();
    for l in 0..n {
        for _ in 0..60 {
            let small = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let m = (l..n - 1).find(|&m| small(m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (g + g.hypot(1.0).copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut underflow = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    underflow = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                let h = d[i + 1] - p;
                let r = (d[i] - h) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = h + p;
                g = c * r - b;
            }
            if !underflow {
                d[l] -= p;
                e[l] = g;
            }
            e[m] = 0.0;
        }
    }
    d
}

/// Collects the effective rank of `dL/dX` of every linear layer, from a sample of the tokens.
#[derive(Debug, Default)]
pub struct RankProbe {
    ranks: BTreeMap<Kind, Vec<f64>>,
}

impl Probe for RankProbe {
    fn output_gradient(
        &mut self,
        _: usize,
        kind: Kind,
        dy: &[f32],
        stride: usize,
        weights: &[f32],
        matrix: MatrixPlace,
    ) {
        let MatrixPlace { rows, cols, .. } = matrix;
        let tokens = dy.len().div_ceil(stride);
        let step = tokens.div_ceil(SAMPLE).max(1);
        let sample: Vec<f32> = (0..tokens).step_by(step).flat_map(|t| &dy[t * stride..][..rows]).copied().collect();
        let count = sample.len() / rows;
        let mut dx = vec![0.0f32; count * cols];
        let (g, w) = (Mat::new(&sample, count, rows, rows), Mat::new(weights, rows, cols, cols));
        matmul(MatMut::new(&mut dx, count, cols, cols), Old::Replace, 1.0, g, w, 1);
        self.ranks.entry(kind).or_default().push(effective_rank(&dx, count, cols));
    }
}

impl RankProbe {
    /// Mean effective rank over the blocks, per kind of linear layer.
    pub fn means(&self) -> BTreeMap<&'static str, f64> {
        let mean = |ranks: &Vec<f64>| ranks.iter().sum::<f64>() / ranks.len() as f64;
        self.ranks.iter().map(|(kind, ranks)| (kind.name(), mean(ranks))).collect()
    }
}

/// Bins of a weight histogram.
pub const BINS: usize = 24;
/// The histogram covers `w / alpha` from minus this to this; the outer bins are open.
pub const REACH: f64 = 3.0;

/// The latent weights of all linear layers seen from their quantizer, `alpha` the largest magnitude of a scale group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightProbe {
    /// Signs of `Q(W)`.
    pub codes: Vec<i8>,
    /// Share of weights in the valley `|w| < alpha / 2`, per kind.
    pub valley: BTreeMap<&'static str, f64>,
    /// Shares of weights by `w / alpha`, per kind.
    pub histogram: BTreeMap<&'static str, Vec<f64>>,
}

impl WeightProbe {
    /// Of the parameters `params`; empty for full precision.
    ///
    /// # Errors
    /// [`sherry::Error::Interrupted`].
    pub fn new(layout: &Layout, quantizer: &Quantizer, params: &[f32], progress: &dyn Progress) -> Result<Self> {
        let mut probe = Self::default();
        if quantizer.method == Method::None {
            return Ok(probe);
        }
        let mut counts: BTreeMap<&'static str, ([u64; BINS], u64)> = BTreeMap::new();
        let mut q = Vec::new();
        for block in &layout.blocks {
            for (kind, matrix) in Kind::ALL.into_iter().zip(block.linears) {
                uninterrupted(progress)?;
                q.resize(matrix.count(), 0.0f32);
                quantizer.effective(matrix, params, 0.0, &mut q);
                let unit = quantizer.unit(matrix.rows, matrix.cols);
                let units = q.par_chunks(unit).zip(matrix.slice(params).par_chunks(unit));
                let (bins, valley) = units
                    .map(|(q, w)| {
                        let alpha = q.iter().fold(0.0f32, |m, q| m.max(q.abs()));
                        let per_bin = BINS as f32 / (2.0 * REACH as f32);
                        let scale = if alpha > 0.0 { per_bin / alpha } else { 0.0 };
                        let (mut bins, mut valley) = ([0u64; BINS], 0u64);
                        for w in w {
                            let bin = (w * scale + (BINS / 2) as f32).floor().clamp(0.0, (BINS - 1) as f32);
                            bins[bin as usize] += 1;
                            valley += u64::from(w.abs() < alpha / 2.0);
                        }
                        (bins, valley)
                    })
                    .reduce(|| ([0; BINS], 0), |(a, m), (b, n)| (std::array::from_fn(|i| a[i] + b[i]), m + n));
                let entry = counts.entry(kind.name()).or_default();
                entry.0.iter_mut().zip(bins).for_each(|(sum, count)| *sum += count);
                entry.1 += valley;
                probe.codes.extend(q.iter().map(|&q| i8::from(q > 0.0) - i8::from(q < 0.0)));
            }
        }
        for (kind, (bins, valley)) in counts {
            let all = bins.iter().sum::<u64>() as f64;
            probe.valley.insert(kind, valley as f64 / all);
            let share = |count: u64| (1e5 * count as f64 / all).round() / 1e5;
            probe.histogram.insert(kind, bins.into_iter().map(share).collect());
        }
        Ok(probe)
    }
}

/// Norm of the gradients of each kind of linear layer, over all blocks.
pub fn gradient_norms(layout: &Layout, grads: &[f32]) -> BTreeMap<&'static str, f64> {
    let mut squares: BTreeMap<&'static str, f64> = BTreeMap::new();
    for block in &layout.blocks {
        for (kind, matrix) in Kind::ALL.into_iter().zip(block.linears) {
            *squares.entry(kind.name()).or_default() += crate::simd::sum_of_squares(matrix.slice(grads));
        }
    }
    squares.into_iter().map(|(kind, square)| (kind, square.sqrt())).collect()
}

/// One line of the metrics file. Losses in nats per token.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// Optimizer steps done.
    pub step: u64,
    /// Cross entropy of the last step's batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Divergence from the teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// Learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Arenas strength.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Norm of all gradients before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Speed since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Tokens trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Validation cross entropy of `Q(W)`, what an export would have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Validation cross entropy of `Q(W) + lambda W`, while lambda is not zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_loss_with_lambda: Option<f64>,
    /// Mean effective rank of `dL/dX` per kind of linear layer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub effective_rank: BTreeMap<&'static str, f64>,
    /// Share of latent weights with `|w| < alpha / 2` per kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub valley_share: BTreeMap<&'static str, f64>,
    /// Share of codes that the last step changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip_rate: Option<f64>,
    /// Gradient norm per kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub grad_norms: BTreeMap<&'static str, f64>,
    /// Shares of latent weights by `w / alpha` per kind: [`BINS`] bins over -[`REACH`]..[`REACH`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub histogram: BTreeMap<&'static str, Vec<f64>>,
}

impl Line {
    /// The line for people; a step of the run, which has `steps`, has room for `tokens` tokens.
    pub fn describe(&self, steps: u64, tokens: usize) -> String {
        let mut parts = vec![format!("step {}/{steps}", self.step)];
        let mut push = |name: &str, value: Option<f64>, digits: usize| {
            if let Some(value) = value {
                parts.push(format!("{name} {value:.digits$}"));
            }
        };
        let mean = |values: &BTreeMap<&'static str, f64>| {
            (!values.is_empty()).then(|| values.values().sum::<f64>() / values.len() as f64)
        };
        push("loss", self.loss, 4);
        push("divergence", self.divergence, 4);
        push("valid", self.valid_loss, 4);
        push("valid with lambda", self.valid_loss_with_lambda, 4);
        push("lambda", self.lambda, 3);
        push("grad", self.grad_norm, 3);
        push("eff.rank", mean(&self.effective_rank), 1);
        push("valley", mean(&self.valley_share), 3);
        push("flips", self.flip_rate, 5);
        if let Some(lr) = self.lr {
            parts.push(format!("lr {lr:.2e}"));
        }
        if let Some(speed) = self.tokens_per_second {
            let left = (steps - self.step) as f64 * tokens as f64 / speed;
            parts.push(format!("{speed:.0} tok/s"));
            parts.push(format!("{} left", duration(left)));
        }
        parts.join("  ")
    }
}

/// Seconds as hours, minutes and seconds: "1:02:03".
pub fn duration(seconds: f64) -> String {
    let whole = if seconds.is_finite() { seconds.max(0.0) as u64 } else { 0 };
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Notices what a run should be warned about, from its lines in order.
#[derive(Clone, Debug, Default)]
pub struct Watchdog {
    best_rank: f64,
    collapsed: bool,
}

/// A mean effective rank below this share of the best so far counts as collapsed. Healthy runs, full precision ones
/// too, fall to about 0.4 in their first steps.
const COLLAPSE: f64 = 0.2;

impl Watchdog {
    /// Looks at the effective ranks of step `step`, one per kind of projection: a warning, once per run.
    pub fn ranks(&mut self, step: u64, ranks: impl ExactSizeIterator<Item = f64>) -> Option<String> {
        let count = ranks.len();
        let mean = ranks.sum::<f64>() / count as f64;
        if count == 0 || !mean.is_finite() {
            return None;
        }
        self.best_rank = self.best_rank.max(mean);
        if self.collapsed || mean >= COLLAPSE * self.best_rank {
            return None;
        }
        self.collapsed = true;
        Some(format!(
            "effective rank collapsed: {mean:.1} at step {step}, {:.1} at its best; gradients point into few directions",
            self.best_rank
        ))
    }

    /// Looks at the end of a run of `steps` steps.
    pub fn end(step: u64, steps: u64, lambda: f64) -> Option<String> {
        if lambda == 0.0 {
            return None;
        }
        Some(if step < steps {
            format!("stopped at step {step} of {steps} with lambda {lambda:.3}: not what an export would hold yet")
        } else {
            format!("lambda is {lambda:.3} at the end: the quantized weights were never trained alone")
        })
    }
}

/// The metrics file: one JSON object per line.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens `path` for a run that has done `step` steps: later lines, of a run that was cut short, go.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let kept = bytes.split_inclusive(|&b| b == b'\n').filter(|line| {
                    let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
                    value.is_some_and(|v| line.ends_with(b"\n") && v["step"].as_u64().is_some_and(|at| at <= step))
                });
                let kept: Vec<u8> = if step == 0 { Vec::new() } else { kept.flatten().copied().collect() };
                if kept != bytes {
                    write_atomic(path, &kept)?;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(sherry::Error::io(path, "read")(error).into()),
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(sherry::Error::io(path, "open"))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// A watchdog that has seen what the file holds.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn watchdog(&self) -> Result<Watchdog> {
        let text = fs::read_to_string(&self.path).map_err(sherry::Error::io(&self.path, "read"))?;
        let mut watchdog = Watchdog::default();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let ranks = line["effective_rank"].as_object().into_iter().flat_map(|ranks| ranks.values());
            let ranks: Vec<f64> = ranks.filter_map(serde_json::Value::as_f64).collect();
            watchdog.ranks(line["step"].as_u64().unwrap_or_default(), ranks.into_iter());
        }
        Ok(watchdog)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        self.file.write_all(&text).map_err(sherry::Error::io(&self.path, "write"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sherry::NoProgress;

    use super::*;
    use crate::rng::Rng;

    #[test]
    fn ranks_of_known_matrices() {
        let identity: Vec<f32> = (0..64).map(|i| if i % 9 == 0 { 1e-9 } else { 0.0 }).collect();
        assert!((effective_rank(&identity, 8, 8) - 8.0).abs() < 1e-9);
        let outer: Vec<f32> = (0..60).map(|i| (i / 12 + 1) as f32 * ((i % 12) as f32 - 3.5)).collect();
        assert!((effective_rank(&outer, 5, 12) - 1.0).abs() < 1e-3);
        assert!((effective_rank(&outer, 12, 5) - effective_rank(&outer, 12, 5)).abs() < 1e-9);
        // Singular values 3 and 1: p = 3/4, 1/4.
        let expected = (-(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln())).exp();
        assert!((effective_rank(&[3.0, 0.0, 0.0, 0.0, 1.0, 0.0], 2, 3) - expected).abs() < 1e-9);
        assert!(effective_rank(&[0.0; 6], 2, 3).is_nan());
    }

    #[test]
    fn warnings_come_once_and_for_cause() {
        let mut dog = Watchdog::default();
        let mut at = |step: u64, ranks: &[f64]| dog.ranks(step, ranks.iter().copied());
        assert_eq!(at(1, &[]), None);
        assert_eq!(at(1, &[10.0, 30.0]), None);
        assert_eq!(at(2, &[f64::NAN, 30.0]), None);
        assert_eq!(at(3, &[9.0, 9.0]), None);
        assert!(at(4, &[3.0, 4.0]).unwrap().contains("3.5 at step 4, 20.0 at its best"));
        assert_eq!(at(5, &[1.0, 1.0]), None);
        assert_eq!(Watchdog::end(10, 10, 0.0), None);
        assert!(Watchdog::end(5, 10, 0.5).unwrap().contains("step 5 of 10"));
        assert!(Watchdog::end(10, 10, 0.5).unwrap().contains("at the end"));
    }

    #[test]
    fn eigenvalues_keep_trace_and_squares() {
        for n in [1, 2, 3, 17, 64] {
            let mut x = vec![0.0f32; n * n];
            Rng::new(n as u64, 0).fill_normal(&mut x, 1.0);
            let a: Vec<f64> = (0..n * n).map(|k| f64::from(x[k] + x[k % n * n + k / n])).collect();
            let values = eigenvalues(a.clone(), n);
            let trace: f64 = (0..n).map(|i| a[i * n + i]).sum();
            let squares: f64 = a.iter().map(|x| x * x).sum();
            assert!((values.iter().sum::<f64>() - trace).abs() < 1e-9 * squares.sqrt() * n as f64);
            assert!((values.iter().map(|x| x * x).sum::<f64>() / squares - 1.0).abs() < 1e-10, "{n}");
        }
    }

    #[test]
    fn weights_are_counted_by_their_place_on_the_scale() {
        let arch = crate::scratch::tiny();
        let quantizer = Quantizer { method: Method::Binary, ..Quantizer::FULL };
        let layout = Layout::new(&arch, &quantizer);
        let mut params = vec![0.0f32; layout.len];
        let up = layout.blocks[0].linears[Kind::Up as usize];
        // The mean magnitude of every row is 1.
        let row = [0.0, 0.25, -0.25, 0.5, -1.0, 1.0, 1.0, -4.0];
        params[up.weights..][..up.count()].chunks_mut(8).for_each(|out| out.copy_from_slice(&row));
        let probe = WeightProbe::new(&layout, &quantizer, &params, &NoProgress).unwrap();
        let mut expected = [0.0; BINS];
        for bin in [12, 13, 11, 14, 8, 16, 16, 0] {
            expected[bin] += 0.125;
        }
        assert_eq!(probe.histogram["up"], expected);
        assert_eq!(probe.valley["up"], 3.0 / 8.0);
        assert_eq!(
            probe.codes.len(),
            layout.blocks.iter().flat_map(|b| &b.linears).map(MatrixPlace::count).sum::<usize>()
        );
    }

    #[test]
    fn lines_after_the_resumed_step_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |step| Line { step, loss: Some(1.0), ..Line::default() };
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for step in 1..=5 {
            file.write(&line(step)).unwrap();
        }
        fs::write(&path, [fs::read(&path).unwrap(), b"{\"step\": 3".to_vec()].concat()).unwrap();
        MetricsFile::open(&path, 3).unwrap().write(&line(4)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert_eq!(text.lines().last(), Some("{\"step\":4,\"loss\":1.0}"));
    }
}
