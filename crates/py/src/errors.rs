//! Errors of the library as exceptions.

use std::any::Any;
use std::io::ErrorKind;

use pyo3::exceptions::{
    PyException, PyFileExistsError, PyFileNotFoundError, PyMemoryError, PyOSError, PyPermissionError, PyValueError,
};
use pyo3::prelude::*;
use sherry::Error;

pyo3::create_exception!(
    sherry,
    SherryError,
    PyException,
    "A model, a file or a request that cannot be worked with; the message names file and place."
);

/// What ends work: an error of the library, or an exception of Python's.
pub enum Failure {
    Library(Error),
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Library(error) => exception(&error),
            Failure::Python(error) => error,
        }
    }
}

/// The exception for an error, with its message.
pub fn exception(error: &Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
            ErrorKind::PermissionDenied => PyPermissionError::new_err(message),
            ErrorKind::AlreadyExists => PyFileExistsError::new_err(message),
            _ => PyOSError::new_err(message),
        },
        Error::Invalid(_) => PyValueError::new_err(message),
        Error::OutOfMemory { .. } => PyMemoryError::new_err(message),
        _ => SherryError::new_err(message),
    }
}

/// The exception for a panic: a mistake of ours, which must not take the form that `except Exception` misses.
pub fn of_panic(payload: &(dyn Any + Send)) -> PyErr {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    SherryError::new_err(format!("internal error, please report it: {text}"))
}
