//! Token embedding: rows of a table.

use rayon::prelude::*;

/// `out[t] = table[tokens[t]]`, rows of `hidden`.
pub fn forward(out: &mut [f32], table: &[f32], tokens: &[u32], hidden: usize) {
    out.par_chunks_mut(hidden).zip(tokens).for_each(|(out, &token)| {
        out.copy_from_slice(&table[token as usize * hidden..][..hidden]);
    });
}

/// `d_table[tokens[t]] += d_out[t]`, in order of the tokens.
pub fn backward(d_table: &mut [f32], d_out: &[f32], tokens: &[u32], hidden: usize) {
    for (d_out, &token) in d_out.chunks_exact(hidden).zip(tokens) {
        for (d, g) in d_table[token as usize * hidden..][..hidden].iter_mut().zip(d_out) {
            *d += g;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_copied_and_gradients_added() {
        let table = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut out = [0.0; 6];
        super::forward(&mut out, &table, &[2, 0, 2], 2);
        assert_eq!(out, [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let mut d = [1.0; 6];
        super::backward(&mut d, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 0, 2], 2);
        assert_eq!(d, [4.0, 5.0, 1.0, 1.0, 7.0, 9.0]);
    }
}
