"""No input is modified, whatever is called; so read-only and memory-mapped ones do."""

import numpy as np
import pytest

from fastconv import CrossEntropyLoss
from layers import CASES, FUNCTIONS, LOSSES, MODELS, make_cnn
from support import same_bits

EVERYTHING = CASES + MODELS


def step(layer, A, gradient):
    """Forward and backward with a seed, so that dropout draws the same mask."""
    np.random.seed(3)
    Z = layer.forward(A)
    return Z, layer.backward(gradient(Z.shape))


@pytest.fixture
def gradient(dtype):
    return lambda shape: np.random.default_rng(5).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("case", EVERYTHING, ids=str)
def test_layers_leave_their_arguments_as_they_were(case, backend, dtype, rng, gradient):
    layer, A = case.make().astype(dtype), case.input(rng, dtype)
    given = A.copy()
    Z = layer.forward(A)
    assert same_bits(A, given)
    parameters = {name: np.array(getattr(layer, name)) for name in case.parameters}
    dLdZ = gradient(Z.shape)
    given_gradient = dLdZ.copy()
    for _ in range(2):
        layer.backward(dLdZ)
    assert same_bits(A, given)
    assert same_bits(dLdZ, given_gradient)
    for name, value in parameters.items():
        assert same_bits(getattr(layer, name), value)


def read_only(a, tmp_path):
    a.flags.writeable = False
    return a


def memory_mapped(a, tmp_path):
    path = tmp_path / str(len(list(tmp_path.iterdir())))
    mapped = np.memmap(path, a.dtype, "w+", shape=a.shape)
    mapped[...] = a
    mapped.flush()
    return np.memmap(path, a.dtype, "r", shape=a.shape)


@pytest.mark.parametrize("protect", [read_only, memory_mapped])
@pytest.mark.parametrize("case", EVERYTHING, ids=str)
def test_protected_arguments_are_taken(case, protect, backend, dtype, rng, gradient, tmp_path):
    layer, A = case.make().astype(dtype), case.input(rng, dtype)
    Z, dLdA = step(layer, A.copy(), gradient)
    for name in case.parameters:
        setattr(layer, name, protect(np.array(getattr(layer, name)), tmp_path))
    protected, protected_dLdA = step(
        layer, protect(A, tmp_path), lambda shape: protect(gradient(shape), tmp_path)
    )
    assert same_bits(protected, Z)
    assert same_bits(protected_dLdA, dLdA)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions_leave_their_arguments_as_they_were(function, backend, dtype, rng):
    arrays = function.inputs(rng, dtype)
    given = {name: a.copy() for name, a in arrays.items()}
    function.call(**arrays)
    for name, a in arrays.items():
        assert same_bits(a, given[name]), name


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions_take_read_only_arguments(function, backend, dtype, rng):
    function.call(**{name: read_only(a, None) for name, a in function.inputs(rng, dtype).items()})


@pytest.mark.parametrize("make", LOSSES)
def test_losses_leave_their_arguments_as_they_were(make, dtype, rng):
    A, Y = rng.standard_normal((3, 5)).astype(dtype), np.eye(3, 5, dtype=dtype)
    given = A.copy(), Y.copy()
    loss = make()
    loss.forward(read_only(A, None), read_only(Y, None))
    loss.backward()
    assert same_bits(A, given[0])
    assert same_bits(Y, given[1])


def test_cnn_leaves_input_and_labels_as_they_were(backend, rng):
    model, A, labels = make_cnn(), rng.standard_normal((2, 3, 20)), np.eye(2, 6)
    assert isinstance(model.criterion, CrossEntropyLoss)
    given = A.copy(), labels.copy()
    model.forward(read_only(A, None))
    model.backward(read_only(labels, None))
    assert same_bits(A, given[0])
    assert same_bits(labels, given[1])
