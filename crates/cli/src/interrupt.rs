//! Ctrl-C: the first one asks running work to stop cleanly, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Exit code of an interrupted command.
pub const EXIT_CODE: u8 = 130;

/// Installs the handler. Without one (an exotic platform) Ctrl-C ends the process as usual.
pub fn install() {
    let _ = ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_CODE));
        }
    });
}

/// Whether Ctrl-C was pressed since the last [`clear`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets an earlier Ctrl-C (a chat goes on after an answer was cut short).
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}
