"""Shapes and sizes that do not fit: which error, what it says, and that the layer stays as it was."""

import re

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from layers import CASES, ELEMENTWISE, FUNCTIONS, LOSSES, MODELS
from support import differences, snapshot

SHAPED = [c for c in CASES + MODELS if c.name not in ELEMENTWISE and c.name != "Flatten"]
# IdentityBlock hands on anything.
CHECKED = [case for case in CASES + MODELS if case.name != "IdentityBlock"]
CHANNELS = [c for c in SHAPED if c.parameters or c in MODELS or "Block" in c.name]
OUTER = [c for c in CASES if c.name.startswith("Conv") and c.parameters]


def fails_unchanged(layer, call, error=ValueError, match=None):
    """The call raises, and leaves all that the layer holds as it was."""
    before = snapshot(layer)
    with pytest.raises(error, match=match) as caught:
        call()
    assert not differences(before, vars(layer))
    return str(caught.value)


@pytest.mark.parametrize("extra", [-1, 1])
@pytest.mark.parametrize("case", SHAPED, ids=str)
def test_wrong_number_of_dimensions(case, extra, backend):
    layer = case.make()
    shape = case.shape[1:] if extra < 0 else (1, *case.shape)
    message = fails_unchanged(layer, lambda: layer.forward(np.ones(shape)))
    assert str(shape) in message
    Z = layer.forward(np.ones(case.shape))
    shape = Z.shape[1:] if extra < 0 else (1, *Z.shape)
    message = fails_unchanged(layer, lambda: layer.backward(np.ones(shape)))
    assert str(shape) in message


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("Upsample")], ids=str)
def test_wrong_number_of_dimensions_before_forward(case, backend):
    layer = case.make()
    for ndim in (1, 2, 3, 4, 5):
        if ndim != len(case.shape):
            fails_unchanged(layer, lambda ndim=ndim: layer.backward(np.ones((4,) * ndim)))


@pytest.mark.parametrize("case", CHANNELS, ids=str)
def test_channels_that_do_not_match(case, backend):
    layer = case.make()
    for channels in (1, case.shape[1] - 1, case.shape[1] + 1):
        shape = (case.shape[0], channels, *case.shape[2:])
        message = fails_unchanged(layer, lambda shape=shape: layer.forward(np.ones(shape)))
        assert re.search(rf"\b{channels}\b", message)
        assert re.search(rf"\b{case.shape[1]}\b", message)


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_empty_batch(case, backend, dtype, rng):
    layer = case.make().astype(dtype)
    full = layer.forward(case.input(rng, dtype))
    layer.backward(np.ones_like(full))
    A = np.empty((0, *case.shape[1:]), dtype)
    Z = layer.forward(A)
    assert Z.shape == (0, *full.shape[1:])
    assert Z.dtype == dtype
    dLdA = layer.backward(np.empty_like(Z))
    assert dLdA.shape == A.shape
    assert dLdA.dtype == dtype
    for name in case.parameters:
        gradient = getattr(layer, f"dLd{name}")
        assert gradient.shape == getattr(layer, name).shape
        assert not gradient.any()


def test_batch_norm_statistics_stay_after_an_empty_batch(backend, rng):
    layer = fc.BatchNorm2d(3)
    layer.forward(rng.standard_normal((2, 3, 4, 5)))
    running = layer.running_M.copy(), layer.running_V.copy()
    layer.forward(np.empty((0, 3, 4, 5)))
    assert np.array_equal(running, (layer.running_M, layer.running_V))


@pytest.mark.parametrize("case", [*SHAPED, *(c for c in CASES if c.name == "Flatten")], ids=str)
def test_only_the_batch_may_be_empty(case, backend):
    layer = case.make()
    for axis in range(1, len(case.shape)):
        shape = tuple(0 if i == axis else n for i, n in enumerate(case.shape))
        message = fails_unchanged(layer, lambda shape=shape: layer.forward(np.ones(shape)))
        assert str(shape) in message


@pytest.mark.parametrize("make", [
    lambda: fc.Conv2d_stride1(3, 4, 5), lambda: fc.Conv2d(3, 4, 7, 2, 1),
    lambda: fc.MaxPool2d(5, 1), lambda: fc.MeanPool2d(5, 2), lambda: fc.ConvTranspose2d(3, 4, 8, 2),
])
def test_kernel_larger_than_the_input(make, backend):
    layer, shape = make(), (2, 3, 4, 4)
    message = fails_unchanged(layer, lambda: layer.forward(np.ones(shape)))
    size = getattr(layer, "kernel_size", None) or layer.kernel
    assert str(size) in message
    assert "4, 4" in message
    for height, width in ((4, 20), (20, 4)):
        fails_unchanged(layer, lambda h=height, w=width: layer.forward(np.ones((2, 3, h, w))))
    layer.forward(np.ones((2, 3, 20, 20)))


CONV = {"in_channels": 3, "out_channels": 4, "kernel_size": 3}
CONSTRUCTORS = [
    (fc.Conv1d_stride1, CONV), (fc.Conv2d_stride1, CONV),
    (fc.Conv1d, {**CONV, "stride": 2}), (fc.Conv2d, {**CONV, "stride": 2}),
    (fc.ConvTranspose1d, {**CONV, "upsampling_factor": 2}),
    (fc.ConvTranspose2d, {**CONV, "upsampling_factor": 2}),
    (fc.Upsample1d, {"upsampling_factor": 2}), (fc.Upsample2d, {"upsampling_factor": 2}),
    (fc.Downsample1d, {"downsampling_factor": 2}), (fc.Downsample2d, {"downsampling_factor": 2}),
    (fc.MaxPool2d_stride1, {"kernel": 2}), (fc.MaxPool2d, {"kernel": 2, "stride": 2}),
    (fc.MeanPool2d_stride1, {"kernel": 2}), (fc.MeanPool2d, {"kernel": 2, "stride": 2}),
    (fc.BatchNorm2d, {"num_features": 3}), (fc.Linear, {"in_features": 3, "out_features": 2}),
    (fc.ConvBlock, {**CONV, "stride": 1, "padding": 1}),
    (fc.ResBlock, {"in_channels": 3, "out_channels": 4, "filter_size": 3, "stride": 2}),
]
SIZES = [(make, sizes, name) for make, sizes in CONSTRUCTORS for name in sizes if name != "padding"]
sizes = pytest.mark.parametrize(
    ("make", "sizes", "name"), SIZES, ids=[f"{make.__name__}-{name}" for make, _, name in SIZES]
)


@pytest.mark.parametrize("value", [0, -1, True, False, 2.5, 2.0, "3", None, [2, 2, 2], np.array([2]), np.nan],
                         ids=str)
@sizes
def test_sizes_that_are_no_positive_integers(make, sizes, name, value):
    error = ValueError if type(value) is int else (TypeError, ValueError)
    with pytest.raises(error, match={"filter_size": "kernel_size"}.get(name, name)):
        make(**{**sizes, name: value})


@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.int64, np.uint64])
@sizes
def test_numpy_integers_are_sizes(make, sizes, name, integer, rng):
    layer = make(**{**sizes, name: integer(sizes[name])})
    assert snapshot(layer).keys() == vars(make(**sizes)).keys()


@pytest.mark.parametrize("value", [-1, True, 0.5, "1", [1, 1]], ids=str)
@pytest.mark.parametrize("make", [fc.Conv1d, fc.Conv2d, fc.ConvBlock, fc.ResBlock])
def test_padding_that_is_no_size(make, value):
    with pytest.raises((TypeError, ValueError), match="padding"):
        make(3, 4, 3, 2, value)


@pytest.mark.parametrize("name", ["stride", "padding", "upsampling"])
@pytest.mark.parametrize("value", [-1, True, 2.5, "3", None, (1,), (1, 2, 3), (1, -1), (1, 2.5)], ids=str)
def test_steps_of_functions(name, value, backend):
    A, W = np.ones((2, 3, 7, 7)), np.ones((4, 3, 3, 3))
    with pytest.raises((TypeError, ValueError), match=name):
        F.conv2d_forward(A, W, **{name: value})
    with pytest.raises((TypeError, ValueError), match=name):
        F.conv2d_backward(np.ones((2, 4, 5, 5)), A, W, **{name: value})
    with pytest.raises((TypeError, ValueError), match=name):
        F.conv1d_forward(A[0], W[0], **{name: value})


@pytest.mark.parametrize("make", [lambda: fc.Dropout2d(-0.1), lambda: fc.Dropout2d(1.1),
                                  lambda: fc.Dropout2d(np.nan), lambda: fc.BatchNorm2d(3, alpha=1.5),
                                  lambda: fc.BatchNorm2d(3, alpha=np.nan), lambda: fc.Swish(np.nan)])
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match="from"):
        make()


@pytest.mark.parametrize("make", [fc.MaxPool2d, fc.MeanPool2d, lambda k, s: fc.Conv2d(3, 4, k, s)])
def test_a_tail_that_no_window_reaches_has_gradient_zero(make, backend, rng):
    kernel, stride = 2, 3
    layer, A = make(kernel, stride), rng.standard_normal((2, 3, 9, 10))
    Z = layer.forward(A)
    dLdA = layer.backward(np.ones_like(Z))
    assert dLdA.shape == A.shape
    seen = [(n - 1) * stride + kernel for n in Z.shape[2:]]
    assert all(s < n for s, n in zip(seen, A.shape[2:]))
    assert not dLdA[:, :, seen[0]:].any()
    assert not dLdA[:, :, :, seen[1]:].any()
    assert dLdA[:, :, : seen[0], : seen[1]].any()


@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_gradients_of_another_shape(case, backend, rng):
    layer = case.make()
    shape = layer.forward(case.input(rng)).shape
    for axis in range(len(shape)):
        for change in (-1, 1, 7):
            wrong = tuple(n + change * (i == axis) for i, n in enumerate(shape))
            message = fails_unchanged(layer, lambda wrong=wrong: layer.backward(np.ones(wrong)))
            assert re.search(r"\b(dLd\w+|delta|grad)\b", message)
            for extents in (wrong, shape):
                assert re.search(rf"\b{extents[axis]}\b", message)
    message = fails_unchanged(layer, lambda: layer.backward(1.0))
    assert "()" in message
    assert "shape" in message


@pytest.mark.parametrize("case", [case for case in CASES if case.parameters], ids=str)
def test_parameters_replaced_by_wrong_shapes(case, backend, rng):
    for name in case.parameters:
        shape = getattr(case.make(), name).shape
        for wrong in ((), (2,), (*shape, 1, 1), (shape[0] + 1, *shape[1:]), (0, *shape[1:]), (5, 5, 5, 5, 5)):
            layer = case.make()
            layer.forward(case.input(rng))
            setattr(layer, name, np.ones(wrong))
            message = fails_unchanged(layer, lambda layer=layer: layer.forward(np.ones(case.shape)))
            assert name in message
            assert str(wrong) in message or wrong[1:] == shape[1:]


@pytest.mark.parametrize("make", LOSSES)
def test_losses(make):
    rows = 3, 5
    others = [(rows, (3, 4)), (rows, (2, 5)), (rows, (5,)), (rows, (1, 5)), ((5,), (5,)), ((3, 0), (3, 0))]
    for A, Y in others:
        loss = make()
        fails_unchanged(loss, lambda A=A, Y=Y, loss=loss: loss.forward(np.ones(A), np.ones(Y)), match="shape")


def test_init_functions_that_return_another_shape():
    for make in (fc.Conv1d_stride1, fc.Conv2d_stride1):
        with pytest.raises(ValueError, match="weight_init_fn"):
            make(3, 4, 3, lambda *shape: np.ones(shape[:-1]))
        with pytest.raises(ValueError, match="bias_init_fn"):
            make(3, 4, 3, None, lambda size: np.ones(size + 1))
        with pytest.raises(TypeError, match="weight_init_fn"):
            make(3, 4, 3, lambda *shape: None)


# Functions of numbers each by itself.
FREE = {"sigmoid", "tanh", "relu", "gelu", "swish"}


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.name not in FREE], ids=str)
def test_functions_refuse_dimensions_that_are_not_theirs(function, backend, rng):
    proper = function.inputs(rng)
    for name, a in proper.items():
        for shape in (a.shape[1:], (1, *a.shape)):
            if name in ("b", "BW", "Bb") and shape in (a.shape[1:], a.shape[:1]) and len(shape) == 1:
                continue  # a vector is a form of these
            with pytest.raises(ValueError, match="shape") as caught:
                function.call(**{**proper, name: np.ones(shape)})
            assert str(shape) in str(caught.value), caught.value


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if len(f.shapes) > 1], ids=str)
def test_functions_refuse_sizes_that_do_not_fit_each_other(function, backend, rng):
    """All but height and width of an image and a kernel, and the batch, may differ in no way."""
    proper = function.inputs(rng)
    for name, a in proper.items():
        matching = range(a.ndim) if name not in ("A", "W", "Z") or a.ndim == 2 else (1,)
        for axis in matching:
            if function.name == "linear_forward" and (name, axis) == ("A", 0):
                continue  # the batch
            shape = tuple(n + (i == axis) for i, n in enumerate(a.shape))
            with pytest.raises(ValueError, match=r"shape|channels") as caught:
                function.call(**{**proper, name: np.ones(shape)})
            message = str(caught.value)
            assert re.search(rf"\b{shape[axis]}\b", message), message
            assert re.search(rf"\b({'|'.join(proper)})\b", message), message
