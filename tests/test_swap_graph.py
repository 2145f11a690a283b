"""`swap`: the layers of a live model, with all that they hold, and back."""

import copy
import textwrap
from collections import OrderedDict

import numpy as np
import pytest

import fastconv

LAYERS = [
    ("Conv1d", "Conv1d_stride1", (3, 4, 3), (2, 3, 9)),
    ("Conv1d", "Conv1d", (3, 4, 3, 2, 1), (2, 3, 10)),
    ("Conv2d", "Conv2d_stride1", (3, 4, 3), (2, 3, 6, 7)),
    ("Conv2d", "Conv2d", (3, 4, 3, 2, 1), (2, 3, 6, 7)),
    ("ConvTranspose", "ConvTranspose1d", (3, 4, 3, 2), (2, 3, 6)),
    ("ConvTranspose", "ConvTranspose2d", (3, 4, 3, 2), (2, 3, 4, 5)),
    ("resampling", "Upsample1d", (3,), (2, 3, 5)),
    ("resampling", "Downsample1d", (3,), (2, 3, 8)),
    ("resampling", "Upsample2d", (2,), (2, 3, 4, 5)),
    ("resampling", "Downsample2d", (2,), (2, 3, 5, 8)),
    ("pool", "MaxPool2d_stride1", (2,), (2, 3, 5, 6)),
    ("pool", "MaxPool2d", (3, 2), (2, 3, 8, 9)),
    ("pool", "MeanPool2d_stride1", (2,), (2, 3, 5, 6)),
    ("pool", "MeanPool2d", (3, 2), (2, 3, 8, 9)),
    ("batchnorm2d", "BatchNorm2d", (3,), (4, 3, 5, 6)),
    ("dropout2d", "Dropout2d", (0.4,), (4, 5, 3, 2)),
    ("flatten", "Flatten", (), (3, 4, 5, 2)),
]
GRADIENTS = ("dLdW", "dLdb", "dLdBW", "dLdBb")


class Model:
    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.fixture(params=LAYERS, ids=[name for _, name, _, _ in LAYERS])
def case(request, mytorch, rng):
    """A layer of the user's, a copy of it, and an input."""
    module, name, arguments, shape = request.param
    layer = getattr(mytorch[module], name)(*arguments)
    return layer, rng.standard_normal(shape)


def gradients(layer):
    holder = getattr(layer, "conv1d_stride1", getattr(layer, "conv2d_stride1", layer))
    return {name: getattr(holder, name) for name in GRADIENTS if hasattr(holder, name)}


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-10, err_msg=name)


def test_forward_and_backward_are_the_same(case):
    layer, A = case
    own = copy.deepcopy(layer)
    report = fastconv.swap(Model(layer=layer))
    assert isinstance(layer, getattr(fastconv, type(layer).__name__))
    assert report.kept == []
    for _ in range(2):
        stream = np.random.get_state()
        wanted = own.forward(A)
        np.random.set_state(stream)
        Z = layer.forward(A)
        np.testing.assert_allclose(Z, wanted, atol=1e-10)
        np.testing.assert_allclose(layer.backward(Z), own.backward(Z), atol=1e-10)
        equal(gradients(layer), gradients(own))


def test_between_forward_and_backward(case):
    layer, A = case
    Z = layer.forward(A)
    own = copy.deepcopy(layer)
    report = fastconv.swap([layer])
    assert [entry.reason for entry in report.swapped if "not found" in entry.reason] == []
    np.testing.assert_allclose(layer.backward(Z), own.backward(Z), atol=1e-10)
    equal(gradients(layer), gradients(own))


def test_undo_between_forward_and_backward(case):
    layer, A = case
    original = type(layer)
    own = copy.deepcopy(layer)
    report = fastconv.swap({"layer": layer})
    np.random.seed(8)
    Z = layer.forward(A)
    report.undo()
    assert type(layer) is original
    np.random.seed(8)
    own.forward(A)
    np.testing.assert_allclose(layer.backward(Z), own.backward(Z), atol=1e-10)
    equal(gradients(layer), gradients(own))
    assert not any(name.startswith("_fastconv") or name == "_workspace" for name in vars(layer))
    report.undo()  # does nothing
    assert type(layer) is original


def test_arrays_are_shared(mytorch, rng):
    conv, norm = mytorch["Conv2d"].Conv2d(3, 4, 3, 2, 1), mytorch["batchnorm2d"].BatchNorm2d(4, alpha=0.7)
    norm.forward(rng.standard_normal((2, 4, 5, 5)))
    arrays = conv.conv2d_stride1.W, conv.conv2d_stride1.b, norm.BW, norm.running_M, norm.running_V, norm.M
    fastconv.swap([conv, norm])
    after = conv.conv2d_stride1.W, conv.conv2d_stride1.b, norm.BW, norm.running_M, norm.running_V, norm.M
    assert all(a is b for a, b in zip(arrays, after))
    assert norm.alpha == 0.7


def test_where_layers_are_found(mytorch):
    Flatten, Conv2d = mytorch["flatten"].Flatten, mytorch["Conv2d"].Conv2d
    shared = Conv2d(1, 1, 1, 1)
    parts = [Flatten() for _ in range(6)]
    model = Model(
        a=parts[0],
        many=[parts[1], (parts[2], {"key": parts[3]})],
        named=OrderedDict(x=shared),
        inside=Model(b=parts[4], again=shared, loop=None),
        text="Flatten",
        number=3,
    )
    model.inside.loop = model
    model.optimizer = Model(layers=[parts[5], shared.conv2d_stride1])
    report = fastconv.swap(model)
    assert all(isinstance(part, fastconv.Flatten) for part in parts)
    assert model.named["x"] is model.inside.again is shared
    assert model.optimizer.layers[-1] is shared.conv2d_stride1
    assert isinstance(shared.conv2d_stride1, fastconv.Conv2d_stride1)
    places = {entry.where for entry in report.swapped}
    assert {
        "model.a",
        "model.many[0]",
        "model.many[1][0]",
        "model.many[1][1]['key']",
        "model.inside.b",
    } <= places
    assert len(report.swapped) == len(places) == 6 + 3
    report.undo()
    assert not any(isinstance(part, fastconv.Layer) for part in (*parts, shared, shared.conv2d_stride1))


def test_the_model_itself_may_be_a_layer(mytorch):
    layer = mytorch["pool"].MaxPool2d(2, 2)
    report = fastconv.swap(layer)
    assert isinstance(layer, fastconv.MaxPool2d)
    assert [entry.where for entry in report.swapped] == [
        "model",
        "model.maxpool2d_stride1",
        "model.downsample2d",
    ]


def test_what_is_kept_and_why(mytorch):
    mytorch.write(
        "odd",
        "import numpy as np\nclass BatchNorm2d:\n    def __init__(self, num_features):\n"
        "        self.BW = np.ones(num_features)\n        self.gain = np.ones(3)\n"
        "    def forward(self, Z): return Z\n    def backward(self, dLdBZ): return dLdBZ\n",
    )
    model = Model(
        linear=mytorch["linear"].Linear(2, 2),
        odd=mytorch["odd"].BatchNorm2d(3),
        pool=mytorch["pool"].MaxPool2d(2, 2),
        flat=mytorch["flatten"].Flatten(),
    )
    report = fastconv.swap(model, exclude=["Flatten"])
    assert {entry.where: entry.reason for entry in report.kept} == {
        "model.linear": "revisions scale these differently, so they stay as they are (--all swaps them)",
        "model.odd": "it has no Bb",
        "model.flat": "excepted",
    }
    assert "model.pool" in str(report)
    assert isinstance(fastconv.swap(model, all=True).swapped[0], object)
    assert isinstance(model.linear, fastconv.Linear)


def test_a_derived_layer(mytorch, rng):
    class Scaled(mytorch["Conv2d"].Conv2d_stride1):
        def forward(self, A):
            return 2 * super().forward(A)

    layer = Scaled(3, 4, 2)
    A = rng.standard_normal((2, 3, 5, 5))
    wanted = layer.forward(A)
    report = fastconv.swap(Model(layer=layer))
    assert isinstance(layer, fastconv.Conv2d_stride1)
    assert isinstance(layer, Scaled)
    np.testing.assert_allclose(layer.forward(A), wanted, atol=1e-12)
    report.undo()
    assert type(layer) is Scaled


def test_training_goes_on_and_undo_keeps_its_values(mytorch, rng):
    conv = mytorch["Conv2d"].Conv2d(3, 4, 3, 2, 1)
    report = fastconv.swap(Model(conv=conv))
    A = rng.standard_normal((2, 3, 6, 6))
    conv.backward(conv.forward(A))
    conv.conv2d_stride1.W = conv.conv2d_stride1.W - 0.1 * conv.conv2d_stride1.dLdW
    W, Z = conv.conv2d_stride1.W, conv.forward(A)
    report.undo()
    assert conv.conv2d_stride1.W is W
    np.testing.assert_allclose(conv.forward(A), Z, atol=1e-12)
    assert set(vars(conv)) == {"stride", "pad", "conv2d_stride1", "downsample2d"}


def test_dtype_converts_the_whole_model(mytorch, rng):
    model = Model(
        conv=mytorch["Conv2d"].Conv2d(3, 4, 3, 2),
        norm=mytorch["batchnorm2d"].BatchNorm2d(4),
        flat=mytorch["flatten"].Flatten(),
        linear=mytorch["linear"].Linear(16, 2),
    )
    report = fastconv.swap(model, dtype="float32")
    A = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    Z = model.linear.forward(model.flat.forward(model.norm.forward(model.conv.forward(A))))
    assert Z.dtype == np.float32
    grad = model.conv.backward(model.norm.backward(model.flat.backward(model.linear.backward(Z))))
    assert grad.dtype == model.conv.conv2d_stride1.dLdW.dtype == model.linear.dLdW.dtype == np.float32
    report.undo()
    assert (
        model.conv.conv2d_stride1.W.dtype == model.linear.W.dtype == model.norm.running_M.dtype == np.float64
    )


ELSEWHERE = """import numpy as np

class {name}:
    def __init__(self{sizes}):
        self.weight = np.ones((4, 3{kernel}))
        self.b = np.ones(4)
    W = property({functions})
    def forward(self, A):
        return np.einsum("nc...,oc...->no...", A, self.W) + self.b.reshape(4{kernel})
    def backward(self, dLdZ):
        return dLdZ
"""
GET, SET = "lambda self: self.weight", "lambda self, W: setattr(self, 'weight', W)"


@pytest.fixture(params=["Conv1d_stride1", "Linear"])
def elsewhere(request, mytorch):
    """Makes a layer that has its weights behind a property: one that is swapped, and one that is not."""

    def make(*functions):
        parts = {"kernel": "", "sizes": ""}
        if request.param == "Conv1d_stride1":
            parts = {"kernel": ", 1", "sizes": ", in_channels=3, out_channels=4, kernel_size=1"}
        source = ELSEWHERE.format(name=request.param, functions=", ".join(functions), **parts)
        mytorch.write("elsewhere", source)
        return getattr(mytorch["elsewhere"], request.param)()

    return make


def test_dtype_converts_what_is_behind_properties(elsewhere):
    layer = elsewhere(GET, SET)
    swapped = type(layer).__name__ != "Linear"
    report = fastconv.swap(layer, dtype="float32")
    assert isinstance(layer, fastconv.Layer) == swapped
    assert layer.weight.dtype == layer.b.dtype == np.float32
    A = np.ones((2, 3, 1) if swapped else (2, 3), np.float32)
    assert layer.forward(A).dtype == np.float32
    report.undo()
    assert layer.weight.dtype == layer.b.dtype == layer.forward(A).dtype == np.float64


def test_dtype_of_a_property_that_shows_what_is_converted(mytorch):
    """Nothing can be assigned to it, and nothing need be."""
    mytorch.write("outer", """class Outer:
    W = property(lambda self: self.inside.W)
    def forward(self, A):
        return self.inside.forward(A)
""")  # fmt: skip
    outer = mytorch["outer"].Outer()
    outer.inside = mytorch["linear"].Linear(3, 4)
    fastconv.swap(outer, dtype="float32")
    assert outer.W.dtype == np.float32


STUBBORN = GET, "lambda self, W: setattr(self, 'weight', W.astype(float))"


@pytest.mark.parametrize("functions", [(GET,), STUBBORN], ids=["read only", "stubborn"])
def test_dtype_that_a_property_keeps_from_its_numbers(mytorch, elsewhere, functions):
    layer, other = elsewhere(*functions), mytorch["Conv2d"].Conv2d(3, 4, 3, 1)
    W = other.conv2d_stride1.W
    message = r"dtype: model\[1\].W stays float64, not float32: it is a property of "
    with pytest.raises(TypeError, match=message + type(layer).__name__):
        fastconv.swap([other, layer], dtype="float32")
    assert not isinstance(layer, fastconv.Layer)
    assert not isinstance(other, fastconv.Layer)
    assert layer.W.dtype == layer.b.dtype == np.float64
    assert other.conv2d_stride1.W is W


def test_arguments_that_are_wrong(mytorch):
    layer = mytorch["pool"].MaxPool2d(2, 2)
    with pytest.raises(TypeError, match="dtype must be 'float32' or 'float64'"):
        fastconv.swap([layer], dtype="float16")
    with pytest.raises(ValueError, match="Conv3d: no layer of that name"):
        fastconv.swap([layer], only=["Conv3d"])
    assert not isinstance(layer, fastconv.Layer)


def test_in_a_program_where_install_holds(mytorch):
    """Layers made compiled are left as they are; those from before are swapped."""
    before = mytorch["pool"].MaxPool2d(2, 2)
    fastconv.install()
    after = mytorch["pool"].MaxPool2d(2, 2)
    fastconv.swap([before, after])
    assert isinstance(before, fastconv.MaxPool2d)
    A = np.arange(16.0).reshape(1, 1, 4, 4)
    assert np.array_equal(before.forward(A), after.forward(A))


def test_a_pending_backward_that_only_the_users_class_can_do(mytorch, rng):
    """It has kept places, but not the input."""
    source = """
        class MaxPool2d_stride1:
            def __init__(self, kernel):
                self.kernel = kernel
            def forward(self, A):
                self.places = A == A.max()
                return A[:, :, 1:, 1:]
            def backward(self, dLdZ):
                return dLdZ.max() * self.places
        """
    mytorch.write("odd", textwrap.dedent(source))
    layer, A = mytorch["odd"].MaxPool2d_stride1(2), rng.standard_normal((1, 1, 3, 3))
    layer.forward(A)
    report = fastconv.swap([layer])
    assert report.swapped[0].reason.startswith("its last input was not found")
    wanted = np.where(A.max() == A, 1.0, 0.0)
    np.testing.assert_array_equal(layer.backward(np.ones((1, 1, 2, 2))), wanted)
    assert type(layer) is mytorch["odd"].MaxPool2d_stride1
