use super::{Random, assert_same_bits, engine, isas};
use crate::format::half::{f16_to_f32, f32_to_f16};
use crate::{AttentionShape, KvHead, KvRows, KvTiles};

fn reference(q: &[f32], k: &[f32], v: &[f32], head_dim: usize, scale: f32) -> Vec<f64> {
    let mut out = Vec::new();
    for q in q.chunks_exact(head_dim) {
        let scores: Vec<f64> = k
            .chunks_exact(head_dim)
            .map(|k| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(scale))
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for i in 0..head_dim {
            out.push(
                weights.iter().zip(v.chunks_exact(head_dim)).map(|(w, v)| w * f64::from(v[i])).sum::<f64>() / total,
            );
        }
    }
    out
}

#[test]
fn attention_follows_f64() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut random = Random::new(5);
        for head_dim in [1, 7, 8, 16, 24, 64, 80, 128] {
            for (group, positions, first) in
                [(1, 1, 0), (2, 31, 0), (3, 32, 0), (4, 33, 0), (5, 65, 7), (8, 100, 31), (1, 3, 1000), (3, 64, 33)]
            {
                let q = random.values(group * head_dim);
                let k: Vec<f32> = random.values(positions * head_dim).iter().map(|x| x * 4.0).collect();
                let v = random.values(positions * head_dim);
                let half = |x: &[f32]| x.iter().map(|x| f32_to_f16(*x)).collect::<Vec<u16>>();
                let (k16, v16) = (half(&k), half(&v));
                let wide = |x: &[u16]| x.iter().map(|x| f16_to_f32(*x)).collect::<Vec<f32>>();
                for (kv, exact) in [
                    ((KvRows::F32(&k), KvRows::F32(&v)), reference(&q, &k, &v, head_dim, 0.5)),
                    ((KvRows::F16(&k16), KvRows::F16(&v16)), reference(&q, &wide(&k16), &wide(&v16), head_dim, 0.5)),
                ] {
                    let mut out = vec![f32::NAN; q.len()];
                    engine.attend(&q, kv.0, kv.1, head_dim, first, 0.5, &mut out);
                    for (out, exact) in out.iter().zip(&exact) {
                        let error = (f64::from(*out) - exact).abs();
                        assert!(error <= 1e-5, "{isa} {head_dim} {group} {positions} {first}: {out} not {exact}");
                    }
                    // A head alone, and f16 as f32, give the same bits.
                    let mut alone = vec![f32::NAN; head_dim];
                    let last = &q[(group - 1) * head_dim..];
                    engine.attend(last, kv.0, kv.1, head_dim, first, 0.5, &mut alone);
                    assert_same_bits(&alone, &out[(group - 1) * head_dim..]);
                }
                let mut from_16 = vec![0.0; q.len()];
                engine.attend(&q, KvRows::F16(&k16), KvRows::F16(&v16), head_dim, first, 0.5, &mut from_16);
                let mut from_32 = vec![0.0; q.len()];
                let (k, v) = (wide(&k16), wide(&v16));
                engine.attend(&q, KvRows::F32(&k), KvRows::F32(&v), head_dim, first, 0.5, &mut from_32);
                assert_same_bits(&from_16, &from_32);
            }
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut k = vec![0.0; 70 * 8];
        k[3 * 8] = 1e4; // one position wins by far, in the first tile
        k[60 * 8] = -1e4;
        let v: Vec<f32> = (0..70 * 8).map(|i| (i / 8) as f32).collect();
        let mut q = [0.0; 8];
        q[0] = 1e4;
        let mut out = [f32::NAN; 8];
        engine.attend(&q, KvRows::F32(&k), KvRows::F32(&v), 8, 0, 1.0, &mut out);
        assert_eq!(out, [3.0; 8], "{isa}");
        engine.attend(&q, KvRows::F32(&[]), KvRows::F32(&[]), 8, 0, 1.0, &mut out);
        assert_eq!(out, [0.0; 8], "{isa}");
        k[8] = f32::NAN;
        engine.attend(&q, KvRows::F32(&k), KvRows::F32(&v), 8, 0, 1.0, &mut out);
        assert!(out.iter().all(|x| x.is_nan()), "{isa}");
    }
}

#[test]
fn a_token_is_independent_of_batch_and_threads() {
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 32, scale: 0.2 };
    let (tokens, context) = (9, 150);
    let mut random = Random::new(6);
    let q = random.values(tokens * 6 * 32);
    // Two kv heads, each context x head_dim.
    let k: Vec<u16> = random.values(2 * context * 32).iter().map(|x| f32_to_f16(*x)).collect();
    let v: Vec<u16> = random.values(2 * context * 32).iter().map(|x| f32_to_f16(*x)).collect();
    let window = 70;
    let rows = |token: usize, head: usize| {
        let end = 130 + token;
        let first = end - window;
        let range = (head * context + first) * 32..(head * context + end) * 32;
        KvHead::Rows { k: KvRows::F16(&k[range.clone()]), v: KvRows::F16(&v[range]), first }
    };
    for isa in isas() {
        let mut expected = vec![f32::NAN; q.len()];
        for token in 0..tokens {
            let part = token * 192..(token + 1) * 192;
            engine(isa, 1).attention(shape, &q[part.clone()], |_, head| rows(token, head), &mut expected[part]);
        }
        for threads in [1, 2, 3, 8] {
            let mut out = vec![f32::NAN; q.len()];
            engine(isa, threads).attention(shape, &q, rows, &mut out);
            assert_same_bits(&out, &expected);
        }
        engine(isa, 2).attention(shape, &[], rows, &mut []);
    }
}

/// 8-bit tiles of `positions` random positions of `heads` kv heads, with what they hold as f32.
struct Cache {
    tiles: Vec<Vec<u8>>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Cache {
    fn new(heads: usize, positions: usize, head_dim: usize, random: &mut Random) -> Self {
        let layout = KvTiles::new(head_dim);
        // What was there before must not matter, as long as somebody wrote it.
        let mut stale = vec![0u8; layout.bytes(positions)];
        for p in 0..positions.next_multiple_of(KvTiles::POSITIONS) {
            layout.write(&mut stale, p, &vec![f32::NAN; head_dim], &random.values(head_dim));
        }
        let mut cache = Self { tiles: vec![stale; heads], keys: Vec::new(), values: Vec::new() };
        for tiles in &mut cache.tiles {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for p in 0..positions {
                let mut key: Vec<f32> = random.values(head_dim).iter().map(|x| x * 4.0).collect();
                let mut value = random.values(head_dim);
                layout.write(tiles, p, &key, &value);
                layout.read(tiles, p, &mut key, &mut value);
                keys.extend(key);
                values.extend(value);
            }
            cache.keys.push(keys);
            cache.values.push(values);
        }
        cache
    }
}

#[test]
fn eight_bit_attention_follows_f64() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut random = Random::new(7);
        for head_dim in [1, 24, 32, 64, 80, 128] {
            for (group, positions, first) in
                [(1, 1, 0), (2, 31, 0), (3, 257, 0), (4, 520, 0), (5, 65, 7), (9, 700, 300)]
            {
                let cache = Cache::new(1, positions, head_dim, &mut random);
                // Multiples of 1 / 127 of the largest of each block, so that rounding changes nothing.
                let whole = |x: &f32| (x * 127.0).round() / 64.0;
                let mut q: Vec<f32> = random.values(group * head_dim).iter().map(whole).collect();
                q.chunks_mut(head_dim).flat_map(|q| q.chunks_mut(32)).for_each(|block| block[0] = 127.0 / 64.0);
                let shape = AttentionShape { heads: group, kv_heads: 1, head_dim, scale: 0.5 };
                let kv = |_: usize, _: usize| KvHead::Tiles { tiles: &cache.tiles[0], first, end: positions };
                let mut out = vec![f32::NAN; q.len()];
                engine.attention(shape, &q, kv, &mut out);
                let from = first * head_dim;
                let exact = reference(&q, &cache.keys[0][from..], &cache.values[0][from..], head_dim, 0.5);
                for (out, exact) in out.iter().zip(&exact) {
                    // Weights have 16 bits.
                    let error = (f64::from(*out) - exact).abs();
                    assert!(error <= 4e-4, "{isa} {head_dim} {group} {positions} {first}: {out} not {exact}");
                }
            }
        }
    }
}

#[test]
fn an_eight_bit_token_is_independent_of_batch_and_threads() {
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 32, scale: 0.2 };
    let (tokens, context) = (37, 900);
    let mut random = Random::new(8);
    let caches = [Cache::new(2, context, 32, &mut random), Cache::new(2, context, 32, &mut random)];
    let q = random.values(tokens * 6 * 32);
    for window in [usize::MAX, 70, 500] {
        let kv = |token: usize, head: usize| {
            // Two sequences, one after the other.
            let (sequence, end) = if token < 20 { (0, 500 + token) } else { (1, 880 + token - 20) };
            KvHead::Tiles { tiles: &caches[sequence].tiles[head], first: end.saturating_sub(window), end }
        };
        for isa in isas() {
            let mut expected = vec![f32::NAN; q.len()];
            for token in 0..tokens {
                let part = token * 192..(token + 1) * 192;
                engine(isa, 1).attention(shape, &q[part.clone()], |_, head| kv(token, head), &mut expected[part]);
            }
            for threads in [1, 2, 3, 8] {
                let engine = engine(isa, threads);
                let mut out = vec![f32::NAN; q.len()];
                engine.attention(shape, &q, kv, &mut out);
                assert_same_bits(&out, &expected);
                // Few tokens: chunks are spread, not units.
                for token in [0, 25] {
                    let part = token * 192..(token + 1) * 192;
                    engine.attention(shape, &q[part.clone()], |_, head| kv(token, head), &mut out[part]);
                }
                assert_same_bits(&out, &expected);
            }
        }
    }
}

#[test]
fn broken_positions_are_seen_by_those_who_see_them() {
    let layout = KvTiles::new(8);
    let mut tiles = vec![0u8; layout.bytes(64)];
    for p in 0..64 {
        let bad = if p == 40 { f32::NAN } else { 1.0 };
        layout.write(&mut tiles, p, &[1.0; 8], &[bad; 8]);
    }
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 8, scale: 1.0 };
    for isa in isas() {
        let mut out = [0.0; 4 * 8];
        let ends = [40, 41, 64, 0];
        let kv = |token: usize, _: usize| KvHead::Tiles { tiles: &tiles, first: 0, end: ends[token] };
        engine(isa, 1).attention(shape, &[1.0; 32], kv, &mut out);
        assert!(out[..8].iter().all(|x| (x - 1.0).abs() < 1e-3), "{isa}: {out:?}");
        assert!(out[8..24].iter().all(|x| x.is_nan()), "{isa}: {out:?}");
        assert_eq!(out[24..], [0.0; 8], "{isa}: nothing seen");
        let mut broken = [1.0; 8];
        broken[3] = f32::NAN;
        engine(isa, 1).attention(
            shape,
            &broken,
            |_, _| KvHead::Tiles { tiles: &tiles, first: 0, end: 32 },
            &mut out[..8],
        );
        assert!(out[..8].iter().all(|x| x.is_nan()), "{isa}: {out:?}");
    }
}
