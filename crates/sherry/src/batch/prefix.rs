//! Computed prefixes that later sequences continue from.
//!
//! A tree per scope whose nodes are pages: full ones, which may have children, and partly filled ones, which are leaves.
//! Children are found by comparing their tokens, all of them, so that a sequence can only ever get keys and values of its own
//! tokens. There are never more nodes than pages, and a comparison mostly ends at the first token: no hash is worth its
//! collisions.

use std::collections::HashMap;

use super::CacheScope;
use crate::model::{KvPage, KvPages, KvPool, PAGE};

/// Partly filled pages kept after the same prefix.
const MOST_PARTIAL: usize = 4;

/// The tree of all scopes.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    nodes: Vec<Option<Node>>,
    vacant: Vec<usize>,
    /// First pages of each scope.
    roots: HashMap<CacheScope, Vec<usize>>,
    /// Counts uses, for their order.
    tick: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Node {
    /// Tokens whose keys and values the page holds: [`PAGE`] of them, or fewer in a leaf.
    tokens: Box<[u32]>,
    page: KvPage,
    parent: Parent,
    children: Vec<usize>,
    /// When it was used last.
    used: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Parent {
    Root(CacheScope),
    Node(usize),
}

/// The longest known beginning of a sequence.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Full pages.
    pub pages: Vec<KvPage>,
    /// A page that agrees in its first positions, and how many.
    pub part: Option<(KvPage, usize)>,
}

impl PrefixCache {
    /// Pages that nobody else holds: as good as free. (Who holds a page holds all before it, so each of them can go once its
    /// children are gone.)
    pub fn evictable(&self) -> usize {
        self.nodes.iter().flatten().filter(|node| !node.page.is_shared()).count()
    }

    /// Pages given up so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { evictions: self.evictions, ..Self::default() };
    }

    /// The longest beginning of `tokens` that is known in `scope`, after the `start` positions (whole pages) that the
    /// sequence has.
    pub fn find(&mut self, scope: &CacheScope, tokens: &[u32], start: usize) -> Found {
        self.tick += 1;
        let mut found = Found::default();
        let mut parent = Parent::Root(scope.clone());
        let (pages, rest) = tokens.as_chunks::<PAGE>();
        for (index, page) in pages.iter().enumerate() {
            let Some(child) = self.child(&parent, page) else {
                if index * PAGE >= start {
                    found.part = self.longest(&parent, &tokens[index * PAGE..]);
                }
                return found;
            };
            if index * PAGE >= start {
                found.pages.extend(self.touch(child));
            }
            parent = Parent::Node(child);
        }
        found.part = self.longest(&parent, rest);
        found
    }

    /// Adds the pages of a sequence that holds `tokens`: the full ones, and with `rest` the last one as well. Where the same
    /// tokens are known already, the sequence gets the page that is there in place of its own.
    pub fn insert(&mut self, scope: &CacheScope, tokens: &[u32], pool: &KvPool, sequence: &mut KvPages, rest: bool) {
        self.tick += 1;
        let tokens = &tokens[..sequence.len()];
        let mut parent = Parent::Root(scope.clone());
        let (pages, last) = tokens.as_chunks::<PAGE>();
        for (index, page) in pages.iter().enumerate() {
            let child = match self.child(&parent, page) {
                Some(child) => {
                    if let Some(page) = self.touch(child) {
                        pool.replace(sequence, index, page);
                    }
                    child
                }
                None => self.add(parent, page, sequence.held()[index].clone()),
            };
            parent = Parent::Node(child);
        }
        if !rest || last.is_empty() {
            return;
        }
        let siblings: Vec<usize> = self.children(&parent).to_vec();
        let shares = |node: &Node| common(&node.tokens, last);
        if siblings.iter().filter_map(|at| self.node(*at)).any(|node| shares(node) == last.len()) {
            return; // nothing new
        }
        let partial = |at: &usize| self.node(*at).filter(|node| node.tokens.len() < PAGE);
        let shorter =
            siblings.iter().copied().find(|at| partial(at).is_some_and(|node| shares(node) == node.tokens.len()));
        let full = siblings.iter().filter(|at| partial(at).is_some()).count() >= MOST_PARTIAL;
        let oldest = siblings.iter().copied().filter(|at| partial(at).is_some());
        let oldest = oldest.min_by_key(|at| self.node(*at).map(|node| node.used)).filter(|_| full);
        if let Some(at) = shorter.or(oldest) {
            self.remove(at);
        }
        self.add(parent, last, sequence.held()[pages.len()].clone());
    }

    /// Gives up the page that was not used for the longest time, of those that nobody holds and nothing follows. Whether
    /// there was one.
    pub fn evict(&mut self) -> bool {
        let leaf = |node: &Node| node.children.is_empty() && !node.page.is_shared();
        let nodes = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.as_ref()?)));
        let Some((at, _)) = nodes.filter(|(_, node)| leaf(node)).min_by_key(|(_, node)| node.used) else {
            return false;
        };
        self.remove(at);
        self.evictions += 1;
        true
    }

    fn node(&self, at: usize) -> Option<&Node> {
        self.nodes.get(at)?.as_ref()
    }

    fn children(&self, parent: &Parent) -> &[usize] {
        match parent {
            Parent::Root(scope) => self.roots.get(scope).map_or(&[], Vec::as_slice),
            Parent::Node(at) => self.node(*at).map_or(&[], |node| &node.children),
        }
    }

    /// The child with exactly these tokens.
    fn child(&self, parent: &Parent, tokens: &[u32; PAGE]) -> Option<usize> {
        let is = |at: &usize| self.node(*at).is_some_and(|node| *node.tokens == *tokens);
        self.children(parent).iter().copied().find(is)
    }

    /// The child that agrees longest with `tokens`, full or not, and how far.
    fn longest(&mut self, parent: &Parent, tokens: &[u32]) -> Option<(KvPage, usize)> {
        let length = |at: &usize| self.node(*at).map_or(0, |node| common(&node.tokens, tokens));
        let best = self.children(parent).iter().copied().max_by_key(length)?;
        let positions = length(&best);
        if positions == 0 {
            return None;
        }
        Some((self.touch(best)?, positions))
    }

    /// Notes that a page is used.
    fn touch(&mut self, at: usize) -> Option<KvPage> {
        let node = self.nodes.get_mut(at)?.as_mut()?;
        node.used = self.tick;
        Some(node.page.clone())
    }

    fn add(&mut self, parent: Parent, tokens: &[u32], page: KvPage) -> usize {
        let node = Node { tokens: tokens.into(), page, parent: parent.clone(), children: Vec::new(), used: self.tick };
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[at] = Some(node);
        match parent {
            Parent::Root(scope) => self.roots.entry(scope).or_default().push(at),
            Parent::Node(parent) => {
                if let Some(node) = &mut self.nodes[parent] {
                    node.children.push(at);
                }
            }
        }
        at
    }

    /// Takes a leaf out of the tree.
    fn remove(&mut self, at: usize) {
        let Some(node) = self.nodes[at].take() else { return };
        debug_assert!(node.children.is_empty(), "a leaf");
        self.vacant.push(at);
        match node.parent {
            Parent::Root(scope) => {
                if let Some(children) = self.roots.get_mut(&scope) {
                    children.retain(|child| *child != at);
                    if children.is_empty() {
                        self.roots.remove(&scope);
                    }
                }
            }
            Parent::Node(parent) => {
                if let Some(parent) = &mut self.nodes[parent] {
                    parent.children.retain(|child| *child != at);
                }
            }
        }
    }
}

/// How many tokens two sequences have in common at the beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
