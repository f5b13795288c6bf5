//! What belongs to one process.
//!
//! A child of `os.fork`, which `multiprocessing` uses on Linux before Python 3.14, has a copy of all memory and none of the
//! threads: a lock that another thread held stays locked for ever, and pools have no workers. So nothing of that kind is
//! used in a child. Python forks while it is attached to the interpreter, so a lock that is only held while attached, and
//! not across anything that detaches, is free in the child.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sherry::threads::default_threads;

use crate::errors::SherryError;

/// A value that the process has made for itself.
pub struct PerProcess<T>(Mutex<Option<(u32, Arc<T>)>>);

impl<T> PerProcess<T> {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// `value`, of this process.
    pub fn with(value: T) -> Self {
        Self(Mutex::new(Some((std::process::id(), Arc::new(value)))))
    }

    /// The value of this process; `make` makes the first one. It must not detach from the interpreter.
    pub fn get<E>(&self, _: Python<'_>, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((process, value)) = &*slot
            && *process == std::process::id()
        {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(make()?);
        // The parent's is left alone: dropping it may wait for threads or locks that do not exist here.
        std::mem::forget(slot.replace((std::process::id(), Arc::clone(&value))));
        Ok(value)
    }
}

/// Threads for quantizing, converting and evaluating.
pub fn batch_pool(py: Python<'_>) -> PyResult<Arc<ThreadPool>> {
    static POOL: PerProcess<ThreadPool> = PerProcess::new();
    POOL.get(py, || {
        let pool = ThreadPoolBuilder::new().num_threads(default_threads().threads).build();
        pool.map_err(|error| SherryError::new_err(format!("cannot start threads: {error}")))
    })
}

/// Refuses what another process has made.
pub fn check_process(owner: u32, what: &str) -> PyResult<()> {
    match owner == std::process::id() {
        true => Ok(()),
        false => Err(SherryError::new_err(format!(
            "this {what} belongs to the process that made it; make a new one after a fork"
        ))),
    }
}
