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

pub(crate) mod claims;
mod fork;
#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
pub mod hosted;
#[cfg(all(test, loom))]
mod model;
mod region;
mod sync;
#[cfg(all(test, not(loom), not(target_family = "wasm")))] // which has no threads
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use claims::{Alone, Claims, Seat, Share};
use region::{Job, Shared, Work};
use sync::{Arc, Builder, JoinHandle, Ordering};

/// A fixed number of threads that work on the same items together.
///
/// A region entered while another one of the same pool is running (from inside a worker, or from a second thread) is
/// run by the thread that enters it alone: same result, no deadlock.
///
/// A process may be forked while no region runs. The child has none of the threads; it may drop the pool, and gets threads
/// of its own when it uses it.
///
/// ```
/// let pool = sherry_kernels::Pool::new(2);
/// let mut squares = [0; 100];
/// pool.for_chunks(&mut squares, 10, |chunk, squares| {
///     squares.iter_mut().enumerate().for_each(|(i, square)| *square = (10 * chunk + i).pow(2));
/// });
/// assert_eq!(squares[12], 144);
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Forks behind the process that the workers are threads of.
    forks: usize,
    /// The pool of a child, once it has used this one.
    heir: OnceLock<Box<Pool>>,
}

impl Pool {
    /// The largest number of workers: as many as Linux can count processors, so that only a typing error is above it.
    pub const MAX_THREADS: usize = 8192;

    /// A pool of `threads` workers, the calling thread included; 0 is 1. Fewer when the system refuses to start more
    /// (WebAssembly: none but the caller), which [`threads`](Self::threads) tells. In WebAssembly with shared memory the workers
    /// are for the host to start; until they come, the caller works alone.
    ///
    /// # Panics
    /// When `threads` is above [`MAX_THREADS`](Self::MAX_THREADS).
    pub fn new(threads: usize) -> Self {
        assert!(threads <= Self::MAX_THREADS, "{threads} threads, at most {}", Self::MAX_THREADS);
        let threads = threads.max(1);
        if threads > 1 {
            fork::watch();
        }
        let forks = fork::forks();
        let shared = Arc::new(Shared::new(threads));
        let mut workers = Vec::with_capacity(threads - 1);
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let builder = Builder::new().name(format!("kernel-{index}"));
            match builder.spawn(move || shared.live(index)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        Self { shared, workers, forks, heir: OnceLock::new() }
    }

    /// This pool, or where its threads were left behind by a fork one whose threads this process has.
    fn here(&self) -> &Self {
        if self.workers.is_empty() || fork::forks() == self.forks {
            return self;
        }
        self.heir.get_or_init(|| Box::new(Self::new(self.threads()))).here()
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
        let Self { shared, workers, .. } = self.here();
        let grains = items.div_ceil(grain);
        assert!(grains <= Share::MAX, "more items than can be counted; use larger grains");
        if workers.is_empty() || grains <= 1 || shared.busy.0.swap(true, Ordering::Acquire) {
            let alone = [Alone(Seat::default())];
            alone[0].0.share.set(0, grains);
            work(&mut Claims { seats: &alone, own: 0, items, grain });
            return;
        }
        // SAFETY: `busy` was free and is now ours, so no region is open. The lifetime of `work` is extended only until
        // `close` below has seen every worker outside; nothing between the two calls can unwind.
        let region = unsafe {
            let work = std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work);
            shared.open(Some(Job { work, items, grain }), workers)
        };
        let mine = catch_unwind(AssertUnwindSafe(|| work(&mut shared.claims(0, items, grain))));
        shared.close(region);
        let theirs = shared.take_panic();
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
        if fork::forks() != self.forks {
            // Threads of the parent: nobody is there to end, and joining or detaching them would fail.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        // SAFETY: `share` borrows the pool for as long as its region is open, and this borrow is unique: no region is open, and
        // the whole pool is ours. There is no closure. This region never closes, so that every worker enters it, and ends.
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

// SAFETY: the pointer itself is plain data, and giving it out is safe. To follow it is not, and every place that does says why
// no other thread uses the same part; values that may go to another thread may be written by it.
unsafe impl<T: Send> Sync for SharedPtr<T> {}
// SAFETY: as for Sync: a copy in another thread is no different from a shared reference to the pointer.
unsafe impl<T: Send> Send for SharedPtr<T> {}
