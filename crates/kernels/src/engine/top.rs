//! The largest products of a matrix, without reading all of it.

use super::{Engine, Precision};
use crate::Matrix;
use crate::generic::split::Estimate;
use crate::matrix::Repr;
use crate::panel::ROWS;
use crate::pool::SharedPtr;

/// Scratch space of [`Engine::top`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    estimates: Vec<Estimate>,
    norms: Vec<f32>,
}

/// Panels worth computing exactly: beyond this share the whole product is about as fast.
const MOST_PANELS: usize = 8;

impl Engine {
    /// The `k` largest of the products `w x` of one token, and some more: `y` (rows) gets the bits that
    /// [`matmul`](Self::matmul) would give, or -inf where a product is proven to be smaller than the `k`-th largest (equal
    /// ones are all computed). Returns how many products are exact.
    ///
    /// `None`, and `y` as it was, when the matrix is not [split](Matrix::split_on), when more than an eighth of it would
    /// have to be computed, when `k` is 0 or anything is not finite; use `matmul` then.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn top(&mut self, x: &[f32], w: &Matrix, k: usize, y: &mut [f32]) -> Option<usize> {
        assert!(x.len() == w.cols() && y.len() == w.rows(), "x is cols, y is rows");
        let Repr::Split(split) = &w.repr else { return None };
        let panels = split.panels();
        let limit = panels / MOST_PANELS;
        if self.precision != Precision::Int8 || k == 0 || k > limit {
            return None;
        }
        self.inputs.quantize(self.kernels, &self.pool, x, x.len());
        let (kernels, inputs) = (self.kernels, &self.inputs);
        let Scratch { estimates, norms } = &mut self.top;
        norms.clear();
        for (q, block) in inputs.q[..x.len()].chunks_exact(32).zip(&inputs.blocks) {
            // The sum is exact; the square root and the product are not.
            let square: i32 = q.iter().map(|q| i32::from(*q) * i32::from(*q)).sum();
            norms.push((square as f32).sqrt() * block.scale * (1.0 + 1e-6));
        }
        estimates.resize(panels, Estimate::default());
        // A chunk is a few pages, so that workers start far from each other only once.
        let share = panels.div_ceil(self.pool.threads()).max(1);
        let norms = &norms[..];
        self.pool.for_chunks(estimates, share, |index, estimates| {
            let blocks = &inputs.blocks[..norms.len()];
            // SAFETY: the engine has checked the instruction set; shapes are checked by the kernel.
            unsafe { (kernels.split_estimate)(split, index * share, &inputs.q[..x.len()], blocks, norms, estimates) };
        });
        // Far from overflow nothing can hide in a NaN; sums are at most 116 times the bound (725 / 6.3).
        let sound = |e: &Estimate| e.best.is_finite() && e.most.is_finite() && (e.bound * 4096.0).is_finite();
        if !estimates.iter().all(sound) {
            return None;
        }
        // Any k products have the k-th largest, or one below it, as their smallest: take them from the best panels.
        let mut order: Vec<u32> = (0..panels as u32).collect();
        let estimate = |panel: &u32| estimates[*panel as usize].best;
        order.select_nth_unstable_by(k - 1, |a, b| estimate(b).total_cmp(&estimate(a)));
        order.truncate(k);
        let exact = |panels: &[u32], to: &mut [f32]| {
            let to = SharedPtr(to.as_mut_ptr());
            let workers = self.pool.threads();
            self.pool.run(&|worker| {
                let mine = panels.len() * worker / workers..panels.len() * (worker + 1) / workers;
                for panel in &panels[mine] {
                    let panel = *panel as usize;
                    // SAFETY: the engine has checked the instruction set; the inputs are one token of `cols` columns; every
                    // panel of the list is another one, and `to` is as long as the matrix has rows.
                    unsafe {
                        let y = to.get().add(panel * ROWS);
                        (kernels.split_exact)(split, panel, inputs.q.as_ptr(), inputs.blocks.as_ptr(), 1, y);
                    }
                }
            });
        };
        let rows = |panel: &u32| *panel as usize * ROWS..split.rows.min((*panel as usize + 1) * ROWS);
        let mut values = vec![f32::NEG_INFINITY; split.rows];
        exact(&order, &mut values);
        let mut best: Vec<f32> = order.iter().flat_map(|panel| &values[rows(panel)]).copied().collect();
        if best.len() < k {
            return None;
        }
        let (_, threshold, _) = best.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let threshold = *threshold;
        let taken = |panel: u32| order.contains(&panel);
        let more: Vec<u32> =
            (0..panels as u32).filter(|panel| estimates[*panel as usize].most >= threshold && !taken(*panel)).collect();
        if order.len() + more.len() > limit {
            return None;
        }
        exact(&more, &mut values);
        y.copy_from_slice(&values);
        Some(order.iter().chain(&more).map(|panel| rows(panel).len()).sum())
    }
}
