"""Every layer's gradients against central differences of a random linear function of its output."""

import numpy as np
import pytest

import oracles
from layers import CASES

PLACES = 60  # of each array
STEP = 1e-4


def trainable(layer):
    """(owner, name) of all parameters that have a gradient, in the layer and the layers inside."""
    for name in layer.parameter_names:
        if f"dLd{name}" in layer.parameter_names:
            yield layer, name
    for inner in layer.sublayers():
        yield from trainable(inner)


def separated(rng, shape):
    """Numbers so far from each other and from zero that no step reaches a kink of ReLU or a maximum."""
    count = int(np.prod(shape))
    A = ((rng.permutation(count) - count / 2 + 0.25) * (5 / count)).reshape(shape)
    assert 5 / count > 8 * STEP
    return A


def distance_to_kink(case, layer):
    """How close to zero anything comes that a ReLU inside the block sees."""
    if not case.name.startswith("ResBlock"):
        return np.inf
    return min(abs(layer.convolution_layers[1].Z).min(), abs(layer.final_activation.Z).min())


def prepared(case):
    """The layer and an input; for a block with ReLUs inside, drawn anew until all is far from their kinks."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        np.random.seed(seed)
        layer, A = case.make(), separated(rng, case.shape)
        Z = layer.forward(A)
        for owner, name in trainable(layer):
            if name in ("Bb", "b"):
                setattr(owner, name, rng.standard_normal(getattr(owner, name).shape))
        layer.forward(A)
        if distance_to_kink(case, layer) > 25 * STEP:
            return layer, A, rng.standard_normal(Z.shape), rng
    raise AssertionError("no draw is far from the kinks")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_slopes(backend, case):
    layer, A, dLdZ, rng = prepared(case)

    def forward():
        np.random.seed(6)  # the same mask at every forward
        return layer.forward(A)

    def value():
        return (forward() * dLdZ).sum()

    value()
    gradients = [("A", A, layer.backward(dLdZ).copy())]
    for owner, name in trainable(layer):
        gradients.append((name, getattr(owner, name), getattr(owner, f"dLd{name}").copy()))
    assert {name for name, _, _ in gradients} >= {"A", *case.parameters}
    for name, x, found in gradients:
        assert found.shape == x.shape, name
        places = oracles.some_places(rng, x.shape, PLACES)
        slopes = oracles.numeric_gradient(value, x, places, STEP)
        at = np.array([found[place] for place in places])
        worst = abs(at - slopes).max()
        assert worst <= 1e-8 * max(1, abs(slopes).max()), (name, worst)


def test_swish_beta():
    layer = next(case for case in CASES if case.name == "Swish").make()
    rng = np.random.default_rng(1)
    A, dLdZ, beta = rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), np.array([layer.beta])

    def value():
        layer.beta = float(beta[0])
        return (layer.forward(A) * dLdZ).sum()

    slope = oracles.numeric_gradient(value, beta, [(0,)])[0]
    value()
    layer.backward(dLdZ)
    assert abs(layer.dLdbeta - slope) <= 1e-9
