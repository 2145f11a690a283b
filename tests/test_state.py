"""What layers remember: live inputs and parameters, whole after errors, and copied whole at any moment."""

import copy
import pickle

import numpy as np
import pytest

import fastconv as fc
from layers import CASES, COMPOSITES, LOSSES, MODELS, make_cnn
from support import differences, same_bits, snapshot

EVERYTHING = CASES + MODELS
# What IdentityBlock gives back depends on no forward; Upsample's backward can tell from dLdZ alone.
STATELESS = {"IdentityBlock", "Upsample1d", "Upsample2d"}
all_cases = pytest.mark.parametrize("case", EVERYTHING, ids=str)
copies = pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, *(lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in range(2, 6))],
    ids=["deepcopy", *(f"pickle-{p}" for p in range(2, 6))],
)


def gradient_for(Z):
    return np.cos(np.arange(np.size(Z), dtype=float)).reshape(np.shape(Z))


def backward(layer, case, dLdZ):
    dLdA = layer.backward(dLdZ).copy()
    return [dLdA, *(np.array(getattr(layer, f"dLd{name}")) for name in case.parameters)]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("case", [c for c in EVERYTHING if c.name not in STATELESS], ids=str)
def test_backward_before_forward(case, backend):
    layer = case.make()
    before = snapshot(layer)
    dLdZ = np.ones_like(case.make().forward(np.ones(case.shape)))
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(dLdZ)
    assert not differences(before, vars(layer))


@pytest.mark.parametrize("make", LOSSES)
def test_loss_backward_before_forward(make):
    with pytest.raises(RuntimeError, match="forward"):
        make().backward()


def test_cnn_backward_before_forward():
    with pytest.raises(RuntimeError, match="forward"):
        make_cnn().backward(np.eye(2, 6))


@all_cases
def test_backward_twice(case, backend, rng):
    layer = case.make()
    dLdZ = gradient_for(layer.forward(case.input(rng)))
    first = backward(layer, case, dLdZ)
    layer.backward(2 * dLdZ)
    assert_equal(backward(layer, case, dLdZ), first)


@all_cases
def test_the_latest_forward_counts(case, backend, rng):
    first, second = case.input(rng), np.concatenate([case.input(rng), case.input(rng)])
    twice = case.make()
    once = copy.deepcopy(twice)
    found = []
    for layer, inputs in ((twice, [first, second]), (once, [second])):
        for A in inputs:
            np.random.seed(3)
            Z = layer.forward(A)
        found.append(backward(layer, case, gradient_for(Z)))
    assert_equal(*found)


@pytest.mark.parametrize("case", [case for case in CASES if "W" in case.parameters], ids=str)
def test_parameters_are_read_when_they_are_used(case, backend, rng):
    A, layer, fresh = case.input(rng), case.make(), case.make()
    dLdZ = gradient_for(layer.forward(A))
    fresh.forward(A)
    new = rng.standard_normal(layer.W.shape)
    layer.W[...] = new
    fresh.W = new.copy()
    assert_equal(backward(layer, case, dLdZ), backward(fresh, case, dLdZ))
    assert_equal([layer.forward(A)], [fresh.forward(A)])
    layer.W -= 0.5 * layer.dLdW
    layer.b += 1.0
    fresh.W, fresh.b = fresh.W - 0.5 * fresh.dLdW, fresh.b + 1.0
    assert_equal([layer.forward(A)], [fresh.forward(A)])


@pytest.mark.parametrize("name", ["Conv1d_stride1", "Conv1d", "Conv2d_stride1", "Conv2d", "ConvTranspose1d",
                                  "ConvTranspose2d", "Linear", "ReLU", "GELU", "Swish"])
def test_the_input_is_read_when_it_is_used(name, backend, rng):
    case = next(case for case in CASES if case.name == name)
    A, other = case.input(rng), case.input(rng)
    layer = case.make()
    fresh = copy.deepcopy(layer)
    dLdZ = gradient_for(layer.forward(A))
    A[...] = other
    fresh.forward(other)
    assert_equal(backward(layer, case, dLdZ), backward(fresh, case, dLdZ))


# IdentityBlock takes anything.
@pytest.mark.parametrize("case", [c for c in EVERYTHING if c.name != "IdentityBlock"], ids=str)
def test_a_forward_that_fails_leaves_earlier_state_whole(case, backend, rng):
    layer = case.make()
    dLdZ = gradient_for(layer.forward(case.input(rng)))
    expected = backward(layer, case, dLdZ)
    before = snapshot(layer)
    bad = [None, "image", object, np.ones(case.shape, complex), np.ma.masked_all(case.shape), [[1.0], 2.0]]
    for A in bad:
        with pytest.raises((TypeError, ValueError)):
            layer.forward(A)
        with pytest.raises((TypeError, ValueError)):
            layer.backward(A if A is not None else "gradient")
        assert not differences(before, vars(layer))
    assert_equal(backward(layer, case, dLdZ), expected)


@pytest.mark.parametrize(("name", "spoil"), [
    ("ConvBlock", lambda layer: setattr(layer.layers[1], "BW", np.ones(7))),
    ("ResBlock", lambda layer: setattr(layer.convolution_layers[2].layers[1], "Bb", None)),
    ("ResBlock", lambda layer: setattr(layer.residual_connection.layers[0], "W", np.ones(3))),
    ("MLP", lambda layer: setattr(layer.layers[2], "W", np.ones((3, 9)))),
    ("CNN_SimpleScanningMLP", lambda layer: setattr(layer.conv3, "b", "bias")),
], ids=["ConvBlock", "ResBlock-main", "ResBlock-residual", "MLP", "CNN_SimpleScanningMLP"])
def test_a_forward_that_fails_inside_leaves_all_layers_whole(name, spoil, backend, rng):
    case = next(case for case in EVERYTHING if case.name == name)
    layer = case.make()
    layer.forward(case.input(rng))
    spoil(layer)
    before = snapshot(layer)
    with pytest.raises((TypeError, ValueError)):
        layer.forward(case.input(rng))
    assert not differences(before, vars(layer))


@pytest.mark.parametrize("case", [c for c in CASES if c.name in COMPOSITES] + MODELS, ids=str)
def test_a_backward_that_fails_inside_leaves_all_gradients_whole(case, backend, rng):
    layer = case.make()
    Z = layer.forward(case.input(rng))
    layer.backward(gradient_for(Z))
    first = layer
    while hasattr(first, "sublayers") and list(first.sublayers()):
        first = next(iter(first.sublayers()))
    first.W = np.ones(3)
    before = snapshot(layer)
    with pytest.raises(ValueError, match="W"):
        layer.backward(2 * gradient_for(Z))
    assert not differences(before, vars(layer))


@pytest.mark.parametrize("name", ["running_M", "running_V"])
def test_batch_norm_with_spoilt_averages(name, backend, rng):
    layer = fc.BatchNorm2d(3)
    layer.forward(rng.standard_normal((2, 3, 4, 5)))
    setattr(layer, name, np.ones(4))
    before = snapshot(layer)
    for evaluate in (False, True):
        with pytest.raises(ValueError, match=r"running_[MV]|\b[MV]\b"):
            layer.forward(rng.standard_normal((2, 3, 4, 5)), eval=evaluate)
    assert not differences(before, vars(layer))


@copies
@all_cases
def test_copies_go_on_from_the_same_state(case, duplicate, backend, rng):
    layer, A = case.make(), case.input(rng)
    gradient = gradient_for(np.asarray(duplicate(layer).forward(A)))

    def forward(some):
        np.random.seed(3)
        return [np.asarray(some.forward(A)).copy()]

    def step_back(some):
        return backward(some, case, gradient)

    for use in (forward, step_back, forward, step_back):
        before = snapshot(layer)
        twin = duplicate(layer)
        assert type(twin) is type(layer)
        assert not differences(before, vars(twin))
        found = use(twin)
        assert not differences(before, vars(layer)), "the copy shares state"
        assert_equal(found, use(layer))


@copies
def test_copies_of_losses_and_cnn(duplicate, backend, rng):
    A, Y, image = rng.standard_normal((3, 5)), np.eye(3, 5), rng.standard_normal((2, 3, 20))
    for make in LOSSES:
        loss = duplicate(make())
        loss.forward(A, Y)
        assert same_bits(duplicate(loss).backward(), loss.backward())
    model = duplicate(make_cnn())
    Z = model.forward(image)
    twin = duplicate(model)
    assert same_bits(twin.backward(np.eye(2, 6)), model.backward(np.eye(2, 6)))
    twin.step()
    model.step()
    assert same_bits(twin.forward(image), model.forward(image))
    assert not same_bits(Z, model.Z)


EVALUATED = {"BatchNorm2d", "Dropout2d", "IdentityBlock", "ResNet", *COMPOSITES}
WITH_EVAL = [case for case in EVERYTHING if case.name in EVALUATED]


@pytest.mark.parametrize("case", WITH_EVAL, ids=str)
def test_an_evaluation_between_forward_and_backward_changes_nothing(case, backend, rng):
    layer = case.make()
    dLdZ = gradient_for(layer.forward(case.input(rng)))
    expected = backward(copy.deepcopy(layer), case, dLdZ)
    before = snapshot(layer)
    other = case.input(rng)
    first = np.array(layer.forward(other, eval=True))
    assert same_bits(layer.forward(other, eval=True), first)
    layer.forward(np.concatenate([other, other]), eval=True)
    assert_equal(backward(layer, case, dLdZ), expected)
    assert [d for d in differences(before, vars(layer)) if "dLd" not in d] == []


@pytest.mark.parametrize("case", WITH_EVAL, ids=str)
def test_an_evaluation_alone_is_no_forward_for_backward(case, backend, rng):
    layer = case.make()
    Z = layer.forward(case.input(rng), eval=True)
    if case.name != "IdentityBlock":
        with pytest.raises(RuntimeError, match="forward"):
            layer.backward(np.ones_like(Z))
