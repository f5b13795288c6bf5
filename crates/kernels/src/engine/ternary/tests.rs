//! Every kernel against a reference that knows nothing of its layout, bit for bit.

use crate::arch::dispatch;
use crate::format::ggml::dequantize;
use crate::format::half::f16_to_f32;
use crate::format::i2_s::{I2sRows, I2sWriter};
use crate::format::{
    BlockRows, PackedError, PackedLayout, PackedRows, QuadOrder, ScaleGroup, TensorType, TernaryFormat, TernaryRows,
    random, stq1_0,
};
use crate::ternary::matrix::TernaryMatrix;
use crate::ternary::transpose::transpose;
use crate::{Engine, Isa, Matrix, MatrixError, Pool, Precision, Product, SplitMix64, TernaryBits};

use super::{Scratch, TernaryProduct, Way, multiply, multiply_by};

/// Numbers for test data.
struct Random(SplitMix64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(SplitMix64(seed))
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.0.bits() >> 33) % n
    }

    /// In [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.0.bits() as i32 as f32) / 2.0f32.powi(31)
    }
}

fn random_weights(layout: PackedLayout, random: &mut Random) -> PackedRows {
    let mut packed = PackedRows { layout, codes: Vec::new(), scales: Vec::new() };
    let mut row = vec![0i8; layout.cols];
    let mut codes = vec![0; layout.row_bytes()];
    for _ in 0..layout.rows {
        for code in 0..layout.row_codes() {
            let zero = random.below(4) as usize;
            for lane in 0..layout.format.lanes() {
                let value = match layout.format {
                    TernaryFormat::Sherry if lane == zero => 0,
                    TernaryFormat::Sherry | TernaryFormat::Binary => 2 * random.below(2) as i8 - 1,
                    _ => random.below(3) as i8 - 1,
                };
                if let Some(v) = row.get_mut(layout.input(code, lane)) {
                    *v = value;
                }
            }
        }
        layout.encode_row(&row, &mut codes).unwrap();
        packed.codes.extend_from_slice(&codes);
        // Positive, negative, zero and subnormal scales.
        packed.scales.extend((0..layout.row_scales()).map(|_| match random.below(8) {
            0 => random.below(0x400) as u16,
            1 => 0,
            _ => (random.below(0x7c00) | random.below(2) << 15) as u16,
        }));
    }
    packed.validate().unwrap();
    packed
}

fn scale_bytes(packed: &PackedRows) -> Vec<u8> {
    packed.scales.iter().flat_map(|s| s.to_le_bytes()).collect()
}

fn in_kernel_order(packed: &PackedRows, pool: &Pool) -> TernaryMatrix {
    TernaryMatrix::from_packed(packed.layout, &packed.codes, &scale_bytes(packed), pool, transpose).unwrap()
}

/// The promise of [`TernaryTable`](crate::table::TernaryTable), from the decoded rows and nothing else: inputs in natural order, i64 dot products.
fn reference(packed: &PackedRows, x: &[f32]) -> Vec<f32> {
    let layout = &packed.layout;
    let block = if layout.format == TernaryFormat::Ternary167 { 96 } else { 128 };
    let group = match layout.scale {
        ScaleGroup::Tensor | ScaleGroup::Row => usize::MAX,
        ScaleGroup::Group(n) => n,
    };
    let mut q = Vec::new();
    let mut a_scales = Vec::new();
    for x in x.chunks(block) {
        let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        if x.iter().any(|x| !x.is_finite()) {
            a_scales.push(f32::NAN);
            q.extend(x.iter().map(|_| 0));
        } else if (127.0 / amax).is_infinite() {
            a_scales.push(0.0);
            q.extend(x.iter().map(|_| 0));
        } else {
            a_scales.push(amax / 127.0);
            q.extend(x.iter().map(|x| (x * (127.0 / amax)).round_ties_even() as i64));
        }
    }
    let mut values = vec![0; layout.cols];
    (0..layout.rows)
        .map(|row| {
            let scales = packed.decode_row(row, &mut values);
            let mut acc = 0.0f32;
            let mut col = 0;
            while col < layout.cols {
                let step = block.min(group);
                let end = (col + step).min(layout.cols);
                let dot: i64 = values[col..end].iter().zip(&q[col..end]).map(|(&w, &q)| i64::from(w) * q).sum();
                let factor = match layout.scale {
                    ScaleGroup::Tensor | ScaleGroup::Row => a_scales[col / block],
                    ScaleGroup::Group(n) => a_scales[col / block] * f16_to_f32(scales[col / n]),
                };
                acc += dot as f32 * factor;
                col = end;
            }
            match layout.scale {
                ScaleGroup::Tensor | ScaleGroup::Row => acc * f16_to_f32(scales[0]),
                ScaleGroup::Group(_) => acc,
            }
        })
        .collect()
}

/// Bits, all NaNs alike.
fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() }).collect()
}

fn run(isa: Isa, threads: usize, w: &TernaryMatrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut y = vec![f32::from_bits(0x7f80_dead); tokens * w.layout().rows];
    let products = &mut [TernaryProduct { w, y: &mut y }];
    let table = &dispatch::expect(isa).ternary;
    multiply(table, &Pool::new(threads), &mut Scratch::default(), x, tokens, false, products);
    y
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Token `t` of a batch: each is of another class of values.
fn token(t: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    (0..cols)
        .map(|i| match t % 7 {
            0 => random.unit() * 3.0,
            1 => 127.0,
            2 => -127.0,
            3 => 0.0,
            // Outliers, tiny blocks.
            4 => random.unit() * if random.below(50) == 0 { 1e4 } else { 1e-3 },
            5 => random.unit() * 10.0f32.powi((i / 128 % 80) as i32 - 45),
            _ => random.unit() * 2.0f32.powi(100),
        })
        .collect()
}

fn layouts(rows: usize, cols: usize) -> Vec<PackedLayout> {
    let mut all = Vec::new();
    for format in TernaryFormat::ALL {
        for order in [QuadOrder::Contiguous, QuadOrder::Stride16] {
            for scale in std::iter::once(ScaleGroup::Row).chain(format.group_sizes().map(ScaleGroup::Group)) {
                let layout = PackedLayout { format, rows, cols, order, scale };
                if layout.check().is_ok() {
                    all.push(layout);
                }
            }
        }
    }
    all
}

/// All kernels, one token and many, on one shape.
fn check_shape(rows: usize, cols: usize) {
    let mut random = Random::new((rows * 10_000 + cols) as u64);
    for layout in layouts(rows, cols) {
        let packed = random_weights(layout, &mut random);
        let matrix = in_kernel_order(&packed, &Pool::new(1));
        let tokens = 33;
        let x: Vec<f32> = (0..tokens).flat_map(|t| token(t, cols, &mut random)).collect();
        let expected: Vec<Vec<u32>> = x.chunks(cols).map(|x| bits(&reference(&packed, x))).collect();
        for isa in available() {
            for (t, x) in x.chunks(cols).enumerate() {
                assert_eq!(bits(&run(isa, 1, &matrix, x, 1)), expected[t], "{isa} {layout:?} token {t} alone");
            }
            for n in [2, 7, 13, 20, 33] {
                let y = run(isa, 1, &matrix, &x[..n * cols], n);
                for (t, y) in y.chunks(rows).enumerate() {
                    assert_eq!(bits(y), expected[t], "{isa} {layout:?} token {t} of {n}");
                }
            }
        }
    }
}

#[test]
fn narrow_shapes() {
    for rows in [1, 3, 63, 64, 65, 130] {
        for cols in [1, 2, 4, 12, 25, 31, 64, 100] {
            check_shape(rows, cols);
        }
    }
}

#[test]
fn shapes_of_real_models() {
    for (rows, cols) in [(64, 172), (130, 172), (192, 192), (65, 576), (3, 1536), (64, 577), (130, 1000)] {
        check_shape(rows, cols);
    }
}

#[test]
fn every_code_in_every_place() {
    // Row r holds code r % 32 everywhere, but for one place at a time.
    for format in [TernaryFormat::Sherry, TernaryFormat::Ternary167] {
        let cols = 16 * format.lanes();
        let layout = PackedLayout { format, rows: 64, cols, order: QuadOrder::Contiguous, scale: ScaleGroup::Row };
        for place in 0..16 {
            let mut packed = PackedRows { layout, codes: vec![0; 64 * layout.row_bytes()], scales: vec![0x3c00; 64] };
            for (row, codes) in packed.codes.chunks_mut(layout.row_bytes()).enumerate() {
                crate::format::write_code(codes, place, row as u8 % 32);
                if layout.check_codes(&codes.repeat(64)).is_err() {
                    crate::format::write_code(codes, place, 13);
                }
            }
            let matrix = in_kernel_order(&packed, &Pool::new(1));
            let x: Vec<f32> = (0..cols).map(|i| (i * i % 255) as f32 - 127.0).collect();
            for isa in available() {
                assert_eq!(bits(&run(isa, 1, &matrix, &x, 1)), bits(&reference(&packed, &x)));
                let many = run(isa, 1, &matrix, &x.repeat(20), 20);
                assert_eq!(bits(&many), bits(&reference(&packed, &x).repeat(20)));
            }
        }
    }
}

#[test]
fn signs_at_their_largest() {
    // Every weight times every input +127, or -127: nothing that sums them up may overflow. A scale per row, so that a
    // segment is as long as segments get, and per 256 inputs.
    for (scale, sign, x) in [ScaleGroup::Row, ScaleGroup::Group(256)]
        .into_iter()
        .flat_map(|scale| [(1, 127.0), (1, -127.0), (-1, 127.0), (-1, -127.0)].map(|(sign, x)| (scale, sign, x)))
    {
        let layout =
            PackedLayout { format: TernaryFormat::Binary, rows: 130, cols: 512, order: QuadOrder::Contiguous, scale };
        let mut codes = vec![0; layout.row_bytes()];
        layout.encode_row(&[sign; 512], &mut codes).unwrap();
        let packed = PackedRows { layout, codes: codes.repeat(130), scales: vec![0x3c00; 130 * layout.row_scales()] };
        let matrix = in_kernel_order(&packed, &Pool::new(1));
        let expected = f32::from(sign) * x * 512.0;
        for (isa, n) in available().flat_map(|isa| [1, 5, 40].map(|n| (isa, n))) {
            assert!(run(isa, 1, &matrix, &vec![x; n * 512], n).iter().all(|&y| y == expected), "{isa} {n}");
        }
    }
}

#[test]
fn any_number_of_tokens_and_threads_gives_the_same_bits() {
    let mut random = Random::new(5);
    let (rows, cols) = (300, 512);
    for layout in layouts(rows, cols) {
        let packed = random_weights(layout, &mut random);
        let matrix = in_kernel_order(&packed, &Pool::new(2));
        let x: Vec<f32> = (0..130).flat_map(|t| token(t, cols, &mut random)).collect();
        let expected = run(Isa::Scalar, 1, &matrix, &x, 130);
        for isa in available() {
            for n in (1..=20).chain([130]) {
                let y = run(isa, 1 + n % 3, &matrix, &x[..n * cols], n);
                assert_eq!(bits(&y), bits(&expected[..n * rows]), "{isa} {layout:?} {n}");
            }
        }
    }
}

#[test]
fn every_way_gives_the_same_bits() {
    let mut random = Random::new(11);
    for (rows, cols) in [(70, 200), (300, 640), (513, 128)] {
        for layout in layouts(rows, cols) {
            let packed = random_weights(layout, &mut random);
            let matrix = in_kernel_order(&packed, &Pool::new(1));
            let x: Vec<f32> = (0..37).flat_map(|t| token(t, cols, &mut random)).collect();
            let expected = run(Isa::Scalar, 1, &matrix, &x, 37);
            for isa in available() {
                let table = &dispatch::expect(isa).ternary;
                let look_up = table.look_up.is_some() && layout.format != TernaryFormat::Ternary2;
                let ways = [(Way::Singly, true), (Way::LookUp, look_up), (Way::Decoded, table.decoded.is_some())];
                for (way, _) in ways.into_iter().filter(|(_, exists)| *exists) {
                    for (n, threads) in [(1, 1), (2, 2), (3, 1), (5, 3), (16, 1), (37, 2)] {
                        let mut y = vec![f32::NAN; n * rows];
                        let products = &mut [TernaryProduct { w: &matrix, y: &mut y }];
                        let (pool, scratch) = (Pool::new(threads), &mut Scratch::default());
                        multiply_by(table, &pool, scratch, &x[..n * cols], n, false, products, &|_| way);
                        assert_eq!(bits(&y), bits(&expected[..n * rows]), "{isa} {layout:?} {way:?} {n}");
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_one_input_do_not_disturb_each_other() {
    let mut random = Random::new(6);
    let cols = 192;
    let packed: Vec<PackedRows> =
        (0..3).flat_map(|i| layouts(50 + 70 * i, cols)).map(|layout| random_weights(layout, &mut random)).collect();
    let matrices: Vec<TernaryMatrix> = packed.iter().map(|p| in_kernel_order(p, &Pool::new(1))).collect();
    let mut scratch = Scratch::default();
    for isa in available() {
        for n in [1, 4, 17] {
            let x: Vec<f32> = (0..n).flat_map(|t| token(t, cols, &mut random)).collect();
            let mut results: Vec<Vec<f32>> = packed.iter().map(|p| vec![0.0; n * p.layout.rows]).collect();
            let mut products: Vec<TernaryProduct<'_>> =
                matrices.iter().zip(&mut results).map(|(w, y)| TernaryProduct { w, y }).collect();
            multiply(&dispatch::expect(isa).ternary, &Pool::new(3), &mut scratch, &x, n, false, &mut products);
            for (w, y) in matrices.iter().zip(results) {
                assert_eq!(bits(&y), bits(&run(isa, 1, w, &x, n)));
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_spoil_their_token_only() {
    let mut random = Random::new(7);
    for layout in layouts(70, 256) {
        let matrix = in_kernel_order(&random_weights(layout, &mut random), &Pool::new(1));
        let mut x: Vec<f32> = (0..16 * 256).map(|_| random.unit()).collect();
        let clean = run(Isa::Scalar, 1, &matrix, &x, 16);
        x[3 * 256 + 200] = f32::NAN;
        x[5 * 256 + 7] = f32::NEG_INFINITY;
        for isa in available() {
            let y = run(isa, 1, &matrix, &x, 16);
            for (t, (y, clean)) in y.chunks(70).zip(clean.chunks(70)).enumerate() {
                if t == 3 || t == 5 {
                    assert!(y.iter().all(|y| y.is_nan()), "{isa} {layout:?}");
                } else {
                    assert_eq!(bits(y), bits(clean));
                }
            }
        }
    }
}

#[test]
fn rows_come_back_from_kernel_order() {
    let mut random = Random::new(8);
    for (rows, cols) in [(1, 4), (65, 172), (130, 576), (3, 50)] {
        for layout in layouts(rows, cols) {
            let packed = random_weights(layout, &mut random);
            let matrix = Matrix::from_packed(layout, &packed.codes, &scale_bytes(&packed)).unwrap();
            let (mut expected, mut found) = (vec![0.0; cols], vec![9.0; cols]);
            for row in 0..rows {
                packed.row_f32(row, &mut expected);
                matrix.row_f32(row, &mut found);
                assert_eq!(bits(&found), bits(&expected), "{layout:?} row {row}");
            }
        }
    }
}

#[test]
fn f32_products_are_close_to_f64() {
    let mut random = Random::new(9);
    for layout in layouts(70, 300) {
        let packed = random_weights(layout, &mut random);
        let matrix = Matrix::from_packed(layout, &packed.codes, &scale_bytes(&packed)).unwrap();
        let x: Vec<f32> = (0..2 * 300).map(|_| random.unit()).collect();
        let mut y = vec![0.0; 2 * 70];
        let mut engine = Engine::new(Isa::best(), 2, Precision::F32);
        engine.matmul(&x, 2, &mut [Product { w: &matrix, y: &mut y }]);
        let mut row = vec![0.0; 300];
        for r in 0..70 {
            packed.row_f32(r, &mut row);
            for t in 0..2 {
                let terms = row.iter().zip(&x[t * 300..]).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let size: f64 = terms.clone().map(f64::abs).sum();
                assert!((terms.sum::<f64>() - f64::from(y[t * 70 + r])).abs() <= size * 1e-6);
            }
        }
    }
}

#[test]
fn stq1_0_goes_straight_to_kernel_order() {
    let mut random = Random::new(10);
    let packed = random_weights(stq1_0::layout(70, 512), &mut random);
    let blocks = stq1_0::from_packed(&packed).unwrap();
    let matrix = Matrix::from_stq1_0_on(&Pool::new(2), 70, 512, &blocks).unwrap();
    let (mut expected, mut found) = (vec![0.0; 512], vec![0.0; 512]);
    for row in 0..70 {
        packed.row_f32(row, &mut expected);
        matrix.row_f32(row, &mut found);
        assert_eq!(found, expected);
    }
    assert!(matches!(Matrix::from_stq1_0_on(&Pool::new(1), 71, 512, &blocks), Err(MatrixError::Packed(_))));
}

#[test]
fn one_scale_per_token_is_that_of_bitnet() {
    let mut random = Random(SplitMix64(12));
    let (rows, cols, tokens) = (70, 300, 40);
    let mut x: Vec<f32> = (0..tokens * cols).map(|_| random.unit()).collect();
    // Tokens of their own size, one of zeros, and blocks far below the token's largest.
    for (t, x) in x.chunks_mut(cols).enumerate() {
        x.iter_mut().for_each(|x| *x *= (t % 7) as f32 * 0.3);
        x[140..260].iter_mut().for_each(|x| *x *= 0.01);
    }
    for layout in layouts(rows, cols) {
        let packed = random_weights(layout, &mut random);
        let matrix = Matrix::from_packed(layout, &packed.codes, &scale_bytes(&packed)).unwrap();
        let mut row = vec![0.0; cols];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // Few tokens, and enough for the other ways.
            for n in [1, tokens] {
                let mut y = vec![9.0; n * rows];
                let mut engine = Engine::new(isa, 2, Precision::Int8PerToken);
                engine.matmul(&x[..n * cols], n, &mut [Product { w: &matrix, y: &mut y }]);
                for (x, y) in x.chunks(cols).zip(y.chunks(rows)) {
                    let largest = x.iter().fold(1e-5f32, |max, x| max.max(x.abs()));
                    let step = 127.0 / largest;
                    let rounded: Vec<f64> = x.iter().map(|x| f64::from((x * step).round_ties_even())).collect();
                    for (r, y) in y.iter().enumerate() {
                        packed.row_f32(r, &mut row);
                        let terms = row.iter().zip(&rounded).map(|(w, q)| f64::from(*w) * q / f64::from(step));
                        let size: f64 = terms.clone().map(f64::abs).sum();
                        let exact: f64 = terms.sum();
                        assert!((exact - f64::from(*y)).abs() <= 1e-6 * size, "{layout:?} {isa} {n}: {y}, not {exact}");
                    }
                }
            }
        }
    }
    // What is not finite reaches every output.
    let layout = layouts(rows, cols)[0];
    let packed = random_weights(layout, &mut random);
    let matrix = Matrix::from_packed(layout, &packed.codes, &scale_bytes(&packed)).unwrap();
    x[17] = f32::INFINITY;
    let mut y = vec![0.0; rows];
    Engine::new(Isa::best(), 1, Precision::Int8PerToken).matmul(
        &x[..cols],
        1,
        &mut [Product { w: &matrix, y: &mut y }],
    );
    assert!(y.iter().all(|y| y.is_nan()));
}

#[test]
fn ternary_types_of_files_become_matrices_without_loss() {
    use TensorType::{PQ2_0, PTQ1_0, Q1_0, Q2_0, TQ1_0, TQ2_0};
    let pool = Pool::new(2);
    for (ty, shared) in [TQ1_0, TQ2_0, Q1_0, Q2_0, PQ2_0, PTQ1_0].into_iter().flat_map(|ty| [(ty, false), (ty, true)]) {
        let (rows, cols) = (70, 768);
        let mut bytes = random::blocks(ty, rows * cols, 0.02, 5);
        if shared {
            // One block throughout, so that a row has one scale.
            let (first, rest) = bytes.split_at_mut(ty.block_bytes());
            rest.chunks_mut(first.len()).for_each(|block| block.copy_from_slice(first));
        }
        let mut expected = vec![0.0; rows * cols];
        dequantize(ty, &bytes, &mut expected);
        let blocks = BlockRows::new(ty, rows, cols, bytes.into()).unwrap();
        let matrix = Matrix::from_ternary_on(&pool, &blocks, TernaryBits::Auto).unwrap();
        let mut found = vec![9.0; cols];
        for (row, expected) in expected.chunks(cols).enumerate() {
            matrix.row_f32(row, &mut found);
            assert_eq!(bits(&found), bits(expected), "{ty} row {row}");
        }
        let bits_per_weight = 8.0 * matrix.bytes() as f64 / (rows.next_multiple_of(64) * cols) as f64;
        // A scale of 32 bits for a row of 768, or of 16 bits for a group of 64 or more.
        let most = match (ty, shared) {
            (Q1_0, _) => 1.13,
            (_, true) => 1.8,
            (_, false) => 2.4,
        };
        assert!(bits_per_weight < most, "{ty}: {bits_per_weight}");
    }
    // A scale of the whole tensor that no f16 holds; rows that end inside a block.
    let (rows, cols, scale) = (67, 100, 0.012_345_679);
    let mut random = Random(SplitMix64(11));
    let mut writer = I2sWriter::default();
    let (mut bytes, mut values) = (Vec::new(), vec![vec![0i8; cols]; rows]);
    for row in &mut values {
        row.iter_mut().for_each(|value| *value = random.below(3) as i8 - 1);
        writer.push(row, &mut bytes);
    }
    writer.finish(scale, &mut bytes);
    let (stored, bytes) = (I2sRows::new(rows, cols, bytes.clone().into()).unwrap(), bytes.len());
    let x: Vec<f32> = (0..cols).map(|_| random.unit()).collect();
    let mut sizes = Vec::new();
    for form in [TernaryBits::Auto, TernaryBits::OneTwoThirds, TernaryBits::Two] {
        let matrix = Matrix::from_ternary_on(&pool, &stored, form).unwrap();
        let (mut found, mut y) = (vec![9.0; cols], vec![0.0; rows]);
        Engine::new(Isa::best(), 1, Precision::F32).matmul(&x, 1, &mut [Product { w: &matrix, y: &mut y }]);
        for (row, values) in values.iter().enumerate() {
            matrix.row_f32(row, &mut found);
            let exact: Vec<f32> = values.iter().map(|value| f32::from(*value) * scale).collect();
            assert_eq!(bits(&found), bits(&exact));
            let sum: f64 = exact.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            assert!((sum - f64::from(y[row])).abs() < 1e-6, "{form:?}: {sum} and {}", y[row]);
        }
        sizes.push(matrix.bytes());
    }
    assert!(sizes[0] == sizes[1] && sizes[1] < sizes[2] && sizes[2] < 3 * bytes, "{sizes:?}");
}

/// Weights as a user of the library may give them.
struct Given(ScaleGroup, f32);

impl TernaryRows for Given {
    fn shape(&self) -> (usize, usize) {
        (2, 256)
    }

    fn scale_group(&self) -> ScaleGroup {
        self.0
    }

    fn values(&self, _: usize, values: &mut [i8]) {
        values.fill(1);
    }

    fn scale(&self, row: usize, _: usize) -> f32 {
        if row == 1 { self.1 } else { 1.0 }
    }
}

#[test]
fn scales_that_cannot_be_kept_are_refused() {
    let made =
        |group, scale| Matrix::from_ternary_on(&Pool::new(1), &Given(group, scale), TernaryBits::Auto).map(|_| ());
    for (group, scale, expected) in [
        (ScaleGroup::Row, 0.1, Ok(())),
        (ScaleGroup::Tensor, 1e-30, Ok(())),
        (ScaleGroup::Group(128), 0.25, Ok(())),
        (ScaleGroup::Row, f32::INFINITY, Err(PackedError::Scale { row: 1, group: 0 })),
        (ScaleGroup::Group(128), 0.1, Err(PackedError::InexactScale { row: 1, group: 0 })),
        (ScaleGroup::Group(100), 0.25, Err(PackedError::Group { size: 100 })),
    ] {
        assert_eq!(made(group, scale), expected.map_err(MatrixError::Packed), "{group:?} {scale}");
    }
}

#[test]
fn bad_contents_do_not_become_a_matrix() {
    let layout = stq1_0::layout(2, 256);
    let (codes, scales) = (vec![0; 80], vec![0; 4]);
    assert!(Matrix::from_packed(layout, &codes, &scales).is_ok());
    for (codes, scales) in [(&codes[1..], &scales[..]), (&codes, &scales[1..]), (&codes, &[0, 0, 0, 0x7c])] {
        assert!(matches!(Matrix::from_packed(layout, codes, scales), Err(MatrixError::Packed(_))));
    }
}
