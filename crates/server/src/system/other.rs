//! Windows.

use std::io;
use std::path::Path;

use tokio::net::TcpStream;
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// What ends a server: Ctrl-C, Ctrl-Break, or the window that is closed.
pub struct Signals {
    interrupt: CtrlC,
    terminate: CtrlBreak,
    close: CtrlClose,
}

impl Signals {
    /// Receives them from now on.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: ctrl_c()?, terminate: ctrl_break()?, close: ctrl_close()? })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.close.recv() => {}
        }
    }
}

/// A socket of the file system, which is refused here.
pub enum SocketListener {}

impl SocketListener {
    /// Always an error.
    pub async fn bind(_: &Path) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "sockets of the file system are not served on this system"))
    }

    /// Never called: there is none.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        match *self {}
    }
}

/// There is no service manager to tell.
pub fn notify(_: &str) {}
