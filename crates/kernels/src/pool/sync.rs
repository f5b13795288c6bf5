//! What the pool is made of: the standard library, or under `--cfg loom` the model checker that takes its place and tries
//! all interleavings (see [`model`](super::model)).

#[cfg(not(all(test, loom)))]
mod real {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use std::sync::{Arc, Mutex};
    pub(crate) use std::thread::{Thread, current, park, yield_now};

    #[cfg(all(target_family = "wasm", target_feature = "atomics"))]
    pub(crate) use super::super::hosted::{Builder, JoinHandle};
    #[cfg(not(all(target_family = "wasm", target_feature = "atomics")))]
    pub(crate) use std::thread::{Builder, JoinHandle};

    use std::cell::UnsafeCell;

    /// Rounds of busy waiting before a waiting worker starts to yield its core (some microseconds).
    pub(crate) const SPINS: usize = 400;
    /// Rounds of yielding before a waiting worker parks (about a millisecond on an idle core).
    pub(crate) const YIELDS: usize = 2500;
    /// Rounds of busy waiting before the caller gives its core away: longer than any claim takes, so that whoever is not
    /// done by then has lost its own core.
    pub(crate) const CALLER_SPINS: usize = 4000;

    /// Between a sequentially consistent write and a sequentially consistent read: nothing, by the language and the processors.
    /// But qemu lets `ldar` overtake `stlr` where it runs AArch64 on x86-64, so that both sides of a wait miss each other; it
    /// keeps to `dmb`, which costs next to nothing here.
    #[inline(always)]
    pub(crate) fn write_before_read() {
        if cfg!(target_arch = "aarch64") {
            std::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// A value that one thread writes while no other reads.
    pub(crate) struct Cell<T>(UnsafeCell<T>);

    impl<T: Copy> Cell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// # Safety
        /// - Nobody writes meanwhile.
        pub(crate) unsafe fn get(&self) -> T {
            // SAFETY: nobody writes meanwhile (this function's condition), and the value is copied out, so that no reference is
            // left when somebody does.
            unsafe { *self.0.get() }
        }

        /// # Safety
        /// - Nobody reads or writes meanwhile.
        pub(crate) unsafe fn set(&self, value: T) {
            // SAFETY: nobody reads or writes meanwhile (this function's condition), and `get` gives out no reference to the inside.
            unsafe { *self.0.get() = value };
        }
    }
}

#[cfg(all(test, loom))]
mod modelled {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex};
    pub(crate) use loom::thread::{Builder, JoinHandle, Thread, current, park, yield_now};

    use loom::cell::UnsafeCell;

    // Waiting is only for speed: without it every way to the parking is tried, and there are fewer of them.
    pub(crate) const SPINS: usize = 0;
    pub(crate) const YIELDS: usize = 0;
    pub(crate) const CALLER_SPINS: usize = 0;

    /// The checker takes sequentially consistent operations for weaker ones than they are. A fence between the write and the
    /// read gives the order that the language promises for them.
    pub(crate) fn write_before_read() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    /// As the real one; a read beside a write ends the model.
    pub(crate) struct Cell<T>(UnsafeCell<T>);

    impl<T: Copy> Cell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// # Safety
        /// - Nobody writes meanwhile.
        pub(crate) unsafe fn get(&self) -> T {
            // SAFETY: loom's cell ends the model when a read comes beside a write.
            self.0.with(|value| unsafe { *value })
        }

        /// # Safety
        /// - Nobody reads or writes meanwhile.
        pub(crate) unsafe fn set(&self, value: T) {
            // SAFETY: loom's cell ends the model when a read comes beside a write.
            self.0.with_mut(|to| unsafe { *to = value });
        }
    }
}

#[cfg(all(test, loom))]
pub(super) use modelled::*;
#[cfg(not(all(test, loom)))]
pub(super) use real::*;
