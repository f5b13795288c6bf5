//! The protocol of a region: how a caller opens and closes it, and how workers enter, leave and wait.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use super::claims::{Alone, Claims, Seat};
use super::sync::{
    AtomicBool, AtomicU64, CALLER_SPINS, Cell, JoinHandle, Mutex, Ordering, SPINS, Thread, YIELDS, current, park,
    spin_loop, write_before_read, yield_now,
};

pub(super) type Work<'a> = dyn Fn(&mut Claims<'_>) + Sync + 'a;

/// A region as workers see it.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) work: *const Work<'static>,
    pub(super) items: usize,
    pub(super) grain: usize,
}

/// What the caller and the workers share.
pub(super) struct Shared {
    /// The number of the region: odd while it is open, even once it is closed.
    region: Alone<AtomicU64>,
    /// Whether the caller of a region is at work.
    pub(super) busy: Alone<AtomicBool>,
    /// The current region; `None` asks workers to end.
    job: Cell<Option<Job>>,
    /// One per thread, the caller's first.
    pub(super) seats: Vec<Alone<Seat>>,
    /// The caller, when it parks waiting for the workers.
    caller: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    /// What the first panicking worker threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only member that is not Sync. It is written by `open` only, whose caller owns `busy`, while no region
// is open and no worker inside one, and read by workers inside a region only (see `live`): the model in `model.rs` tries
// every order. The closure pointed to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: all members but the pointer in `job` may go to another thread; that is followed only inside a region, while the
// closure, which is Sync, is alive.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            region: Alone(AtomicU64::new(0)),
            busy: Alone(AtomicBool::new(false)),
            job: Cell::new(None),
            seats: (0..threads).map(|_| Alone(Seat::default())).collect(),
            caller: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// What a worker threw in the last region.
    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Opens a region and wakes the workers that sleep; returns its number.
    ///
    /// # Safety
    /// - The caller owns `busy`, or the whole pool.
    /// - No region is open.
    /// - The closure of `job` lives until `close` has returned.
    pub(super) unsafe fn open(&self, job: Option<Job>, workers: &[JoinHandle<()>]) -> u64 {
        let threads = workers.len() + 1;
        let grains = job.map_or(0, |job| job.items.div_ceil(job.grain));
        for (index, seat) in self.seats[..threads].iter().enumerate() {
            // In 64 bits: there may be 2^32 grains.
            let bound = |index: usize| (grains as u64 * index as u64 / threads as u64) as usize;
            seat.0.share.set(bound(index), bound(index + 1));
        }
        // SAFETY: no region is open (a condition of this function) and `close` of the last one has seen every worker outside, so
        // nobody reads the cell; who owns `busy`, or the pool, is alone in writing it.
        unsafe { self.job.set(job) };
        // Sequentially consistent against `parked`: either we see the worker's flag, or it sees the new region.
        let region = self.region.0.fetch_add(1, Ordering::SeqCst) + 1;
        write_before_read();
        for (worker, seat) in workers.iter().zip(&self.seats[1..]) {
            if seat.0.parked.load(Ordering::SeqCst) {
                seat.0.parked.store(false, Ordering::SeqCst);
                worker.thread().unpark();
            }
        }
        region
    }

    /// Closes `region` to workers that have not entered, and waits for those that have.
    pub(super) fn close(&self, region: u64) {
        // Sequentially consistent against `inside`: either a worker sees that the region is closed, or we see it inside.
        self.region.0.store(region + 1, Ordering::SeqCst);
        write_before_read();
        let inside = || self.seats[1..].iter().any(|seat| seat.0.inside.load(Ordering::SeqCst) == region);
        for _ in 0..CALLER_SPINS {
            if !inside() {
                return;
            }
            spin_loop();
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(current());
        // Sequentially consistent against `inside`: either we see that the last one has left, or it sees us parked.
        self.caller_parked.store(true, Ordering::SeqCst);
        write_before_read();
        while inside() {
            park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    /// The claims of thread `own`.
    pub(super) fn claims(&self, own: usize, items: usize, grain: usize) -> Claims<'_> {
        Claims { seats: &self.seats, own, items, grain }
    }

    /// The life of worker `index`.
    pub(super) fn live(&self, index: usize) {
        let seat = &self.seats[index].0;
        let mut seen = 0;
        loop {
            seen = self.next_region(seen, seat);
            seat.inside.store(seen, Ordering::SeqCst);
            write_before_read();
            // Still open after we have said that we are inside: the caller will wait for us.
            if self.region.0.load(Ordering::SeqCst) == seen {
                // SAFETY: the region was still open when we had said that we are inside, so `close` waits for us, and the
                // cell is written in the next `open` only.
                let Some(job) = (unsafe { self.job.get() }) else { return };
                // SAFETY: `share` keeps the closure alive until `close` has returned, which waits for us.
                let work = unsafe { &*job.work };
                let mut claims = self.claims(index, job.items, job.grain);
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(&mut claims))) {
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
                }
            }
            seat.inside.store(0, Ordering::SeqCst);
            write_before_read();
            if self.caller_parked.load(Ordering::SeqCst)
                && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
            {
                caller.unpark();
            }
        }
    }

    /// Waits for an open region other than `seen`.
    fn next_region(&self, seen: u64, seat: &Seat) -> u64 {
        let opened = |order| Some(self.region.0.load(order)).filter(|region| region % 2 == 1 && *region != seen);
        for round in 0..SPINS + YIELDS {
            if let Some(region) = opened(Ordering::Acquire) {
                return region;
            }
            if round < SPINS {
                spin_loop();
            } else {
                yield_now();
            }
        }
        loop {
            seat.parked.store(true, Ordering::SeqCst);
            write_before_read();
            if let Some(region) = opened(Ordering::SeqCst) {
                seat.parked.store(false, Ordering::SeqCst);
                return region;
            }
            park();
        }
    }
}
