//! The loops of [`probe`](crate::probe) in plain Rust, for instruction sets that have none of their own.

/// Multiply-accumulates per round of [`dots`].
pub(crate) const DOTS_PER_ROUND: u64 = 16;

/// The wrapping sum of `words` in independent lanes, which the compiler puts into vectors.
#[inline(always)]
pub(crate) fn read(words: &[u64]) -> u64 {
    let (chunks, rest) = words.as_chunks::<8>();
    let lanes = chunks.iter().fold([0u64; 8], |lanes, chunk| std::array::from_fn(|i| lanes[i].wrapping_add(chunk[i])));
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// `rounds` rounds of products of 16 weights with an input.
#[inline(always)]
pub(crate) fn dots(rounds: u64) {
    let mut sums = [0i32; DOTS_PER_ROUND as usize];
    let weights: [i8; 16] = std::hint::black_box([1, -1, 0, 1, 1, -1, 1, 0, 1, -1, 0, 1, 1, -1, 1, 0]);
    for round in 0..rounds {
        let x = std::hint::black_box(round as i8);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = sum.wrapping_add(i32::from(weight) * i32::from(x));
        }
    }
    std::hint::black_box(sums);
}
