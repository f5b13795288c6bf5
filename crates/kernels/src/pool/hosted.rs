//! Threads that the host starts. WebAssembly has no way to start one: a page starts workers on the same memory, and each asks
//! for something to do ([`work`]). Here is what the pool takes of the standard library's threads elsewhere, by the same names.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};

/// What no thread has begun yet, the oldest first.
static WAITING: Mutex<VecDeque<Waiting>> = Mutex::new(VecDeque::new());

struct Waiting {
    work: Box<dyn FnOnce() + Send>,
    life: Arc<Life>,
}

/// What is known of a thread.
#[derive(Default)]
pub(crate) struct Life {
    /// Once it has begun.
    thread: OnceLock<Thread>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Life {
    pub(crate) fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Does what has waited longest, to its end, on the thread that calls; `false` when nothing waits.
pub fn work() -> bool {
    let Some(Waiting { work, life }) = WAITING.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
        return false;
    };
    let _ = life.thread.set(thread::current());
    work();
    *life.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    life.end.notify_all();
    true
}

pub(crate) struct Builder;

impl Builder {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn name(self, _: String) -> Self {
        self
    }

    /// Leaves `work` for a thread that may come.
    pub(crate) fn spawn(self, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let life = Arc::new(Life::default());
        let waiting = Waiting { work: Box::new(work), life: Arc::clone(&life) };
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).push_back(waiting);
        Ok(JoinHandle { life, result: PhantomData })
    }
}

pub(crate) struct JoinHandle<T> {
    life: Arc<Life>,
    result: PhantomData<T>,
}

impl JoinHandle<()> {
    pub(crate) fn thread(&self) -> &Life {
        &self.life
    }

    /// Waits for the end of what has begun; what has not will not.
    pub(crate) fn join(self) -> thread::Result<()> {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = waiting.iter().position(|one| Arc::ptr_eq(&one.life, &self.life)) {
            waiting.remove(at);
            return Ok(());
        }
        drop(waiting);
        let mut ended = self.life.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = self.life.end.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
