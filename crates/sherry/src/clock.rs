//! The only room of the library that asks for the time. A browser has no clock that Rust could ask: there, nothing takes any
//! time, and no date is known.

use std::time::Duration;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
use std::time::Instant;
use std::time::SystemTime;

/// Measures how long something takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    start: Instant,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self {
            #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
            start: Instant::now(),
        }
    }

    /// The time since then.
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Nothing.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    pub fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// The time since `moment`; `None` when that lies ahead, or there is no clock.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub(crate) fn since(moment: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(moment).ok()
}

/// Nothing.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(crate) fn since(_: SystemTime) -> Option<Duration> {
    None
}
