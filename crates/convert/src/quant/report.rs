//! What quantizing one tensor did to it, in numbers.

use serde::Serialize;

use super::Projection;

/// The outcome for one tensor. `W` are its weights, `Q` what the packed tensor stands for, scales rounded as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// The tensor's name.
    pub tensor: String,
    /// Rows (out features).
    pub rows: usize,
    /// Columns (in features).
    pub cols: usize,
    /// The packed format, for example "sherry-1.25".
    pub format: String,
    /// How weights became ternary.
    pub projection: Projection,
    /// Weights that share a scale; `None`: a whole row.
    pub group_size: Option<usize>,
    /// Bits per weight of the codes, row padding included.
    pub code_bits_per_weight: f64,
    /// Bits per weight of the scales.
    pub scale_bits_per_weight: f64,
    /// `||W - Q||^2 / ||W||^2`. (0.282 for Gaussian weights, 3:4 sparse, groups of 128.)
    pub relative_squared_error: f64,
    /// `||W - Q|| / ||W||`, the root of [`relative_squared_error`](Self::relative_squared_error).
    pub relative_error: f64,
    /// With importance `h` per input: `sum h (W - Q)^2 / sum h W^2`.
    pub weighted_relative_squared_error: Option<f64>,
    /// Cosine of the angle between `W` and `Q`.
    pub cosine: f64,
    /// Signal to quantization noise, `10 log10(||W||^2 / ||W - Q||^2)` in dB; `None` when the tensor is kept exactly.
    pub sqnr_db: Option<f64>,
    /// Share of weights that became -1.
    pub share_minus: f64,
    /// Share of weights that became 0.
    pub share_zero: f64,
    /// Share of weights that became +1.
    pub share_plus: f64,
    /// How often each 5-bit code occurs (`nibble + 16 * sign`); `None` for formats without such codes.
    pub code_histogram: Option<Vec<u64>>,
    /// The scale group of largest relative squared error; `None` when all weights are zero.
    pub worst_group: Option<GroupError>,
}

impl TensorReport {
    /// Bits per weight, codes and scales.
    pub fn bits_per_weight(&self) -> f64 {
        self.code_bits_per_weight + self.scale_bits_per_weight
    }
}

/// The error of one scale group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupError {
    /// Row of the group.
    pub row: usize,
    /// The group's index in its row.
    pub group: usize,
    /// `||w - q||^2 / ||w||^2` over the group.
    pub relative_squared_error: f64,
}

/// Sums over some rows, from which the report is made. Merging in a fixed order gives the same bits for any thread count.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// `sum (w - q)^2`.
    error: f64,
    /// `sum w^2`.
    norm: f64,
    /// `sum w q`.
    dot: f64,
    /// `sum q^2`.
    packed_norm: f64,
    /// `sum h (w - q)^2`, `sum h w^2`.
    weighted: (f64, f64),
    /// Weights that became -1, 0, +1.
    shares: [u64; 3],
    /// Uses of each 5-bit code.
    codes: [u64; 32],
    worst: Option<GroupError>,
}

impl Sums {
    /// Adds one scale group: `group` of `row`, weights `values`, projected to `alpha * ternary`.
    pub(super) fn add_group(
        &mut self,
        (row, group): (usize, usize),
        values: &[f32],
        importance: Option<&[f32]>,
        ternary: &[i8],
        alpha: f32,
    ) {
        let alpha = f64::from(alpha);
        // Four chains of additions in a fixed interleaving: the same sums everywhere, a fourth of the latency.
        let (mut error, mut norm, mut dot, mut count) = ([0.0f64; 4], [0.0f64; 4], [0.0f64; 4], [0i32; 2]);
        let (quads, rest) = values.as_chunks::<4>();
        let (ternary_quads, ternary_rest) = ternary.as_chunks::<4>();
        let mut add = |lane: usize, value: f32, t: i8| {
            let (w, t) = (f64::from(value), f64::from(t));
            let difference = w - alpha * t;
            error[lane] += difference * difference;
            norm[lane] += w * w;
            dot[lane] += w * t;
        };
        for (values, ternary) in quads.iter().zip(ternary_quads) {
            for lane in 0..4 {
                add(lane, values[lane], ternary[lane]);
            }
        }
        for (lane, (&value, &t)) in rest.iter().zip(ternary_rest).enumerate() {
            add(lane, value, t);
        }
        for &t in ternary {
            count[0] += i32::from(t);
            count[1] += i32::from(t * t);
        }
        let total = |lanes: [f64; 4]| (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
        let (error, norm, dot) = (total(error), total(norm), total(dot));
        self.error += error;
        self.norm += norm;
        self.dot += dot * alpha;
        self.packed_norm += f64::from(count[1]) * alpha * alpha;
        let (plus, minus) = ((count[1] + count[0]) / 2, (count[1] - count[0]) / 2);
        self.shares[0] += minus as u64;
        self.shares[1] += (ternary.len() as u64).saturating_sub(count[1] as u64);
        self.shares[2] += plus as u64;
        if let Some(importance) = importance {
            for ((&value, &h), &t) in values.iter().zip(importance).zip(ternary) {
                let (w, h) = (f64::from(value), f64::from(h));
                self.weighted.0 += h * (w - alpha * f64::from(t)).powi(2);
                self.weighted.1 += h * w * w;
            }
        }
        if norm > 0.0 {
            self.keep_worst(Some(GroupError { row, group, relative_squared_error: error / norm }));
        }
    }

    /// Counts one use of a 5-bit code.
    pub(super) fn add_code(&mut self, code: u8) {
        self.codes[usize::from(code & 31)] += 1;
    }

    /// Adds the sums of the rows that follow.
    pub(super) fn merge(&mut self, next: &Self) {
        self.error += next.error;
        self.norm += next.norm;
        self.dot += next.dot;
        self.packed_norm += next.packed_norm;
        self.weighted.0 += next.weighted.0;
        self.weighted.1 += next.weighted.1;
        for (sum, next) in self.shares.iter_mut().zip(next.shares) {
            *sum += next;
        }
        for (sum, next) in self.codes.iter_mut().zip(next.codes) {
            *sum += next;
        }
        self.keep_worst(next.worst);
    }

    /// Keeps the larger error; of equal ones the earlier.
    fn keep_worst(&mut self, candidate: Option<GroupError>) {
        let Some(candidate) = candidate else { return };
        if self.worst.is_none_or(|worst| candidate.relative_squared_error > worst.relative_squared_error) {
            self.worst = Some(candidate);
        }
    }

    /// Fills in the measured part of `report`.
    pub(super) fn finish(self, report: &mut TensorReport, weighted: bool) {
        let ratio = |error: f64, norm: f64| if error == 0.0 { 0.0 } else { error / norm };
        report.relative_squared_error = ratio(self.error, self.norm);
        report.relative_error = report.relative_squared_error.sqrt();
        report.weighted_relative_squared_error = weighted.then(|| ratio(self.weighted.0, self.weighted.1));
        report.cosine = match self.norm.sqrt() * self.packed_norm.sqrt() {
            0.0 if self.norm == self.packed_norm => 1.0, // both vanish
            0.0 => 0.0,
            norms => self.dot / norms,
        };
        report.sqnr_db = (self.error > 0.0).then(|| -10.0 * report.relative_squared_error.log10());
        let weights = (report.rows as f64) * (report.cols as f64);
        [report.share_minus, report.share_zero, report.share_plus] = self.shares.map(|count| count as f64 / weights);
        if let Some(histogram) = &mut report.code_histogram {
            histogram.extend_from_slice(&self.codes);
        }
        report.worst_group = self.worst;
    }
}
