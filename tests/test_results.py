"""Results are fresh, C-contiguous and writeable, and whatever callers do to them, layers go on right."""

import itertools

import numpy as np
import pytest

from fastconv import BatchNorm2d, Dropout2d, Flatten, Identity, IdentityBlock, MaxPool2d
from layers import CASES, FUNCTIONS, HANDS_ON, LOSSES, MODELS, make_cnn
from support import arrays_in, same_bits

EVERYTHING = CASES + MODELS
OWN_RESULTS = [case for case in EVERYTHING if case.name not in HANDS_ON]
all_cases = pytest.mark.parametrize("case", EVERYTHING, ids=str)
own_results = pytest.mark.parametrize("case", OWN_RESULTS, ids=str)
orders = pytest.mark.parametrize("order", ["C", "F"])


def assert_own(result):
    assert type(result) is np.ndarray
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert result.flags.aligned
    assert result.dtype.isnative


def gradients(layer, case):
    return [getattr(layer, f"dLd{name}") for name in case.parameters]


@orders
@own_results
def test_layers_give_fresh_arrays(case, order, backend, dtype, rng):
    layer, A = case.make().astype(dtype), np.asarray(case.input(rng, dtype), order=order)
    for _ in range(2):  # the second pass has caches to alias
        Z = layer.forward(A)
        assert_own(Z)
        for held in [A, *arrays_in(layer)]:
            assert not np.shares_memory(Z, held)
        dLdZ = np.asarray(rng.standard_normal(Z.shape).astype(dtype), order=order)
        dLdA = layer.backward(dLdZ)
        assert_own(dLdA)
        for held in [A, Z, dLdZ, *arrays_in(layer)]:
            assert not np.shares_memory(dLdA, held)
        for gradient in gradients(layer, case):
            assert_own(gradient)
        parameters = [getattr(layer, name) for name in case.parameters]
        every = [A, Z, dLdZ, dLdA, *parameters, *gradients(layer, case)]
        for a, b in itertools.combinations(every, 2):
            assert not np.shares_memory(a, b)


@orders
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions_give_fresh_arrays(function, order, backend, dtype, rng):
    arrays = {name: np.asarray(a, order=order) for name, a in function.inputs(rng, dtype).items()}
    results = arrays_in(function.call(**arrays))
    for result in results:
        assert_own(result)
        for given in arrays.values():
            assert not np.shares_memory(result, given)
    for a, b in itertools.combinations(results, 2):
        assert not np.shares_memory(a, b)


@all_cases
def test_a_changed_result_does_not_reach_backward(case, backend, dtype, rng):
    A = case.input(rng, dtype)
    found = []
    for spoil in (False, True):
        np.random.seed(3)
        layer = case.make().astype(dtype)
        Z = layer.forward(A.copy())
        dLdZ = np.cos(np.arange(Z.size)).reshape(Z.shape).astype(dtype)
        if spoil:
            Z[...] = np.nan
        found.append([layer.backward(dLdZ), *gradients(layer, case)])
    for clean, spoilt in zip(*found):
        assert same_bits(clean, spoilt)


@own_results
def test_a_changed_gradient_does_not_reach_a_second_backward(case, backend, dtype, rng):
    layer = case.make().astype(dtype)
    Z = layer.forward(case.input(rng, dtype))
    dLdZ = rng.standard_normal(Z.shape).astype(dtype)
    dLdA = layer.backward(dLdZ)
    first = [dLdA.copy(), *(gradient.copy() for gradient in gradients(layer, case))]
    dLdA[...] = np.nan
    for gradient in gradients(layer, case):
        gradient.fill(np.nan)
    second = [layer.backward(dLdZ), *gradients(layer, case)]
    for a, b in zip(first, second):
        assert same_bits(a, b)


@own_results
def test_changed_results_do_not_reach_the_parameters(case, backend, rng):
    layer, A = case.make(), case.input(rng)
    parameters = {name: getattr(layer, name).copy() for name in case.parameters}
    Z = layer.forward(A)
    layer.backward(np.ones_like(Z))[...] = np.nan
    Z[...] = np.nan
    for name, value in parameters.items():
        assert same_bits(getattr(layer, name), value)


@all_cases
def test_outputs_do_not_share_memory_across_calls(case, backend, rng):
    layer = case.make()
    first = layer.forward(case.input(rng))
    kept = first.copy()
    second = layer.forward(case.input(rng))
    assert not np.shares_memory(first, second)
    assert same_bits(first, kept)


def test_dropout_hands_on_its_input_in_evaluation(backend, rng):
    layer, x = Dropout2d(0.5), rng.standard_normal((2, 3, 4, 5))
    assert layer.forward(x, eval=True) is x
    trained = layer.forward(x)
    assert not np.shares_memory(trained, x)


def test_layers_that_hand_on(backend, rng):
    A = rng.standard_normal((2, 3, 4, 5))
    assert Identity().forward(A) is A
    block = IdentityBlock()
    assert block.forward(A) is A
    assert block.backward(A) is A
    flatten = Flatten()
    Z = flatten.forward(A)
    assert np.shares_memory(Z, A)
    assert np.shares_memory(flatten.backward(Z), A)
    # Where the layout allows no view, a copy, in C order.
    assert_own(flatten.forward(np.asfortranarray(A)))


@pytest.mark.parametrize("make", LOSSES)
def test_losses_give_float64_and_fresh_gradients(make, dtype, rng):
    A, Y = np.asfortranarray(rng.standard_normal((3, 5)).astype(dtype)), np.eye(3, 5, dtype=dtype)
    loss = make()
    assert type(loss.forward(A, Y)) is np.float64
    first = loss.backward()
    assert_own(first)
    kept = first.copy()
    first[...] = np.nan
    assert same_bits(loss.backward(), kept)
    for held in [A, Y, *arrays_in(loss)]:
        assert not np.shares_memory(first, held)


def test_cnn_gives_fresh_arrays(backend, dtype, rng):
    model, A = make_cnn(dtype), rng.standard_normal((2, 3, 20)).astype(dtype)
    labels = np.eye(2, 6, dtype=dtype)
    Z = model.forward(A)
    assert_own(Z)
    for held in [A, *arrays_in(model)]:
        assert not np.shares_memory(Z, held)
    Z[...] = np.nan
    dLdA = model.backward(labels)
    assert_own(dLdA)
    kept = dLdA.copy()
    assert np.isfinite(kept).all()
    dLdA[...] = np.nan
    assert same_bits(model.backward(labels), kept)


@pytest.mark.parametrize("name", ["NZ", "BZ"])
def test_batch_norm_computes_what_it_shows_anew(name, backend, rng):
    layer = BatchNorm2d(3)
    Z = layer.forward(rng.standard_normal((2, 3, 4, 5)))
    shown = getattr(layer, name)
    assert_own(shown)
    kept = shown.copy()
    shown[...] = np.nan
    assert not np.shares_memory(shown, Z)
    assert same_bits(getattr(layer, name), kept)


def test_max_indices_are_made_anew(backend, rng):
    layer = MaxPool2d(3, 2)
    Z = layer.forward(rng.standard_normal((2, 3, 8, 9)))
    before = layer.backward(np.ones_like(Z))
    layer.max_indices[...] = 0
    assert same_bits(layer.backward(np.ones_like(Z)), before)
