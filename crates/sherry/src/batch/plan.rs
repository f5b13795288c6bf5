//! What a step computes.

use super::draft::expected;
use super::sequence::{Part, UNIT};
use super::{BatchEngine, Budget, Work};
use crate::model::{PAGE, Wanted};

/// Most prompt tokens per step: beyond it weights are read so rarely that more only costs memory.
const MOST_TOKENS: usize = 512;
/// A step may take so many times as long while nobody waits for a token.
const ALONE: f64 = 3.0;

/// Proposed tokens are computed where tokens come at least so many times as fast by what is expected.
const WORTH: f64 = 1.05;

/// How much of prompts fits into a step.
struct Limit {
    tokens: usize,
    seconds: f64,
}

impl BatchEngine {
    /// The sequences that take part in the next step, in order, and what each of them computes.
    ///
    /// Sequences that generate come first, so that a prompt may slow them down but never stops them. What is left of the
    /// budget goes to prompts, in turns to the one that began first and to the one with the least left: a short question does
    /// not wait for a long document, and the document still advances.
    pub(super) fn plan(&mut self, budget: Budget) -> Vec<(usize, Part)> {
        let masked = self.usable.as_ref().map_or(0, |usable| usable.len() - usable.count());
        let mut parts: Vec<Option<Part>> = vec![None; self.running.len()];
        let mut rows = self.options.logit_rows;
        for (sequence, part) in self.running.iter().zip(&mut parts) {
            if sequence.is_decoding() && !sequence.stalled {
                *part = sequence.part(1, rows, masked);
                rows -= part.map_or(0, |part| part.rows());
            }
        }
        self.propose(&mut parts, &mut rows);
        let generating = parts.iter().any(Option::is_some);
        let limit = match budget {
            Budget::Tokens(tokens) => Limit { tokens: tokens.clamp(1, MOST_TOKENS), seconds: f64::INFINITY },
            Budget::Time { target, .. } => {
                let factor = if generating { 1.0 } else { ALONE };
                Limit { tokens: MOST_TOKENS, seconds: factor * target.as_secs_f64() }
            }
        };
        self.read_prompts(&mut parts, rows, masked, &limit);
        parts.into_iter().enumerate().filter_map(|(index, part)| Some((index, part?))).collect()
    }

    /// Adds proposed tokens to the parts that generate, to each as many as have tokens come fastest.
    fn propose(&mut self, parts: &mut [Option<Part>], rows: &mut usize) {
        if !self.options.speculation || !self.pace.knows_generating() {
            return;
        }
        let mut work = self.work(parts);
        let mut tokens = parts.iter().flatten().count() as f64;
        for (sequence, part) in self.running.iter_mut().zip(parts) {
            let Some(part) = part.as_mut().filter(|part| part.tokens == 1 && sequence.generated() > 0) else {
                continue;
            };
            let room = sequence.room(self.options.context).min(*rows);
            let Some(chance) = sequence.drafts.propose(&sequence.ids, room) else { continue };
            let with = |count: usize| {
                let [one, more] = [1, 1 + count].map(|tokens| Work::part(sequence.pages.len(), tokens, tokens));
                let attended = work.attended + more.attended - one.attended;
                Work { tokens: work.tokens + count, attended, rows: work.rows + count }
            };
            let rate = |count: usize| (tokens + expected(chance, count)) / self.pace.predict(with(count));
            let proposed = sequence.drafts.tokens().len();
            let best = (1..=proposed).max_by(|a, b| rate(*a).total_cmp(&rate(*b)));
            let count = best.filter(|best| rate(*best) > WORTH * rate(0)).unwrap_or(0);
            sequence.drafts.shorten(count);
            work = with(count);
            tokens += expected(chance, count);
            *rows -= count;
            let logits = match part.logits {
                Wanted::Top(candidates) if count > 0 => Wanted::EachTop(candidates.and(count)),
                _ if count > 0 => Wanted::All,
                logits => logits,
            };
            *part = Part { tokens: 1 + count, proposed: count, logits };
        }
    }

    /// Adds parts of prompts, 16 tokens at a time, at least one such part.
    fn read_prompts(&mut self, parts: &mut [Option<Part>], mut rows: usize, masked: usize, limit: &Limit) {
        let mut oldest: Vec<usize> = Vec::new();
        for index in 0..self.running.len() {
            if parts[index].is_none() && !self.running[index].stalled {
                self.continue_from_cache(index);
                if self.running[index].left() > 0 {
                    oldest.push(index);
                }
            }
        }
        // By when they began, not when they came: a client that was served little begins before others and stays there.
        oldest.sort_by_key(|index| self.running[*index].began);
        let mut shortest = oldest.clone();
        shortest.sort_by_key(|index| self.running[*index].left());
        let (mut given, mut full) = (0, vec![false; parts.len()]);
        for turn in 0.. {
            let order = if turn % 2 == 0 { &oldest } else { &shortest };
            let Some(&index) = order.iter().find(|index| !full[**index]) else { return };
            let sequence = &self.running[index];
            let before = parts[index];
            let (tokens, own_rows) = before.map_or((0, 0), |part| (part.tokens, part.rows()));
            let unit = UNIT - (sequence.pages.len() + tokens) % UNIT;
            let unit = unit.min(limit.tokens - given);
            match sequence.part(tokens + unit, rows + own_rows, masked) {
                Some(part) if part.tokens > tokens => {
                    parts[index] = Some(part);
                    if given > 0 && self.pace.predict(self.work(parts)) > limit.seconds {
                        parts[index] = before;
                        return;
                    }
                    given += part.tokens - tokens;
                    rows = rows + own_rows - part.rows();
                    if given >= limit.tokens {
                        return;
                    }
                }
                _ => full[index] = true,
            }
        }
    }

    /// What a plan computes.
    fn work(&self, parts: &[Option<Part>]) -> Work {
        let mut work = Work::default();
        for (sequence, part) in self.running.iter().zip(parts) {
            if let Some(part) = part {
                work.add(Work::part(sequence.pages.len(), part.tokens, part.rows()));
            }
        }
        work
    }

    /// At the end of a page: takes over the pages that follow if others have computed them meanwhile.
    fn continue_from_cache(&mut self, index: usize) {
        let sequence = &mut self.running[index];
        let (held, reusable) = (sequence.pages.len(), sequence.reusable());
        if !self.options.prefix_cache || !held.is_multiple_of(PAGE) || held + PAGE > reusable {
            return;
        }
        let found = self.prefix.find(&sequence.job.scope, &sequence.ids[..reusable], held);
        for page in found.pages {
            self.pool.append_shared(&mut sequence.pages, page);
        }
    }
}
