//! Products on the tile unit beside sums in f64. Matrices end where their page ends, before one that must not be touched, so
//! that a place read or written beyond them is a crash.

#![allow(missing_docs)] // a test program

use sherry_sgemm::{Mat, MatMut, MatmulPrecision, Old, matmul_by};
use sherry_testing::{Outcome, machine_has};

sherry_testing::main![
    products_are_right,
    threads_change_nothing,
    only_the_result_is_written,
    what_is_not_finite_stays_so,
    packed_matrices_do_not_leak_into_the_next_product,
];

fn tiles() -> Outcome {
    machine_has(MatmulPrecision::High.arithmetic() == "bf16x3", "tile unit (AMX) that Linux lets it use")
}

/// Numbers of both signs and many magnitudes.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn fill(&mut self, values: &mut [f32]) {
        for value in values {
            let magnitude = (self.below(17) as f32 - 8.0).exp2();
            *value = (self.next() as f32 / (1u64 << 30) as f32 - 1.0) * magnitude;
        }
    }
}

/// `len` zeros whose end is that of their page, before one that is out of bounds; never given back.
#[cfg(target_os = "linux")]
fn guarded(len: usize) -> &'static mut [f32] {
    const PAGE: usize = 64 << 10;
    let bytes = 4 * len.max(1);
    let data = bytes.next_multiple_of(PAGE);
    // SAFETY: a fresh anonymous mapping of zeros, whose last page is made inaccessible; the slice lies before that.
    unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            data + PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(map, libc::MAP_FAILED, "mmap");
        assert_eq!(libc::mprotect(map.byte_add(data), PAGE, libc::PROT_NONE), 0, "mprotect");
        std::slice::from_raw_parts_mut(map.byte_add(data - 4 * len).cast(), len)
    }
}

#[cfg(not(target_os = "linux"))]
fn guarded(len: usize) -> &'static mut [f32] {
    vec![0.0; len].leak()
}

/// A matrix, either way round, and its rows in f64.
struct Matrix {
    data: &'static mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
    turned: bool,
}

impl Matrix {
    fn new(rows: usize, cols: usize, numbers: &mut Numbers) -> Self {
        let turned = numbers.below(2) == 1;
        let (outer, width) = if turned { (cols, rows) } else { (rows, cols) };
        let stride = width + numbers.below(2) * numbers.below(20);
        let data = guarded((outer - 1) * stride + width);
        numbers.fill(data);
        Self { data, rows, cols, stride, turned }
    }

    fn view(&self) -> Mat<'_> {
        if self.turned {
            Mat::new(self.data, self.cols, self.rows, self.stride).t()
        } else {
            Mat::new(self.data, self.rows, self.cols, self.stride)
        }
    }

    fn at(&mut self, row: usize, col: usize) -> &mut f32 {
        let place = if self.turned { col * self.stride + row } else { row * self.stride + col };
        &mut self.data[place]
    }
}

/// Shapes that fill no tile, no strip, no step and no panel, and such that fill them.
const SHAPES: [(usize, usize, usize); 9] = [
    (128, 128, 128),
    (129, 161, 193),
    (127, 1, 20_000),
    (9, 2000, 130),
    (2000, 9, 130),
    (64, 4000, 31),
    (543, 65, 641),
    (8, 8, 40_003),
    (517, 1550, 33),
];

/// Both ways to compute on the unit, and by how much of the sizes of what is added up they may be wrong: the split, and a
/// little for sums in f32.
const WAYS: [(MatmulPrecision, f64); 2] =
    [(MatmulPrecision::High, 1.0 / 32768.0), (MatmulPrecision::Medium, 1.0 / 127.0)];

fn check(m: usize, n: usize, k: usize, (precision, allowed): (MatmulPrecision, f64), numbers: &mut Numbers) {
    let (mut a, mut b) = (Matrix::new(m, k, numbers), Matrix::new(k, n, numbers));
    let (stride, old) = (n + numbers.below(9), [Old::Replace, Old::Add][numbers.below(2)]);
    let scale = [1.0, -0.375, 3.0][numbers.below(3)];
    let dst = guarded((m - 1) * stride + n);
    numbers.fill(dst);
    let start = dst.to_vec();
    matmul_by(precision, MatMut::new(dst, m, n, stride), old, scale, a.view(), b.view(), 2);
    let rows: Vec<Vec<f64>> = (0..m).map(|r| (0..k).map(|i| f64::from(*a.at(r, i))).collect()).collect();
    for c in 0..n {
        let column: Vec<f64> = (0..k).map(|i| f64::from(*b.at(i, c))).collect();
        for (r, row) in rows.iter().enumerate() {
            let terms = || row.iter().zip(&column).map(|(x, y)| f64::from(scale) * x * y);
            let before = if old == Old::Add { f64::from(start[r * stride + c]) } else { 0.0 };
            let (want, size) = (before + terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>() + before.abs());
            let error = (f64::from(dst[r * stride + c]) - want).abs();
            assert!(error <= size * allowed, "{precision:?} {m} {n} {k} at {r},{c}: {error:e} of {size:e}");
        }
    }
}

fn products_are_right() -> Outcome {
    tiles()?;
    let mut numbers = Numbers(1);
    for (m, n, k) in SHAPES {
        for _ in 0..3 {
            WAYS.iter().for_each(|way| check(m, n, k, *way, &mut numbers));
        }
    }
    Ok(())
}

fn threads_change_nothing() -> Outcome {
    tiles()?;
    let mut numbers = Numbers(2);
    for (m, n, k) in SHAPES {
        let (a, b) = (Matrix::new(m, k, &mut numbers), Matrix::new(k, n, &mut numbers));
        for (precision, _) in WAYS {
            let found = [1, 2, 3, 8].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut dst = vec![0.0; m * n];
                let out = MatMut::new(&mut dst, m, n, n);
                pool.install(|| matmul_by(precision, out, Old::Replace, 1.0, a.view(), b.view(), threads));
                dst.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            found.iter().for_each(|bits| assert!(*bits == found[0], "{precision:?} {m} {n} {k}"));
        }
    }
    Ok(())
}

fn only_the_result_is_written() -> Outcome {
    tiles()?;
    let mut numbers = Numbers(3);
    let (m, n, k) = (150, 141, 200);
    let (a, b) = (Matrix::new(m, k, &mut numbers), Matrix::new(k, n, &mut numbers));
    let dst = guarded((m - 1) * (n + 7) + n);
    dst.fill(0.125);
    let out = MatMut::new(dst, m, n, n + 7);
    matmul_by(MatmulPrecision::High, out, Old::Replace, 1.0, a.view(), b.view(), 1);
    assert!(dst.chunks(n + 7).flat_map(|row| &row[n..]).all(|x| *x == 0.125));
    assert!(dst.chunks(n + 7).all(|row| row[..n].iter().all(|x| *x != 0.125)));
    Ok(())
}

fn what_is_not_finite_stays_so() -> Outcome {
    tiles()?;
    let mut numbers = Numbers(4);
    let quiet = f32::from_bits(0x7fff_ffff);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, quiet, -quiet, f32::from_bits(0x7f80_0001)] {
        let (m, n, k) = (130, 140, 150);
        let (mut a, b) = (Matrix::new(m, k, &mut numbers), Matrix::new(k, n, &mut numbers));
        *a.at(77, 33) = wrong;
        for (precision, _) in WAYS {
            let mut dst = vec![0.0; m * n];
            matmul_by(precision, MatMut::new(&mut dst, m, n, n), Old::Replace, 1.0, a.view(), b.view(), 1);
            for (row, values) in dst.chunks(n).enumerate() {
                assert!(values.iter().all(|x| x.is_finite() == (row != 77)), "{precision:?}: {wrong} in row {row}");
            }
        }
    }
    Ok(())
}

fn packed_matrices_do_not_leak_into_the_next_product() -> Outcome {
    tiles()?;
    let mut numbers = Numbers(5);
    for (m, n, k) in [(517, 1550, 900), (129, 161, 193), (300, 33, 513), (8, 1000, 401)] {
        WAYS.iter().for_each(|way| check(m, n, k, *way, &mut numbers));
    }
    Ok(())
}
