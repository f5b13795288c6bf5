//! What the user sees: tables and JSON on stdout, progress and statistics on stderr.

mod progress;
mod table;

pub use progress::Console;
pub use table::{Align, Table, bytes};
