"""Quantizing arrays, and packed matrices."""

import pickle

import numpy as np
import pytest

import sherry

FORMATS = {
    "sherry-1.25": [32, 64, 128, 256],
    "ternary-1.67": [24, 48, 96, 192],
    "ternary-2": [32, 64, 128, 256],
}


def matrix(rows=48, cols=768, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def project(weights, group):
    """The paper's Sparse-AbsMean, in numpy: per quad the smallest magnitude becomes zero."""
    rows, cols = weights.shape
    quads = weights.reshape(rows, cols // 4, 4).astype(np.float64)
    zero = np.abs(quads).argmin(axis=2)
    signs = np.where(quads < 0, -1.0, 1.0)
    np.put_along_axis(signs, zero[..., None], 0.0, axis=2)
    signs = signs.reshape(rows, cols)
    grouped = (np.abs(weights).astype(np.float64) * (signs != 0)).reshape(rows, -1, group)
    scales = (grouped.sum(axis=2) / (group * 3 // 4)).astype(np.float16)
    return signs * np.repeat(scales.astype(np.float64), group, axis=1)


@pytest.mark.parametrize("group", [None, 32, 64, 128, 256])
def test_quantizing_is_the_papers_projection(group):
    weights = matrix()
    packed = sherry.quantize(weights, scale="group" if group else "row", group_size=group)
    assert np.array_equal(packed.dequantize("float64"), project(weights, group or 768))
    assert packed.report["share_zero"] == 0.25 and 1.25 < packed.bits_per_weight < 1.8


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("grouped", [False, True])
def test_products_are_those_of_the_weights(format, grouped):
    weights = matrix()
    for group in FORMATS[format] if grouped else [None]:
        packed = sherry.quantize(weights, format=format, scale="group" if grouped else "row", group_size=group)
        dense = packed.dequantize("float64")
        x = matrix(5, 768, seed=1)
        exact = x.astype(np.float64) @ dense.T
        assert np.allclose(packed.linear(x, precision="f32"), exact, atol=1e-3)
        scale = np.abs(exact).max()
        for threads in [None, 1, 2]:
            assert np.abs(packed.linear(x, threads=threads) - exact).max() < 0.02 * scale
        assert np.array_equal(packed.linear(x)[2], packed.linear(x[2]))
        assert np.array_equal(packed @ x.T, packed.linear(x).T)
        assert np.array_equal(packed @ x[0], packed.linear(x[0]))
        assert packed.linear(x.reshape(5, 1, 768)).shape == (5, 1, 48)
        assert packed.linear(x[:0]).shape == (0, 48)


def test_memory_order_does_not_matter():
    """`as_slice` of an array in Fortran order is another matrix: it must not be taken for this one."""
    weights = matrix(96, 128)
    expected = sherry.quantize(weights).dequantize()
    views = [
        np.asfortranarray(weights),
        np.ascontiguousarray(weights.T).T,
        np.repeat(weights, 2, axis=0)[::2],
        np.repeat(weights, 3, axis=1)[:, ::3],
        weights[::-1][::-1],
        weights.astype(weights.dtype.newbyteorder()),
        weights.astype(np.float64),
        np.frombuffer(b"\0" + weights.tobytes(), np.float32, offset=1).reshape(96, 128),
    ]
    for view in views:
        assert np.array_equal(sherry.quantize(view).dequantize(), expected)
    transposed = sherry.quantize(weights.T)
    assert transposed.shape == (128, 96)
    assert np.array_equal(transposed.dequantize(), sherry.quantize(np.ascontiguousarray(weights.T)).dequantize())
    half = weights.astype(np.float16)
    assert np.array_equal(sherry.quantize(half).dequantize(), sherry.quantize(half.astype(np.float32)).dequantize())
    packed = sherry.quantize(weights)
    x = matrix(128, 7, seed=2)
    assert np.array_equal(packed @ np.asfortranarray(x), packed @ x)
    assert np.array_equal(packed.linear(np.asfortranarray(x.T)), packed.linear(np.ascontiguousarray(x.T)))


def test_stride16():
    weights = matrix(16, 256)
    packed = sherry.quantize(weights, quad="stride16", scale="group", group_size=256)
    # Quad i of a chunk of 64 holds inputs i, i + 16, i + 32 and i + 48.
    order = np.arange(256).reshape(4, 4, 16).transpose(0, 2, 1).reshape(-1)
    expected = np.empty_like(weights, np.float64)
    expected[:, order] = project(weights[:, order], 256)
    assert np.array_equal(packed.dequantize("float64"), expected)
    assert packed.quad == "stride16"


def test_importance_moves_zeros():
    weights = matrix(8, 64)
    importance = np.ones(64, np.float32)
    importance[::4] = 1e6
    packed = sherry.quantize(weights, importance=importance)
    dense = packed.dequantize()
    assert np.all(np.count_nonzero(dense.reshape(8, 16, 4), axis=2) == 3)

    def error(other):
        return (importance * (weights - other) ** 2).sum() / (importance * weights**2).sum()

    assert error(dense) < 0.9 * error(sherry.quantize(weights).dequantize())
    assert packed.report["weighted_relative_squared_error"] == pytest.approx(error(dense), rel=1e-4)


def test_views_are_read_only_and_keep_the_matrix_alive():
    weights = matrix()
    packed = sherry.quantize(weights, scale="group", group_size=128)
    codes, scales = packed.codes, packed.scales
    assert codes.shape == (48, 768 * 5 // 32) and codes.dtype == np.uint8
    assert scales.shape == (48, 6) and scales.dtype == np.float16
    assert codes.nbytes + scales.nbytes == packed.nbytes
    copies = codes.copy(), scales.copy()
    for view in [codes, scales]:
        assert not view.flags.writeable
        with pytest.raises(ValueError):
            view[0, 0] = 1
        with pytest.raises(ValueError):
            view.flags.writeable = True
    assert packed.codes.__array_interface__["data"][0] == codes.__array_interface__["data"][0]
    del packed
    [np.zeros(100000) for _ in range(20)]
    assert np.array_equal(codes, copies[0]) and np.array_equal(scales, copies[1])


@pytest.mark.parametrize("format", FORMATS)
def test_from_arrays_and_pickle(format):
    packed = sherry.quantize(matrix(), format=format)
    arrays = packed.codes, packed.scales, packed.shape
    again = sherry.PackedMatrix.from_arrays(*arrays, format=format)
    assert np.array_equal(again.dequantize(), packed.dequantize()) and again.report is None
    loaded = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(loaded.dequantize(), packed.dequantize()) and repr(loaded) == repr(packed)
    with pytest.raises(ValueError, match="codes"):
        sherry.PackedMatrix.from_arrays(packed.codes[:, 1:], packed.scales, packed.shape, format=format)
    with pytest.raises(ValueError, match="scales"):
        sherry.PackedMatrix.from_arrays(packed.codes, packed.scales.astype(np.float32), packed.shape, format=format)
    with pytest.raises(ValueError):
        sherry.PackedMatrix.from_arrays(packed.codes, packed.scales, (0, 0), format=format)
    bad = packed.scales.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError):
        sherry.PackedMatrix.from_arrays(packed.codes, bad, packed.shape, format=format)
    if format == "ternary-2":
        with pytest.raises(ValueError):
            sherry.PackedMatrix.from_arrays(packed.codes | 3, packed.scales, packed.shape, format=format)


def test_exact_projections():
    weights = np.sign(matrix(8, 128)) * np.float32(0.5)
    binary = sherry.quantize(weights, format="binary-1", scale="group", group_size=128)
    assert np.array_equal(binary.dequantize(), weights)
    with pytest.raises(sherry.SherryError, match="array"):
        sherry.quantize(matrix(8, 128), format="ternary-2", projection="exact")


@pytest.mark.parametrize(
    "array",
    [
        5.0,
        None,
        "x",
        [],
        [[]],
        np.zeros(8, np.float32),
        np.zeros((2, 2, 32), np.float32),
        np.zeros((0, 32), np.float32),
        np.zeros((4, 0), np.float32),
        np.zeros((4, 33), np.float32),
        np.zeros((4, 32), np.int64),
        np.zeros((4, 32), np.complex64),
        np.zeros((4, 32), object),
        np.full((4, 32), np.nan, np.float32),
        np.full((4, 32), np.inf, np.float32),
        np.full((4, 32), 1e30, np.float64),
    ],
    ids=lambda array: f"{getattr(array, 'shape', array)}-{getattr(array, 'dtype', '')}",
)
def test_bad_arrays_are_refused(array):
    with pytest.raises((ValueError, TypeError, sherry.SherryError)):
        sherry.quantize(array)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "q4"},
        {"scale": "tensor"},
        {"scale": "row", "group_size": 32},
        {"scale": "group", "group_size": 33},
        {"quad": "x"},
        {"quad": "stride16", "format": "ternary-2"},
        {"projection": "twn"},
        {"projection": "sparse-absmean", "format": "ternary-2"},
        {"format": "binary-1", "projection": "absmean"},
        {"importance": np.ones(3, np.float32)},
        {"importance": -np.ones(768, np.float32)},
        {"importance": np.ones(768, np.float32), "format": "ternary-2"},
    ],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises((ValueError, TypeError)):
        sherry.quantize(matrix(), **options)


@pytest.mark.parametrize("x", [5.0, np.zeros(767), np.zeros((2, 3, 768)), np.zeros((768, 0)), np.zeros(768, np.int32), "x"], ids=str)
def test_bad_factors_are_refused_and_none_is_an_empty_product(x):
    packed = sherry.quantize(matrix())
    if getattr(x, "shape", None) == (768, 0):
        assert (packed @ x).shape == (48, 0)
        return
    with pytest.raises((ValueError, TypeError)):
        packed @ x
