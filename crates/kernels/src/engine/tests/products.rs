use super::{Random, assert_same_bits, isas};
use crate::format::TensorType;
use crate::format::ggml::dequantize;
use crate::format::half::{f32_to_bf16, f32_to_f16};
use crate::{Bytes, Engine, Isa, Matrix, Precision, Product};

const PANEL_TYPES: [TensorType; 14] = [
    TensorType::IQ4_NL,
    TensorType::Q2_0,
    TensorType::PQ2_0,
    TensorType::SQ3_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// Random bytes of `ty` with finite scales.
fn random_bytes(ty: TensorType, values: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..ty.row_bytes(values).unwrap()).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        let (scales, value): (&[usize], f32) = match ty {
            TensorType::F32 => {
                block.copy_from_slice(&random.value().to_le_bytes());
                continue;
            }
            TensorType::BF16 => {
                block.copy_from_slice(&f32_to_bf16(random.value()).to_le_bytes());
                continue;
            }
            TensorType::F16
            | TensorType::Q2_0
            | TensorType::PQ2_0
            | TensorType::SQ3_0
            | TensorType::Q4_0
            | TensorType::Q5_0
            | TensorType::Q8_0
            | TensorType::IQ4_NL => (&[0], 1.0),
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => (&[0, 2], 1.0),
            TensorType::Q2_K => (&[80, 82], 1.0),
            TensorType::Q3_K => (&[108], 1.0),
            TensorType::Q6_K => (&[208], 1.0),
            TensorType::TQ1_0 => (&[52], 1.0),
            TensorType::TQ2_0 => (&[64], 1.0),
            other => panic!("{other} has no test bytes"),
        };
        for at in scales {
            block[*at..at + 2].copy_from_slice(&f32_to_f16(random.value() * value).to_le_bytes());
        }
    }
    bytes
}

/// The bytes at an odd address, with nothing behind them.
fn unaligned(bytes: &[u8]) -> Bytes {
    let mut owner = vec![0u8];
    owner.extend_from_slice(bytes);
    owner.shrink_to_fit();
    Bytes::from(owner).slice(1..bytes.len() + 1).unwrap()
}

fn matmul(isa: Isa, threads: usize, precision: Precision, w: &Matrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; tokens * w.rows()];
    Engine::new(isa, threads, precision).matmul(x, tokens, &mut [Product { w, y: &mut y }]);
    y
}

/// `y` is tokens x rows; every output within `tolerance` of the f64 product, relative to the sum of its terms.
#[track_caller]
fn assert_product(y: &[f32], w: &Matrix, x: &[f64], tokens: usize, tolerance: f64) {
    let (rows, cols) = (w.rows(), w.cols());
    let mut row = vec![0.0; cols];
    for r in 0..rows {
        w.row_f32(r, &mut row);
        for t in 0..tokens {
            let terms = row.iter().zip(&x[t * cols..]).map(|(w, x)| f64::from(*w) * x);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let error = (f64::from(y[t * rows + r]) - sum).abs();
            assert!(error <= tolerance * size + 1e-30, "row {r} token {t}: {} not {sum}", y[t * rows + r]);
        }
    }
}

/// The result for every token alone, and for every number of threads, is that of one thread and all tokens.
fn assert_invariant(isa: Isa, precision: Precision, w: &Matrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let (rows, cols) = (w.rows(), w.cols());
    let all = matmul(isa, 1, precision, w, x, tokens);
    for threads in [2, 3, 8] {
        assert_same_bits(&matmul(isa, threads, precision, w, x, tokens), &all);
    }
    for some in 1..tokens {
        let start = tokens - some;
        assert_same_bits(&matmul(isa, 1, precision, w, &x[start * cols..], some), &all[start * rows..]);
    }
    all
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn dense_products_follow_f64() {
    for isa in isas() {
        let mut random = Random::new(7);
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            for (rows, cols) in
                [(0, 5), (1, 0), (1, 1), (3, 7), (4, 8), (5, 15), (15, 16), (16, 17), (17, 33), (37, 100)]
            {
                let bytes = random_bytes(ty, rows * cols, &mut random);
                let w = Matrix::from_rows(ty, rows, cols, unaligned(&bytes)).unwrap();
                let tokens = 9;
                let x = random.values(tokens * cols);
                let y = assert_invariant(isa, Precision::F32, &w, &x, tokens);
                assert_product(&y, &w, &wide(&x), tokens, 1e-6);
                assert_same_bits(&matmul(isa, 1, Precision::Int8, &w, &x, tokens), &y);
            }
        }
    }
}

#[test]
fn every_block_type_multiplies_in_f32() {
    for isa in isas() {
        let mut random = Random::new(8);
        for ty in PANEL_TYPES.into_iter().chain([TensorType::TQ1_0, TensorType::TQ2_0]) {
            let (rows, cols, tokens) = (19, 2 * ty.block_len(), 4);
            let bytes = random_bytes(ty, rows * cols, &mut random);
            let w = Matrix::from_rows(ty, rows, cols, unaligned(&bytes)).unwrap();
            let x = random.values(tokens * cols);
            let y = assert_invariant(isa, Precision::F32, &w, &x, tokens);
            assert_product(&y, &w, &wide(&x), tokens, 1e-6);
            // The same from kernel order.
            let w = w.repacked_on(&crate::Pool::new(2));
            assert_same_bits(&matmul(isa, 2, Precision::F32, &w, &x, tokens), &y);
        }
    }
}

#[test]
fn repacking_keeps_every_value() {
    let mut random = Random::new(9);
    for ty in PANEL_TYPES {
        for rows in [0, 1, 15, 16, 17, 40] {
            for cols in [0, ty.block_len(), 3 * ty.block_len()] {
                let bytes = random_bytes(ty, rows * cols, &mut random);
                let w = Matrix::from_rows(ty, rows, cols, unaligned(&bytes)).unwrap();
                let packed = w.repacked_on(&crate::Pool::new(3));
                assert_eq!((packed.rows(), packed.cols()), (rows, cols));
                let mut expected = vec![0.0; rows * cols];
                dequantize(ty, &bytes, &mut expected);
                let mut found = vec![f32::NAN; cols];
                for r in 0..rows {
                    packed.row_f32(r, &mut found);
                    assert_same_bits(&found, &expected[r * cols..][..cols]);
                }
            }
        }
    }
}

/// The int8 values that the activations stand for, computed one by one.
fn rounded(x: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for block in x.chunks_exact(32) {
        let amax = block.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let inverse = if amax > 0.0 { 127.0 / amax } else { 0.0 };
        out.extend(block.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(amax / 127.0)));
    }
    out
}

#[test]
fn int8_products_are_the_same_on_every_isa() {
    let mut random = Random::new(10);
    for ty in PANEL_TYPES {
        for (rows, blocks, tokens) in [(1, 1, 9), (15, 2, 9), (16, 1, 18), (17, 3, 2), (40, 2, 33)] {
            let cols = blocks * ty.block_len();
            let bytes = random_bytes(ty, rows * cols, &mut random);
            let w = Matrix::from_rows(ty, rows, cols, Bytes::from(bytes)).unwrap().repacked_on(&crate::Pool::new(1));
            let mut x = random.values(tokens * cols);
            x[..32].fill(0.0);
            let scalar = assert_invariant(Isa::Scalar, Precision::Int8, &w, &x, tokens);
            assert_product(&scalar, &w, &rounded(&x), tokens, 1e-6);
            for isa in isas() {
                assert_same_bits(&assert_invariant(isa, Precision::Int8, &w, &x, tokens), &scalar);
            }
        }
    }
}

#[test]
fn int8_products_survive_extremes() {
    for ty in PANEL_TYPES {
        let (rows, cols) = (17, ty.block_len());
        let mut random = Random::new(11);
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let mut bytes = random_bytes(ty, rows * cols, &mut random);
            let scales = random_bytes(ty, rows * cols, &mut random);
            for (block, scales) in bytes.chunks_mut(ty.block_bytes()).zip(scales.chunks(ty.block_bytes())) {
                block.fill(fill);
                let at = match ty {
                    TensorType::Q6_K => 208,
                    TensorType::Q3_K => 108,
                    TensorType::Q2_K => 80,
                    _ => 0,
                };
                block[at..at + 2].copy_from_slice(&scales[at..at + 2]);
                if matches!(ty, TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K) {
                    block[2..4].copy_from_slice(&scales[2..4]);
                }
                if ty == TensorType::Q2_K {
                    block[82..84].copy_from_slice(&scales[82..84]);
                }
            }
            let w = Matrix::from_rows(ty, rows, cols, Bytes::from(bytes)).unwrap().repacked_on(&crate::Pool::new(1));
            for value in [1.0f32, -1.0, 3e38, 1e-38, 1e-44] {
                // The largest possible sums, of both signs; huge and subnormal inputs.
                let x: Vec<f32> = (0..2 * cols).map(|i| if i >= cols && i % 2 == 0 { -value } else { value }).collect();
                let scalar = matmul(Isa::Scalar, 1, Precision::Int8, &w, &x, 2);
                if value.abs() == 1.0 {
                    assert_product(&scalar, &w, &wide(&x), 2, 1e-6);
                }
                for isa in isas() {
                    assert_same_bits(&matmul(isa, 1, Precision::Int8, &w, &x, 2), &scalar);
                }
            }
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = vec![1.0; cols];
                x[5] = bad;
                for isa in isas() {
                    let y = matmul(isa, 1, Precision::Int8, &w, &x, 1);
                    assert!(y.iter().all(|y| !y.is_finite()), "{isa} {ty}: {bad} must not vanish");
                }
            }
        }
    }
}

#[test]
fn products_of_a_group_do_not_influence_each_other() {
    let mut random = Random::new(12);
    let (cols, tokens) = (256, 3);
    let x = random.values(tokens * cols);
    let pool = crate::Pool::new(1);
    let matrices: Vec<Matrix> =
        [(TensorType::F16, 40), (TensorType::Q8_0, 7), (TensorType::F32, 0), (TensorType::Q6_K, 33)]
            .into_iter()
            .map(|(ty, rows)| {
                let bytes = random_bytes(ty, rows * cols, &mut random);
                Matrix::from_rows(ty, rows, cols, Bytes::from(bytes)).unwrap().repacked_on(&pool)
            })
            .collect();
    for isa in isas() {
        for threads in [1, 2, 3, 8] {
            let mut outputs: Vec<Vec<f32>> = matrices.iter().map(|w| vec![f32::NAN; tokens * w.rows()]).collect();
            let mut products: Vec<Product<'_>> =
                matrices.iter().zip(&mut outputs).map(|(w, y)| Product { w, y }).collect();
            Engine::new(isa, threads, Precision::Int8).matmul(&x, tokens, &mut products);
            for (w, y) in matrices.iter().zip(&outputs) {
                assert_same_bits(y, &matmul(isa, 1, Precision::Int8, w, &x, tokens));
            }
        }
    }
    let mut engine = Engine::new(Isa::Scalar, 2, Precision::Int8);
    engine.matmul(&[], 0, &mut [Product { w: &matrices[0], y: &mut [] }]);
    engine.matmul(&[], 0, &mut []);
}
