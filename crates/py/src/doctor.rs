//! What this machine is.

use pyo3::prelude::*;
use sherry_measure::doctor as machine;

use crate::json;
use crate::work::long_job;

/// Processor, instruction sets, threads, memory, and the limits of memory and processor, measured in a second or two; as
/// `sherry doctor --json` says it.
#[pyfunction]
pub fn doctor(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let report = long_job(py, None, |_| Ok(machine::report(&machine::measure()?)))?;
    json::to_python(py, &report)
}
