//! Tensors in blocks of a GGUF type.

use numpy::{IntoPyArray as _, PyArray2, PyArrayMethods as _};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::prelude::*;
use sherry_kernels::format::TensorType;
use sherry_kernels::format::ggml::dequantize;

use crate::arrays::raw;
use crate::parts::one_of;
use crate::process::batch_pool;
use crate::work::detached;

/// Values of a tensor in blocks of a GGUF type ("q8_0", "q6_k" ...): `data` uint8 [rows, bytes per row], the result float32
/// [rows, columns].
#[pyfunction]
#[pyo3(signature = (data, r#type))]
pub fn dequantize_blocks<'py>(py: Python<'py>, data: &Bound<'py, PyAny>, r#type: &str) -> PyResult<Bound<'py, PyAny>> {
    let types: Vec<(String, TensorType)> = TensorType::ALL
        .into_iter()
        .filter(|ty| ty.block_len() > 1 && ty.is_dequantizable())
        .map(|ty| (ty.name().to_ascii_lowercase(), ty))
        .collect();
    let types: Vec<(&str, TensorType)> = types.iter().map(|(name, ty)| (name.as_str(), *ty)).collect();
    let ty = one_of("type", r#type, &types)?;
    let shape: Vec<usize> = py.import("numpy")?.call_method1("shape", (data,))?.extract()?;
    let [rows, row_bytes] = shape[..] else {
        return Err(PyValueError::new_err(format!("data has shape {shape:?}; expected rows x bytes per row")));
    };
    if row_bytes == 0 || !row_bytes.is_multiple_of(ty.block_bytes()) {
        let whole = ty.block_bytes();
        return Err(PyValueError::new_err(format!(
            "data has rows of {row_bytes} bytes; {} has blocks of {whole}",
            r#type
        )));
    }
    let cols = row_bytes / ty.block_bytes() * ty.block_len();
    let data = raw(data, "data", ("uint8", "uint8"), [rows, row_bytes])?.cast_into::<PyArray2<u8>>()?.to_vec()?;
    let pool = batch_pool(py)?;
    let values = detached(py, || {
        let mut values = vec![0f32; rows * cols];
        pool.install(|| {
            let rows = values.par_chunks_mut(cols).zip(data.par_chunks(row_bytes));
            rows.for_each(|(out, row)| dequantize(ty, row, out));
        });
        Ok(values)
    })?;
    Ok(values.into_pyarray(py).reshape([rows, cols])?.into_any())
}
