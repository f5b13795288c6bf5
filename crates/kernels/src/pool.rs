//! Threads for the forward pass.

/// A fixed number of threads that run the same closure together.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` workers, the calling thread included; at least one.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }

    /// Workers, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work(index)` once per worker, `index` in `0..threads`, and returns when all are done.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for index in 1..self.threads {
                scope.spawn(move || work(index));
            }
            work(0);
        });
    }

    /// Splits `out` into chunks of `chunk_len` values and runs `work(chunk index, chunk)` for each, spread over the
    /// workers by a fixed partition (worker `w` of `n` gets one contiguous run of chunks).
    pub fn for_chunks<T: Send>(&self, out: &mut [T], chunk_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = out.len().div_ceil(chunk_len);
        let per_worker = chunks.div_ceil(self.threads);
        if self.threads == 1 || chunks <= 1 {
            for (index, chunk) in out.chunks_mut(chunk_len).enumerate() {
                work(index, chunk);
            }
            return;
        }
        let work = &work;
        std::thread::scope(|scope| {
            for (worker, part) in out.chunks_mut(chunk_len * per_worker).enumerate() {
                scope.spawn(move || {
                    for (index, chunk) in part.chunks_mut(chunk_len).enumerate() {
                        work(worker * per_worker + index, chunk);
                    }
                });
            }
        });
    }
}
