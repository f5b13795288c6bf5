//! The largest products of a matrix, without reading all of it.

use super::{Engine, Precision};
use crate::Matrix;
use crate::coarse::Coarse;
use crate::generic::coarse::{CoarseInput, Estimate, PEAK};
use crate::generic::panel::PanelBlock;
use crate::matrix::Repr;
use crate::panel::{BLOCK, ROWS};
use crate::pool::SharedPtr;

/// Scratch space of [`Engine::top`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    estimates: Vec<Estimate>,
    /// The input, rotated.
    rotated: Vec<f32>,
    q: Vec<i8>,
}

/// The share of panels worth computing exactly: beyond it the whole product is about as fast.
const MOST_PANELS: usize = 3;
/// By how many standard deviations an estimate may be too small. Errors are normally distributed (see
/// [`coarse`](crate::coarse)): one in 10^9 is further off.
const SIGMAS: f32 = 6.0;

impl Engine {
    /// The `k` largest of the products `w x` of one token, and some more: `y` (rows) gets the bits that
    /// [`matmul`](Self::matmul) would give, or -inf where the coarse copy of the matrix says that a product is smaller than
    /// the `k`-th largest. It is wrong about one of these `k` once in 10^9 times, if the inputs know nothing of the random
    /// signs that the copy was made with. Returns how many products are exact.
    ///
    /// `None`, and `y` holds nothing of use, when the matrix has no [coarse copy](Matrix::with_coarse_on), when more than a
    /// third of it would have to be computed, when `k` is 0 or anything is not finite; use `matmul` then.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn top(&mut self, x: &[f32], w: &Matrix, k: usize, y: &mut [f32]) -> Option<usize> {
        assert!(x.len() == w.cols() && y.len() == w.rows(), "x is cols, y is rows");
        let (Repr::Panels(panels), Some(coarse)) = (&w.repr, &w.coarse) else { return None };
        let shape = panels.shape;
        let limit = shape.panels() / MOST_PANELS;
        if self.precision != Precision::Int8 || k == 0 || k > limit {
            return None;
        }
        self.inputs.quantize(self.kernels, &self.pool, x, x.len());
        self.estimate(coarse)?;
        let (kernels, inputs) = (self.kernels, &self.inputs);
        let estimates = &self.top.estimates;
        // Any k products have the k-th largest, or one below it, as their smallest: take them from the best panels.
        let mut order: Vec<u32> = (0..estimates.len() as u32).collect();
        let estimate = |panel: &u32| estimates[*panel as usize].best;
        order.select_nth_unstable_by(k - 1, |a, b| estimate(b).total_cmp(&estimate(a)));
        order.truncate(k);
        let exact = |list: &[u32], to: &mut [f32]| {
            let to = SharedPtr(to.as_mut_ptr());
            let workers = self.pool.threads();
            self.pool.run(&|worker| {
                let mine = list.len() * worker / workers..list.len() * (worker + 1) / workers;
                for panel in &list[mine] {
                    let panel = *panel as usize;
                    let block = PanelBlock {
                        shape,
                        panels: panels.bytes()[panel * shape.panel_bytes..].as_ptr(),
                        count: 1,
                        rows: shape.rows - panel * ROWS,
                        q: inputs.q.as_ptr(),
                        blocks: inputs.blocks.as_ptr(),
                        tokens: 1,
                        // SAFETY: the matrix has this panel, and `to` is as long as the matrix has rows.
                        y: unsafe { to.get().add(panel * ROWS) },
                        y_stride: shape.rows,
                    };
                    // SAFETY: the engine has checked the instruction set; the inputs are one token of `cols` columns; every
                    // panel of the list is another one.
                    unsafe { (kernels.panels)(&block) };
                }
            });
        };
        let rows = |panel: &u32| *panel as usize * ROWS..shape.rows.min((*panel as usize + 1) * ROWS);
        y.fill(f32::NEG_INFINITY);
        exact(&order, y);
        let mut best: Vec<f32> = order.iter().flat_map(|panel| &y[rows(panel)]).copied().collect();
        if best.len() < k || !best.iter().all(|x| x.is_finite()) {
            return None;
        }
        let (_, threshold, _) = best.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let threshold = *threshold;
        order.sort_unstable();
        let taken = |panel: u32| order.binary_search(&panel).is_ok();
        let more: Vec<u32> = (0..estimates.len() as u32)
            .filter(|panel| estimates[*panel as usize].most >= threshold && !taken(*panel))
            .collect();
        if order.len() + more.len() > limit {
            return None;
        }
        exact(&more, y);
        Some(order.iter().chain(&more).map(|panel| rows(panel).len()).sum())
    }

    /// Estimates every panel of `coarse` for the token that was rounded last; `None` when something is not finite.
    fn estimate(&mut self, coarse: &Coarse) -> Option<()> {
        let Self { kernels, pool, inputs, top: Scratch { estimates, rotated, q }, .. } = self;
        // The inputs as the exact product sees them: their rounding is no error of the estimate then.
        rotated.clear();
        let (q8, signs) = (inputs.q[..coarse.cols].chunks_exact(BLOCK), coarse.signs.chunks_exact(BLOCK));
        for ((q, signs), block) in q8.zip(signs).zip(&inputs.blocks) {
            rotated.extend(q.iter().zip(signs).map(|(q, sign)| f32::from(*q) * block.scale * sign));
        }
        // SAFETY: the engine has checked the instruction set.
        unsafe { (kernels.rotate)(rotated) };
        let square: f64 = rotated.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let largest = rotated.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let (scale, length) = (largest / 127.0, square.sqrt() as f32);
        let inverse = 1.0 / scale;
        if !(inverse.is_finite() && scale.is_finite() && length.is_finite()) {
            return None;
        }
        q.clear();
        q.extend(rotated.iter().map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8));
        // A larger peak than the copy reckons with makes larger rounding errors: as if all errors were larger.
        let peak = largest * (coarse.cols as f32).sqrt() / length;
        let reach = SIGMAS * length * (peak / PEAK).max(1.0);
        let input = CoarseInput { q, sum: q.iter().map(|q| i32::from(*q)).sum(), scale, reach };
        estimates.resize(coarse.panels(), Estimate::default());
        // A claim is a few pages, so that workers start far from each other only once.
        let share = coarse.panels().div_ceil(pool.threads()).max(1);
        pool.for_chunks(estimates, share, |index, estimates| {
            // SAFETY: the engine has checked the instruction set; shapes are checked by the kernel.
            unsafe { (kernels.coarse_estimate)(coarse, index * share, &input, estimates) };
        });
        estimates.iter().all(|e| e.best.is_finite() && e.most.is_finite()).then_some(())
    }
}
