//! The parts of Python that the reference harness's numbers depend on: its random generator, its idea of white space
//! and of a capital letter. Few-shot examples and bootstrap errors are equal only because these are.

/// CPython's `random.Random` (MT19937) for integer seeds.
pub struct Random {
    state: [u32; N],
    index: usize,
}

const N: usize = 624;
const M: usize = 397;

impl Random {
    /// `random.Random(seed)`: the seed's 32-bit words, least significant first, through `init_by_array`.
    pub fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let key = if words[1] == 0 { &words[..1] } else { &words[..] };
        let mut state = [0u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = 1_812_433_253u32.wrapping_mul(state[i - 1] ^ (state[i - 1] >> 30)).wrapping_add(i as u32);
        }
        let mut i = 1;
        for step in 0..N {
            let j = step % key.len();
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 1..N {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, index: N }
    }

    fn word(&mut self) -> u32 {
        if self.index == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
            }
            self.index = 0;
        }
        let mut y = self.state[self.index];
        self.index += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`: uniform in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (a, b) = (self.word() >> 5, self.word() >> 6);
        (f64::from(a) * 67_108_864.0 + f64::from(b)) / 9_007_199_254_740_992.0
    }

    /// `randrange(n)` for 0 < n < 2^32.
    fn below(&mut self, n: u32) -> u32 {
        let bits = 32 - n.leading_zeros();
        loop {
            let value = self.word() >> (32 - bits);
            if value < n {
                return value;
            }
        }
    }

    /// Indices that `sample(population, k)` picks from a population of `n`; `None` when `k > n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n || n > u32::MAX as usize {
            return None;
        }
        // CPython takes a set instead of a list when the list would be larger than the set.
        let mut set_size = 21usize;
        if k > 5 {
            set_size += 4usize.pow(((k * 3) as f64).log(4.0).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return Some(
                (0..k)
                    .map(|i| {
                        let j = self.below((n - i) as u32) as usize;
                        let picked = pool[j];
                        pool[j] = pool[n - i - 1];
                        picked
                    })
                    .collect(),
            );
        }
        let mut picked = Vec::with_capacity(k);
        while picked.len() < k {
            let j = self.below(n as u32) as usize;
            if !picked.contains(&j) {
                picked.push(j);
            }
        }
        Some(picked)
    }
}

/// `str.isspace` of one character: Unicode white space and the four separators U+001C to U+001F.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.capitalize()`: the first character in title case, the rest in lower case.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut upper = first.to_uppercase();
    let mut out: String = upper.next().into_iter().collect();
    // Title case of a character that becomes several, such as 'ß' or 'ﬁ': only the first is a capital.
    out.extend(upper.flat_map(char::to_lowercase));
    out.push_str(&chars.as_str().to_lowercase());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_numbers_are_cpythons() {
        // python3 -c "import random; r = random.Random(1234); print(r.random(), r.random())"
        let mut random = Random::new(1234);
        assert_eq!(random.uniform(), 0.966_453_535_692_138_8);
        assert_eq!(random.uniform(), 0.440_732_599_175_352_7);
        let mut zero = Random::new(0);
        assert_eq!(zero.uniform(), 0.844_421_851_525_048_1);
    }

    #[test]
    fn samples_are_cpythons() {
        // python3 -c "import random; r = random.Random(1234); print(r.sample(range(2251), 5), r.sample(range(20), 6), r.sample(range(500), 25))"
        let mut random = Random::new(1234);
        assert_eq!(random.sample(2251, 5).unwrap(), PYTHON_2251_5);
        assert_eq!(random.sample(20, 6).unwrap(), PYTHON_20_6);
        assert_eq!(random.sample(500, 25).unwrap(), PYTHON_500_25);
        assert!(random.sample(3, 4).is_none());
    }

    #[test]
    fn text_is_treated_as_in_python() {
        assert_eq!(strip(" \u{1c}\u{a0}a b\n\t"), "a b");
        assert_eq!(capitalize("the LADY"), "The lady");
        assert_eq!(capitalize("éTÉ"), "Été");
        assert_eq!(capitalize("ßA"), "Ssa");
        assert_eq!(capitalize(""), "");
        assert_eq!(capitalize("1A"), "1a");
    }

    const PYTHON_2251_5: [usize; 5] = [1805, 478, 30, 371, 143];
    const PYTHON_20_6: [usize; 6] = [2, 3, 11, 7, 0, 15];
    const PYTHON_500_25: [usize; 25] = [
        403, 8, 177, 331, 319, 247, 315, 237, 76, 46, 93, 365, 58, 432, 7, 257, 249, 450, 494, 127, 33, 341, 277, 467,
        238,
    ];
}
