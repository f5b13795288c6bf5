//! What went wrong, for the caller.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sherry::Error;

/// `sherry_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    Ok = 0,
    Invalid = 1,
    Io = 2,
    Model = 3,
    Memory = 4,
    Context = 5,
    Panic = 6,
    Space = 7,
}

/// A status other than `Ok`, with words for people.
#[derive(Debug)]
pub struct Failure {
    pub status: Status,
    pub message: String,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: Status::Invalid, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } => Status::Io,
            Error::Malformed { .. } | Error::Unsupported { .. } | Error::Matrix(_) | Error::Tokenizer(_) => {
                Status::Model
            }
            Error::OutOfMemory { .. } | Error::KvFull { .. } => Status::Memory,
            Error::ContextFull { .. } => Status::Context,
            _ => Status::Invalid,
        };
        Self { status, message: error.to_string() }
    }
}

pub type Outcome<T> = Result<T, Failure>;

thread_local! {
    /// The message of the last failure, with a zero behind it.
    static LAST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn remember(message: &str) {
    LAST.with_borrow_mut(|last| {
        last.clear();
        // A zero would end the message for those who do not ask for its length.
        last.extend(message.bytes().map(|byte| if byte == 0 { b' ' } else { byte }));
        last.push(0);
    });
}

/// Runs `work` and gives what it comes to, or the status of its failure, which is remembered.
pub fn attempt<T>(work: impl FnOnce() -> Outcome<T>) -> Result<T, Status> {
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let words = payload.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no words");
            Failure { status: Status::Panic, message: format!("a fault of the program: {words}") }
        }
    };
    remember(&failure.message);
    Err(failure.status)
}

/// [`attempt`] for functions that return a status.
pub fn guard(work: impl FnOnce() -> Outcome<()>) -> Status {
    attempt(work).err().unwrap_or(Status::Ok)
}

/// [`attempt`] for functions that return a number, or a status with a minus before it.
pub fn number(work: impl FnOnce() -> Outcome<i32>) -> i32 {
    attempt(work).unwrap_or_else(|status| -(status as i32))
}

/// The message of this thread's last failure, empty if there was none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_last_error(len: *mut usize) -> *const std::ffi::c_char {
    LAST.with_borrow(|last| {
        let (start, bytes) = if last.is_empty() { (c"".as_ptr(), 0) } else { (last.as_ptr().cast(), last.len() - 1) };
        // SAFETY: the caller gives a pointer to a number, or null.
        if let Some(len) = unsafe { len.as_mut() } {
            *len = bytes;
        }
        start
    })
}

/// Major, minor and patch version as 0x00MMmmpp.
#[unsafe(no_mangle)]
pub extern "C" fn sherry_version() -> u32 {
    let part = |text: &str| text.parse::<u32>().unwrap_or(0);
    part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}
