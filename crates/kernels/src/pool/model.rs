//! Every order in which the threads of a pool can go through its protocol, within a bound on preemptions:
//! `RUSTFLAGS="--cfg loom" cargo test -p sherry-kernels --lib pool::model --target-dir target/loom`.
//!
//! The checker ends a test at a read beside a write, a deadlock, a leak, and wherever an assertion fails.

use loom::cell::UnsafeCell;
use loom::model::Builder;

use super::Pool;
use super::sync::Arc;

/// Runs `work` in every order with at most `preemptions` preemptions.
fn all_orders(preemptions: usize, work: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(work);
}

/// Memory that the threads of a region write, each its own part, and the caller reads when it is over.
struct Numbers(Vec<UnsafeCell<usize>>);

// SAFETY: loom's cells end the model at an access beside a write, so that wrong sharing is found, not undefined.
unsafe impl Sync for Numbers {}

impl Numbers {
    fn zeros(count: usize) -> Self {
        Self((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    /// Adds 1 to every number, in a region.
    fn count(&self, pool: &Pool) {
        pool.share(self.0.len(), 1, &|claims| {
            while let Some(range) = claims.next() {
                // SAFETY: every item is claimed once; were it not, loom's cell would end the model.
                range.for_each(|item| self.0[item].with_mut(|number| unsafe { *number += 1 }));
            }
        });
    }

    /// Reads all, outside of regions.
    fn all_are(&self, expected: usize) {
        for number in &self.0 {
            // SAFETY: no region runs; were a worker still writing, loom's cell would end the model.
            assert_eq!(number.with(|number| unsafe { *number }), expected);
        }
    }
}

#[test]
fn every_item_is_worked_on_once_and_seen_by_the_caller() {
    all_orders(3, || {
        let pool = Pool::new(2);
        let numbers = Numbers::zeros(3);
        numbers.count(&pool);
        numbers.all_are(1);
    });
}

#[test]
fn a_worker_that_comes_late_finds_the_next_region() {
    all_orders(2, || {
        let pool = Pool::new(2);
        let numbers = Numbers::zeros(2);
        for round in 1..=2 {
            numbers.count(&pool);
            numbers.all_are(round);
        }
    });
}

#[test]
fn two_workers_steal_from_each_other() {
    all_orders(1, || {
        let pool = Pool::new(3);
        let numbers = Numbers::zeros(4);
        numbers.count(&pool);
        numbers.all_are(1);
    });
}

#[test]
fn a_second_caller_works_alone() {
    all_orders(1, || {
        let pool = Arc::new(Pool::new(2));
        let other = Arc::clone(&pool);
        let second = loom::thread::spawn(move || {
            let numbers = Numbers::zeros(2);
            numbers.count(&other);
            numbers.all_are(1);
        });
        let numbers = Numbers::zeros(2);
        numbers.count(&pool);
        numbers.all_are(1);
        second.join().unwrap();
    });
}

#[test]
fn workers_end_with_the_pool_wherever_they_are() {
    all_orders(3, || drop(Pool::new(3)));
}
