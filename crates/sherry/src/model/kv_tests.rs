use std::collections::BTreeSet;

use sherry_kernels::{Isa, Precision};

use super::*;
use crate::model::{Family, synthetic::tiny};

#[test]
fn an_impossible_cache_is_refused_with_its_size() {
    let mut config = tiny(Family::Llama);
    config.layers = 4096;
    let error = KvCache::new(&config, 1 << 28, KvType::F32).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("GiB"), "{error}");
    assert!(KvCache::new(&config, usize::MAX, KvType::F32).is_err());
    assert!(KvCache::new(&config, 0, KvType::F32).is_err());
    assert!(KvPool::new(&config, usize::MAX, KvType::F32).is_err());
    assert!(KvPool::new(&config, 0, KvType::F32).is_err());
}

/// A pool whose contents are compared with plain vectors.
struct Checked {
    pool: KvPool,
    engine: Engine,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Sequences, with one number per position.
    sequences: Vec<(KvPages, Vec<f32>)>,
    next: f32,
}

impl Checked {
    fn new(pages: usize, threads: usize) -> Self {
        let config = tiny(Family::Llama);
        Self {
            pool: KvPool::new(&config, pages, KvType::F32).unwrap(),
            engine: Engine::new(Isa::Scalar, threads, Precision::F32),
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            sequences: Vec::new(),
            next: 0.0,
        }
    }

    /// What the key holds at one place; values are its negation.
    fn component(id: f32, layer: usize, head: usize, i: usize) -> f32 {
        id + (layer * 64 + head * 16 + i) as f32 / 256.0
    }

    /// Appends `tokens` new positions to a sequence, as a forward pass does; whether there was room.
    fn extend(&mut self, which: usize, tokens: usize) -> bool {
        let (needed, free) = (self.pool.needed(&self.sequences[which].0, tokens), self.pool.free());
        let (pages, expected) = &mut self.sequences[which];
        let reserved = self.pool.reserve(pages, tokens);
        assert_eq!(reserved.is_ok(), needed <= free);
        if reserved.is_err() {
            assert_eq!(self.pool.free(), free);
            return false;
        }
        assert_eq!(self.pool.free(), free - needed);
        let ids: Vec<f32> = (0..tokens).map(|i| self.next + i as f32).collect();
        self.next += tokens as f32;
        for layer in 0..self.layers {
            let places = ids.iter().flat_map(|id| (0..self.kv_heads).map(move |head| (*id, head)));
            let keys: Vec<f32> = places
                .flat_map(|(id, head)| (0..self.head_dim).map(move |i| Self::component(id, layer, head, i)))
                .collect();
            let values: Vec<f32> = keys.iter().map(|x| -x).collect();
            self.pool.write(&self.engine, pages, layer, &keys, &values);
        }
        pages.advance(tokens);
        expected.extend(ids);
        true
    }

    #[track_caller]
    fn check(&self) {
        let (mut key, mut value) = (vec![0.0; self.head_dim], vec![0.0; self.head_dim]);
        let mut held = BTreeSet::new();
        for (pages, expected) in &self.sequences {
            assert_eq!(pages.len(), expected.len());
            held.extend(pages.pages.iter().map(|page| page.0.number));
            for layer in 0..self.layers {
                for head in 0..self.kv_heads {
                    let kv = self.pool.head(pages, layer, head, 0..expected.len());
                    for (p, id) in expected.iter().enumerate() {
                        let tiles = &kv.slab[kv.chunks[p / PAGE] + kv.offset..];
                        self.pool.layout.read(tiles, p % PAGE, &mut key, &mut value);
                        for i in 0..self.head_dim {
                            assert_eq!(key[i], Self::component(*id, layer, head, i), "position {p}");
                            assert_eq!(value[i], -key[i]);
                        }
                    }
                }
            }
        }
        assert_eq!(self.pool.free(), self.pool.pages() - held.len(), "pages are lost or counted twice");
    }
}

#[test]
fn positions_come_back_in_order() {
    let mut checked = Checked::new(3, 2);
    checked.sequences.push(Default::default());
    for tokens in [1, 254, 2, 300, 120] {
        assert!(checked.extend(0, tokens));
        checked.check();
    }
    assert!(!checked.extend(0, 92) && checked.extend(0, 91));
    checked.check();
}

/// Random operations on several sequences, against vectors.
#[test]
fn pages_are_shared_copied_and_given_back() {
    let mut checked = Checked::new(9, 1);
    let mut state = 12_345u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut forks, mut refusals) = (0, 0);
    for round in 0..600 {
        let count = checked.sequences.len();
        match random(10) {
            0 => checked.sequences.push(Default::default()),
            1 if count > 0 => drop(checked.sequences.swap_remove(random(count))),
            2 | 3 if count > 0 => {
                let which = random(count);
                let len = random(checked.sequences[which].1.len() + 2);
                let (pages, expected) = &mut checked.sequences[which];
                pages.truncate(len);
                expected.truncate(len);
            }
            4 | 5 if count > 0 => {
                let (pages, expected) = &checked.sequences[random(count)];
                let expected = expected.clone();
                match checked.pool.fork(pages) {
                    Ok(fork) => checked.sequences.push((fork, expected)),
                    Err(error) => assert!(matches!(error, Error::KvFull { .. }), "{error}"),
                }
                forks += 1;
            }
            6 if count > 0 => {
                // What the prefix cache does: a page of one sequence continues another one, whole or in part.
                let source = random(count);
                let Some(index) = checked.sequences[source].1.len().checked_div(PAGE).filter(|n| *n > 0) else {
                    continue;
                };
                let page = checked.sequences[source].0.pages[random(index)].clone();
                let at = checked.sequences[source].0.pages.iter().position(|p| Arc::ptr_eq(&p.0, &page.0)).unwrap();
                let positions = checked.sequences[source].1[at * PAGE..(at + 1) * PAGE].to_vec();
                let mut other = (KvPages::default(), Vec::new());
                checked.pool.append_shared(&mut other.0, page.clone());
                other.1.extend(&positions);
                let part = 1 + random(PAGE - 1);
                if checked.pool.append_copy(&mut other.0, &page, part).is_ok() {
                    other.1.extend(&positions[..part]);
                }
                drop(page);
                checked.sequences.push(other);
            }
            _ if count > 0 => {
                let most = [3, 40, 300][random(3)];
                refusals += usize::from(!checked.extend(random(count), 1 + random(most)));
            }
            _ => {}
        }
        if round % 10 == 0 {
            checked.check();
        }
    }
    assert!(forks > 50 && refusals > 20, "{forks} forks, {refusals} refusals: the test has become too easy");
    checked.sequences.clear();
    assert_eq!(checked.pool.free(), checked.pool.pages());
}

#[test]
fn sequences_of_another_pool_are_refused() {
    let config = tiny(Family::Llama);
    let mut pools = [0; 2].map(|_| KvPool::new(&config, 2, KvType::F16).unwrap());
    let mut sequence = KvPages::default();
    pools[0].reserve(&mut sequence, 1).unwrap();
    assert!(pools[1].reserve(&mut sequence, 1).unwrap_err().to_string().contains("another pool"));
    assert!(pools[1].fork(&sequence).is_err());
    assert!(pools[0].fork(&sequence).is_ok());
}
