//! Ctrl-C: the first one asks running work to stop cleanly, the second ends the process at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static AT_ONCE: AtomicBool = AtomicBool::new(false);
static BEFORE_EXIT: Mutex<Option<fn()>> = Mutex::new(None);

/// Exit code of an interrupted command.
pub const EXIT_CODE: u8 = 130;

/// Installs the handler. Without one (an exotic platform) Ctrl-C ends the process as usual.
pub fn install() {
    let _ = ctrlc::set_handler(request);
}

/// What Ctrl-C does.
pub fn request() {
    if REQUESTED.swap(true, Ordering::Relaxed) || AT_ONCE.load(Ordering::Relaxed) {
        if let Ok(Some(clean_up)) = BEFORE_EXIT.lock().as_deref() {
            clean_up();
        }
        std::process::exit(i32::from(EXIT_CODE));
    }
}

/// Whether a first signal ends the process, too: nothing is at work that would notice it.
pub fn end_at_once(yes: bool) {
    AT_ONCE.store(yes, Ordering::Relaxed);
}

/// `clean_up` runs before a signal ends the process.
pub fn before_exit(clean_up: fn()) {
    *BEFORE_EXIT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(clean_up);
}

/// Whether Ctrl-C was pressed since the last [`clear`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets an earlier Ctrl-C (a chat goes on after an answer was cut short).
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}
