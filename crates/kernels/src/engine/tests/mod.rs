//! Every operation on every available instruction set against f64 references.

mod attention;
mod elementwise;
mod products;
mod top;

use crate::{Engine, Isa, Precision};

/// A small generator of test values (xorshift).
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in -1 .. 1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// The instruction sets of this machine.
pub(super) fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

pub(super) fn engine(isa: Isa, threads: usize) -> Engine {
    Engine::new(isa, threads, Precision::Int8)
}

/// Fails unless the values are the same bit for bit (any NaN is like any other).
#[track_caller]
pub(super) fn assert_same_bits(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "value {i}: {a:e} and {b:e}");
    }
}

#[test]
fn partitions_are_complete_and_balanced() {
    for parts in [1, 2, 3, 8] {
        for items in [0usize, 1, 2, 7, 8, 100] {
            let bounds = super::attention::partition((0..items).map(|_| 5), parts);
            assert_eq!((bounds.len(), bounds[0], bounds[parts]), (parts + 1, 0, items));
            for pair in bounds.windows(2) {
                let size = pair[1].checked_sub(pair[0]).expect("bounds ascend");
                assert!(size <= items.div_ceil(parts), "{items} items on {parts}: {bounds:?}");
            }
        }
    }
    assert_eq!(super::attention::partition([1, 1, 1, 97, 100].into_iter(), 2), [0, 4, 5]);
    assert_eq!(super::attention::partition([0, 0, 0].into_iter(), 2), [0, 0, 3]);
}

/// Eight lanes and no fused multiply-add, like the scalar code.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[test]
fn simd128_gives_the_scalar_bits() {
    use crate::format::TensorType;
    use crate::{Bytes, Matrix, Product};

    let mut random = Random::new(13);
    let (rows, cols, tokens) = (19, 101, 3);
    let x: Vec<f32> = random.values(tokens * cols).iter().map(|x| x * 20.0).collect();
    let y = random.values(tokens * cols);
    let weights: Vec<u8> = random.values(rows * cols).iter().flat_map(|w| w.to_le_bytes()).collect();
    let w = Matrix::from_rows(TensorType::F32, rows, cols, Bytes::from(weights)).unwrap();
    let run = |isa| {
        let mut engine = engine(isa, 1);
        let (mut silu, mut gelu) = (x.clone(), x.clone());
        engine.silu_mul(&mut silu, &y);
        engine.gelu_mul(&mut gelu, &y);
        let mut norm = vec![0.0; x.len()];
        engine.rms_norm(&x, &y[..cols], 1e-5, 1.0, &mut norm);
        let mut product = vec![0.0; tokens * rows];
        engine.matmul(&x, tokens, &mut [Product { w: &w, y: &mut product }]);
        [silu, gelu, norm, product].concat()
    };
    assert_same_bits(&run(Isa::Simd128), &run(Isa::Scalar));
}
