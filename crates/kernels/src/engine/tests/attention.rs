use super::{Random, assert_same_bits, engine, isas};
use crate::kv::TILE;
use crate::rotation::rotate;
use crate::{AttentionShape, Isa, KvHead, KvTiles, KvType};

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

/// `positions` random positions of `heads` kv heads, with what is held as f32.
struct Cache {
    /// Chunks with a gap after each, the last one first.
    tiles: Vec<Vec<u8>>,
    chunks: Vec<usize>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Cache {
    fn new(kv: KvType, heads: usize, positions: usize, head_dim: usize, random: &mut Random) -> Self {
        let layout = KvTiles::new(kv, head_dim);
        let stride = layout.bytes(KvTiles::CHUNK) + 192;
        let count = positions.div_ceil(KvTiles::CHUNK);
        let chunks: Vec<usize> = (0..count).rev().map(|chunk| chunk * stride).collect();
        let mut stale = vec![0u8; count * stride];
        // What was there before must not matter, as long as somebody wrote it.
        for p in 0..positions.next_multiple_of(TILE) {
            let broken = if p % 2 == 0 { vec![f32::INFINITY; head_dim] } else { random.values(head_dim) };
            let tiles = &mut stale[chunks[p / KvTiles::CHUNK]..];
            layout.write(tiles, p % KvTiles::CHUNK, &vec![f32::NAN; head_dim], &broken);
        }
        let mut cache = Self { tiles: vec![stale; heads], chunks, keys: Vec::new(), values: Vec::new() };
        for tiles in &mut cache.tiles {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for p in 0..positions {
                let mut key: Vec<f32> = random.values(head_dim).iter().map(|x| x * 4.0).collect();
                let mut value = random.values(head_dim);
                let tiles = &mut tiles[cache.chunks[p / KvTiles::CHUNK]..];
                layout.write(tiles, p % KvTiles::CHUNK, &key, &value);
                layout.read(tiles, p % KvTiles::CHUNK, &mut key, &mut value);
                keys.extend(key);
                values.extend(value);
            }
            cache.keys.push(keys);
            cache.values.push(values);
        }
        cache
    }

    /// What a token that sees `positions` of a head sees.
    fn head(&self, head: usize, positions: std::ops::Range<usize>) -> KvHead<'_> {
        KvHead { slab: &self.tiles[head], chunks: &self.chunks, offset: 0, first: positions.start, end: positions.end }
    }
}

/// Tiles of a whole context, one after the other.
fn in_order(layout: KvTiles) -> [usize; 4] {
    std::array::from_fn(|chunk| chunk * layout.bytes(KvTiles::CHUNK))
}

#[test]
fn attention_follows_f64() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut random = Random::new(7);
        for (kv, head_dim) in
            KvType::ALL.iter().flat_map(|kv| [1, 7, 24, 32, 64, 80, 128].map(|head_dim| (*kv, head_dim)))
        {
            for (group, positions, first) in
                [(1, 1, 0), (2, 31, 0), (3, 257, 0), (4, 520, 0), (5, 65, 7), (9, 700, 300)]
            {
                let cache = Cache::new(kv, 1, positions, head_dim, &mut random);
                let mut q = random.values(group * head_dim);
                if kv.has_codes() {
                    // Multiples of 1 / 127 of the largest of each block, so that rounding changes nothing.
                    q.iter_mut().for_each(|x| *x = (*x * 127.0).round() / 64.0);
                    q.chunks_mut(head_dim).flat_map(|q| q.chunks_mut(32)).for_each(|block| block[0] = 127.0 / 64.0);
                }
                if kv == KvType::Q4 {
                    // That once it is rotated.
                    q.chunks_mut(head_dim).for_each(rotate);
                }
                let shape = AttentionShape { heads: group, kv_heads: 1, head_dim, kv, scale: 0.5 };
                let see = |_: usize, _: usize| cache.head(0, first..positions);
                let mut out = vec![f32::NAN; q.len()];
                engine.attention(shape, &q, see, &mut out);
                let from = first * head_dim;
                let exact = reference(&q, &cache.keys[0][from..], &cache.values[0][from..], head_dim, 0.5);
                // Weights have 16 bits, or 8.
                let bound = match kv {
                    KvType::F32 | KvType::F16 => 1e-5,
                    KvType::Q8 => 4e-4,
                    KvType::Q4 => 2e-2,
                };
                for (out, exact) in out.iter().zip(&exact) {
                    let error = (f64::from(*out) - exact).abs();
                    assert!(error <= bound, "{isa} {kv:?} {head_dim} {group} {positions} {first}: {out} not {exact}");
                }
                // A head alone gives the same bits.
                let last = (group - 1) * head_dim;
                let mut alone = vec![f32::NAN; head_dim];
                engine.attention(AttentionShape { heads: 1, ..shape }, &q[last..], see, &mut alone);
                assert_same_bits(&alone, &out[last..]);
                if kv == KvType::F16 {
                    // f16 as f32 gives the same bits.
                    let layout = KvTiles::new(KvType::F32, head_dim);
                    let mut wide = vec![0; layout.bytes(positions)];
                    let keys = cache.keys[0].chunks_exact(head_dim).zip(cache.values[0].chunks_exact(head_dim));
                    keys.enumerate().for_each(|(p, (key, value))| layout.write(&mut wide, p, key, value));
                    let chunks = in_order(layout);
                    let see =
                        |_: usize, _: usize| KvHead { slab: &wide, chunks: &chunks, offset: 0, first, end: positions };
                    let mut from_32 = vec![f32::NAN; q.len()];
                    engine.attention(AttentionShape { kv: KvType::F32, ..shape }, &q, see, &mut from_32);
                    assert_same_bits(&from_32, &out);
                }
            }
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    let layout = KvTiles::new(KvType::F32, 8);
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 8, kv: KvType::F32, scale: 1.0 };
    let mut tiles = vec![0; layout.bytes(300)];
    for p in 0..300 {
        let mut key = [0.0; 8];
        // One position wins by far.
        key[0] = [0.0, 1e4, -1e4][usize::from(p == 3) + 2 * usize::from(p == 260)];
        layout.write(&mut tiles, p, &key, &[p as f32; 8]);
    }
    let mut q = [0.0; 8];
    q[0] = 1e4;
    let chunks = in_order(layout);
    for isa in isas() {
        let mut out = [f32::NAN; 8];
        let see = |_: usize, _: usize| KvHead { slab: &tiles, chunks: &chunks, offset: 0, first: 0, end: 300 };
        engine(isa, 1).attention(shape, &q, see, &mut out);
        assert_eq!(out, [3.0; 8], "{isa}");
    }
}

#[test]
fn a_token_is_independent_of_batch_and_threads() {
    let (tokens, context) = (37, 900);
    for kv in KvType::ALL {
        let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 32, kv, scale: 0.2 };
        let mut random = Random::new(8);
        let caches = [Cache::new(kv, 2, context, 32, &mut random), Cache::new(kv, 2, context, 32, &mut random)];
        let q = random.values(tokens * 6 * 32);
        for window in [usize::MAX, 70, 500] {
            let see = |token: usize, head: usize| {
                // Two sequences, one after the other.
                let (sequence, end) = if token < 20 { (0, 500 + token) } else { (1, 880 + token - 20) };
                caches[sequence].head(head, end.saturating_sub(window)..end)
            };
            for isa in isas() {
                let mut expected = vec![f32::NAN; q.len()];
                for token in 0..tokens {
                    let part = token * 192..(token + 1) * 192;
                    engine(isa, 1).attention(shape, &q[part.clone()], |_, head| see(token, head), &mut expected[part]);
                }
                for threads in [1, 2, 3, 8] {
                    let engine = engine(isa, threads);
                    let mut out = vec![f32::NAN; q.len()];
                    engine.attention(shape, &q, see, &mut out);
                    assert_same_bits(&out, &expected);
                    // Few tokens: chunks are spread, not units.
                    for token in [0, 25] {
                        let part = token * 192..(token + 1) * 192;
                        engine.attention(shape, &q[part.clone()], |_, head| see(token, head), &mut out[part]);
                    }
                    assert_same_bits(&out, &expected);
                }
                engine(isa, 2).attention(shape, &[], see, &mut []);
            }
        }
    }
}

#[test]
fn broken_positions_are_seen_by_those_who_see_them() {
    for (isa, kv) in isas().flat_map(|isa| KvType::ALL.map(|kv| (isa, kv))) {
        let layout = KvTiles::new(kv, 8);
        let mut tiles = vec![0u8; layout.bytes(64)];
        for p in 0..64 {
            let bad = if p == 40 { f32::NAN } else { 1.0 };
            layout.write(&mut tiles, p, &[1.0; 8], &[bad; 8]);
        }
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 8, kv, scale: 1.0 };
        let mut out = [0.0; 4 * 8];
        let ends = [40, 41, 64, 0];
        let see = |token: usize, _: usize| KvHead { slab: &tiles, chunks: &[0], offset: 0, first: 0, end: ends[token] };
        engine(isa, 1).attention(shape, &[1.0; 32], see, &mut out);
        assert!(out[..8].iter().all(|x| (x - 1.0).abs() < 1e-3), "{isa}: {out:?}");
        assert!(out[8..24].iter().all(|x| x.is_nan()), "{isa}: {out:?}");
        assert_eq!(out[24..], [0.0; 8], "{isa}: nothing seen");
        let mut broken = [1.0; 8];
        broken[3] = f32::NAN;
        let see = |_: usize, _: usize| KvHead { slab: &tiles, chunks: &[0], offset: 0, first: 0, end: 32 };
        engine(isa, 1).attention(shape, &broken, see, &mut out[..8]);
        assert!(out[..8].iter().all(|x| x.is_nan()), "{isa}: {out:?}");
    }
}

/// A sequence that sees nothing beside one whose chunks are shared between the workers.
#[test]
fn nothing_seen_beside_a_long_context() {
    for (isa, kv) in isas().flat_map(|isa| KvType::ALL.map(|kv| (isa, kv))) {
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 32, kv, scale: 0.2 };
        let cache = Cache::new(kv, 1, 700, 32, &mut Random::new(9));
        let q = Random::new(10).values(2 * 32);
        let long = cache.head(0, 0..700);
        let nothing = KvHead { chunks: &[], end: 0, ..long };
        let mut expected = vec![f32::NAN; 32];
        engine(isa, 1).attention(shape, &q[32..], |_, _| long, &mut expected);
        for threads in [1, 2, 3] {
            let mut out = vec![f32::NAN; q.len()];
            engine(isa, threads).attention(shape, &q, |token, _| [nothing, long][token], &mut out);
            assert_eq!(out[..32], [0.0; 32], "{isa} {kv:?}");
            assert_same_bits(&out[32..], &expected);
        }
    }
}

/// Whatever a caller says about chunks that do not exist, no memory outside the slab is read.
#[cfg(not(target_family = "wasm"))] // where a panic ends the process
#[test]
fn chunks_outside_the_slab_are_refused() {
    let layout = KvTiles::new(KvType::F16, 8);
    let slab = vec![0u8; layout.bytes(64)];
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 8, kv: KvType::F16, scale: 1.0 };
    let run = |chunks: &[usize], offset: usize, first: usize, end: usize| {
        let head = KvHead { slab: &slab, chunks, offset, first, end };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            engine(Isa::best(), 1).attention(shape, &[1.0; 8], |_, _| head, &mut [0.0; 8]);
        }))
        .is_ok()
    };
    assert!(run(&[0], 0, 0, 64) && run(&[0], layout.bytes(32), 0, 32) && run(&[], 0, 0, 0));
    assert!(run(&[usize::MAX, 0], 0, 300, 310), "a chunk before the window is not read");
    assert!(run(&[usize::MAX], 0, 0, 0), "a token that sees nothing reads nothing");
    for (chunks, offset, first, end) in [
        (&[][..], 0, 0, 1),
        (&[0], 0, 0, 65),
        (&[0], 0, 0, 257),
        (&[0, usize::MAX], 0, 0, 257),
        (&[usize::MAX], 1, 0, 1),
        (&[64], 0, 0, 64),
        (&[0], 0, 2, 1),
    ] {
        assert!(!run(chunks, offset, first, end), "{chunks:?} {offset} {first} {end}");
    }
}
