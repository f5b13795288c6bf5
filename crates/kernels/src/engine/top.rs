//! The largest products of a matrix, without reading all of it.

use super::matmul::Inputs;
use crate::coarse::Coarse;
use crate::generic::coarse::{CoarseInput, Estimate, PEAK};
use crate::generic::panel::PanelBlock;
use crate::matrix::{Matrix, Repr};
use crate::panel::{BLOCK, PanelShape, ROWS};
use crate::pool::{Pool, SharedPtr};
use crate::table::Table;

/// Which products of a token are asked for: the `k` largest, but none that is more than `within` below the largest of all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Largest {
    /// At least 1.
    pub k: usize,
    /// Not negative; infinite: all `k`.
    pub within: f32,
}

impl From<usize> for Largest {
    fn from(k: usize) -> Self {
        Self { k, within: f32::INFINITY }
    }
}

/// Reused between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Spans of panels x tokens x the panels of a span.
    estimates: Vec<Estimate>,
    /// An input, rotated.
    rotated: Vec<f32>,
    /// The inputs, rotated and rounded, tokens x cols.
    q: Vec<i8>,
}

/// The share of panels worth computing exactly: beyond it the whole product is about as fast.
const MOST_PANELS: usize = 3;
/// By how many standard deviations an estimate may be too small. Errors are normally distributed (see
/// [`coarse`](crate::coarse)): one in 10^9 is further off.
const SIGMAS: f32 = 6.0;
/// Panels of the first round where more than can be computed are asked for, so that only what is near the largest counts.
const FEW_PANELS: usize = 8;
/// Bytes of the copy that are estimated for one token after another: they stay in the second-level cache meanwhile.
const SPAN_BYTES: usize = 128 << 10;

/// The estimates of all panels for several tokens.
#[derive(Clone, Copy)]
struct Estimates<'a> {
    all: &'a [Estimate],
    tokens: usize,
    /// Panels per span.
    span: usize,
    panels: usize,
}

/// What is known about one token.
struct Search {
    asked: Largest,
    /// Panels that are computed exactly, those of the second round last; `None` when it is given up.
    panels: Option<Vec<u32>>,
    /// Panels of the first round.
    first: usize,
}

/// What a search for the largest products works with: parts of an engine.
pub(super) struct Top<'a> {
    pub table: &'a Table,
    pub pool: &'a Pool,
    pub inputs: &'a mut Inputs,
    pub scratch: &'a mut Scratch,
}

impl Top<'_> {
    /// See [`Engine::top`](crate::Engine::top).
    pub fn top(&mut self, x: &[f32], w: &Matrix, asked: &[Largest], y: &mut [f32]) -> Vec<Option<usize>> {
        let tokens = asked.len();
        assert_eq!(Some(x.len()), tokens.checked_mul(w.cols()), "x is tokens x cols");
        assert_eq!(Some(y.len()), tokens.checked_mul(w.rows()), "y is tokens x rows");
        let nothing = vec![None; tokens];
        let (Repr::Panels(panels), Some(coarse)) = (&w.repr, &w.coarse) else { return nothing };
        let shape = panels.shape;
        let limit = shape.panels() / MOST_PANELS;
        let possible =
            |asked: &Largest| (1..=limit).contains(&asked.k) || (asked.k > 0 && limit > 0 && asked.within.is_finite());
        if !asked.iter().any(possible) {
            return nothing;
        }
        self.inputs.quantize(self.table, self.pool, x, w.cols());
        let span = self.estimate(coarse, tokens);
        let estimates = Estimates { all: &self.scratch.estimates, tokens, span, panels: shape.panels() };
        let mut searches: Vec<Search> =
            asked.iter().map(|&asked| Search { asked, panels: possible(&asked).then(Vec::new), first: 0 }).collect();
        self.pool.for_chunks(&mut searches, 1, |token, searches| {
            searches.iter_mut().for_each(|search| search.choose(estimates, token, limit));
        });
        y.fill(f32::NEG_INFINITY);
        self.exact(shape, panels.bytes(), &searches, |search| 0..search.first, y);
        let done = &*y;
        self.pool.for_chunks(&mut searches, 1, |token, searches| {
            let y = &done[token * shape.rows..(token + 1) * shape.rows];
            searches.iter_mut().for_each(|search| search.complete(estimates, token, y, limit));
        });
        self.exact(shape, panels.bytes(), &searches, |search| search.first..usize::MAX, y);
        let exact = |search: Search| Some(search.panels?.into_iter().map(|panel| rows(shape.rows, panel).len()).sum());
        searches.into_iter().map(exact).collect()
    }

    /// Computes `part` of the panels of each search into `y` (tokens x rows); the inputs are rounded already.
    fn exact(
        &self,
        shape: PanelShape,
        bytes: &[u8],
        searches: &[Search],
        part: impl Fn(&Search) -> std::ops::Range<usize>,
        y: &mut [f32],
    ) {
        let list: Vec<(usize, u32)> = searches
            .iter()
            .enumerate()
            .flat_map(|(token, search)| {
                let panels = search.panels.as_deref().unwrap_or_default();
                let part = part(search);
                panels[part.start.min(panels.len())..part.end.min(panels.len())]
                    .iter()
                    .map(move |panel| (token, *panel))
            })
            .collect();
        assert_eq!(y.len(), searches.len() * shape.rows);
        let to = SharedPtr(y.as_mut_ptr());
        let workers = self.pool.threads();
        self.pool.run(&|worker| {
            let mine = list.len() * worker / workers..list.len() * (worker + 1) / workers;
            for &(token, panel) in &list[mine] {
                let panel = panel as usize;
                let block = PanelBlock {
                    shape,
                    panels: bytes[panel * shape.panel_bytes..][..shape.panel_bytes].as_ptr(),
                    count: 1,
                    rows: shape.rows - panel * ROWS,
                    q: self.inputs.q[token * self.inputs.stride..][..shape.cols].as_ptr(),
                    blocks: self.inputs.blocks[token * self.inputs.stride / BLOCK..][..shape.cols / BLOCK].as_ptr(),
                    stride: self.inputs.stride,
                    tokens: 1,
                    // SAFETY: the matrix has this panel (sliced just above), so that its first row is one of the matrix, and `y`
                    // has as many values for each search, which is a token, as the matrix has rows (asserted above).
                    y: unsafe { to.get().add(token * shape.rows + panel * ROWS) },
                    y_stride: shape.rows,
                };
                // SAFETY: a whole panel and all inputs of one token (sliced just above). A search names a panel once (`complete`
                // adds those only that `choose` has not) and every entry of the list has one worker, so nobody else writes these
                // rows of this token. A table is given out only where its instruction set is.
                unsafe { (self.table.panels)(&block) };
            }
        });
    }

    /// Estimates every panel of `coarse` for the `tokens` tokens that were rounded last; returns the panels per span. What is
    /// not finite is estimated as NaN.
    fn estimate(&mut self, coarse: &Coarse, tokens: usize) -> usize {
        let Self { table, pool, inputs, scratch: Scratch { estimates, rotated, q } } = self;
        q.resize(tokens * coarse.cols, 0);
        let mut rounded = Vec::with_capacity(tokens);
        for (token, q) in q.chunks_exact_mut(coarse.cols).enumerate() {
            // The inputs as the exact product sees them: their rounding is no error of the estimate then.
            rotated.clear();
            let exact = inputs.q[token * inputs.stride..].chunks_exact(BLOCK);
            let signs = coarse.signs.chunks_exact(BLOCK);
            for ((q, signs), block) in exact.zip(signs).zip(&inputs.blocks[token * inputs.stride / BLOCK..]) {
                rotated.extend(q.iter().zip(signs).map(|(q, sign)| f32::from(*q) * block.scale * sign));
            }
            table.rotate(rotated);
            let square: f64 = rotated.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let largest = rotated.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let (scale, length) = (largest / 127.0, square.sqrt() as f32);
            let inverse = 1.0 / scale;
            if !(inverse.is_finite() && scale.is_finite() && length.is_finite()) {
                q.fill(0);
                rounded.push((f32::NAN, f32::NAN));
                continue;
            }
            let round = |x: &f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            q.iter_mut().zip(rotated.iter()).for_each(|(q, x)| *q = round(x));
            // A larger peak than the copy reckons with makes larger rounding errors: as if all errors were larger.
            let peak = largest * (coarse.cols as f32).sqrt() / length;
            rounded.push((scale, SIGMAS * length * (peak / PEAK).max(1.0)));
        }
        let inputs: Vec<CoarseInput<'_>> = q
            .chunks_exact(coarse.cols)
            .zip(&rounded)
            .map(|(q, &(scale, reach))| CoarseInput { q, sum: q.iter().map(|q| i32::from(*q)).sum(), scale, reach })
            .collect();
        let span = if tokens == 1 {
            // One stream per thread, so that workers start far from each other only once.
            coarse.panels().div_ceil(pool.threads()).max(1)
        } else {
            (SPAN_BYTES / coarse.panel_bytes()).max(1)
        };
        estimates.resize(coarse.panels().div_ceil(span) * span * tokens, Estimate::default());
        pool.for_chunks(estimates, span * tokens, |index, estimates| {
            let panels = span.min(coarse.panels() - index * span);
            for (input, estimates) in inputs.iter().zip(estimates.chunks_exact_mut(span)) {
                table.coarse_estimate(coarse, index * span, input, &mut estimates[..panels]);
            }
        });
        span
    }
}

/// The rows of a panel of a matrix of `rows` rows.
fn rows(rows: usize, panel: u32) -> std::ops::Range<usize> {
    panel as usize * ROWS..rows.min((panel as usize + 1) * ROWS)
}

impl Estimates<'_> {
    fn of(&self, token: usize, panel: u32) -> Estimate {
        let panel = panel as usize;
        self.all[(panel / self.span * self.tokens + token) * self.span + panel % self.span]
    }

    fn panels(&self) -> std::ops::Range<u32> {
        0..self.panels as u32
    }
}

impl Search {
    /// Any k products have the k-th largest, or one below it, as their smallest: takes them from the best panels.
    fn choose(&mut self, estimates: Estimates<'_>, token: usize, limit: usize) {
        let Some(panels) = &mut self.panels else { return };
        let finite = |panel: u32| {
            let Estimate { best, most } = estimates.of(token, panel);
            best.is_finite() && most.is_finite()
        };
        if !estimates.panels().all(finite) {
            self.panels = None;
            return;
        }
        panels.extend(estimates.panels());
        let best = |panel: &u32| estimates.of(token, *panel).best;
        self.first = if self.asked.k <= limit { self.asked.k } else { FEW_PANELS.min(limit) };
        panels.select_nth_unstable_by(self.first - 1, |a, b| best(b).total_cmp(&best(a)));
        panels.truncate(self.first);
    }

    /// Adds the panels that may hold a product that is asked for, given the exact ones in `y`.
    fn complete(&mut self, estimates: Estimates<'_>, token: usize, y: &[f32], limit: usize) {
        let Some(panels) = &mut self.panels else { return };
        let mut best: Vec<f32> = panels.iter().flat_map(|panel| &y[rows(y.len(), *panel)]).copied().collect();
        let Largest { k, within } = self.asked;
        if (best.len() < k && within == f32::INFINITY) || !best.iter().all(|x| x.is_finite()) {
            self.panels = None;
            return;
        }
        let largest = best.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let kth = |best: &mut [f32]| *best.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
        let kth = if best.len() < k { f32::NEG_INFINITY } else { kth(&mut best) };
        let threshold = kth.max(largest - within);
        panels.sort_unstable();
        let taken = |panel: u32| panels.binary_search(&panel).is_ok();
        let more: Vec<u32> = estimates
            .panels()
            .filter(|panel| estimates.of(token, *panel).most >= threshold && !taken(*panel))
            .collect();
        if panels.len() + more.len() > limit {
            self.panels = None;
        } else {
            panels.extend(more);
        }
    }
}
