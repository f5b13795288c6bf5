//! Second moments of the inputs of a linear layer, and the weights that fit its targets best.

use rayon::prelude::*;
use sherry_sgemm::{Mat, MatMut, Old, matmul};

use super::rounding::Factor;

/// Sums over tokens: `H = sum x x^T` of the inputs `x` that the quantized model sees, and `C = sum x y^T` with the targets
/// `y`.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Inputs.
    cols: usize,
    /// Targets per token.
    targets: usize,
    /// `cols x cols`; only the part on and above the diagonal until [`finish`](Self::finish).
    hessian: Vec<f32>,
    /// `cols x targets`.
    cross: Vec<f32>,
    /// `sum z^2` of the inputs `z` that the original model sees.
    squares: Vec<f64>,
    tokens: u64,
}

/// Columns of the Hessian per product: what lies below the diagonal of a strip is not computed.
const STRIP: usize = 256;

impl Moments {
    /// No tokens yet.
    pub fn new(cols: usize, targets: usize) -> Self {
        Self {
            cols,
            targets,
            hessian: vec![0.0; cols * cols],
            cross: vec![0.0; cols * targets],
            squares: vec![0.0; cols],
            tokens: 0,
        }
    }

    /// Adds tokens: rows of inputs `x`, of targets `y` and of the original's inputs `z`. Runs on one thread.
    pub fn add(&mut self, x: &[f32], y: &[f32], z: &[f32]) {
        let (cols, targets) = (self.cols, self.targets);
        let tokens = x.len() / cols;
        let inputs = |start: usize, count: usize| Mat::new(&x[start..], tokens, count, cols);
        for start in (0..cols).step_by(STRIP) {
            let width = STRIP.min(cols - start);
            let out = MatMut::new(&mut self.hessian[start..], start + width, width, cols);
            matmul(out, Old::Add, 1.0, inputs(0, start + width).t(), inputs(start, width), 1);
        }
        let out = MatMut::new(&mut self.cross, cols, targets, targets);
        matmul(out, Old::Add, 1.0, inputs(0, cols).t(), Mat::new(y, tokens, targets, targets), 1);
        for z in z.chunks_exact(cols) {
            self.squares.iter_mut().zip(z).for_each(|(sum, z)| *sum += f64::from(*z) * f64::from(*z));
        }
        self.tokens += tokens as u64;
    }

    /// The sum of parts, in their order, with the whole Hessian.
    ///
    /// # Panics
    /// Without parts.
    pub fn finish(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let mut sum = parts.next().unwrap_or_else(|| unreachable!("text for calibration is not empty"));
        for part in parts {
            let add = |a: &mut [f32], b: &[f32]| {
                a.par_iter_mut().zip(b).with_min_len(1 << 14).for_each(|(a, b)| *a += b);
            };
            add(&mut sum.hessian, &part.hessian);
            add(&mut sum.cross, &part.cross);
            sum.squares.iter_mut().zip(&part.squares).for_each(|(a, b)| *a += b);
            sum.tokens += part.tokens;
        }
        for i in 1..sum.cols {
            for j in 0..i {
                sum.hessian[i * sum.cols + j] = sum.hessian[j * sum.cols + i];
            }
        }
        sum
    }

    /// Mean square of every input of the original model.
    pub fn importance(&self) -> Vec<f32> {
        self.squares.iter().map(|sum| (sum / self.tokens.max(1) as f64) as f32).collect()
    }

    /// Tokens added.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The damped Hessian with its factor, and the weights `V` that minimise
    /// `sum |V x - y|^2 + damp |V - w|^2`, `damp` in units of the mean of the Hessian's diagonal.
    ///
    /// Where `original` is given, the targets are what it maps the `y` of [`add`](Self::add) to.
    /// Consumes the sums: the Hessian is damped in place. `None` when they are not finite.
    pub fn fit(mut self, w: &[f32], original: Option<&[f32]>, damp: f32) -> Option<Fit> {
        let (cols, targets) = (self.cols, self.targets);
        let rows = w.len() / cols;
        let trace: f64 = (0..cols).map(|i| f64::from(self.hessian[i * cols + i])).sum();
        if !trace.is_finite() {
            return None;
        }
        // Inputs that are all zero fit any weights: those of the original stay.
        let mut damp = (f64::from(damp) * trace / cols as f64).max(1e-30) as f32;
        let factor = loop {
            for i in 0..cols {
                self.hessian[i * cols + i] += damp;
            }
            // Rounding of the sums may leave a matrix that is barely not positive definite.
            match Factor::new(&self.hessian, cols) {
                Some(factor) => break factor,
                None if damp < 1e30 => damp *= 10.0,
                None => return None,
            }
        };
        let mut fitted: Vec<f32> = w.iter().map(|w| damp * w).collect();
        let threads = rayon::current_num_threads();
        let out = MatMut::new(&mut fitted, rows, cols, cols);
        let cross = Mat::new(&self.cross, cols, targets, targets).t();
        match original {
            Some(original) => matmul(out, Old::Add, 1.0, Mat::new(original, rows, targets, targets), cross, threads),
            None => {
                assert_eq!(rows, targets, "a target per row");
                out_add(&mut fitted, &self.cross, rows, cols);
            }
        }
        factor.solve(&mut fitted);
        Some(Fit { weights: fitted, hessian: self.hessian, factor })
    }
}

/// `out += cross^T`.
fn out_add(out: &mut [f32], cross: &[f32], rows: usize, cols: usize) {
    out.par_chunks_mut(cols).enumerate().for_each(|(row, out)| {
        for (col, out) in out.iter_mut().enumerate() {
            *out += cross[col * rows + row];
        }
    });
}

/// What to round, and how errors are measured.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The best weights without rounding, `rows x cols`.
    pub weights: Vec<f32>,
    /// `cols x cols`, damped.
    pub hessian: Vec<f32>,
    /// Its factor.
    pub factor: Factor,
}
