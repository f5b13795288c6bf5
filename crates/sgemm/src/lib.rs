//! Matrix products over slices, in single and double precision.
//!
//! The `gemm` crate computes them from raw pointers. This crate is its safe face: every view is checked to lie inside
//! its slice when it is made, so that no product reads or writes elsewhere. It is a crate of its own so
//! that the trainer can forbid unsafe code. Products of f32 that need not be exact to the last bits are twice as fast and
//! faster on processors with a unit for tiles of bfloat16: see [`MatmulPrecision`].
//!
//! ```
//! use sherry_sgemm::{Mat, MatMut, Old, matmul};
//!
//! let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
//! let mut y = [0.0; 4];
//! // y = a b^T, each a matrix of two rows.
//! let (a, b) = (Mat::new(&a, 2, 2, 2), Mat::new(&b, 2, 2, 2).t());
//! matmul(MatMut::new(&mut y, 2, 2, 2), Old::Replace, 1.0, a, b, 1);
//! assert_eq!(y, [17.0, 23.0, 39.0, 53.0]);
//! ```

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;

/// What matrices are made of: f32 or f64.
pub trait Scalar: sealed::Sealed + Copy + PartialEq + 'static {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
}

impl Scalar for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Scalar for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

/// Keeps other crates from adding number types that `gemm` would refuse with a panic.
mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A matrix inside a slice: element `(r, c)` lies at `offset + r * row_stride + c * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Where a product is written: like [`Mat`], row-major, exclusively borrowed.
#[derive(Debug)]
pub struct MatMut<'a, T = f32> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

/// Elements that a matrix of these dimensions spans, `None` on overflow.
fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    let last = (rows - 1).checked_mul(row_stride)?.checked_add((cols - 1).checked_mul(col_stride)?)?;
    // Pointer offsets are signed.
    last.checked_add(1).filter(|&n| n <= isize::MAX as usize / 8)
}

/// The stride, or where nothing lies a stride away, and it may be any number, one that a pointer offset can hold.
fn used_stride(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows > 1 && cols > 0 { row_stride } else { 0 }
}

impl<'a, T: Scalar> Mat<'a, T> {
    /// A row-major `rows` x `cols` matrix at the start of `data`, its rows `row_stride` elements apart.
    ///
    /// # Panics
    /// When it does not fit into `data`.
    pub fn new(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let fits = span(rows, cols, row_stride, 1).is_some_and(|n| n <= data.len());
        assert!(fits, "{rows} x {cols} matrix of stride {row_stride} in a slice of {}", data.len());
        Self { data, rows, cols, row_stride: used_stride(rows, cols, row_stride), col_stride: 1 }
    }

    /// The transposed matrix; nothing moves.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

impl<'a, T: Scalar> MatMut<'a, T> {
    /// A row-major `rows` x `cols` matrix at the start of `data`, its rows `row_stride >= cols` elements apart.
    ///
    /// # Panics
    /// When it does not fit into `data` or its rows overlap.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let fits = span(rows, cols, row_stride, 1).is_some_and(|n| n <= data.len());
        assert!(fits, "{rows} x {cols} matrix of stride {row_stride} in a slice of {}", data.len());
        assert!(row_stride >= cols || rows <= 1, "rows of {cols} overlap at stride {row_stride}");
        Self { data, rows, cols, row_stride: used_stride(rows, cols, row_stride) }
    }
}

/// What happens to the old contents of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// Overwritten, never read.
    Replace,
    /// The product is added to them.
    Add,
}

/// How exact products of f32 matrices are to be, in the terms of PyTorch's `set_float32_matmul_precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatmulPrecision {
    /// f32 throughout.
    #[default]
    Highest,
    /// Where that is faster, every number as a sum of two bfloat16, and three products of those added up in f32: each product
    /// is right to 2^-16. It is faster on the tile unit (AMX) that Intel's Xeons have since 2023, under Linux;
    /// elsewhere this is the same as `Highest`.
    High,
    /// Where that is faster (as above), every number as one bfloat16, added up in f32: each product is right to 2^-8, as in
    /// what is called mixed precision; elsewhere the same as `Highest`.
    Medium,
}

impl MatmulPrecision {
    /// What products of large matrices are computed in here: `f32`, `bf16x3` or `bf16`.
    pub fn arithmetic(self) -> &'static str {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        let tiles = amx::available();
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let tiles = false;
        match self {
            Self::High if tiles => "bf16x3",
            Self::Medium if tiles => "bf16",
            _ => "f32",
        }
    }
}

/// [`matmul`] of f32, as exact as `precision` asks for. Small products are always computed in f32.
///
/// # Panics
/// When the shapes do not go together.
pub fn matmul_by(
    precision: MatmulPrecision,
    dst: MatMut<'_>,
    old: Old,
    scale: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    threads: usize,
) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if precision != MatmulPrecision::Highest && amx::available() {
        check(&dst, &a, &b);
        let side = |of: Mat<'_>, lines, line_stride, inner_stride| amx::Side {
            data: of.data.as_ptr(),
            lines,
            line_stride,
            inner_stride,
        };
        let left = side(a, a.rows, a.row_stride, a.col_stride);
        let right = side(b, b.cols, b.col_stride, b.row_stride);
        if amx::takes(left, right, a.cols) {
            let parts = if precision == MatmulPrecision::High { amx::Parts::Two } else { amx::Parts::One };
            let dst = amx::Destination { data: dst.data.as_mut_ptr(), row_stride: dst.row_stride };
            // SAFETY: the unit is available. As for `gemm` below, views were checked to lie inside their slices, which are
            // borrowed for this call, and the dimensions go together.
            unsafe { amx::multiply(dst, old, scale, left, right, a.cols, parts, threads) };
            return;
        }
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let _ = precision;
    matmul(dst, old, scale, a, b, threads);
}

/// Panics when the shapes do not go together.
fn check<T>(dst: &MatMut<'_, T>, a: &Mat<'_, T>, b: &Mat<'_, T>) {
    assert!(
        dst.rows == a.rows && a.cols == b.rows && dst.cols == b.cols,
        "product of {} x {} and {} x {} into {} x {}",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        dst.rows,
        dst.cols
    );
}

/// `dst = scale * a * b`, or `dst += scale * a * b`, on up to `threads` threads of the current rayon pool.
///
/// Each element is accumulated over the inner dimension in an order that depends only on the shapes and the machine:
/// the same call gives the same bits every time.
///
/// # Panics
/// When the shapes do not go together.
pub fn matmul<T: Scalar>(dst: MatMut<'_, T>, old: Old, scale: T, a: Mat<'_, T>, b: Mat<'_, T>, threads: usize) {
    check(&dst, &a, &b);
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    let parallelism = match NonZeroUsize::new(threads) {
        Some(threads) if threads.get() > 1 => gemm::Parallelism::Rayon(threads.get()),
        _ => gemm::Parallelism::None,
    };
    let read = old == Old::Add;
    // SAFETY: `Mat::new` and `MatMut::new` checked that every element that dimensions and strides reach lies inside
    // the slices (which are borrowed for this call), `t` swaps both consistently, and the assertion above makes the
    // dimensions given here those of the views. `dst` is exclusively borrowed, so it overlaps neither input, and its
    // rows do not overlap each other. Strides fit isize because the spans do, and because `used_stride` makes those that
    // no span counts 0: of one row, or of no elements. Other zero strides occur in read-only views only. `T` is f32 or
    // f64, plain numbers that may hold any bits (`Scalar` is sealed).
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            a.cols,
            dst.data.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            read,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if read { T::ONE } else { T::ZERO },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn every_orientation_equals_the_triple_loop() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (64, 33, 130), (1, 40, 8), (40, 1, 8), (2, 2, 0)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let a_t: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let b_t: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let start = numbers(m * (n + 3), 3);
            for (old, threads) in [(Old::Replace, 1), (Old::Add, 2)] {
                for (a, b) in [
                    (Mat::new(&a, m, k, k), Mat::new(&b, k, n, n)),
                    (Mat::new(&a_t, k, m, m).t(), Mat::new(&b_t, n, k, k).t()),
                ] {
                    let mut dst = start.clone();
                    matmul(MatMut::new(&mut dst, m, n, n + 3), old, 0.5, a, b, threads);
                    for r in 0..m {
                        for c in 0..n + 3 {
                            let at = r * (n + 3) + c;
                            let inner = if c < n { k } else { 0 };
                            let dot: f64 = (0..inner)
                                .map(|i| {
                                    let x = a.data[r * a.row_stride + i * a.col_stride];
                                    let y = b.data[i * b.row_stride + c * b.col_stride];
                                    f64::from(x) * f64::from(y)
                                })
                                .sum();
                            let old_value = if old == Old::Add { f64::from(start[at]) } else { 0.0 };
                            let want = if c < n { old_value + 0.5 * dot } else { f64::from(start[at]) };
                            assert!((f64::from(dst[at]) - want).abs() < 1e-5, "{m} {n} {k} at {r},{c}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_stride_that_leads_nowhere_may_be_any_number() {
        for stride in [0, 1, 3, isize::MAX as usize, isize::MAX as usize + 1, usize::MAX] {
            let (a, b) = (Mat::new(&[2.0, 3.0], 1, 2, stride), Mat::new(&[5.0, 7.0], 1, 2, stride).t());
            let mut dst = [f32::NAN];
            matmul(MatMut::new(&mut dst, 1, 1, stride), Old::Replace, 1.0, a, b, 1);
            assert_eq!(dst, [31.0]);
            let mut dst = [f32::NAN; 4];
            matmul(
                MatMut::new(&mut dst, 2, 2, 2),
                Old::Replace,
                1.0,
                Mat::<f32>::new(&[], 2, 0, stride),
                Mat::new(&[], 0, 2, stride),
                1,
            );
            assert_eq!(dst, [0.0; 4]);
        }
    }

    #[test]
    fn double_precision_is_double() {
        let (m, n, k) = (5, 9, 33);
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<f64>>();
        let (a, b) = (wide(numbers(m * k, 1)), wide(numbers(k * n, 2)));
        let mut dst = vec![1.0; m * n];
        let product = (Mat::new(&a, m, k, k), Mat::new(&b, k, n, n));
        matmul(MatMut::new(&mut dst, m, n, n), Old::Add, -1.0, product.0, product.1, 2);
        for (at, found) in dst.iter().enumerate() {
            let dot: f64 = (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum();
            assert!((found - (1.0 - dot)).abs() < 1e-13, "{at}: {found}");
        }
    }

    #[test]
    #[should_panic(expected = "in a slice of 11")]
    fn a_view_beyond_its_slice_is_refused() {
        let _ = Mat::new(&[0.0f32; 11], 3, 4, 4);
    }

    #[test]
    #[should_panic(expected = "product of")]
    fn shapes_must_agree() {
        let (a, b) = ([0.0f32; 6], [0.0; 6]);
        matmul(MatMut::new(&mut [0.0; 4], 2, 2, 2), Old::Replace, 1.0, Mat::new(&a, 2, 3, 3), Mat::new(&b, 2, 3, 3), 1);
    }
}
