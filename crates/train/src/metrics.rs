//! What training looks like from inside: effective ranks, valley shares, flip rates, and the file they go to.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use sherry::io::write_atomic;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use crate::error::Result;
use crate::layout::{Kind, Layout};
use crate::methods::{Matrix, Method, Quantizer};
use crate::network::Probe;

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

/// Collects the effective rank of `dL/dX` of every projection, from a sample of the tokens.
#[derive(Debug, Default)]
pub struct RankProbe {
    ranks: BTreeMap<Kind, Vec<f64>>,
}

impl Probe for RankProbe {
    fn output_gradient(&mut self, _: usize, kind: Kind, dy: &[f32], stride: usize, weights: &[f32], matrix: Matrix) {
        let Matrix { rows, cols, .. } = matrix;
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
    /// Mean effective rank over the layers, per kind of projection.
    pub fn means(&self) -> BTreeMap<&'static str, f64> {
        let mean = |ranks: &Vec<f64>| ranks.iter().sum::<f64>() / ranks.len() as f64;
        self.ranks.iter().map(|(kind, ranks)| (kind.name(), mean(ranks))).collect()
    }
}

/// The codes of all projections as signs, and the share of weights in the valley `|w| < alpha / 2` per kind.
pub fn codes(layout: &Layout, quantizer: &Quantizer, params: &[f32]) -> (Vec<i8>, BTreeMap<&'static str, f64>) {
    let mut codes = Vec::new();
    let mut valley: BTreeMap<&'static str, [u64; 2]> = BTreeMap::new();
    if quantizer.method == Method::None {
        return (codes, BTreeMap::new());
    }
    for block in &layout.blocks {
        for (kind, matrix) in Kind::ALL.into_iter().zip(block.linears) {
            let mut q = vec![0.0f32; matrix.count()];
            quantizer.effective(matrix, params, 0.0, &mut q);
            let unit = quantizer.unit(matrix.rows, matrix.cols);
            let inside = q.par_chunks(unit).zip(matrix.slice(params).par_chunks(unit)).map(|(q, w)| {
                let alpha = q.iter().fold(0.0f32, |m, q| m.max(q.abs()));
                w.iter().filter(|w| w.abs() < alpha / 2.0).count() as u64
            });
            let entry = valley.entry(kind.name()).or_default();
            entry[0] += inside.sum::<u64>();
            entry[1] += matrix.count() as u64;
            codes.extend(q.iter().map(|&q| i8::from(q > 0.0) - i8::from(q < 0.0)));
        }
    }
    (codes, valley.into_iter().map(|(kind, [inside, all])| (kind, inside as f64 / all as f64)).collect())
}

/// Norm of the gradients of each kind of projection, over all layers.
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
    /// Mean effective rank of `dL/dX` per kind of projection.
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
