//! Arrays of numpy as plain memory.

use numpy::{PyArrayDyn, PyArrayMethods as _, PyUntypedArrayMethods as _};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An array as f32 in C order.
pub struct Floats {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Reads an array of floating-point numbers of any width and memory order, or what numpy makes one of. It is copied:
/// another thread may write to it while this one works detached. `what` is for messages.
pub fn float32(array: &Bound<'_, PyAny>, what: &str) -> PyResult<Floats> {
    let py = array.py();
    let numpy = py.import("numpy")?;
    let array = numpy.call_method1("asarray", (array,))?;
    let dtype = array.getattr("dtype")?;
    let (kind, name): (String, String) = (dtype.getattr("kind")?.extract()?, dtype.getattr("name")?.extract()?);
    if kind != "f" && name != "bfloat16" {
        return Err(PyTypeError::new_err(format!("{what}: expected floating-point numbers, found {name}")));
    }
    // Rows one after the other: a transposed array has the same memory as the original.
    let array = numpy.call_method1("require", (array, "float32", ["C", "A"]))?;
    let array = array.cast_into::<PyArrayDyn<f32>>()?;
    let shape = array.shape().to_vec();
    let values = array.to_vec().map_err(|error| PyValueError::new_err(format!("{what}: {error}")))?;
    Ok(Floats { shape, values })
}

/// An array that must be of the first type and this shape, in C order as the second type.
pub fn raw<'py>(
    array: &Bound<'py, PyAny>,
    name: &str,
    (dtype, bits): (&str, &str),
    expected: [usize; 2],
) -> PyResult<Bound<'py, PyAny>> {
    let numpy = array.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (array,))?;
    let found: String = array.getattr("dtype")?.getattr("name")?.extract()?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    if found != dtype || shape != expected {
        return Err(PyValueError::new_err(format!(
            "{name} is {found} of shape {shape:?}; expected {dtype} of shape {expected:?}"
        )));
    }
    numpy.call_method1("require", (array, dtype, ["C", "A"]))?.call_method1("view", (bits,))
}
