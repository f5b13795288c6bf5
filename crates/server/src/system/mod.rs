//! What systems do differently: signals, sockets in the file system, the service manager.

#[cfg(not(unix))]
mod other;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub use other::{Signals, SocketListener, notify};
#[cfg(unix)]
pub use unix::{Signals, SocketListener, notify};
