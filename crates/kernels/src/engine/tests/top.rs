//! Split heads: the same bits as whole ones, and a superset of the largest products.

use super::{Random, assert_same_bits, engine, isas};
use crate::format::TensorType;
use crate::format::half::f32_to_f16;
use crate::generic::split::Estimate;
use crate::kernels::Kernels;
use crate::matrix::Repr;
use crate::{Bytes, Engine, Matrix, Pool, Product};

/// Q8_0 rows with the codes and scales (per block of 32) that `value` gives.
fn matrix(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> i8, scale: impl Fn(usize) -> f32) -> Matrix {
    let mut bytes = Vec::new();
    for row in 0..rows {
        for block in 0..cols / 32 {
            bytes.extend(f32_to_f16(scale(row)).to_le_bytes());
            bytes.extend((0..32).map(|i| value(row, block * 32 + i) as u8));
        }
    }
    let matrix = Matrix::from_rows(TensorType::Q8_0, rows, cols, Bytes::from(bytes)).unwrap();
    matrix.repacked_on(&Pool::new(1))
}

fn product(engine: &mut Engine, w: &Matrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; tokens * w.rows()];
    engine.matmul(x, tokens, &mut [Product { w, y: &mut y }]);
    y
}

#[test]
fn a_split_matrix_is_the_same_matrix() {
    let mut random = Random::new(21);
    for (rows, cols) in [(1, 32), (16, 64), (37, 96), (130, 576)] {
        let whole = matrix(rows, cols, |_, _| random.bits() as i8, |row| 0.01 * (row % 5) as f32 - 0.01);
        let split = whole.clone().split_on(&Pool::new(2));
        assert!(split.is_split() && !whole.is_split());
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        for row in 0..rows {
            whole.row_f32(row, &mut a);
            split.row_f32(row, &mut b);
            assert_same_bits(&a, &b);
        }
        for tokens in [1, 2, 3, 9] {
            let x = random.values(tokens * cols);
            for isa in isas() {
                for threads in [1, 3] {
                    let mut engine = engine(isa, threads);
                    let expected = product(&mut engine, &whole, &x, tokens);
                    assert_same_bits(&product(&mut engine, &split, &x, tokens), &expected);
                }
            }
        }
    }
    // Not Q8_0, or a scale that is not finite: as it was.
    let dense = Matrix::from_rows(TensorType::F32, 1, 1, Bytes::from(vec![0; 4])).unwrap();
    assert!(!dense.split_on(&Pool::new(1)).is_split());
    assert!(
        !matrix(20, 32, |_, _| 1, |row| if row == 19 { f32::INFINITY } else { 1.0 }).split_on(&Pool::new(1)).is_split()
    );
}

/// Weights whose lower bits all pull the way of `x`, so that Cauchy-Schwarz is nearly an equality.
fn adversarial(x: &[f32], rows: usize, random: &mut Random) -> Matrix {
    let choices: Vec<(u64, u64)> = (0..rows).map(|_| (random.bits(), random.bits())).collect();
    let value = |row: usize, col: usize| {
        let upper = (choices[row].0.rotate_left(col as u32 * 7) & 63) as u8;
        let pull = match row % 4 {
            0 => x[col] > 0.0,
            1 => x[col] < 0.0,
            _ => choices[row].1.rotate_left(col as u32) & 1 == 1,
        };
        (upper << 2 | if pull { 3 } else { 0 }).wrapping_sub(128) as i8
    };
    matrix(rows, x.len(), value, |row| [0.02, -0.02, 1e-4, 3.0][row / 4 % 4])
}

#[test]
fn no_product_is_above_its_bound() {
    let mut random = Random::new(22);
    for cols in [32, 96, 1024] {
        for kind in 0..3 {
            let x: Vec<f32> = match kind {
                0 => random.values(cols),
                1 => random.values(cols).iter().map(|x| x.signum()).collect(), // every q is 127 or -127
                _ => random
                    .values(cols)
                    .iter()
                    .enumerate()
                    .map(|(i, x)| if i % 37 == 0 { 50.0 * x } else { *x })
                    .collect(),
            };
            let whole = adversarial(&x, 160, &mut random);
            let split = whole.clone().split_on(&Pool::new(1));
            let Repr::Split(parts) = &split.repr else { panic!() };
            for isa in isas() {
                let mut engine = engine(isa, 1);
                let exact = product(&mut engine, &whole, &x, 1);
                let inputs = &engine.inputs;
                let norms: Vec<f32> = inputs
                    .q
                    .chunks(32)
                    .zip(&inputs.blocks)
                    .map(|(q, b)| q.iter().map(|q| f32::from(*q).powi(2)).sum::<f32>().sqrt() * b.scale * (1.0 + 1e-6))
                    .collect();
                let mut out = vec![Estimate::default(); parts.panels()];
                // SAFETY: `isa` is available; one token of the matrix's columns.
                unsafe { (Kernels::of(isa).split_estimate)(parts, 0, &inputs.q, &inputs.blocks, &norms, &mut out) };
                for (out, exact) in out.iter().zip(exact.chunks(16)) {
                    let largest = exact.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    assert!(largest <= out.most, "{isa} {cols} {kind}: {largest} above {out:?}");
                    assert!(largest >= out.best - out.bound, "{isa} {cols} {kind}: {largest} below {out:?}");
                    assert!(out.most <= out.best + out.bound + 1e-6 * out.most.abs());
                }
            }
        }
    }
}

/// Checks a result of `top` against all products.
#[track_caller]
fn check(y: &[f32], all: &[f32], k: usize) {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    for (i, (y, all)) in y.iter().zip(all).enumerate() {
        if y.to_bits() != all.to_bits() {
            assert!(
                *y == f32::NEG_INFINITY && *all < sorted[k - 1],
                "row {i}: {y} for {all}, the {k}th is {}",
                sorted[k - 1]
            );
        }
    }
}

#[test]
fn the_largest_products_are_found() {
    let mut random = Random::new(23);
    let (rows, cols) = (5003, 64);
    let mut found = 0;
    for round in 0..6 {
        let x: Vec<f32> = random.values(cols).iter().map(|x| x * x * x).collect();
        let bits: Vec<u64> = (0..rows * cols).map(|_| random.bits()).collect();
        // Some rows look like x; in odd rounds each of them comes three times (ties), at times changed in the last bit.
        let value = |row: usize, col: usize| {
            let kind = if round % 2 == 1 { row % 1667 } else { row };
            let noise = (bits[kind * cols + col] % 60) as f32 - 30.0;
            let like = if kind % 100 == 7 { 60.0 * x[col].signum() * (1.0 + (kind / 100) as f32 / 90.0) } else { 0.0 };
            let last = i8::from(round == 5 && row == 7 && col == 3);
            (noise + like).clamp(-128.0, 126.0) as i8 + last
        };
        let whole = matrix(rows, cols, value, |_| 0.01);
        let split = whole.clone().split_on(&Pool::new(2));
        for isa in isas() {
            for threads in [1, 2, 3] {
                let mut engine = engine(isa, threads);
                let all = product(&mut engine, &whole, &x, 1);
                for k in [1, 2, 5, 30] {
                    let mut y = vec![f32::NAN; rows];
                    if engine.top(&x, &split, k, &mut y).is_some() {
                        found += 1;
                        check(&y, &all, k);
                    } else {
                        assert!(y.iter().all(|y| y.is_nan()), "unchanged");
                    }
                }
            }
        }
    }
    assert!(found > 50, "{found}");
}

#[test]
fn what_cannot_be_told_apart_is_left_to_the_whole_product() {
    let split = |value: fn(usize, usize) -> i8| matrix(1000, 32, value, |_| 0.5).split_on(&Pool::new(1));
    let same = split(|_, col| col as i8);
    let other = split(|row, col| ((row * 37 + col * 11) % 256) as u8 as i8);
    for isa in isas() {
        let mut engine = engine(isa, 2);
        let mut y = vec![f32::NAN; 1000];
        assert_eq!(engine.top(&[1.0; 32], &same, 1, &mut y), None, "all are the largest");
        assert_eq!(engine.top(&[0.0; 32], &other, 1, &mut y), None, "all are 0");
        for bad in [f32::NAN, f32::INFINITY, 3e38] {
            let mut x = [1.0; 32];
            x[9] = bad;
            assert_eq!(engine.top(&x, &other, 1, &mut y), None, "{bad}");
        }
        assert_eq!(engine.top(&[1.0; 32], &other, 0, &mut y), None);
        assert_eq!(engine.top(&[1.0; 32], &other, 1000, &mut y), None);
        assert!(y.iter().all(|y| y.is_nan()), "unchanged");
    }
}
