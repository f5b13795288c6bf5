//! Threads for the forward pass: persistent workers that wait by spinning, then yielding, then parking.
//!
//! One decoded token enters 100 to 200 parallel regions of a few microseconds each, so entering and leaving a region
//! must cost well under a microsecond; waking a parked thread costs fifty. And the system may take a worker's core away
//! for milliseconds at any moment, so nothing may depend on a worker being there:
//!
//! - The items of a region are cut into one share per thread. A thread claims the items of its own share a few at a time,
//!   then takes from what others have left. Who computes an item never matters to the result.
//! - The caller does not wait for a worker that has not begun: when nothing is left to claim, it closes the region, and a
//!   worker that comes later goes away again. It waits for those inside only, each busy with its last claim.
//!
//! A worker that has nothing to do spins for some microseconds, then offers its core to others with `yield_now` for
//! about a millisecond (enough to outlast sampling between two tokens; harmless on a busy machine), and only then parks.

mod claims;
#[cfg(all(test, not(target_family = "wasm")))] // which has no threads
mod tests;

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

pub use claims::Claims;
use claims::{Alone, Seat, Share};

/// Rounds of busy waiting before a waiting worker starts to yield its core (some microseconds).
const SPINS: usize = 400;
/// Rounds of yielding before a waiting worker parks (about a millisecond on an idle core).
const YIELDS: usize = 2500;
/// Rounds of busy waiting before the caller gives its core away: longer than any claim takes, so that whoever is not done
/// by then has lost its own core.
const CALLER_SPINS: usize = 4000;

/// A fixed number of threads that work on the same items together.
///
/// A region entered while another one of the same pool is running (from inside a worker, or from a second thread) is
/// run by the thread that enters it alone: same result, no deadlock.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

type Work<'a> = dyn Fn(&mut Claims<'_>) + Sync + 'a;

/// A region as workers see it.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    items: usize,
    grain: usize,
}

struct Shared {
    /// The number of the region: odd while it is open, even once it is closed.
    region: Alone<AtomicU64>,
    /// Whether the caller of a region is at work.
    busy: Alone<AtomicBool>,
    /// The current region; `None` asks workers to end.
    job: UnsafeCell<Option<Job>>,
    /// One per thread, the caller's first.
    seats: Vec<Alone<Seat>>,
    /// The caller, when it parks waiting for the workers.
    caller: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    /// What the first panicking worker threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only member that is not Sync. It is written only by the thread that owns `busy`, while no region
// is open and no worker inside one, and read only by workers inside an open region (see `enter`). The closure pointed to
// is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is followed only inside a region, while the closure is alive.
unsafe impl Send for Shared {}

impl Pool {
    /// The largest number of workers.
    pub const MAX_THREADS: usize = 256;

    /// A pool of `threads` workers, the calling thread included; at least one, at most [`MAX_THREADS`](Self::MAX_THREADS).
    /// Fewer when the system refuses to start more (WebAssembly: none but the caller).
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, Self::MAX_THREADS);
        let shared = Arc::new(Shared {
            region: Alone(AtomicU64::new(0)),
            busy: Alone(AtomicBool::new(false)),
            job: UnsafeCell::new(None),
            seats: (0..threads).map(|_| Alone(Seat::default())).collect(),
            caller: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::with_capacity(threads - 1);
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("kernel-{index}"));
            match builder.spawn(move || shared.live(index)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        Self { shared, workers }
    }

    /// Workers, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Lets the threads claim `items` items, `grain` at a time, and returns when all have been worked on. `work` runs at
    /// most once on each thread, and claims until nothing is left:
    ///
    /// ```
    /// # let pool = sherry_kernels::Pool::new(2);
    /// let sum = std::sync::atomic::AtomicUsize::new(0);
    /// pool.share(100, 8, &|claims| {
    ///     while let Some(range) = claims.next() {
    ///         sum.fetch_add(range.sum(), std::sync::atomic::Ordering::Relaxed);
    ///     }
    /// });
    /// assert_eq!(sum.into_inner(), 4950);
    /// ```
    ///
    /// It must not wait for another thread to make progress. Up to `grain` items are worked on by the caller alone.
    ///
    /// # Panics
    /// When `grain` is 0; when `work` panics on any thread, after all of them have ended (the pool stays usable).
    pub fn share(&self, items: usize, grain: usize, work: &Work<'_>) {
        let shared = &*self.shared;
        let grains = items.div_ceil(grain);
        assert!(grains <= Share::MAX, "more items than can be counted; use larger grains");
        if self.workers.is_empty() || grains <= 1 || shared.busy.0.swap(true, Ordering::Acquire) {
            let alone = [Alone(Seat::default())];
            alone[0].0.share.set(0, grains);
            work(&mut Claims { seats: &alone, own: 0, items, grain });
            return;
        }
        // SAFETY: `busy` was free and is now ours, so no region is open. The lifetime of `work` is extended only until
        // `close` below has seen every worker outside; nothing between the two calls can unwind.
        let region = unsafe {
            let work = std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work);
            shared.open(Some(Job { work, items, grain }), &self.workers)
        };
        let mine = catch_unwind(AssertUnwindSafe(|| work(&mut shared.claims(0, items, grain))));
        shared.close(region);
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.busy.0.store(false, Ordering::Release);
        if let Err(payload) = mine {
            resume_unwind(payload);
        }
        if let Some(payload) = theirs {
            resume_unwind(payload);
        }
    }

    /// Runs `work(index)` once for every `index` in `0..threads`, and returns when all are done; a thread that comes late
    /// may find its index taken by another one. `work` must not wait for another index to make progress.
    ///
    /// # Panics
    /// When `work` panics, after all threads have ended; the pool stays usable.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        self.share(self.threads(), 1, &|claims| {
            while let Some(range) = claims.next() {
                range.for_each(work);
            }
        });
    }

    /// Splits `out` into chunks of `chunk_len` values (the last may be short) and runs `work(chunk index, chunk)` for
    /// each, spread over the threads.
    ///
    /// # Panics
    /// When `chunk_len` is 0, or when `work` panics.
    pub fn for_chunks<T: Send>(&self, out: &mut [T], chunk_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(chunk_len > 0);
        let len = out.len();
        let base = SharedPtr(out.as_mut_ptr());
        self.share(len.div_ceil(chunk_len), 1, &|claims| {
            while let Some(range) = claims.next() {
                for index in range {
                    let start = index * chunk_len;
                    let chunk_len = chunk_len.min(len - start);
                    // SAFETY: start + chunk_len <= len, the chunks of different indexes do not overlap, and every index
                    // is claimed once; `out` is borrowed mutably for the whole call.
                    let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), chunk_len) };
                    work(index, chunk);
                }
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no region is open. This one never closes, so every worker enters it, and ends.
        unsafe { self.shared.open(None, &self.workers) };
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs, so joining cannot fail; nothing to add if it did.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Shared {
    /// Opens a region and wakes the workers that sleep; returns its number.
    ///
    /// # Safety
    /// The caller owns `busy` (or the pool), no region is open, and the closure lives until `close` has returned.
    unsafe fn open(&self, job: Option<Job>, workers: &[JoinHandle<()>]) -> u64 {
        let threads = workers.len() + 1;
        let grains = job.map_or(0, |job| job.items.div_ceil(job.grain));
        for (index, seat) in self.seats[..threads].iter().enumerate() {
            seat.0.share.set(grains * index / threads, grains * (index + 1) / threads);
        }
        // SAFETY: no region is open and no worker inside one, so nobody reads the cell.
        unsafe { *self.job.get() = job };
        // Sequentially consistent against `parked`: either we see the worker's flag, or it sees the new region.
        let region = self.region.0.fetch_add(1, Ordering::SeqCst) + 1;
        for (worker, seat) in workers.iter().zip(&self.seats[1..]) {
            if seat.0.parked.load(Ordering::SeqCst) {
                seat.0.parked.store(false, Ordering::SeqCst);
                worker.thread().unpark();
            }
        }
        region
    }

    /// Closes `region` to workers that have not entered, and waits for those that have.
    fn close(&self, region: u64) {
        // Sequentially consistent against `inside`: either a worker sees that the region is closed, or we see it inside.
        self.region.0.store(region + 1, Ordering::SeqCst);
        let inside = || self.seats[1..].iter().any(|seat| seat.0.inside.load(Ordering::SeqCst) == region);
        for _ in 0..CALLER_SPINS {
            if !inside() {
                return;
            }
            std::hint::spin_loop();
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while inside() {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    /// The claims of thread `own`.
    fn claims(&self, own: usize, items: usize, grain: usize) -> Claims<'_> {
        Claims { seats: &self.seats, own, items, grain }
    }

    /// The life of worker `index`.
    fn live(&self, index: usize) {
        let seat = &self.seats[index].0;
        let mut seen = 0;
        loop {
            seen = self.next_region(seen, seat);
            seat.inside.store(seen, Ordering::SeqCst);
            // Still open after we have said that we are inside: the caller will wait for us.
            if self.region.0.load(Ordering::SeqCst) == seen {
                // SAFETY: the region is open and we are inside, so the cell does not change before we leave.
                let Some(job) = (unsafe { *self.job.get() }) else { return };
                // SAFETY: the caller keeps the closure alive until nobody is inside.
                let work = unsafe { &*job.work };
                let mut claims = self.claims(index, job.items, job.grain);
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(&mut claims))) {
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
                }
            }
            seat.inside.store(0, Ordering::SeqCst);
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
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        loop {
            seat.parked.store(true, Ordering::SeqCst);
            if let Some(region) = opened(Ordering::SeqCst) {
                seat.parked.store(false, Ordering::SeqCst);
                return region;
            }
            thread::park();
        }
    }
}

/// A pointer that several workers write through, each its own part.
pub(crate) struct SharedPtr<T>(pub *mut T);

impl<T> SharedPtr<T> {
    /// The pointer (a method, so that closures capture the wrapper and not its field).
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedPtr<T> {}

// SAFETY: the pointer itself is plain data; whoever dereferences it promises that the parts do not overlap.
unsafe impl<T: Send> Sync for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedPtr<T> {}
