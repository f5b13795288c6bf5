//! Plain values between Python and the library, by way of JSON: what may be in them is what JSON has.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A Python value made of mappings, lists, strings, numbers, truths and None. `name` is for messages.
pub fn from_python<T: DeserializeOwned>(value: &Bound<'_, PyAny>, name: &str) -> PyResult<T> {
    let py = value.py();
    let options = PyDict::new(py);
    options.set_item("allow_nan", false)?;
    let text = py.import("json")?.call_method("dumps", (value,), Some(&options)).map_err(|error| {
        let message = format!("{name}: {}", error.value(py));
        match error.is_instance_of::<PyTypeError>(py) {
            true => PyTypeError::new_err(message),
            false => PyValueError::new_err(message),
        }
    })?;
    let text: String = text.extract()?;
    serde_json::from_str(&text).map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

/// The same value in Python.
pub fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (text,))
}
