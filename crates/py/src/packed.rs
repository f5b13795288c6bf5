//! Packed matrices: quantizing arrays, and what can be done with the result.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use numpy::ndarray::aview1;
use numpy::{IntoPyArray as _, PyArray1, PyArray2, PyArrayDyn, PyArrayMethods as _};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rayon::prelude::*;
use sherry::threads::default_threads;
use sherry::{Isa, Precision};
use sherry_convert::quant::{Projection, QuantSpec, TensorReport, quantize_matrix};
use sherry_kernels::format::{PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat};
use sherry_kernels::{Engine, Matrix, Product};

use crate::arrays::{Floats, float32, raw};
use crate::json;
use crate::parts::one_of;
use crate::process::{PerProcess, batch_pool};
use crate::work::detached;

/// The layout that the arguments of `quantize` and `from_arrays` describe.
fn layout_arguments(
    format: &str,
    scale: &str,
    group_size: Option<usize>,
    quad: &str,
) -> PyResult<(TernaryFormat, ScaleGroup, QuadOrder)> {
    let names: Vec<(String, TernaryFormat)> =
        TernaryFormat::ALL.into_iter().map(|format| (format.to_string(), format)).collect();
    let names: Vec<(&str, TernaryFormat)> = names.iter().map(|(name, format)| (name.as_str(), *format)).collect();
    let format = one_of("format", format, &names)?;
    let order = one_of("quad", quad, &[("contiguous", QuadOrder::Contiguous), ("stride16", QuadOrder::Stride16)])?;
    let scale = match (one_of("scale", scale, &[("row", false), ("group", true)])?, group_size) {
        (false, None) => ScaleGroup::Row,
        (false, Some(_)) => return Err(PyValueError::new_err("group_size needs scale='group'")),
        (true, size) => ScaleGroup::Group(size.unwrap_or(if format == TernaryFormat::Ternary167 { 96 } else { 128 })),
    };
    Ok((format, scale, order))
}

/// Quantizes a matrix of weights, out features x in features, floating-point numbers of any kind.
#[pyfunction]
#[pyo3(signature = (
    array, *, format = "sherry-1.25", scale = "row", group_size = None, quad = "contiguous", projection = None,
    importance = None
))]
#[allow(clippy::too_many_arguments)] // they are keyword arguments
pub fn quantize(
    py: Python<'_>,
    array: &Bound<'_, PyAny>,
    format: &str,
    scale: &str,
    group_size: Option<usize>,
    quad: &str,
    projection: Option<&str>,
    importance: Option<&Bound<'_, PyAny>>,
) -> PyResult<PackedMatrix> {
    let (format, scale, order) = layout_arguments(format, scale, group_size, quad)?;
    let projection = match projection {
        None if format == TernaryFormat::Sherry => Projection::SparseAbsMean,
        None if format == TernaryFormat::Binary => Projection::Exact,
        None => Projection::AbsMean,
        Some(name) => {
            let names = [
                ("sparse-absmean", Projection::SparseAbsMean),
                ("absmean", Projection::AbsMean),
                ("absmedian", Projection::AbsMedian),
                ("twn", Projection::Twn),
                ("exact", Projection::Exact),
            ];
            one_of("projection", name, &names)?
        }
    };
    let spec = QuantSpec { format, order, scale, projection };
    let weights = float32(array, "array")?;
    let [_, cols] = weights.shape[..] else {
        let shape = &weights.shape;
        return Err(PyValueError::new_err(format!("array has shape {shape:?}; expected out features x in features")));
    };
    let importance = importance.map(|importance| float32(importance, "importance")).transpose()?;
    let importance = importance.as_ref().map(|importance| importance.values.as_slice());
    let pool = batch_pool(py)?;
    let (rows, report) = detached(py, || {
        let place = (Path::new("quantize"), "array");
        Ok(pool.install(|| quantize_matrix(place, &weights.values, cols, &spec, importance))?)
    })?;
    Ok(PackedMatrix::new(rows, Some(report)))
}

/// A matrix of packed ternary weights: out features x in features.
#[pyclass(frozen, module = "sherry")]
pub struct PackedMatrix {
    rows: Arc<PackedRows>,
    report: Option<TensorReport>,
    /// In the order of the kernels, once it is multiplied with.
    matrix: OnceLock<Arc<Matrix>>,
}

impl PackedMatrix {
    fn new(rows: PackedRows, report: Option<TensorReport>) -> Self {
        Self { rows: Arc::new(rows), report, matrix: OnceLock::new() }
    }

    /// `x`: ... x in features.
    fn product<'py>(
        &self,
        py: Python<'py>,
        x: &Floats,
        precision: Precision,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let PackedLayout { rows, cols, .. } = self.rows.layout;
        if x.shape.last() != Some(&cols) {
            let shape = &x.shape;
            return Err(PyValueError::new_err(format!("x has shape {shape:?}; expected {cols} numbers at the end")));
        }
        if threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            return Err(PyValueError::new_err("threads: expected 1 to 1024"));
        }
        let tokens = x.values.len() / cols;
        let (engine, own) = match threads {
            None => (kernels(py)?, None),
            Some(threads) => (kernels(py)?, Some(threads)),
        };
        let y = detached(py, || {
            let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            let mut separate = own.map(|threads| Engine::new(Isa::best(), threads, precision));
            let engine = separate.as_mut().unwrap_or(&mut engine);
            engine.set_precision(precision);
            let matrix = match self.matrix.get() {
                Some(matrix) => Arc::clone(matrix),
                None => {
                    let PackedRows { layout, codes, scales } = &*self.rows;
                    let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                    let made =
                        Matrix::from_packed_on(engine.pool(), *layout, codes, &scales).map_err(sherry::Error::from)?;
                    Arc::clone(self.matrix.get_or_init(|| Arc::new(made)))
                }
            };
            let mut y = vec![0.0; tokens * rows];
            if tokens > 0 {
                engine.matmul(&x.values, tokens, &mut [Product { w: &matrix, y: &mut y }]);
            }
            Ok(y)
        })?;
        let mut shape = x.shape.clone();
        shape.pop();
        shape.push(rows);
        y.into_pyarray(py).reshape(shape)
    }
}

/// Threads and kernels for products of single matrices.
fn kernels(py: Python<'_>) -> PyResult<Arc<Mutex<Engine>>> {
    static ENGINE: PerProcess<Mutex<Engine>> = PerProcess::new();
    ENGINE.get(py, || Ok(Mutex::new(Engine::new(Isa::best(), default_threads().threads, Precision::Int8))))
}

#[pymethods]
impl PackedMatrix {
    /// Puts a matrix together from its arrays, which are checked: `codes` uint8 [rows, bytes per row], `scales` float16
    /// [rows, scales per row].
    #[staticmethod]
    #[pyo3(signature = (
        codes, scales, shape, *, format = "sherry-1.25", scale = "row", group_size = None, quad = "contiguous"
    ))]
    #[allow(clippy::too_many_arguments)] // they are keyword arguments
    fn from_arrays(
        codes: &Bound<'_, PyAny>,
        scales: &Bound<'_, PyAny>,
        shape: (usize, usize),
        format: &str,
        scale: &str,
        group_size: Option<usize>,
        quad: &str,
    ) -> PyResult<Self> {
        let (format, scale, order) = layout_arguments(format, scale, group_size, quad)?;
        let layout = PackedLayout { format, rows: shape.0, cols: shape.1, order, scale };
        layout.check().map_err(|problem| PyValueError::new_err(problem.to_string()))?;
        let codes =
            raw(codes, "codes", ("uint8", "uint8"), [layout.rows, layout.row_bytes()])?.cast_into::<PyArray2<u8>>()?;
        let scales = raw(scales, "scales", ("float16", "uint16"), [layout.rows, layout.row_scales()])?
            .cast_into::<PyArray2<u16>>()?;
        let rows = PackedRows { layout, codes: codes.to_vec()?, scales: scales.to_vec()? };
        rows.validate().map_err(|problem| PyValueError::new_err(problem.to_string()))?;
        Ok(Self::new(rows, None))
    }

    /// The codes, uint8 [rows, bytes per row]: a read-only view.
    #[getter]
    fn codes<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let rows = &this.get().rows;
        #[allow(unsafe_code)]
        // SAFETY: the array keeps the object alive, the object its rows: they are behind an `Arc` that is never replaced or
        // changed, as the class is frozen. Nothing writes through the array, which is made read-only before anybody has it.
        let array = unsafe { PyArray1::borrow_from_array(&aview1(&rows.codes), this.clone().into_any()) };
        let array = array.readwrite().make_nonwriteable();
        Ok(array.reshape([rows.layout.rows, rows.layout.row_bytes()])?.into_any())
    }

    /// The scales, float16 [rows, scales per row]: a read-only view.
    #[getter]
    fn scales<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let rows = &this.get().rows;
        #[allow(unsafe_code)]
        // SAFETY: as for the codes.
        let array = unsafe { PyArray1::borrow_from_array(&aview1(&rows.scales), this.clone().into_any()) };
        let array = array.readwrite().make_nonwriteable();
        let array = array.reshape([rows.layout.rows, rows.layout.row_scales()])?;
        array.call_method1("view", ("float16",))
    }

    /// The weights it stands for, rows x columns.
    #[pyo3(signature = (dtype = "float32"))]
    fn dequantize<'py>(&self, py: Python<'py>, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
        one_of("dtype", dtype, &[("float16", ()), ("float32", ()), ("float64", ())])?;
        let PackedLayout { rows, cols, .. } = self.rows.layout;
        let pool = batch_pool(py)?;
        let values = detached(py, || {
            let mut values = vec![0f32; rows * cols];
            pool.install(|| {
                values.par_chunks_mut(cols).enumerate().for_each(|(row, out)| self.rows.row_f32(row, out));
            });
            Ok(values)
        })?;
        let array = values.into_pyarray(py).reshape([rows, cols])?.into_any();
        match dtype {
            "float32" => Ok(array),
            other => array.call_method1("astype", (other,)),
        }
    }

    /// `x @ W.T` by the packed kernel: `x` is [..., in features], the result float32 [..., out features]. `precision`:
    /// "int8" activations, or "f32".
    #[pyo3(signature = (x, *, precision = "int8", threads = None))]
    fn linear<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        precision: &str,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let precision = one_of("precision", precision, &[("int8", Precision::Int8), ("f32", Precision::F32)])?;
        Ok(self.product(py, &float32(x, "x")?, precision, threads)?.into_any())
    }

    /// `W @ x` by the packed kernel with int8 activations: `x` is [in features] or [in features, n].
    fn __matmul__<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let x = py.import("numpy")?.call_method1("asarray", (x,))?;
        let dimensions: usize = x.getattr("ndim")?.extract()?;
        if !(1..=2).contains(&dimensions) {
            return Err(PyValueError::new_err(format!("x has {dimensions} dimensions; expected 1 or 2")));
        }
        // The kernel takes and gives a row per token.
        let y = self.product(py, &float32(&x.getattr("T")?, "x")?, Precision::Int8, None)?;
        y.getattr("T")
    }

    /// (out features, in features).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.rows.layout.rows, self.rows.layout.cols)
    }

    /// "sherry-1.25", "ternary-1.67", "ternary-2" or "binary-1".
    #[getter]
    fn format(&self) -> String {
        self.rows.layout.format.to_string()
    }

    /// "row" or "group".
    #[getter]
    fn scale(&self) -> &'static str {
        match self.rows.layout.scale {
            ScaleGroup::Tensor | ScaleGroup::Row => "row",
            ScaleGroup::Group(_) => "group",
        }
    }

    /// Weights that share a scale; None: a whole row.
    #[getter]
    fn group_size(&self) -> Option<usize> {
        match self.rows.layout.scale {
            ScaleGroup::Tensor | ScaleGroup::Row => None,
            ScaleGroup::Group(size) => Some(size),
        }
    }

    /// "contiguous" or "stride16".
    #[getter]
    fn quad(&self) -> &'static str {
        match self.rows.layout.order {
            QuadOrder::Contiguous => "contiguous",
            QuadOrder::Stride16 => "stride16",
        }
    }

    /// Bytes of codes and scales.
    #[getter]
    fn nbytes(&self) -> usize {
        self.rows.codes.len() + 2 * self.rows.scales.len()
    }

    /// Bits per weight, scales included.
    #[getter]
    fn bits_per_weight(&self) -> f64 {
        let (rows, cols) = self.shape();
        8.0 * self.nbytes() as f64 / (rows as f64 * cols as f64)
    }

    /// What quantizing did, as a dict: errors, shares of -1, 0 and +1. None for a matrix made of arrays.
    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let report = self.report.as_ref().map(|report| {
            let mut value = serde_json::to_value(report).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                fields.shift_remove("tensor");
            }
            value
        });
        report.map(|report| json::to_python(py, &report)).transpose()
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyDict>,))> {
        let py = this.py();
        let arguments = PyDict::new(py);
        for name in ["codes", "scales", "shape", "format", "scale", "group_size", "quad"] {
            arguments.set_item(name, this.getattr(name)?)?;
        }
        Ok((py.import("sherry._results")?.getattr("packed_matrix")?, (arguments,)))
    }

    fn __repr__(&self) -> String {
        let (rows, cols) = self.shape();
        format!(
            "<sherry.PackedMatrix {rows} x {cols}, {}, {:.3} bits per weight>",
            self.format(),
            self.bits_per_weight()
        )
    }
}
