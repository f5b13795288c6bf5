//! Who runs: pages for those who generate, and a place for those who wait.

use std::cmp::Ordering;

use super::sequence::Sequence;
use super::{BatchEngine, Budget, JobId, Output, StepReport, Work};
use crate::model::KvPages;

/// So many sequences run whatever a step takes then.
const ALWAYS: usize = 4;
/// How often somebody may be admitted before a sequence whose turn it is but that does not fit.
const MOST_PASSED: u32 = 8;

impl BatchEngine {
    /// Gives every generating sequence a page for its next token, older ones first: from those that are free, then from the
    /// prefix cache, then from the youngest sequence. The oldest one always gets its page, so that work always ends.
    pub(super) fn make_room(&mut self, report: &mut StepReport) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            let waits = sequence.stalled || !sequence.is_decoding();
            let needed = if waits { 0 } else { self.pool.needed(&sequence.pages, 1) };
            if needed == 0 || self.free_pages(needed) && self.pool.reserve(&mut self.running[index].pages, 1).is_ok() {
                index += 1;
            } else if let Some(youngest) = self.running.pop() {
                self.preempt(youngest);
                report.preempted += 1;
            }
        }
    }

    /// Makes `needed` pages free at the cost of the prefix cache; whether that is possible.
    pub(super) fn free_pages(&mut self, needed: usize) -> bool {
        while self.pool.free() < needed {
            if !self.prefix.evict() {
                return false;
            }
        }
        true
    }

    fn preempt(&mut self, mut sequence: Sequence) {
        self.keep_pages(&mut sequence);
        sequence.pages = KvPages::default();
        self.totals.preemptions += 1;
        self.waiting.push(sequence);
    }

    /// Leaves the pages of a sequence that ends to the prefix cache.
    pub(super) fn keep_pages(&mut self, sequence: &mut Sequence) {
        if self.options.prefix_cache {
            self.prefix.insert(&sequence.job.scope, &sequence.ids, &self.pool, &mut sequence.pages, true);
        }
    }

    /// Begins what waits, as long as there is room.
    pub(super) fn admit(&mut self, budget: Budget, report: &mut StepReport, deliver: &mut dyn FnMut(JobId, Output)) {
        while let Some(at) = self.next_to_begin(budget) {
            let mut sequence = self.waiting.remove(at);
            let (prompt, held) = (sequence.job.prompt, sequence.pages.len());
            if sequence.cached.is_none() {
                // What has to be computed again after a pre-emption is nobody's fault.
                sequence.cached = Some(held);
                self.begun += 1;
                sequence.began = self.begun;
                self.totals.prompt_tokens += prompt as u64;
                self.totals.cached_tokens += held as u64;
                self.clients.serve(&sequence.job.client, prompt - held, self.now);
                deliver(sequence.id, Output::Prompt { done: held, total: prompt, cached: held });
            }
            sequence.passed = 0;
            report.admitted += 1;
            self.start(sequence);
        }
    }

    /// Adds a sequence to those that run.
    pub(super) fn start(&mut self, sequence: Sequence) {
        let at = self.running.partition_point(|other| other.age() < sequence.age());
        self.running.insert(at, sequence);
    }

    /// The next waiting sequence that there is a place for, with pages for all that it has to compute.
    fn next_to_begin(&mut self, budget: Budget) -> Option<usize> {
        let places = |sequence: &Sequence| 1 + sequence.forks;
        let taken: usize = self.running.iter().map(places).sum();
        if taken >= self.options.max_running || self.is_slow_already(budget) {
            return None;
        }
        let mut order: Vec<usize> = (0..self.waiting.len()).filter(|at| !self.waiting[*at].stalled).collect();
        order.sort_by(|a, b| self.before(&self.waiting[*a], &self.waiting[*b]));
        for (rank, &at) in order.iter().enumerate() {
            let fits = taken + places(&self.waiting[at]) <= self.options.max_running && self.take_pages(at);
            if fits {
                for &passed in &order[..rank] {
                    self.waiting[passed].passed += 1;
                }
                return Some(at);
            }
            if self.waiting[at].passed >= MOST_PASSED {
                return None;
            }
        }
        None
    }

    /// Whether one more sequence would make a step too slow.
    fn is_slow_already(&self, budget: Budget) -> bool {
        let Budget::Time { target, .. } = budget else { return false };
        let mut work = Work::part(0, 1, 1);
        for sequence in &self.running {
            work.add(Work::part(sequence.ids.len(), 1, 1));
        }
        self.running.len() >= ALWAYS && self.pace.predict(work) > target.as_secs_f64()
    }

    /// Whose turn comes first: sequences that had begun already, then clients that were served least, then who came first.
    fn before(&self, a: &Sequence, b: &Sequence) -> Ordering {
        let new = |sequence: &Sequence| sequence.cached.is_none();
        let served = |sequence: &Sequence| {
            if new(sequence) { self.clients.served(&sequence.job.client, self.now) } else { 0.0 }
        };
        new(a).cmp(&new(b)).then(served(a).total_cmp(&served(b))).then(a.age().cmp(&b.age()))
    }

    /// Gives a waiting sequence what the prefix cache has of it, and pages for the rest. Nothing has changed when they are
    /// not to be had.
    fn take_pages(&mut self, at: usize) -> bool {
        let sequence = &self.waiting[at];
        let (scope, until) = (sequence.job.scope.clone(), sequence.left());
        let reusable = if self.options.prefix_cache { sequence.reusable() } else { 0 };
        let found = self.prefix.find(&scope, &sequence.ids[..reusable], 0);
        // One more for what comes next, unless nobody else would take it.
        let spare = usize::from(!self.running.is_empty());
        let mut pages = KvPages::default();
        for page in found.pages {
            self.pool.append_shared(&mut pages, page);
        }
        let left = until - pages.len();
        let needed = self.pool.needed(&pages, left) + spare;
        let mut part = found.part;
        if self.pool.free() + self.prefix.evictable() < needed {
            // The page to copy from may be one too many.
            part = None;
            if self.pool.free() + self.prefix.evictable() < needed {
                return false;
            }
        }
        let room = self.free_pages(needed) && self.pool.reserve(&mut pages, left).is_ok();
        if let (true, Some((page, positions))) = (room, part)
            && self.pool.append_copy(&mut pages, &page, positions).is_err()
        {
            return false;
        }
        if room {
            self.waiting[at].pages = pages;
        }
        room
    }
}
