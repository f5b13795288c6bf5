//! Whether this process has been forked: the child has the memory of its parent, but none of its threads.

/// How many forks lie behind this process since the first call of [`watch`].
#[cfg(all(unix, not(miri), not(all(test, loom))))]
mod system {
    use std::ffi::c_int;
    use std::sync::Once;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static FORKS: AtomicUsize = AtomicUsize::new(0);

    /// Runs in the child, before anything else.
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts forks from now on. (Asking for the number of the process instead would be a system call per region.)
    pub(crate) fn watch() {
        type Handler = extern "C" fn();
        unsafe extern "C" {
            fn pthread_atfork(prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>) -> c_int;
        }
        static ONCE: Once = Once::new();
        // SAFETY: the handler only adds to an atomic number, which a child may do between fork and exec, and it lives as long
        // as the program. Without memory for the entry forks go unnoticed, and a child may not use the pool.
        ONCE.call_once(|| unsafe {
            pthread_atfork(None, None, Some(count));
        });
    }

    pub(crate) fn forks() -> usize {
        FORKS.load(Ordering::Relaxed)
    }
}

/// Other systems do not fork.
#[cfg(not(all(unix, not(miri), not(all(test, loom)))))]
mod system {
    pub(crate) fn watch() {}

    pub(crate) fn forks() -> usize {
        0
    }
}

pub(super) use system::{forks, watch};
