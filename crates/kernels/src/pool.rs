//! Threads for the forward pass: persistent workers that wait by spinning, then yielding, then parking.
//!
//! One decoded token enters 100 to 200 parallel regions of a few microseconds each, so entering and leaving a region
//! must cost well under a microsecond; waking a parked thread costs fifty. A worker that has nothing to do therefore
//! spins for some microseconds, then offers its core to others with `yield_now` for about a millisecond (enough to
//! outlast sampling between two tokens; harmless on a busy machine), and only then parks.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Rounds of busy waiting before a waiting thread starts to yield its core (a few microseconds).
const SPINS: usize = 400;
/// Rounds of yielding before a waiting thread parks (about a millisecond on an idle core).
const YIELDS: usize = 2500;

/// A fixed number of threads that run the same closure together.
///
/// A region entered while another one of the same pool is running (from inside a worker, or from a second thread) is
/// run serially by the thread that enters it: same result, no deadlock.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// A value alone on its cache lines (two, because x86 prefetches lines in pairs).
#[repr(align(128))]
struct Alone<T>(T);

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Number of the region; a change tells workers to start.
    epoch: Alone<AtomicUsize>,
    /// Workers (without the caller) that have finished the current region.
    done: Alone<AtomicUsize>,
    /// Whether a region is running.
    busy: Alone<AtomicBool>,
    /// The closure of the current region; `None` asks workers to end.
    job: UnsafeCell<Option<Job>>,
    /// Per worker: parked, or about to.
    parked: Vec<Alone<AtomicBool>>,
    /// The caller, when it parks waiting for the workers.
    caller: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    /// What the first panicking worker threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only member that is not Sync. It is written only by the thread that owns `busy`, while every
// worker waits for a new epoch (all have counted themselves in `done`), and read by workers only after they have
// observed that epoch; the epoch's release/acquire pair orders the accesses. The pointed-to closure is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is dereferenced only between `begin` and `wait`, while the closure is alive.
unsafe impl Send for Shared {}

impl Pool {
    /// The largest number of workers.
    pub const MAX_THREADS: usize = 256;

    /// A pool of `threads` workers, the calling thread included; at least one, at most [`MAX_THREADS`](Self::MAX_THREADS).
    /// Fewer when the system refuses to start more (WebAssembly: none but the caller).
    pub fn new(threads: usize) -> Self {
        let helpers = threads.clamp(1, Self::MAX_THREADS) - 1;
        let shared = Arc::new(Shared {
            epoch: Alone(AtomicUsize::new(0)),
            done: Alone(AtomicUsize::new(0)),
            busy: Alone(AtomicBool::new(false)),
            job: UnsafeCell::new(None),
            parked: (0..helpers).map(|_| Alone(AtomicBool::new(false))).collect(),
            caller: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::with_capacity(helpers);
        for index in 0..helpers {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("kernel-{}", index + 1));
            match builder.spawn(move || shared.work(index)) {
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

    /// Runs `work(index)` once for every `index` in `0..threads`, each on its own thread, and returns when all are done.
    /// `work` must not wait for another index to make progress: a nested region runs them one after the other.
    ///
    /// # Panics
    /// When `work` panics on any worker, after all of them have ended; the pool stays usable.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if self.workers.is_empty() || shared.busy.0.swap(true, Ordering::Acquire) {
            for index in 0..self.threads() {
                work(index);
            }
            return;
        }
        // SAFETY: `busy` was free and is now ours, so no region is running. The lifetime of `work` is extended only
        // until `wait` below has seen every worker finish; nothing between the two calls can unwind.
        unsafe {
            let job: Job = std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(work);
            shared.begin(Some(job), &self.workers);
        }
        let mine = catch_unwind(AssertUnwindSafe(|| work(0)));
        shared.wait(self.workers.len());
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.busy.0.store(false, Ordering::Release);
        if let Err(payload) = mine {
            resume_unwind(payload);
        }
        if let Some(payload) = theirs {
            resume_unwind(payload);
        }
    }

    /// Splits `out` into chunks of `chunk_len` values (the last may be short) and runs `work(chunk index, chunk)` for
    /// each, spread over the workers by a fixed partition (every worker gets one contiguous run of chunks).
    ///
    /// # Panics
    /// When `chunk_len` is 0, or when `work` panics.
    pub fn for_chunks<T: Send>(&self, out: &mut [T], chunk_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(chunk_len > 0);
        let len = out.len();
        let chunks = len.div_ceil(chunk_len);
        let workers = self.threads();
        if workers == 1 || chunks <= 1 {
            for (index, chunk) in out.chunks_mut(chunk_len).enumerate() {
                work(index, chunk);
            }
            return;
        }
        let base = SharedPtr(out.as_mut_ptr());
        self.run(&|worker| {
            for index in chunks * worker / workers..chunks * (worker + 1) / workers {
                let start = index * chunk_len;
                let chunk_len = chunk_len.min(len - start);
                // SAFETY: start + chunk_len <= len, the chunks of different indexes do not overlap, and every index
                // belongs to exactly one worker; `out` is borrowed mutably for the whole call.
                let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), chunk_len) };
                work(index, chunk);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no region is running. Without a job the workers end.
        unsafe { self.shared.begin(None, &self.workers) };
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
    /// Publishes a job and wakes the workers that sleep.
    ///
    /// # Safety
    /// No region is running, and the closure outlives the region.
    unsafe fn begin(&self, job: Option<Job>, workers: &[JoinHandle<()>]) {
        self.done.0.store(0, Ordering::Relaxed);
        // SAFETY: no region is running, so no worker reads the cell; see the `Sync` implementation.
        unsafe { *self.job.get() = job };
        // Sequentially consistent against `parked`: either we see the worker's flag, or it sees the new epoch.
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (worker, parked) in workers.iter().zip(&self.parked) {
            if parked.0.load(Ordering::SeqCst) {
                parked.0.store(false, Ordering::SeqCst);
                worker.thread().unpark();
            }
        }
    }

    /// Waits until `workers` have finished.
    fn wait(&self, workers: usize) {
        for round in 0..SPINS + YIELDS {
            if self.done.0.load(Ordering::Acquire) == workers {
                return;
            }
            pause(round);
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.done.0.load(Ordering::SeqCst) != workers {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    /// The life of worker `index` (the caller not counted).
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen, index);
            // SAFETY: the epoch has moved: the caller has written the job and will not touch it until we have counted
            // ourselves in `done`.
            let Some(job) = (unsafe { *self.job.get() }) else { return };
            // SAFETY: the caller keeps the closure alive until every worker has counted itself in `done`.
            let job = unsafe { &*job };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(index + 1))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.done.0.fetch_add(1, Ordering::SeqCst);
            if self.caller_parked.load(Ordering::SeqCst)
                && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
            {
                caller.unpark();
            }
        }
    }

    /// Waits for an epoch other than `seen`.
    fn next_epoch(&self, seen: usize, index: usize) -> usize {
        for round in 0..SPINS + YIELDS {
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            pause(round);
        }
        let parked = &self.parked[index].0;
        loop {
            parked.store(true, Ordering::SeqCst);
            let epoch = self.epoch.0.load(Ordering::SeqCst);
            if epoch != seen {
                parked.store(false, Ordering::SeqCst);
                return epoch;
            }
            thread::park();
        }
    }
}

/// One round of waiting: first politely busy, then giving the core to whoever needs it.
fn pause(round: usize) {
    if round < SPINS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
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

#[cfg(all(test, not(target_family = "wasm")))] // which has no threads
mod tests {
    use super::*;
    use std::time::Duration;

    fn counts(pool: &Pool) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..pool.threads()).map(|_| AtomicUsize::new(0)).collect();
        pool.run(&|index| {
            counts[index].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_index_runs_once() {
        for (asked, threads) in [(0, 1), (1, 1), (2, 2), (3, 3), (8, 8), (64, 64)] {
            let pool = Pool::new(asked);
            assert_eq!(pool.threads(), threads);
            for _ in 0..50 {
                assert_eq!(counts(&pool), vec![1; threads]);
            }
        }
    }

    #[test]
    fn workers_wake_up_again_after_parking() {
        let pool = Pool::new(3);
        for _ in 0..4 {
            assert_eq!(counts(&pool), [1; 3]);
            // However busy the machine, idle workers must park at last.
            while !pool.shared.parked.iter().all(|parked| parked.0.load(Ordering::SeqCst)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn caller_sleeps_through_a_slow_worker() {
        let pool = Pool::new(2);
        for slow in [0, 1] {
            pool.run(&|index| {
                if index == slow {
                    thread::sleep(Duration::from_millis(30));
                }
            });
        }
        assert_eq!(counts(&pool), [1; 2]);
    }

    #[test]
    fn panics_reach_the_caller_and_the_pool_survives() {
        let pool = Pool::new(4);
        for bad in 0..4 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|index| assert_ne!(index, bad, "worker {bad} fails"));
            }));
            let payload = result.expect_err("the panic must reach the caller");
            assert!(payload.downcast_ref::<String>().is_some_and(|text| text.contains("fails")));
            assert_eq!(counts(&pool), [1; 4]);
        }
        assert!(catch_unwind(AssertUnwindSafe(|| pool.run(&|_| panic!("all fail")))).is_err());
        assert_eq!(counts(&pool), [1; 4]);
    }

    #[test]
    fn nested_and_concurrent_regions_run_serially() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        pool.run(&|_| {
            pool.run(&|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 9);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| assert_eq!(counts(&pool), [1; 3])));
            }
        });
    }

    #[test]
    fn chunks_are_disjoint_and_complete() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for (len, chunk) in [(0, 1), (1, 1), (1, 5), (10, 3), (64, 8), (65, 8), (7, 100)] {
                let mut out = vec![usize::MAX; len];
                pool.for_chunks(&mut out, chunk, |index, part| {
                    assert!(part.len() == chunk || index == len / chunk);
                    for (i, value) in part.iter_mut().enumerate() {
                        assert_eq!(*value, usize::MAX);
                        *value = index * chunk + i;
                    }
                });
                assert!(out.iter().copied().eq(0..len), "{threads} threads, {len} by {chunk}");
            }
        }
    }

    #[test]
    fn dropping_joins_workers() {
        let pool = Pool::new(4);
        let shared = Arc::clone(&pool.shared);
        assert_eq!(counts(&pool), [1; 4]);
        drop(pool);
        assert_eq!(Arc::strong_count(&shared), 1);
        drop(Pool::new(2)); // never used
    }
}
