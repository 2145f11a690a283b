"""Hostile arguments at every public function and layer: an exception of Python's, or a proper answer.

What counts is that nothing crashes or hangs, that no state is changed by what fails, and that no size is
believed that an object says of itself.
"""

import copy
import inspect
import sys
import threading
from contextlib import suppress
from itertools import product

import numpy as np
import pytest

import fastconv as fc
import hostile
from fastconv import functional as F
from layers import CASES, FUNCTIONS, MODELS
from support import arrays_in, differences, output_of, same_bits, snapshot

# What a call may raise for an argument that is none; `RuntimeError` comes from objects that raise it.
EXPECTED = (TypeError, ValueError, MemoryError, RuntimeError, OSError, KeyError)


def attempt(call):
    """What the call gave, or None."""
    with suppress(*EXPECTED), np.errstate(all="ignore"):
        return call()
    return None


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions(function, backend, rng):
    proper = function.inputs(rng)
    shapes = [np.shape(x) for x in arrays_in(function.call(**proper))]
    for name, a in proper.items():
        for kind, bad in hostile.arrays(a.shape).items():
            found = attempt(lambda name=name, bad=bad: function.call(**{**proper, name: bad}))
            if found is not None and shapes:
                results = arrays_in(found)
                assert all(type(x) is np.ndarray for x in results), kind
                if np.shape(bad) == a.shape:
                    assert [np.shape(x) for x in results] == shapes, kind


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_layers(case, backend, rng):
    layer = case.make()
    Z = layer.forward(case.input(rng))
    before = snapshot(layer)
    for place, shape in (("forward", case.shape), ("backward", Z.shape)):
        for kind, bad in hostile.arrays(shape).items():
            changed = copy.deepcopy(layer)
            call = getattr(changed, place)
            if attempt(lambda call=call, bad=bad: call(bad)) is None:
                assert not differences(before, vars(changed)), kind


def attributes(case):
    layer = case.make()
    layer.forward(np.ones(case.shape))
    return sorted({*vars(layer), *("W", "b", "stride", "kernel") * hasattr(layer, "W")})


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_any_attribute_set_to_anything(case, backend, rng):
    """The layer may be of no more use, but nothing worse."""
    A = case.input(rng)
    trained = case.make()
    Z = trained.forward(A)
    harmless = (*EXPECTED, AttributeError, IndexError, ArithmeticError)
    for name, value in product(attributes(case), [*hostile.NUMBERS.values(), np.ones((1,) * 6), {}, ()]):
        layer = copy.deepcopy(trained)
        with suppress(*harmless):
            setattr(layer, name, value)
        for method, argument in (("forward", A), ("backward", np.ones_like(Z)), ("astype", "float32")):
            with suppress(*harmless), np.errstate(all="ignore"):
                getattr(layer, method)(argument)


def functions_with_numbers():
    A, W = np.ones((2, 3, 8, 9)), np.ones((4, 3, 3, 3))
    dLdZ, pooled = np.ones((2, 4, 6, 7)), np.ones((2, 3, 4, 4))
    yield from (
        lambda n, name=name: F.conv2d_forward(A, W, None, **{name: n})
        for name in ("stride", "padding", "upsampling")
    )
    yield from (
        lambda n, name=name: F.conv2d_backward(dLdZ, A, W, **{name: n})
        for name in ("stride", "padding", "upsampling")
    )
    yield from (
        lambda n, name=name: F.conv1d_forward(A[0], W[0], None, **{name: n})
        for name in ("stride", "padding", "upsampling")
    )
    for pool, name in product((F.max_pool2d_forward, F.mean_pool2d_forward), ("kernel", "stride")):
        yield lambda n, pool=pool, name=name: pool(A, **{"kernel": 2, "stride": 2, name: n})
    for function in (F.upsample, F.downsample):
        yield lambda n, function=function: function(A, n, 2)
        yield lambda n, function=function: function(A, 2, n)
    for function in (F.upsample_backward, F.downsample_backward):
        yield lambda n, function=function: function(A, n, (2, 3, 4, 5))
        yield lambda n, function=function: function(A, 2, n)
        yield lambda n, function=function: function(A, 2, (2, 3, n, n))
    yield lambda n: F.swish(A, n)
    yield lambda n: F.swish_backward(A, A, n)
    yield lambda n: F.batchnorm2d_forward(A, np.ones(3), np.ones(3), n)
    yield lambda n: F.batchnorm2d_eval(A, *np.ones((4, 3)), n)
    yield lambda n: F.batchnorm2d_backward(A, A, np.ones(3), n)
    yield lambda n: F.batchnorm2d_backward(A, A, np.ones(3), (n, n))
    yield lambda n: F.scale_channels(A, np.ones((2, 3)), n)
    proper = F.max_pool2d_forward(A, 2, 2)[1]
    for backward in (F.max_pool2d_backward, F.mean_pool2d_backward):
        yield lambda n, backward=backward: backward(pooled, n)
        for name in proper._fields:
            yield lambda n, backward=backward, name=name: backward(pooled, proper._replace(**{name: n}))
    for make in (fc.Dropout2d, fc.Swish, fc.Upsample1d, fc.Upsample2d, fc.Downsample1d, fc.Downsample2d,
                 fc.BatchNorm2d, fc.MaxPool2d_stride1, fc.MLP, fc.models.ResNet, fc.ReLU().astype):
        yield make
    for make, position in product((fc.Conv1d, fc.Conv2d, fc.ConvBlock, fc.ResBlock), range(5)):
        sizes = 3, 4, 3, 2, 1
        before, after = sizes[:position], sizes[position + 1 :]
        yield lambda n, make=make, before=before, after=after: make(*before, n, *after)


@pytest.mark.parametrize("kind", hostile.NUMBERS)
def test_numbers(kind, backend):
    for call in functions_with_numbers():
        attempt(lambda call=call: call(hostile.NUMBERS[kind]))


@pytest.mark.parametrize("name", ["stride", "padding", "upsampling"])
@pytest.mark.parametrize("value", [hostile.Integer(5), (1, hostile.Integer(5))], ids=["integer", "pair"])
def test_an_integer_is_what_it_converts_to(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, not -7"):
        F.conv2d_forward(np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3)), **{name: value})
    with pytest.raises(ValueError, match="count must be at least 1, not -7"):
        fc.set_num_threads(hostile.Integer(5))
    with pytest.raises(ValueError, match="p must be from 0 to 1, not nan"):
        fc.Dropout2d(hostile.Float(0.5))


@pytest.mark.parametrize(("call", "error", "match"), [
    (lambda A: F.upsample(A, 2, 3), ValueError, "axes must be 1 or 2, not 3"),
    (lambda A: F.downsample(A, 2, 0), ValueError, "axes must be at least 1"),
    (lambda A: F.upsample_backward(A, 2, (2, 3)), ValueError, "shape must be 3 or 4 integers"),
    (lambda A: F.downsample_backward(A, 2, (2, 3, 4, 5.0)), TypeError, "shape must be an integer"),
    (lambda A: F.batchnorm2d_forward(A, np.ones(3), np.ones(3), -1e-8), ValueError, "eps must be from 0"),
    (lambda A: F.batchnorm2d_forward(A, np.ones(3), np.ones(3), "x"), TypeError, "eps must be a number"),
    (lambda A: F.batchnorm2d_backward(A, A, np.ones(3), None), TypeError, "workspace must be the BatchNorm"),
    (lambda A: F.swish(A, None), TypeError, "beta must be a number"),
    (lambda A: F.swish(A, 10**400), ValueError, "beta must be from"),
    (lambda A: F.max_pool2d_backward(A, None), TypeError, "workspace must be the PoolWorkspace"),
    (lambda A: F.relu(hostile.in_itself(2)), ValueError, "Z must be .* not a list within itself"),
    (lambda A: F.relu(hostile.doubled(60)), ValueError, "Z of shape .* larger than any array"),
    (lambda A: F.relu(hostile.doubled(100)), ValueError, "Z must be .* not lists 64 deep"),
    (lambda A: F.relu_backward(A, A[0]), ValueError, r"dLdA has shape .* but Z has \("),
    (lambda A: F.downsample(np.broadcast_to(A[..., :1], (2, 3, 4, 2**43)), 1, 2),
     MemoryError, "the result of shape"),
    (lambda A: F.upsample_backward(np.broadcast_to(A[..., :1], (2, 3, 4, 2**43)), 1, (2, 3, 4, 2**43)),
     MemoryError, "the result of shape"),
    (lambda A: fc.Linear(2, 3, weight_init_fn=3), TypeError, "weight_init_fn must be a function or None"),
    (lambda A: fc.Conv2d(2, 3, 3, 1, 0, None, "0"), TypeError, "bias_init_fn must be a function or None"),
    (lambda A: fc.MLP(3), TypeError, "layer_sizes must be a sequence, not int"),
    (lambda A: fc.MLP([2, 3.0]), TypeError, r"layer_sizes\[1\] must be an integer"),
    (lambda A: fc.MLP([2, 3]).init_weights(None), TypeError, "weights must be a sequence, not NoneType"),
    (lambda A: fc.models.ResNet(3, 8, 4, ()), ValueError, "widths must hold at least 1"),
], ids=lambda value: "")
def test_messages(call, error, match, backend):
    with pytest.raises(error, match=match):
        call(np.ones((2, 3, 4, 5)))


@pytest.mark.parametrize(("name", "value"), [("alpha", -1), ("alpha", 2.5), ("alpha", np.inf), ("alpha", "x"),
                                             ("eps", -1.0), ("eps", -np.inf), ("eps", None)])
def test_settings_of_batch_norm_are_checked_where_they_are_used(name, value, backend):
    layer, Z = fc.BatchNorm2d(3), np.ones((2, 3, 4, 5))
    setattr(layer, name, value)
    before = snapshot(layer)
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        layer.forward(Z)
    assert not differences(before, vars(layer))


def test_settings_of_dropout_are_checked_where_they_are_used(backend):
    layer, x = fc.Dropout2d(0.5), np.ones((2, 3, 4, 5))
    for p in (2, -1, np.nan, "x", None):
        layer.p = p
        with pytest.raises((TypeError, ValueError), match="p must be"):
            layer.forward(x)


# ---- arrays that change while they are used ------------------------------------------------------


class Acts:
    """As it is read, it does something to another array."""

    def __init__(self, value, act):
        self.value, self.act = value, act

    def __array__(self, dtype=None, copy=None):
        self.act()
        return self.value


def test_an_argument_that_changes_another_does_not_reach_the_kernel(backend):
    A, W, b = np.arange(120.0).reshape(2, 3, 4, 5), np.ones((2, 3, 2, 2)), np.ones(2)
    expected = F.conv2d_forward(A, W, b)
    other = A.copy()
    flat = Acts(b, lambda: setattr(other, "shape", (1, 1, 1, 120)))
    assert same_bits(F.conv2d_forward(other, W, flat), expected)
    assert other.shape == (1, 1, 1, 120)
    other = A.copy()
    with pytest.raises(ValueError, match="cannot resize"):  # NumPy sees that it is in use
        F.conv2d_forward(other, W, Acts(b, lambda: other.resize((1000, 1000))))


class Switching(tuple):
    """Its items are others at each look."""

    def __getitem__(self, index):
        return 10**6

    def __iter__(self):
        return iter((10**6, 10**6, 10**6, 10**6))


def test_a_workspace_of_another_class_is_refused(backend):
    Z, workspace = F.max_pool2d_forward(np.ones((2, 3, 8, 9)), 3, 2)

    class Lying(F.PoolWorkspace):
        @property
        def shape(self):
            return 2, 3, 800, 900

    with pytest.raises(TypeError, match="workspace must be the PoolWorkspace"):
        F.max_pool2d_backward(Z, Lying(*workspace))
    for name in ("shape", "kernel", "stride"):
        value = Switching(getattr(workspace, name))
        with pytest.raises(ValueError, match=rf"workspace\.{name} must be"):
            F.max_pool2d_backward(Z, workspace._replace(**{name: value}))


@pytest.mark.parametrize("kernel", [3, 17])
def test_places_that_another_thread_changes_reach_no_other_memory(dtype, kernel):
    """Checked, and then changed: the kernels write within the image whatever they read."""
    A = np.zeros((1, 2, 40, 40), dtype)
    Z, workspace = F.max_pool2d_forward(A, kernel, 2)
    kernels = fc.backend.kernels(A.dtype)
    for wrong in (255, 254, -1, -(2**62), 2**62) if kernel > 16 else (255, 9, 10):
        places = np.full_like(workspace.places, wrong)
        room = np.full((3, *A.shape), 7, dtype)
        kernels.max_pool_gradient(np.ones_like(Z), places, room[1], (kernel, kernel), (2, 2), 1)
        assert (room[::2] == 7).all(), wrong


def test_arrays_reshaped_by_another_thread():
    """Results may be of the one shape or the other, or an exception; never of memory that is none."""
    A, W = np.arange(960.0).reshape(2, 3, 16, 10), np.ones((4, 3, 2, 2))
    allowed, stop = {(2, 4, 15, 9), (2, 4, 9, 15)}, threading.Event()

    def reshape():
        while not stop.is_set():
            A.shape = 2, 3, 10, 16
            A.shape = 960,
            A.shape = 2, 3, 16, 10

    thread = threading.Thread(target=reshape)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(3000):
            Z = attempt(lambda: F.conv2d_forward(A, W))
            assert Z is None or Z.shape in allowed
            P = attempt(lambda: F.max_pool2d_forward(A, 2)[0])
            assert P is None or P.shape in {(2, 3, 15, 9), (2, 3, 9, 15)}
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


# ---- models in themselves ------------------------------------------------------------------------


def test_a_model_in_itself_ends_with_an_error_and_leaves_the_others_as_they_are(backend, rng):
    model = fc.MLP([3, 4, 3])
    model.layers.append(model)
    before = {path: value for path, _, _, value in model.named_parameters()}
    for _ in range(3):
        with pytest.raises(RecursionError):
            model.forward(np.ones((2, 3)))
    assert all(same_bits(value, before[path]) for path, _, _, value in model.named_parameters())
    twin = copy.deepcopy(model)
    assert twin.layers[-1] is twin
    # Nothing of it is left behind for another model, which still takes back what fails.
    block = fc.ConvBlock(2, 3, 3, 1, 1)
    block.forward(rng.standard_normal((2, 2, 5, 5)))
    block.layers[1].Bb = "bias"
    state = snapshot(block)
    with pytest.raises(TypeError, match="Bb"):
        block.forward(rng.standard_normal((2, 2, 6, 6)))
    assert not differences(state, vars(block))


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_wrong_keywords(case):
    layer = case.make()
    for use in (layer.forward, layer.backward, layer):
        for arguments, keywords in (((), {}), ((1, 2, 3, 4, 5), {}), ((np.ones(case.shape),), {"evil": 1})):
            if use == layer.backward and not arguments and not keywords:
                parameters = inspect.signature(use).parameters.values()
                if all(p.default is not p.empty for p in parameters):
                    continue
            with pytest.raises(TypeError):
                use(*arguments, **keywords)


def test_weights_that_are_the_input_and_results_that_are_weights(backend):
    """Everything one array: inputs are only read, and results are new."""
    layer = fc.Conv2d_stride1(3, 3, 3)
    A = np.arange(81.0).reshape(3, 3, 3, 3)
    layer.W = A
    Z = layer.forward(A)
    dLdA = layer.backward(Z)
    assert same_bits(A, np.arange(81.0).reshape(3, 3, 3, 3))
    layer.W = dLdA
    layer.W -= layer.dLdW
    assert not np.shares_memory(layer.dLdW, layer.W)
    linear = fc.Linear(3, 3)
    square = linear.W = np.eye(3)
    linear.b = square[0]
    assert same_bits(linear.forward(square), np.eye(3) + np.eye(3)[0])
    assert same_bits(square, np.eye(3))


def test_a_signal_handler_may_use_the_layers_itself():
    assert output_of("""
    import signal, numpy as np, fastconv as fc, fastconv.functional as F
    A, W = np.ones((8, 32, 64, 64)), np.ones((64, 32, 5, 5))
    expected = F.conv2d_forward(A, W)
    calls = []
    def handler(*_):
        small = np.ones((1, 3, 9, 9))
        calls.append(F.max_pool2d_forward(small, 3)[0].sum() + F.conv2d_forward(A[:1], W).sum())
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # the next when this one has done
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    for _ in range(20):
        assert np.array_equal(F.conv2d_forward(A, W), expected)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert len(calls) >= 2
    print("done")
    """) == "done"
