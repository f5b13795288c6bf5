//! The rotation of heads before they are rounded to a few bits, and of inputs and rows before they are compared coarsely.

/// Components of a step whose number is known to the compiler: a vector, or several.
const STEP: usize = 16;

/// Multiplies every block of `n` components by the orthonormal Hadamard matrix of size `n`, the largest power of two that
/// divides their number. Large components, which would leave the others few codes, are spread over the block; scalar
/// products stay what they are. The rotation is its own inverse. The same bits on every instruction set: nothing but sums,
/// differences and one multiplication, always in the same order.
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32]) {
    let n = 1usize << x.len().trailing_zeros();
    let norm = 1.0 / (n as f32).sqrt();
    for block in x.chunks_exact_mut(n) {
        let mut half = n / 2;
        while half >= STEP.min(n) {
            for pairs in block.chunks_exact_mut(2 * half) {
                let (a, b) = pairs.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half /= 2;
        }
        let (steps, rest) = block.as_chunks_mut::<STEP>();
        for step in steps {
            *step = butterflies::<1>(butterflies::<2>(butterflies::<4>(butterflies::<8>(*step)))).map(|x| x * norm);
        }
        if !rest.is_empty() {
            small(rest, norm);
        }
    }
}

/// Sums of the components whose numbers differ in bit `HALF`, in the place of the lower one, and differences.
#[inline(always)]
fn butterflies<const HALF: usize>(x: [f32; STEP]) -> [f32; STEP] {
    std::array::from_fn(|i| if i & HALF == 0 { x[i] + x[i + HALF] } else { x[i - HALF] - x[i] })
}

/// A block of less than a step.
fn small(block: &mut [f32], norm: f32) {
    let mut half = block.len() / 2;
    while half > 0 {
        for pairs in block.chunks_exact_mut(2 * half) {
            let (a, b) = pairs.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half /= 2;
    }
    block.iter_mut().for_each(|x| *x *= norm);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_the_hadamard_matrix_and_its_own_inverse() {
        for len in [1usize, 2, 3, 8, 16, 24, 31, 32, 64, 80, 128, 256] {
            let n = 1 << len.trailing_zeros();
            let head: Vec<f32> = (0..len).map(|i| ((i * 37 + 11) % 101) as f32 - 50.0).collect();
            let mut rotated = head.clone();
            rotate(&mut rotated);
            for (block, rotated) in head.chunks_exact(n).zip(rotated.chunks_exact(n)) {
                for (i, rotated) in rotated.iter().enumerate() {
                    let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                    let sum: f64 = block.iter().enumerate().map(|(j, x)| f64::from(*x) * sign(j)).sum();
                    assert!((f64::from(*rotated) - sum / (n as f64).sqrt()).abs() < 1e-3, "{len}");
                }
            }
            rotate(&mut rotated);
            assert!(rotated.iter().zip(&head).all(|(x, y)| (x - y).abs() < 1e-4), "{len}");
        }
    }
}
