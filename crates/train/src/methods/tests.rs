use std::path::Path;

use sherry::NoProgress;
use sherry_convert::quant::{Projection, QuantSpec, quantize_matrix};
use sherry_kernels::format::{ScaleGroup, TernaryFormat};
use sherry_sgemm::Old;

use super::*;
use crate::linear::{Linear, Pass, Scratch};
use crate::rng::Rng;

const METHODS: [Method; 10] = [
    Method::None,
    Method::Sherry,
    Method::AbsMean,
    Method::AbsMedian,
    Method::Twn,
    Method::Binary,
    Method::Lsq,
    Method::Seq,
    Method::Dlt,
    Method::Tequila,
];

fn quantizer(method: Method, scale: Scale, group_size: usize, quads: QuadOrder) -> Quantizer {
    Quantizer { method, scale, group_size, quads, tequila: 0.01 }
}

/// Weights with ties, zeros of both signs and tiny values among ordinary ones.
fn weights(len: usize) -> Vec<f32> {
    let mut w = vec![0.0; len];
    Rng::new(5, 0).fill_normal(&mut w, 0.05);
    for (i, w) in w.iter_mut().enumerate() {
        match i % 23 {
            3..=5 => *w = 0.03125,
            7 => *w = -0.0,
            11 => *w = 0.0,
            13 => *w = -0.03125,
            17 => *w *= 1e-20,
            _ => {}
        }
    }
    w
}

fn effective(q: &Quantizer, rows: usize, cols: usize, w: &[f32], lambda: f32) -> Vec<f32> {
    let matrix = MatrixPlace { weights: 0, rows, cols, learned: w.len() };
    let mut params = w.to_vec();
    params.resize(w.len() + q.method.learned().len() * q.learned_len(rows, cols), 0.0);
    let (w, learned) = params.split_at_mut(rows * cols);
    q.init_learned(rows, cols, w, learned);
    let mut out = vec![9.0; rows * cols];
    q.effective(matrix, &params, lambda, &mut out);
    out
}

/// What is trained is what is exported: the quantizer of the library gives the same weights, bit for bit.
#[test]
fn projections_equal_the_exporters() {
    use Projection::*;
    let (rows, cols) = (37, 512);
    let w = weights(rows * cols);
    for (method, projection, format) in [
        (Method::Sherry, SparseAbsMean, TernaryFormat::Sherry),
        (Method::AbsMean, AbsMean, TernaryFormat::Ternary2),
        (Method::AbsMedian, AbsMedian, TernaryFormat::Ternary2),
        (Method::Twn, Twn, TernaryFormat::Ternary2),
    ] {
        for group in [None, Some(32), Some(64), Some(128), Some(256)] {
            for order in [QuadOrder::Contiguous, QuadOrder::Stride16] {
                let stride = order == QuadOrder::Stride16;
                if stride && (method != Method::Sherry || group == Some(32)) {
                    continue;
                }
                let scale = group.map_or(ScaleGroup::Row, ScaleGroup::Group);
                let spec = QuantSpec { format, order, scale, projection };
                let (packed, _) = quantize_matrix((Path::new("x"), "w"), &w, cols, &spec, None).unwrap();
                let kind = if group.is_some() { Scale::Group } else { Scale::Row };
                let q = quantizer(method, kind, group.unwrap_or(0), order);
                assert_eq!(q.problem(cols), None);
                let found = effective(&q, rows, cols, &w, 0.0);
                for row in 0..rows {
                    let mut expected = vec![0.0; cols];
                    packed.row_f32(row, &mut expected);
                    let same = found[row * cols..][..cols].iter().zip(&expected).all(|(a, b)| a == b);
                    assert!(same, "{method:?} {group:?} {order:?} row {row}");
                }
            }
        }
    }
}

#[test]
fn lambda_adds_the_latent_weights() {
    let (rows, cols) = (5, 64);
    let w = weights(rows * cols);
    for method in METHODS {
        if method == Method::None {
            continue;
        }
        let q = quantizer(method, Scale::Row, 0, QuadOrder::Contiguous);
        let (plain, with) = (effective(&q, rows, cols, &w, 0.0), effective(&q, rows, cols, &w, 0.25));
        for i in 0..w.len() {
            assert_eq!(with[i], plain[i] + 0.25 * w[i], "{method:?}");
        }
    }
}

#[test]
fn a_scale_for_the_whole_tensor_is_one_long_row() {
    let w = weights(512);
    for method in [Method::Sherry, Method::AbsMean, Method::AbsMedian, Method::Twn, Method::Binary, Method::Dlt] {
        let tensor = quantizer(method, Scale::Tensor, 0, QuadOrder::Contiguous);
        let row = quantizer(method, Scale::Row, 0, QuadOrder::Contiguous);
        assert_eq!(effective(&tensor, 8, 64, &w, 0.1), effective(&row, 1, 512, &w, 0.1), "{method:?}");
    }
}

/// The linear layer's gradients against central differences of the surrogate: `Q` stays what it is at the start and its
/// output moves with the latent weights.
#[test]
fn gradients_are_those_of_the_surrogate() {
    let (tokens, rows, cols, lambda) = (6, [4, 2], 8, 0.3f32);
    let total = 6 * cols;
    for method in [Method::None, Method::Sherry, Method::AbsMean, Method::AbsMedian, Method::Twn, Method::Binary] {
        for scale in [Scale::Row, Scale::Tensor] {
            let q = quantizer(method, scale, 0, QuadOrder::Contiguous);
            let (params, mut x, mut dy) = (weights(total), vec![0.0f32; tokens * cols], vec![0.0f32; tokens * 6]);
            Rng::new(1, 1).fill_normal(&mut x, 1.0);
            Rng::new(1, 2).fill_normal(&mut dy, 1.0);
            let parts = vec![
                MatrixPlace { weights: 0, rows: rows[0], cols, learned: 0 },
                MatrixPlace { weights: rows[0] * cols, rows: rows[1], cols, learned: 0 },
            ];
            let mut w_eff = Vec::new();
            for part in &parts {
                let mut out = vec![0.0; part.count()];
                q.effective(*part, &params, if method == Method::None { 0.0 } else { lambda }, &mut out);
                w_eff.extend(out.into_iter().map(f64::from));
            }
            // loss(delta, x) = sum dy * (x (W_eff + through * delta)^T)
            let through = if method == Method::None { 1.0 } else { 1.0 + f64::from(lambda) };
            let loss = |delta: &[f64], x: &[f64]| -> f64 {
                let mut sum = 0.0;
                for t in 0..tokens {
                    for r in 0..6 {
                        let w = |c: usize| w_eff[r * cols + c] + through * delta[r * cols + c];
                        let y: f64 = (0..cols).map(|c| x[t * cols + c] * w(c)).sum();
                        sum += f64::from(dy[t * 6 + r]) * y;
                    }
                }
                sum
            };
            let linear = Linear::new(parts, q);
            let pass = Pass { params: &params, lambda, progress: &NoProgress };
            let (mut dx, mut grads) = (vec![9.0f32; tokens * cols], vec![0.0f32; total]);
            let scratch = &mut Scratch::default();
            linear.backward(&mut dx, &dy, &x, &[], pass, Learn::Everything, &mut grads, scratch).unwrap();
            let x64: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let h = 1e-3;
            for i in 0..total {
                let mut delta = vec![0.0; total];
                delta[i] = h;
                let up = loss(&delta, &x64);
                delta[i] = -h;
                let expected = (up - loss(&delta, &x64)) / (2.0 * h);
                assert!((f64::from(grads[i]) - expected).abs() < 1e-5, "{method:?} dW {i}: {} {expected}", grads[i]);
            }
            for i in 0..x.len() {
                let zero = vec![0.0; total];
                let mut moved = x64.clone();
                moved[i] += h;
                let up = loss(&zero, &moved);
                moved[i] -= 2.0 * h;
                let expected = (up - loss(&zero, &moved)) / (2.0 * h);
                assert!((f64::from(dx[i]) - expected).abs() < 1e-5, "{method:?} dX {i}: {} {expected}", dx[i]);
            }
        }
    }
}

/// `a w`, and its gradients.
#[test]
fn codes_are_multiplied_by_their_scale() {
    let (tokens, rows, cols) = (6, 4, 16);
    for scale in [Scale::Row, Scale::Group] {
        let q = quantizer(Method::Codes, scale, 8, QuadOrder::Contiguous);
        let count = q.learned_len(rows, cols);
        let unit = q.unit(rows, cols);
        let mut params = weights(rows * cols);
        params.extend((0..count).map(|i| 0.5 + i as f32 / 16.0));
        let matrix = MatrixPlace { weights: 0, rows, cols, learned: rows * cols };
        let mut found = vec![0.0; rows * cols];
        q.effective(matrix, &params, 0.0, &mut found);
        for (i, w) in found.iter().enumerate() {
            assert_eq!(*w, params[matrix.learned + i / unit] * params[i]);
        }
        let (mut x, mut dy) = (vec![0.0f32; tokens * cols], vec![0.0f32; tokens * rows]);
        Rng::new(1, 1).fill_normal(&mut x, 1.0);
        Rng::new(1, 2).fill_normal(&mut dy, 1.0);
        let pass = Pass { params: &params, lambda: 0.0, progress: &NoProgress };
        let linear = Linear::new(vec![matrix], q);
        let mut y = vec![0.0; tokens * rows];
        linear.forward(&mut y, Old::Replace, &x, pass, &mut Scratch::default()).unwrap();
        for learn in [Learn::Everything, Learn::Blocks, Learn::ScalesAndNorms] {
            let (mut dx, mut grads) = (vec![0.0; tokens * cols], vec![0.0; params.len()]);
            linear.backward(&mut dx, &dy, &x, &y, pass, learn, &mut grads, &mut Scratch::default()).unwrap();
            let mut scales = vec![0.0; count];
            for i in 0..rows * cols {
                let g: f32 = (0..tokens).map(|t| dy[t * rows + i / cols] * x[t * cols + i % cols]).sum();
                scales[i / unit] += g * params[i];
                let own = if learn == Learn::ScalesAndNorms { 0.0 } else { g * params[matrix.learned + i / unit] };
                assert!((grads[i] - own).abs() < 1e-5, "{learn:?} {i}: {} {own}", grads[i]);
            }
            for (found, expected) in grads[matrix.learned..].iter().zip(scales) {
                assert!((found - expected).abs() < 1e-5, "{learn:?}: {found} {expected}");
            }
        }
    }
}

#[test]
fn impossible_shapes_are_explained() {
    let problem = |method, scale, group, quads, cols| quantizer(method, scale, group, quads).problem(cols);
    use QuadOrder::{Contiguous, Stride16};
    assert!(problem(Method::Sherry, Scale::Row, 0, Contiguous, 30).unwrap().contains("multiple of 4"));
    assert!(problem(Method::Sherry, Scale::Row, 0, Stride16, 96).unwrap().contains("multiple of 64"));
    assert!(problem(Method::Twn, Scale::Group, 48, Contiguous, 96).unwrap().contains("group_size"));
    assert!(problem(Method::Twn, Scale::Group, 64, Contiguous, 96).unwrap().contains("whole groups"));
    assert!(problem(Method::Sherry, Scale::Group, 32, Stride16, 128).is_some());
    assert_eq!(problem(Method::Binary, Scale::Tensor, 0, Contiguous, 7), None);
}
