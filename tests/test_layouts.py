"""However an array lies in memory, the result is that of its contiguous copy, and a plain ndarray."""

import numpy as np
import pytest

from layers import CASES, ELEMENTWISE, FUNCTIONS, HANDS_ON, MODELS
from layouts import LAYOUTS
from support import arrays_in, same_bits


def contiguous(laid_out):
    """The same numbers in a plain, native, C-ordered array."""
    a = np.asarray(laid_out)
    return np.array(a, dtype=a.dtype.newbyteorder("="), order="C")


def step(layer, A, dLdZ):
    """Results and gradients of a forward and a backward, with a seed for dropout's mask."""
    np.random.seed(3)
    Z = layer.forward(A)
    dLdA = layer.backward(dLdZ)
    return [Z, dLdA]


def assert_same(results, expected, layout):
    for result, wanted in zip(results, expected, strict=True):
        assert type(result) is np.ndarray, layout
        assert same_bits(result, wanted), layout


def check_layer(case, name, layout, rng, dtype):
    laid_out = layout(case.input(rng, dtype))
    shape = case.make().forward(contiguous(laid_out)).shape
    gradient = layout(rng.standard_normal(shape).astype(dtype))
    results = []
    for change in (lambda a: a, contiguous):
        np.random.seed(7)
        layer = case.make().astype(dtype)
        found = step(layer, change(laid_out), change(gradient))
        results.append(found + [getattr(layer, f"dLd{name}") for name in case.parameters])
    if case.name in HANDS_ON:
        for result, expected in zip(*results):
            assert np.array_equal(result, expected), name
    else:
        assert_same(*results, name)


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_inputs_and_gradients_of_any_layout(case, backend, dtype, rng):
    for name, layout in LAYOUTS.items():
        check_layer(case, name, layout, rng, dtype)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("case", [c for c in CASES + MODELS if len(c.shape) == 2], ids=str)
def test_matrices(case, backend, dtype, rng):
    # np.matrix has two dimensions, always.
    check_layer(case, "matrix", lambda a: np.asarray(a).view(np.matrix), rng, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case in CASES if case.parameters], ids=str)
def test_parameters_of_any_layout(case, layout, backend, dtype, rng):
    A = case.input(rng, dtype)
    shape = case.make().forward(A).shape
    values = {
        name: LAYOUTS[layout](rng.standard_normal(getattr(case.make(), name).shape).astype(dtype))
        for name in case.parameters
    }
    gradient = rng.standard_normal(shape).astype(dtype)
    results = []
    for change in (lambda a: a, contiguous):
        layer = case.make()
        for name, value in values.items():
            setattr(layer, name, change(value))
        found = step(layer, A, gradient)
        results.append(found + [getattr(layer, f"dLd{name}") for name in case.parameters])
    assert_same(*results, layout)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions(function, backend, dtype, rng):
    for name, layout in LAYOUTS.items():
        check_function(function, name, layout, dtype, rng)


def check_function(function, layout_name, layout, dtype, rng):
    laid_out = {name: layout(a) for name, a in function.inputs(rng, dtype).items()}
    if function.name == "batchnorm2d_eval":  # a variance
        laid_out["V"] = layout(np.arange(1, 4).astype(dtype))
    results = function.call(**laid_out)
    expected = function.call(**{name: contiguous(a) for name, a in laid_out.items()})
    if isinstance(expected, np.floating):  # a sum over all numbers, in the order of their addresses
        assert abs(results - expected) <= 4 * np.finfo(dtype).eps * abs(expected), layout_name
    else:
        assert_same(arrays_in(results), arrays_in(expected), layout_name)


# IdentityBlock hands on anything.
@pytest.mark.parametrize("case", [c for c in CASES if c.name != "IdentityBlock"], ids=str)
def test_ragged_lists_are_refused(case, backend):
    layer = case.make()
    with pytest.raises(ValueError, match="array"):
        layer.forward([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ELEMENTWISE], ids=str)
def test_numbers_and_vectors_pass_elementwise_layers(case, backend):
    for A in (0.5, np.float32(0.5), [0.5, -0.5]):
        layer = case.make()
        assert np.shape(layer.forward(A)) == np.shape(A)
        assert np.shape(layer.backward(np.ones(np.shape(A)))) == np.shape(A)
