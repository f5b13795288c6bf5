//! Who works on which items.

use std::ops::Range;

use super::sync::{AtomicBool, AtomicU64, Ordering};

/// A value alone on its cache lines (two, because x86 prefetches lines in pairs).
#[repr(align(128))]
pub(super) struct Alone<T>(pub(super) T);

/// What one thread of the pool shows to the others.
#[derive(Default)]
pub(super) struct Seat {
    /// The region whose job the worker may be running; 0 outside.
    pub(super) inside: AtomicU64,
    /// Items of the region left to this thread.
    pub(super) share: Share,
    /// Whether the worker sleeps, or is about to.
    pub(super) parked: AtomicBool,
}

/// A range of grains that its owner takes from at the front and others at the back: start in the upper half, end in the
/// lower half of one word.
///
/// Relaxed operations suffice: the word alone decides who has a grain, and what the work reads and writes is ordered by
/// entering and leaving the region.
#[derive(Default)]
pub(super) struct Share(AtomicU64);

impl Share {
    /// The largest number of grains.
    pub(super) const MAX: usize = u32::MAX as usize;

    pub(super) fn set(&self, start: usize, end: usize) {
        self.0.store((start as u64) << 32 | end as u64, Ordering::Relaxed);
    }

    /// Splits the grains left into (taken, kept) by `split(start, end)`, and tells what was taken.
    fn take(&self, split: impl Fn(u64, u64) -> (Range<u64>, Range<u64>)) -> Option<Range<usize>> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = (word >> 32, word & u64::from(u32::MAX));
            if start >= end {
                return None;
            }
            let (taken, kept) = split(start, end);
            let kept = kept.start << 32 | kept.end;
            match self.0.compare_exchange_weak(word, kept, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken.start as usize..taken.end as usize),
                Err(now) => word = now,
            }
        }
    }

    /// The first grain.
    fn take_first(&self) -> Option<usize> {
        self.take(|start, end| (start..start + 1, start + 1..end)).map(|range| range.start)
    }

    /// The second half of the grains, the larger one.
    fn take_half(&self) -> Option<Range<usize>> {
        self.take(|start, end| (start + (end - start) / 2..end, start..start + (end - start) / 2))
    }
}

/// The items that one thread of a [region](super::Pool::share) claims.
pub struct Claims<'a> {
    pub(super) seats: &'a [Alone<Seat>],
    pub(super) own: usize,
    pub(super) items: usize,
    pub(super) grain: usize,
}

impl Claims<'_> {
    /// The thread, below [`Pool::threads`](super::Pool::threads); no two threads of a region have the same.
    pub fn thread(&self) -> usize {
        self.own
    }

    /// The next items to work on, at most a grain; `None` when nothing is left anywhere.
    #[allow(clippy::should_implement_trait)] // an iterator would invite collecting claims before working on them
    pub fn next(&mut self) -> Option<Range<usize>> {
        let grain = self.seats[self.own].0.share.take_first().or_else(|| self.steal())?;
        Some(grain * self.grain..self.items.min((grain + 1) * self.grain))
    }

    /// Half of what some other thread has left becomes ours.
    fn steal(&self) -> Option<usize> {
        let threads = self.seats.len();
        let mut others = (1..threads).map(|i| &self.seats[(self.own + i) % threads].0.share);
        let stolen = others.find_map(Share::take_half)?;
        self.seats[self.own].0.share.set(stolen.start + 1, stolen.end);
        Some(stolen.start)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn owners_take_from_the_front_and_thieves_half_from_the_back() {
        let share = Share::default();
        assert_eq!((share.take_first(), share.take_half()), (None, None));
        share.set(3, 10);
        assert_eq!(share.take_first(), Some(3));
        assert_eq!(share.take_half(), Some(7..10));
        assert_eq!(share.take_half(), Some(5..7));
        assert_eq!(share.take_half(), Some(4..5));
        assert_eq!((share.take_first(), share.take_half()), (None, None));
        share.set(Share::MAX - 1, Share::MAX);
        assert_eq!(share.take_first(), Some(Share::MAX - 1));
        assert_eq!(share.take_first(), None);
    }

    #[test]
    fn a_thread_takes_what_an_absent_one_has_left() {
        let seats = [0, 1, 2].map(|_| Alone(Seat::default()));
        for (index, seat) in seats.iter().enumerate() {
            seat.0.share.set(4 * index, 4 * (index + 1));
        }
        let mut claims = Claims { seats: &seats, own: 1, items: 23, grain: 2 };
        let mut seen = Vec::new();
        while let Some(range) = claims.next() {
            assert!(range.len() == 2 || range == (22..23));
            seen.extend(range);
        }
        assert_eq!(seen[..8], [8, 9, 10, 11, 12, 13, 14, 15], "the own share first");
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..23));
    }
}
