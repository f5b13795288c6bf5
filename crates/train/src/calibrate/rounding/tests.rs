use super::*;
use crate::rng::Rng;

fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    Rng::new(seed, 0).fill_normal(&mut x, 1.0);
    x
}

/// Second moments of correlated inputs, damped.
fn hessian(cols: usize, seed: u64) -> Vec<f32> {
    let tokens = 3 * cols;
    let (x, mix) = (normal(tokens * cols, seed), normal(cols * cols, seed + 1));
    let mut inputs = x.clone();
    let width = Mat::new(&mix, cols, cols, cols);
    let scale = 1.0 / (cols as f32).sqrt();
    matmul(MatMut::new(&mut inputs, tokens, cols, cols), Old::Add, scale, Mat::new(&x, tokens, cols, cols), width, 1);
    let mut h = vec![0.0; cols * cols];
    let inputs = Mat::new(&inputs, tokens, cols, cols);
    matmul(MatMut::new(&mut h, cols, cols, cols), Old::Replace, 1.0 / tokens as f32, inputs.t(), inputs, 1);
    for i in 0..cols {
        h[i * cols + i] += 0.05;
    }
    h
}

fn wide_error(w: &[f32], q: &[f32], h: &[f32]) -> f64 {
    let n = w.len();
    let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
    (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| e[i] * f64::from(h[i * n + j]) * e[j]).sum()
}

#[test]
fn the_factor_is_upper_triangular_and_solves() {
    for n in [1, 4, 63, 64, 65, 200, 330] {
        let h = hessian(n, 7);
        let factor = Factor::new(&h, n).unwrap();
        let (unit, diagonal) = factor.unit();
        for i in 0..n {
            for j in 0..n {
                let u = |r: usize, k: usize| if r == k { 1.0 } else { f64::from(unit[r * n + k]) };
                let product: f64 = (i.max(j)..n).map(|k| u(i, k) * f64::from(diagonal[k]) * u(j, k)).sum();
                assert!((product - f64::from(h[i * n + j])).abs() < 2e-5, "{n}: {i} {j}");
                assert!(j > i || unit[i * n + j] == 0.0);
            }
        }
        let x = normal(70 * n, 3);
        let mut b = vec![0.0; x.len()];
        let product = (Mat::new(&x, 70, n, n), Mat::new(&h, n, n, n));
        matmul(MatMut::new(&mut b, 70, n, n), Old::Replace, 1.0, product.0, product.1, 1);
        factor.solve(&mut b);
        let off = x.iter().zip(&b).fold(0.0f32, |m, (x, b)| m.max((x - b).abs()));
        assert!(off < 2e-3, "{n}: {off}");
    }
    for bad in [[1.0, 2.0, 2.0, 1.0], [f32::NAN; 4], [0.0; 4]] {
        assert!(Factor::new(&bad, 2).is_none());
    }
}

/// All ways to fill `cols` columns of the grid.
fn everything(grid: Grid, cols: usize) -> Vec<Vec<f32>> {
    let quads: Vec<Vec<f32>> = match grid {
        Grid::Sparse34 => grid::PATTERNS.iter().flat_map(|p| [p.to_vec(), p.iter().map(|x| -x).collect()]).collect(),
        _ => {
            let values: Vec<f32> = match grid {
                Grid::Steps { bits: 2 } => vec![-1.5, -0.5, 0.5, 1.5],
                _ => vec![-1.0, 0.0, 1.0],
            };
            let mut all = vec![Vec::new()];
            for _ in 0..4 {
                all = all.iter().flat_map(|t| values.iter().map(|&v| [&t[..], &[v]].concat())).collect();
            }
            all
        }
    };
    let mut all = vec![Vec::new()];
    for _ in 0..cols / 4 {
        all = all.iter().flat_map(|t: &Vec<f32>| quads.iter().map(|q| [&t[..], q].concat())).collect();
    }
    all
}

#[test]
fn one_quad_is_rounded_to_the_exhaustive_optimum() {
    for grid in [Grid::Sparse34, Grid::Ternary, Grid::Steps { bits: 2 }] {
        let shape = Shape { rows: 40, cols: 4, group: 4 };
        let (w, h) = (normal(160, 1), hessian(4, 5));
        let mut t = vec![0.0; 160];
        let mut scales = vec![0.8; 40];
        let factor = Factor::new(&h, 4).unwrap();
        Feedback::new(factor.unit(), grid).round(&w, &scales, &mut t, grid, shape);
        let all = everything(grid, 4);
        for (row, (w, t)) in w.chunks(4).zip(t.chunks(4)).enumerate() {
            let cost = |t: &[f32]| wide_error(w, &t.iter().map(|t| 0.8 * t).collect::<Vec<_>>(), &h);
            let best = all.iter().map(|t| cost(t)).fold(f64::INFINITY, f64::min);
            if grid == Grid::Sparse34 {
                assert!(cost(t) <= best * 1.00001 + 1e-9, "{row}: {} {best}", cost(t));
            } else {
                // One by one is not the best of all four at once, but never worse than ignoring the correlations twofold.
                assert!(cost(t) >= best * 0.99999);
            }
        }
        // A given scale and pattern are improved together: not above the best pattern of the first scale.
        let objective = Objective { w: &w, hessian: &h, shape, grid };
        let before = scales.clone();
        let error = descent::descend(objective, &mut scales, &mut t, 20);
        assert_ne!(scales, before);
        let bound: f64 = w
            .chunks(4)
            .map(|w| {
                let cost = |t: &[f32]| wide_error(w, &t.iter().map(|t| 0.8 * t).collect::<Vec<_>>(), &h);
                all.iter().map(|t| cost(t)).fold(f64::INFINITY, f64::min)
            })
            .sum();
        assert!(error < bound * if grid == Grid::Sparse34 { 1.0 } else { 1.2 }, "{grid:?}: {error} {bound}");
    }
}

#[test]
fn rounding_comes_near_the_exhaustive_optimum_of_two_quads() {
    let grid = Grid::Sparse34;
    let shape = Shape { rows: 64, cols: 8, group: 8 };
    let (w, h) = (normal(512, 11), hessian(8, 12));
    let effort = Effort { sweeps: 20, column_fits: 0 };
    let factor = Factor::new(&h, 8).unwrap();
    let rounded = round(&w, &h, &factor, &Sharing::none(8), grid, shape, effort);
    let all = everything(grid, 8);
    let mut best = 0.0;
    for w in w.chunks(8) {
        // The best scale of each candidate in closed form.
        let form = |x: &[f32], y: &[f32]| -> f64 {
            let pairs = (0..8).flat_map(|i| (0..8).map(move |j| (i, j)));
            pairs.map(|(i, j)| f64::from(x[i]) * f64::from(h[i * 8 + j]) * f64::from(y[j])).sum()
        };
        let whole = form(w, w);
        let costs = all.iter().map(|t| {
            let above = form(w, t).max(0.0);
            whole - above * above / form(t, t)
        });
        best += costs.fold(f64::INFINITY, f64::min);
    }
    assert!(rounded.error >= best * 0.999, "{} below the optimum {best}", rounded.error);
    // Codes and scale depend on each other: a descent ends in one of many such pairs.
    assert!(rounded.error < best * 1.2, "{} of {best}", rounded.error);
}

#[test]
fn every_step_lowers_the_objective_and_reports_it() {
    for grid in [Grid::Sparse34, Grid::Ternary, Grid::Steps { bits: 2 }, Grid::Steps { bits: 4 }] {
        for (rows, cols, group) in [(5, 72, 72), (70, 200, 200), (33, 192, 64), (20, 256, 32), (3, 256, 128)] {
            let shape = Shape { rows, cols, group };
            let (w, h) = (normal(rows * cols, 21), hessian(cols, 22));
            let factor = Factor::new(&h, cols).unwrap();
            let run = |sweeps, column_fits| {
                let effort = Effort { sweeps, column_fits };
                round(&w, &h, &factor, &Sharing::none(cols), grid, shape, effort)
            };
            let mut last = f64::INFINITY;
            for sweeps in [0, 1, 2, 4, 12] {
                let rounded = run(sweeps, 0);
                assert!(rounded.error <= last * 1.00001, "{grid:?} {shape:?} {sweeps}: {} {last}", rounded.error);
                let found = output_error(&w, &rounded.weights(shape), &h, cols);
                assert!((found / rounded.error - 1.0).abs() < 1e-3, "{grid:?} {shape:?}: {found} {}", rounded.error);
                last = rounded.error;
            }
            let columns = run(12, 2);
            let mut q = columns.weights(shape);
            q.chunks_mut(cols).for_each(|row| row.iter_mut().zip(&columns.columns).for_each(|(q, f)| *q *= f));
            let found = output_error(&w, &q, &h, cols);
            assert!((found / columns.error - 1.0).abs() < 1e-3, "{found} {}", columns.error);
            // Against rounding that looks at each weight alone.
            let mut t = vec![0.0; w.len()];
            let scales: Vec<f32> = w.chunks(group).zip(t.chunks_mut(group)).map(|(w, t)| grid.project(w, t)).collect();
            let plain = output_error(&w, &scaled(&t, &scales, shape), &h, cols);
            assert!(last < 0.8 * plain, "{grid:?} {shape:?}: {last} of {plain}");
            let legal = |t: &[f32]| match grid {
                Grid::Sparse34 => t.iter().filter(|&&t| t == 0.0).count() == 1,
                _ => t.iter().all(|&t| grid.nearest(t) == t),
            };
            assert!(columns.values.chunks(4).all(legal), "{grid:?}");
        }
    }
}

#[test]
fn column_factors_find_what_was_folded_away() {
    // Weights that are exactly on the grid once their columns are divided by factors.
    let (rows, cols) = (96, 64);
    let shape = Shape { rows, cols, group: cols };
    let factors: Vec<f32> = (0..cols).map(|c| 0.5 + 1.5 * (c % 8) as f32 / 7.0).collect();
    let signs = normal(rows * cols, 1);
    let mut t = vec![0.0; rows * cols];
    Grid::Sparse34.project(&signs, &mut t);
    let w: Vec<f32> = t.iter().enumerate().map(|(i, t)| 0.25 * t * factors[i % cols]).collect();
    let h = hessian(cols, 4);
    let factor = Factor::new(&h, cols).unwrap();
    let error = |column_fits, sharing: &Sharing| {
        round(&w, &h, &factor, sharing, Grid::Sparse34, shape, Effort { sweeps: 20, column_fits }).error
    };
    let none = Sharing::none(cols);
    assert!(error(4, &none) < 0.02 * error(0, &none), "{} {}", error(4, &none), error(0, &none));
    // Factors repeat every eight columns: sharing them loses nothing.
    let sharing = Sharing::heads(8, 1, 8);
    assert_eq!(sharing.count(), 8);
    let rounded = round(&w, &h, &factor, &sharing, Grid::Sparse34, shape, Effort { sweeps: 20, column_fits: 4 });
    assert!(rounded.error < 0.02 * error(0, &none));
    assert!((0..cols).all(|c| rounded.columns[c] == rounded.columns[c % 8]));
}

#[test]
fn threads_change_nothing() {
    let shape = Shape { rows: 200, cols: 320, group: 320 };
    let (w, h) = (normal(200 * 320, 31), hessian(320, 32));
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let factor = Factor::new(&h, 320).unwrap();
            let effort = Effort { sweeps: 4, column_fits: 2 };
            round(&w, &h, &factor, &Sharing::none(320), Grid::Sparse34, shape, effort)
        })
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}

/// Rounded, then decided by latent weights again: the same values, none of which is far from changing that rounding was indifferent
/// about.
#[test]
fn latent_weights_decide_what_was_rounded() {
    use sherry_kernels::format::{QuadOrder, TensorType};
    let (rows, cols) = (5, 64);
    let (w, h) = (normal(rows * cols, 1), hessian(cols, 2));
    let factor = Factor::new(&h, cols).unwrap();
    let levels = |ty| Grid::of_type(ty).unwrap();
    let grids = [
        Grid::Sparse34,
        Grid::Ternary,
        Grid::Steps { bits: 2 },
        Grid::Steps { bits: 4 },
        levels(TensorType::Q2_0),
        levels(TensorType::SQ3_0),
        levels(TensorType::Q4_0),
        levels(TensorType::Q5_0),
    ];
    for grid in grids {
        for (group, column_fits) in [(cols, 0), (cols, 1), (32, 0)] {
            let shape = Shape { rows, cols, group };
            let rounded = round(&w, &h, &factor, &Sharing::none(cols), grid, shape, Effort { sweeps: 4, column_fits });
            let latents = rounded.latents(&w, grid, shape);
            let mut values = vec![0.0; w.len()];
            grid.nearest_row(&latents, QuadOrder::Contiguous, &mut values);
            assert_eq!(values, rounded.values, "{grid:?} {shape:?}");
            let (low, high) = grid.bounds();
            assert!(latents.iter().all(|x| (low - 0.5..=high + 0.5).contains(x)), "{grid:?}");
            // Weights within a step of their values are latent weights as they are.
            let weight = |i: usize| {
                w[i] / (rounded.scales[i / cols * shape.groups() + i % cols / group] * rounded.columns[i % cols])
            };
            let near = (0..w.len()).filter(|i| (weight(*i) - values[*i]).abs() < 0.44 && weight(*i).abs() < 1.0);
            let same = near.clone().filter(|i| latents[*i] == weight(*i)).count();
            assert!(same > 20 && same == near.count(), "{grid:?} {shape:?}: {same}");
        }
    }
}
