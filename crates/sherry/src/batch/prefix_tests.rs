use std::collections::HashMap;

use super::*;
use crate::model::{Family, KvType, synthetic::tiny};

/// A cache whose pages are compared with what was put into them: the tokens of each page, by number.
struct Checked {
    pool: KvPool,
    cache: PrefixCache,
    contents: HashMap<usize, Vec<u32>>,
}

impl Checked {
    fn new(pages: usize) -> Self {
        let pool = KvPool::new(&tiny(Family::Llama), pages, KvType::Q4).unwrap();
        Self { pool, cache: PrefixCache::default(), contents: HashMap::new() }
    }

    /// A sequence of `tokens`: what is known of it from the cache, the rest computed. Returns how much was known; `None`
    /// when there are not enough pages.
    fn sequence(&mut self, scope: &CacheScope, tokens: &[u32]) -> Option<(KvPages, usize)> {
        let found = self.cache.find(scope, &tokens[..tokens.len() - 1], 0);
        let mut pages = KvPages::default();
        for page in found.pages {
            assert_eq!(
                self.contents[&page.number()],
                tokens[pages.len()..pages.len() + PAGE],
                "foreign keys and values"
            );
            self.pool.append_shared(&mut pages, page);
        }
        while self.pool.free() < self.pool.needed(&pages, tokens.len() - pages.len()) {
            if !self.cache.evict() {
                return None;
            }
        }
        if let Some((page, positions)) = found.part {
            let known = &self.contents[&page.number()];
            assert_eq!(known[..positions], tokens[pages.len()..pages.len() + positions], "foreign keys and values");
            self.pool.append_copy(&mut pages, &page, positions).unwrap();
        }
        let known = pages.len();
        self.pool.reserve(&mut pages, tokens.len() - known).unwrap();
        pages.advance(tokens.len() - known);
        for (page, tokens) in pages.held().iter().zip(tokens.chunks(PAGE)).skip(known / PAGE) {
            self.contents.insert(page.number(), tokens.to_vec());
        }
        Some((pages, known))
    }

    #[track_caller]
    fn check<'p>(&self, held: impl IntoIterator<Item = &'p KvPages>) {
        let held = held.into_iter().flat_map(|pages| pages.held());
        let mut used: Vec<usize> = held.map(KvPage::number).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(self.pool.free() + self.cache.evictable() + used.len(), self.pool.pages(), "pages are lost");
        assert_eq!(self.cache.nodes.iter().flatten().count() + self.cache.vacant.len(), self.cache.nodes.len());
        for node in self.cache.nodes.iter().flatten() {
            assert_eq!(*node.tokens, self.contents[&node.page.number()]);
            assert!(node.children.is_empty() || node.tokens.len() == PAGE);
        }
    }
}

fn scope(name: &str) -> CacheScope {
    CacheScope(name.into())
}

fn tokens(len: usize, salt: u32) -> Vec<u32> {
    (0..len as u32).map(|i| i * 7 + salt).collect()
}

#[test]
fn what_was_computed_is_found_to_the_token() {
    let mut checked = Checked::new(20);
    let a = scope("");
    let long = tokens(700, 1);
    let (mut pages, known) = checked.sequence(&a, &long).unwrap();
    assert_eq!(known, 0);
    checked.cache.insert(&a, &long, &checked.pool, &mut pages, true);
    drop(pages);
    checked.check([]);
    // All of it but the last token, whole pages and parts of them.
    for len in [2, 100, 256, 257, 300, 512, 600, 699, 700] {
        assert_eq!(checked.sequence(&a, &long[..len]).unwrap().1, len - 1, "{len}");
    }
    let mut other = long.clone();
    other[530] = 0;
    assert_eq!(checked.sequence(&a, &other).unwrap().1, 530);
    other[3] = 0;
    assert_eq!(checked.sequence(&a, &other).unwrap().1, 3);
    // Nobody sees what another scope has computed.
    assert_eq!(checked.sequence(&scope("b"), &long).unwrap().1, 0);
    // What is longer takes the place of what is shorter.
    let mut longer = long.clone();
    longer.extend([1, 2, 3]);
    let (mut pages, known) = checked.sequence(&a, &longer).unwrap();
    assert_eq!(known, 700);
    checked.cache.insert(&a, &longer, &checked.pool, &mut pages, true);
    drop(pages);
    assert_eq!(checked.cache.nodes.iter().flatten().count(), 3);
    checked.check([]);
    checked.cache.clear();
    assert_eq!(checked.pool.free(), 20);
}

#[test]
fn sequences_that_compute_the_same_end_up_with_the_same_pages() {
    let mut checked = Checked::new(8);
    let a = scope("");
    let text = tokens(600, 5);
    let mut sequences = [0; 2].map(|_| checked.sequence(&a, &text).unwrap().0);
    assert_eq!(checked.pool.free(), 2);
    for pages in &mut sequences {
        checked.cache.insert(&a, &text, &checked.pool, pages, false);
    }
    // Two full pages are shared, the last ones are not full.
    assert_eq!(checked.pool.free(), 4);
    assert_eq!(checked.cache.evictable(), 0);
    checked.check(&sequences);
}

#[test]
fn the_least_recently_used_page_goes_first_and_none_in_use() {
    let mut checked = Checked::new(4);
    let a = scope("");
    let texts = [1, 2, 3].map(|salt| tokens(256, salt));
    for text in &texts {
        let (mut pages, _) = checked.sequence(&a, text).unwrap();
        checked.cache.insert(&a, text, &checked.pool, &mut pages, true);
    }
    // The first one is used again, the second one is held.
    let found = checked.cache.find(&a, &texts[0], 0);
    assert_eq!(found.pages.len(), 1);
    drop(found);
    let held = checked.cache.find(&a, &texts[1], 0).pages;
    assert_eq!(checked.cache.evictable(), 2);
    assert!(checked.cache.evict());
    assert!(checked.cache.find(&a, &texts[2], 0).pages.is_empty());
    assert!(checked.cache.evict());
    assert!(checked.cache.find(&a, &texts[0], 0).pages.is_empty());
    assert!(!checked.cache.evict());
    drop(held);
    assert!(checked.cache.evict() && !checked.cache.evict());
    assert!(checked.cache.roots.is_empty());
    assert_eq!(checked.cache.evictions(), 3);
}

#[test]
fn few_parts_of_a_page_are_kept_beside_each_other() {
    let mut checked = Checked::new(40);
    let a = scope("");
    for salt in 0..10 {
        let text = tokens(20 + salt as usize, 100 * salt);
        let (mut pages, _) = checked.sequence(&a, &text).unwrap();
        checked.cache.insert(&a, &text, &checked.pool, &mut pages, true);
    }
    assert_eq!(checked.cache.nodes.iter().flatten().count(), MOST_PARTIAL);
    assert_eq!(checked.sequence(&a, &tokens(29, 900)).unwrap().1, 28, "the last one is there");
    assert_eq!(checked.sequence(&a, &tokens(20, 0)).unwrap().1, 0, "the first one is not");
    checked.check([]);
}

/// Random sequences with shared beginnings that come and go: whatever is found holds the right tokens, and no page is lost.
#[test]
fn random_use() {
    let mut state = 99u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for pages in [3, 6, 30] {
        let mut checked = Checked::new(pages);
        let scopes = [scope("x"), scope("y")];
        let mut held: Vec<(KvPages, Vec<u32>, usize)> = Vec::new();
        let (mut known, mut refused) = (0, 0);
        for round in 0..800 {
            match random(5) {
                0..3 => {
                    let mut text = tokens(1 + random(700), [0, 1][random(2)]);
                    for _ in 0..random(3) {
                        let at = random(text.len());
                        text[at..].iter_mut().for_each(|token| *token += 1);
                    }
                    let which = random(2);
                    match checked.sequence(&scopes[which], &text) {
                        Some((pages, found)) => {
                            known += found;
                            held.push((pages, text, which));
                        }
                        None => refused += 1,
                    }
                }
                3 if !held.is_empty() => {
                    let at = random(held.len());
                    let (pages, text, which) = &mut held[at];
                    checked.cache.insert(&scopes[*which], text, &checked.pool, pages, false);
                }
                _ if !held.is_empty() => {
                    let at = random(held.len());
                    let (mut pages, text, which) = held.swap_remove(at);
                    checked.cache.insert(&scopes[which], &text, &checked.pool, &mut pages, random(4) > 0);
                }
                _ => {}
            }
            if round % 20 == 0 {
                checked.check(held.iter().map(|(pages, ..)| pages));
            }
        }
        assert!(known > 1000, "{pages} pages: {known} tokens known");
        assert!(refused > 0 || pages > 10);
        held.clear();
        checked.check([]);
        while checked.cache.evict() {}
        assert_eq!(checked.pool.free(), pages);
    }
}
