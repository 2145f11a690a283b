"""The dtype of every result, and what is refused rather than read as a number it is not."""

import inspect
from contextlib import contextmanager

import numpy as np
import pytest

import fastconv
from hostile import Lying
from layers import CASES, COMPOSITES, ELEMENTWISE, FUNCTIONS, HANDS_ON, LOSSES, MODELS, make_cnn
from support import differences, snapshot

EVERYTHING = CASES + MODELS
WITH_PARAMETERS = [case for case in CASES if case.parameters]
NO_PARAMETERS = [
    c for c in CASES if not c.parameters and c.name not in COMPOSITES and c.name not in HANDS_ON
]
# IdentityBlock hands on anything, unread.
READERS = [case for case in EVERYTHING if case.name != "IdentityBlock"]

# Of the input, of the parameters, of the result: NumPy's promotion, narrowed to float32 or float64.
PROMOTION = [
    ("float32", "float32", "float32"),
    ("float32", "float64", "float64"),
    ("float64", "float32", "float64"),
    ("float64", "float64", "float64"),
    ("float16", "float16", "float32"),
    ("float16", "float32", "float32"),
    ("float16", "float64", "float64"),
    ("float32", "float16", "float32"),
    ("int64", "float32", "float64"),
    ("int64", "float64", "float64"),
    ("uint8", "float64", "float64"),
    ("int32", "int64", "float64"),
    ("float32", "int32", "float64"),
    ("float64", "int64", "float64"),
    ("bool", "float64", "float64"),
    ("uint64", "bool", "float64"),
]
ALONE = {
    "float32": "float32", "float64": "float64", "float16": "float64", "int8": "float64",
    "uint8": "float64", "int64": "float64", "uint64": "float64", "bool": "float64",
}


# No bias, and the derivative itself in place of a gradient.
MAY_BE_NONE = {("conv1d_forward", "b"), ("conv2d_forward", "b")} | {
    (f"{name}_backward", "dLdA") for name in ("sigmoid", "tanh", "relu", "gelu", "swish")
}


class GuardedTensor:
    """As a tensor that requires a gradient: it has `__array__`, which refuses."""

    shape = (2, 3)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("detach first")

    def __deepcopy__(self, memo):
        return self


def masked(shape):
    return np.ma.masked_array(np.ones(shape), np.arange(np.prod(shape)).reshape(shape) == 1)


REFUSED = {
    "longdouble": lambda shape: np.ones(shape, np.longdouble),
    "complex64": lambda shape: np.ones(shape, np.complex64),
    "complex128": lambda shape: np.ones(shape, np.complex128),
    "object": lambda shape: np.ones(shape, object),
    "text": lambda shape: np.full(shape, "1"),
    "bytes": lambda shape: np.full(shape, b"1"),
    "datetime": lambda shape: np.zeros(shape, "datetime64[s]"),
    "timedelta": lambda shape: np.zeros(shape, "timedelta64[s]"),
    "structured": lambda shape: np.zeros(shape, [("x", "f8"), ("y", "f8")]),
    "void": lambda shape: np.zeros(shape, "V8"),
    "masked": masked,
    "masked records": lambda shape: np.ma.zeros(shape, "f8,f8"),
    "masked arrays in a list": lambda shape: [np.ma.masked_all(shape[1:])] * shape[0],
    "a masked number in a list": lambda shape: [1.0, np.ma.masked],
    "a masked array by __array__": lambda shape: Lying(masked(shape)),
    "None": lambda shape: None,
    "a string": lambda shape: "image",
    "a number's text": lambda shape: "1.0",
    "a set": lambda shape: {1.0},
    "a dictionary": lambda shape: {"A": 1.0},
    "an object": lambda shape: NotImplemented,
    "a type": lambda shape: float,
    "a guarded tensor": lambda shape: GuardedTensor(),
    "a list of None": lambda shape: [None],
    "a complex number": lambda shape: 1j,
}
# longdouble is float64 on some platforms.
if np.dtype(np.longdouble).itemsize == 8:
    del REFUSED["longdouble"]


@contextmanager
def refusal(kind, name):
    """The block raises a TypeError that names the argument."""
    try:
        with pytest.raises(TypeError, match=rf"\b({name})\b"):
            yield
    except (Exception, pytest.fail.Exception) as error:
        raise AssertionError(f"{kind} as {name}: {error!r}") from error


def numbers(rng, shape, dtype):
    return (3 * rng.standard_normal(shape)).astype(dtype) if dtype[0] == "f" else (
        rng.integers(0, 2, shape).astype(dtype)
    )


@pytest.mark.parametrize(("of_A", "of_W", "expected"), PROMOTION)
@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=str)
def test_result_dtypes_with_parameters(case, of_A, of_W, expected, backend, rng):
    layer, A = case.make(), numbers(rng, case.shape, of_A)
    for name in case.parameters:
        setattr(layer, name, np.ones(getattr(layer, name).shape, of_W))
    Z = layer.forward(A)
    assert Z.dtype == expected
    for gradient_dtype in (expected, "float64", "float32", "int64"):
        dLdA = layer.backward(np.ones(Z.shape, gradient_dtype))
        computed = np.result_type(expected, gradient_dtype)
        assert dLdA.dtype == (of_A if of_A in ("float32", "float64") else computed)
        for name in case.parameters:
            gradient = getattr(layer, f"dLd{name}")
            assert gradient.dtype == (of_W if of_W in ("float32", "float64") else computed)


@pytest.mark.parametrize(("of_A", "expected"), ALONE.items())
@pytest.mark.parametrize("case", NO_PARAMETERS, ids=str)
def test_result_dtypes_without_parameters(case, of_A, expected, backend, rng):
    layer = case.make()
    Z = layer.forward(numbers(rng, case.shape, of_A))
    assert Z.dtype == expected
    for gradient_dtype in (expected, "float64", "float32", "int64", "bool"):
        assert layer.backward(np.ones(Z.shape, gradient_dtype)).dtype == expected


@pytest.mark.parametrize("case", [c for c in CASES if c.name in COMPOSITES] + MODELS, ids=str)
def test_composites_keep_their_dtype(case, backend, dtype, rng):
    layer = case.make().astype(dtype)
    Z = layer.forward(case.input(rng, dtype))
    assert Z.dtype == dtype
    assert layer.backward(np.ones_like(Z)).dtype == dtype


def test_cnn_keeps_its_dtype(backend, dtype, rng):
    model = make_cnn(dtype)
    assert model.forward(rng.standard_normal((2, 3, 20)).astype(dtype)).dtype == dtype
    assert model.backward(np.eye(2, 6)).dtype == dtype
    model.step()
    assert {layer.W.dtype for layer in model.layers if hasattr(layer, "W")} == {dtype}


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize(("of_A", "expected"), ALONE.items())
def test_dtypes_of_losses(make, of_A, expected, rng):
    loss, A = make(), numbers(rng, (3, 5), of_A)
    for of_Y in ("float32", "float64", "int64", "bool"):
        assert type(loss.forward(A, np.eye(3, 5, dtype=of_Y))) is np.float64
        assert loss.backward().dtype == expected


@pytest.mark.parametrize("of_A", ["int32", "uint8", "bool", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_integers_compute_as_the_same_floats(case, of_A, backend, rng):
    A = numbers(rng, case.shape, of_A)
    found = []
    for given in (A, A.astype(np.float64)):
        np.random.seed(3)
        found.append(np.asarray(case.make().forward(given)))
    assert np.array_equal(*found)


# What is refused is refused before any kernel, so not once for each backend.


@pytest.mark.parametrize("case", READERS, ids=str)
def test_refused_as_input(case):
    layer = case.make()
    first = next(iter(inspect.signature(layer.forward).parameters))
    before = snapshot(layer)
    for kind, make in REFUSED.items():
        with refusal(kind, first):
            layer.forward(make(case.shape))
        assert not differences(before, vars(layer)), kind


@pytest.mark.parametrize("case", READERS, ids=str)
def test_refused_as_gradient(case, rng):
    layer = case.make()
    shape = np.shape(layer.forward(case.input(rng)))
    before = snapshot(layer)
    for kind, make in REFUSED.items():
        if kind == "None" and case.name in ELEMENTWISE:  # an older revision's way to ask for dA/dZ
            continue
        with refusal(kind, r"dLd\w+|delta|grad"):
            layer.backward(make(shape))
        assert not differences(before, vars(layer)), kind


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ELEMENTWISE - {"IdentityBlock"}], ids=str)
def test_no_gradient_asks_for_the_derivative(case, backend, rng):
    layer, Z = case.make(), case.input(rng)
    layer.forward(Z)
    assert np.array_equal(layer.backward(), layer.backward(np.ones(Z.shape)))


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=str)
def test_refused_as_parameter(case, kind, rng):
    for name in case.parameters:
        layer = case.make()
        setattr(layer, name, REFUSED[kind](getattr(layer, name).shape))
        if kind == "None" and name == "b" and case.name != "Linear":
            continue  # no bias
        before = snapshot(layer)
        with refusal(kind, name):
            layer.forward(case.input(rng))
        assert not differences(before, vars(layer))


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_refused_by_functions(function, rng):
    arrays = function.inputs(rng)
    for name, a in arrays.items():
        for kind, make in REFUSED.items():
            if kind == "None" and (function.name, name) in MAY_BE_NONE:
                continue
            with refusal(kind, name):
                function.call(**{**arrays, name: make(a.shape)})


@pytest.mark.parametrize("make", LOSSES)
def test_refused_by_losses(make):
    good, loss = np.ones((3, 5)), make()
    for kind, bad in REFUSED.items():
        for name, arguments in (("A", (bad((3, 5)), good)), ("Y", (good, bad((3, 5))))):
            with refusal(kind, name):
                loss.forward(*arguments)
    assert not differences(snapshot(make()), vars(loss))


@pytest.mark.parametrize("dtype", ["float16", "int64", "complex128", "f4,f4", "no", 3])
def test_dtypes_that_parameters_cannot_have(dtype):
    with pytest.raises(TypeError, match="dtype"):
        fastconv.Conv1d(1, 1, 1, 1, dtype=dtype)
    with pytest.raises(TypeError, match="dtype"):
        fastconv.BatchNorm2d(1).astype(dtype)
