//! Coarse copies: what they estimate, how far off, and a superset of the largest products.

use super::{Random, engine, isas};
use crate::arch::dispatch;
use crate::coarse::Coarse;
use crate::format::TensorType;
use crate::format::half::f32_to_f16;
use crate::generic::coarse::{CoarseInput, Estimate};
use crate::rotation::rotate;
use crate::{Bytes, Engine, Isa, Largest, Matrix, Pool, Product};

/// Q8_0 rows with the codes and scales (per block of 32) that `value` gives.
fn q8_0(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> i8, scale: impl Fn(usize) -> f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in 0..rows {
        for block in 0..cols / 32 {
            bytes.extend(f32_to_f16(scale(row)).to_le_bytes());
            bytes.extend((0..32).map(|i| value(row, block * 32 + i) as u8));
        }
    }
    bytes
}

fn matrix(ty: TensorType, rows: usize, cols: usize, bytes: Vec<u8>) -> Matrix {
    Matrix::from_rows(ty, rows, cols, Bytes::from(bytes)).unwrap().repacked_on(&Pool::new(1))
}

/// Random Q8_0 weights.
fn random(random: &mut Random, rows: usize, cols: usize) -> Matrix {
    matrix(TensorType::Q8_0, rows, cols, q8_0(rows, cols, |_, _| random.bits() as i8, |row| 0.01 + row as f32 * 1e-5))
}

fn product(engine: &mut Engine, w: &Matrix, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; w.rows()];
    engine.matmul(x, 1, &mut [Product { w, y: &mut y }]);
    y
}

/// The coarse copy of `w`.
fn coarse(w: &Matrix) -> Coarse {
    Coarse::of_rows(w.rows(), w.cols(), &Pool::new(2), |row, out| w.row_f32(row, out)).unwrap()
}

/// The code of `row` and `col`, as the table of the layout says.
fn code(coarse: &Coarse, row: usize, col: usize) -> u8 {
    let panel = &coarse.bytes()[row / 16 * coarse.panel_bytes()..][..coarse.panel_bytes()];
    let codes = &panel[128 + col / 32 * 192..][..192];
    let byte = |line: usize| codes[64 * line + 4 * (row % 16) + col % 4];
    match col % 32 / 4 {
        group @ 0..3 => byte(group) & 7,
        group @ 3..6 => byte(group - 3) >> 3 & 7,
        6 => byte(0) >> 6 << 1 | byte(2) >> 6 & 1,
        _ => byte(1) >> 6 << 1 | byte(2) >> 7,
    }
}

/// The factors of `row`: scale, standard deviation of the error.
fn factors(coarse: &Coarse, row: usize) -> [f32; 2] {
    let panel = &coarse.bytes()[row / 16 * coarse.panel_bytes()..];
    [0, 64].map(|at| f32::from_le_bytes(panel[at + 4 * (row % 16)..][..4].try_into().unwrap()))
}

#[test]
fn estimates_are_those_of_the_codes_on_every_instruction_set() {
    let mut random = Random::new(32);
    for (rows, cols) in [(1, 32), (16, 64), (37, 96), (130, 576)] {
        let w = coarse(&self::random(&mut random, rows, cols));
        let q: Vec<i8> = (0..cols).map(|i| if i % 7 == 0 { -127 } else { (random.bits() as i8).max(-127) }).collect();
        let x = CoarseInput { q: &q, sum: q.iter().map(|q| i32::from(*q)).sum(), scale: 0.25, reach: 3.0 };
        let row = |row: usize| {
            let [scale, error] = factors(&w, row);
            // Twice the whole number; halves and scales of powers of two are exact.
            let double: i32 = (0..cols).map(|i| (2 * i32::from(code(&w, row, i)) - 7) * i32::from(q[i])).sum();
            let estimate = (4 * double) as f32 * (scale * (x.scale / 8.0));
            (estimate, estimate + error * x.reach)
        };
        let expected: Vec<Estimate> = (0..w.panels())
            .map(|panel| {
                let rows = (16 * panel..rows.min(16 * panel + 16)).map(row);
                let largest = |a: f32, b: f32| if b > a { b } else { a };
                rows.fold(Estimate { best: f32::NEG_INFINITY, most: f32::NEG_INFINITY }, |e, (best, most)| Estimate {
                    best: largest(e.best, best),
                    most: largest(e.most, most),
                })
            })
            .collect();
        for isa in isas() {
            let mut out = vec![Estimate::default(); w.panels()];
            let (one, rest) = out.split_at_mut(1);
            dispatch::expect(isa).coarse_estimate(&w, 0, &x, one);
            dispatch::expect(isa).coarse_estimate(&w, 1, &x, rest);
            assert_eq!(out, expected, "{isa} {rows}x{cols}");
        }
    }
}

/// The errors of estimates, in the standard deviations that the copy promises, are normally distributed: for weights and
/// inputs with outliers, of a few levels, and for rows that look like the input.
#[test]
fn errors_are_as_large_as_promised() {
    let mut random = Random::new(33);
    let (rows, cols) = (1000, 576);
    let values = random.values(rows * cols);
    let input = random.values(cols);
    let spiked = |x: f32, i: usize| if i % 97 == 5 { 40.0 * x } else { x };
    type Weight<'a> = &'a (dyn Fn(usize, usize) -> f32 + Sync);
    let kinds: [(&str, Weight<'_>); 4] = [
        ("even", &|row, i| values[row * cols + i]),
        ("outliers", &|row, i| spiked(values[row * cols + i], i + row)),
        ("two levels", &|row, i| values[row * cols + i].signum()),
        ("like the input", &|row, i| values[row * cols + i] + input[i] * (row % 10) as f32 * 0.3),
    ];
    for (name, weight) in kinds {
        let row = |row: usize, out: &mut [f32]| out.iter_mut().enumerate().for_each(|(i, w)| *w = weight(row, i));
        let w = Coarse::of_rows(rows, cols, &Pool::new(1), row).unwrap();
        for input in [input.clone(), input.iter().enumerate().map(|(i, x)| spiked(*x, i)).collect()] {
            let mut rotated: Vec<f32> = input.iter().zip(&w.signs).map(|(x, sign)| x * sign).collect();
            rotate(&mut rotated);
            let length = rotated.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let step = rotated.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
            let q: Vec<i32> = rotated.iter().map(|x| (x / step).round() as i32).collect();
            let mut sum = [0.0f64; 2];
            for row in 0..rows {
                let exact: f64 = (0..cols).map(|i| f64::from(weight(row, i)) * f64::from(input[i])).sum();
                let [scale, error] = factors(&w, row);
                let double: i32 = (0..cols).map(|i| (2 * i32::from(code(&w, row, i)) - 7) * q[i]).sum();
                let estimate = f64::from(double) / 2.0 * f64::from(scale * step);
                let z = (estimate - exact) / (f64::from(error) * length);
                assert!(z.abs() < 5.5, "{name}: {z}");
                sum = [sum[0] + z * z, sum[1] + z.powi(4)];
            }
            let [square, fourth] = sum.map(|sum| sum / rows as f64);
            // Below 1 for rows like the input: an error orthogonal to the row sees less of the input.
            assert!((0.3..1.15).contains(&square), "{name}: {square}");
            assert!(fourth < 3.8 * square.max(0.8).powi(2), "{name}: {fourth}, {square}");
        }
    }
}

/// Checks a result of `top` against all products.
#[track_caller]
fn check(y: &[f32], all: &[f32], asked: Largest) {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let kth = sorted.get(asked.k - 1).copied().unwrap_or(f32::NEG_INFINITY);
    let least = kth.max(sorted[0] - asked.within);
    for (i, (y, all)) in y.iter().zip(all).enumerate() {
        if y.to_bits() != all.to_bits() {
            assert!(*y == f32::NEG_INFINITY && *all < least, "row {i}: {y} for {all}, from {least} on: {asked:?}");
        }
    }
}

#[test]
fn the_largest_products_are_found() {
    let mut asked: Vec<Largest> = [1, 2, 0, 5, 30, 100_000].map(Largest::from).to_vec();
    for k in [1, 30, usize::MAX] {
        asked.extend([0.0, 0.5, 3.0, 1e30].map(|within| Largest { k, within }));
    }
    let mut random = Random::new(23);
    for (ty, rows, cols) in [(TensorType::Q8_0, 5003, 64), (TensorType::Q6_K, 4000, 256), (TensorType::Q4_0, 4000, 256)]
    {
        let (mut found, mut found_near) = (0, 0);
        for round in 0..4 {
            let x: Vec<f32> = random.values(cols).iter().map(|x| x * x * x).collect();
            // Some rows look like x; in odd rounds each of them comes three times (ties).
            let bytes = if ty == TensorType::Q8_0 {
                let bits: Vec<u64> = (0..rows * cols).map(|_| random.bits()).collect();
                let value = |row: usize, col: usize| {
                    let kind = if round % 2 == 1 { row % 1667 } else { row };
                    let noise = (bits[kind * cols + col] % 60) as f32 - 30.0;
                    let size = 60.0 * (1.0 + (kind / 100) as f32 / 90.0);
                    let like = if kind % 100 == 7 { size * x[col].signum() } else { 0.0 };
                    (noise + like).clamp(-127.0, 127.0) as i8
                };
                q8_0(rows, cols, value, |_| 0.01)
            } else {
                // Random blocks; their scales are made finite and small.
                let mut bytes: Vec<u8> = (0..ty.row_bytes(cols).unwrap() * rows).map(|_| random.bits() as u8).collect();
                let at = if ty == TensorType::Q6_K { 208 } else { 0 };
                for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                    block[at..at + 2].copy_from_slice(&f32_to_f16(1e-3).to_le_bytes());
                }
                bytes
            };
            let with_copy = matrix(ty, rows, cols, bytes).with_coarse_on(&Pool::new(2));
            assert!(with_copy.has_coarse());
            for isa in isas() {
                for threads in [1, 3] {
                    let mut engine = engine(isa, threads);
                    let all = product(&mut engine, &with_copy, &x);
                    let mut alone = Vec::new();
                    for &asked in &asked {
                        let mut y = vec![f32::NAN; rows];
                        let exact = engine.top(&x, &with_copy, &[asked], &mut y)[0];
                        if exact.is_some() {
                            *(if asked.within == f32::INFINITY { &mut found } else { &mut found_near }) += 1;
                            check(&y, &all, asked);
                        }
                        alone.push((exact, y));
                    }
                    // Several tokens together: the same counts and bits.
                    let mut y = vec![f32::NAN; asked.len() * rows];
                    let exact = engine.top(&x.repeat(asked.len()), &with_copy, &asked, &mut y);
                    for ((exact, y), (expected, row)) in exact.iter().zip(y.chunks_exact(rows)).zip(&alone) {
                        assert_eq!(exact, expected, "{isa}, {threads} threads");
                        assert!(exact.is_none() || y == row, "{isa}, {threads} threads");
                    }
                }
            }
        }
        assert!(found >= 8 * isas().count(), "{ty}: {found}");
        assert!(found_near >= 16 * isas().count(), "{ty}: {found_near}");
    }
}

#[test]
fn what_cannot_be_told_apart_is_left_to_the_whole_product() {
    let copy = |value: fn(usize, usize) -> i8| {
        let matrix = matrix(TensorType::Q8_0, 1000, 32, q8_0(1000, 32, value, |_| 0.5));
        let copy = matrix.with_coarse_on(&Pool::new(1));
        assert!(copy.has_coarse());
        copy
    };
    let same = copy(|_, col| col as i8);
    let nothing = copy(|_, _| 0);
    let other = copy(|row, col| ((row * 37 + col * 11) % 256) as u8 as i8);
    let one = copy(|row, col| if row == 500 { 127 } else { ((row * 37 + col * 11) % 61) as i8 - 30 });
    for isa in isas() {
        let mut engine = engine(isa, 2);
        let mut y = vec![f32::NAN; 1000];
        assert_eq!(engine.top(&[1.0; 32], &same, &[Largest::from(1)], &mut y), [None], "all are the largest");
        assert_eq!(engine.top(&[1.0; 32], &nothing, &[Largest::from(1)], &mut y), [None], "all are 0");
        assert_eq!(engine.top(&[0.0; 32], &other, &[Largest::from(1)], &mut y), [None], "all are 0");
        for bad in [f32::NAN, f32::INFINITY, 3e38] {
            let mut x = [1.0; 32];
            x[9] = bad;
            assert_eq!(engine.top(&x, &one, &[Largest::from(1)], &mut y), [None], "{bad}");
            // Its neighbours in a batch are found all the same.
            let mut both = vec![f32::NAN; 2000];
            let good: Vec<f32> = (0..32).map(|i| 1.0 + (i % 3) as f32).collect();
            let alone = engine.top(&good, &one, &[Largest::from(1)], &mut y)[0];
            assert!(alone.is_some());
            let found = engine.top(&[x.to_vec(), good].concat(), &one, &[Largest::from(1); 2], &mut both);
            assert_eq!(found, [None, alone], "{bad}");
        }
        assert_eq!(engine.top(&[1.0; 32], &other, &[Largest::from(0)], &mut y), [None]);
        assert_eq!(engine.top(&[1.0; 32], &other, &[Largest::from(1000)], &mut y), [None]);
    }
}

#[test]
fn only_finite_block_quantized_matrices_have_a_copy() {
    let pool = Pool::new(1);
    let dense = Matrix::from_rows(TensorType::F32, 1, 32, Bytes::from(vec![0; 128])).unwrap();
    assert!(!dense.with_coarse_on(&pool).has_coarse());
    for bad in [f32::INFINITY, f32::NAN] {
        let bytes = q8_0(20, 32, |_, _| 1, |row| if row == 19 { bad } else { 1.0 });
        assert!(!matrix(TensorType::Q8_0, 20, 32, bytes).with_coarse_on(&pool).has_coarse());
    }
    // Weights too small to square: the copy knows nothing of them but how large they are.
    let tiny = Coarse::of_rows(1, 32, &pool, |_, out| out.fill(1e-25)).unwrap();
    let [scale, error] = factors(&tiny, 0);
    assert!(scale == 0.0 && error >= 1e-25 && error.is_finite());
    // Every instruction set makes the same copy.
    let row: Vec<f32> = Random::new(5).values(576);
    let signs = vec![1.0; 576];
    let made = |isa: Isa| {
        let (mut row, mut codes, mut factors) = (row.clone(), vec![0; 576], [0.0; 2]);
        dispatch::expect(isa).coarse_row(&mut row, &signs, &mut codes, &mut factors);
        (codes, factors)
    };
    for isa in isas() {
        assert_eq!(made(isa), made(Isa::Scalar), "{isa}");
    }
}
