"""Objects of replaced classes: whatever the user's constructor does, the compiled layer starts from it."""

import copy
import inspect
import pickle
import typing

import numpy as np
import pytest

import fastconv
import fastconv.functional as F
from mytorch_projects import MODULES

STRIDE1 = """
import numpy as np

class Conv2d_stride1:
    def __init__(self, {parameters}):
        {body}

    def forward(self, A):
        self.A = A
        K = self.W.shape[2]
        shape = (len(A), len(self.W), A.shape[2] - K + 1, A.shape[3] - K + 1)
        Z = np.zeros(shape)
        for i in range(shape[2]):
            for j in range(shape[3]):
                window = A[:, :, i:i + K, j:j + K]
                Z[:, :, i, j] = np.tensordot(window, self.W, ((1, 2, 3), (1, 2, 3))) + self.b
        return Z

    def backward(self, dLdZ):
        {backward}
        return dLdZ
"""
USUAL = """self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.W = np.random.normal(0, 1.0, shape) if weight_init_fn is None else weight_init_fn(*shape)
        self.b = np.zeros(out_channels) if bias_init_fn is None else bias_init_fn(out_channels)
        self.dLdW, self.dLdb = np.zeros(self.W.shape), np.zeros(self.b.shape)
"""
PARAMETERS = "in_channels, out_channels, kernel_size, weight_init_fn=None, bias_init_fn=None"


def defined(mytorch, body=USUAL, parameters=PARAMETERS, backward="pass", more="", name="students", **options):
    mytorch.write(name, STRIDE1.format(parameters=parameters, body=body, backward=backward) + more)
    report = fastconv.install(**options)
    return mytorch[name], report


def runs_compiled(layer, A):
    Z = layer.forward(A)
    np.testing.assert_allclose(Z, F.conv2d_forward(A, layer.W, layer.b), atol=1e-12)
    return layer.backward(Z).shape == A.shape  # the user's own returns dLdZ


@pytest.fixture
def A(rng):
    return rng.standard_normal((2, 3, 6, 7))


@pytest.mark.parametrize(
    ("parameters", "arguments", "keywords"),
    [
        (PARAMETERS, (3, 4, 2), {}),
        (PARAMETERS, (3,), {"kernel_size": 2, "out_channels": 4}),
        ("kernel_size, out_channels, in_channels, weight_init_fn=None, bias_init_fn=None", (2, 4, 3), {}),
        ("in_channel, out_channel, kernel, weight_init_fn=None, bias_init_fn=None", (3, 4), {"kernel": 2}),
    ],
)
def test_arguments_by_the_users_names_and_order(mytorch, A, parameters, arguments, keywords):
    names = "in_channels, out_channels, kernel_size = in_channel, out_channel, kernel\n        "
    body = (names if "in_channel," in parameters else "") + USUAL
    module, _ = defined(mytorch, body, parameters)
    layer = module.Conv2d_stride1(*arguments, **keywords)
    assert isinstance(layer, fastconv.Conv2d_stride1)
    assert layer.W.shape == (4, 3, 2, 2)
    assert runs_compiled(layer, A)


@pytest.mark.parametrize(
    "draw",
    [
        "np.random.normal(0, 1.0, shape)",
        "np.random.randn(*shape) * 0.1",
        "np.random.uniform(-1, 1, shape)",
    ],
)
def test_the_users_draws_are_made_once(mytorch, draw):
    module, _ = defined(mytorch, USUAL.replace("np.random.normal(0, 1.0, shape)", draw))
    np.random.seed(5)
    layer = module.Conv2d_stride1(3, 4, 2)
    after = np.random.random()
    np.random.seed(5)
    wanted = eval(draw, {"np": np, "shape": (4, 3, 2, 2)})
    assert np.array_equal(layer.W, wanted)
    assert np.random.random() == after


def test_init_functions_are_called_once_as_the_user_calls_them(mytorch, A):
    module, _ = defined(mytorch)
    calls = []

    def weights(*shape):
        calls.append(shape)
        return np.ones(shape)

    layer = module.Conv2d_stride1(3, 4, 2, weights, np.ones)
    assert calls == [(4, 3, 2, 2)]
    assert np.array_equal(layer.b, np.ones(4))
    assert runs_compiled(layer, A)


def test_what_else_the_constructor_sets_is_kept(mytorch):
    module, _ = defined(mytorch, USUAL + "        self.name, self._count = 'conv', 3\n")
    layer = module.Conv2d_stride1(3, 4, 2)
    assert (layer.name, layer._count) == ("conv", 3)


def test_the_constructor_runs_on_the_object_itself(mytorch, A):
    """It may be registered, or referred to by what the constructor makes."""
    more = "        EVERY.append(self)\n        self.me, self.count = self, lambda: self.W.size\n"
    module, report = defined(mytorch, USUAL + more, verify=True, more="\nEVERY = []\n")
    layer = module.Conv2d_stride1(3, 4, 2)
    assert [layer] == module.EVERY
    assert layer.me is layer
    layer.W = np.zeros((5, 3, 2, 2))
    assert layer.count() == 60
    layer.W = layer.W[:4]
    for _ in range(3):
        layer.forward(A)
    assert report.kept == []
    fastconv.uninstall()
    fastconv.swap(layer, verify=A).undo()
    assert layer.me is layer


def test_a_class_with_a_setattr_of_its_own(mytorch, A):
    more = "\n    def __setattr__(self, name, value):\n        object.__setattr__(self, name, value)\n"
    more += "        self.__dict__.setdefault('names', []).append(name)\n"
    module, _ = defined(mytorch, more=more)
    layer = module.Conv2d_stride1(3, 4, 2)
    layer.forward(A)
    assert layer.names[:3] == ["in_channels", "out_channels", "kernel_size"]
    assert "__class__" not in layer.names


def test_methods_bases_and_names_are_the_users(mytorch, A):
    more = """
class Module:
    def parameters(self):
        return [value for value in vars(self).values() if hasattr(value, "W")]
    def __call__(self, A):
        return "called", self.forward(A)

class Conv2d(Module):
    '''Mine.'''
    kind = "strided"
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.stride, self.pad = stride, padding
        self.conv2d_stride1 = Conv2d_stride1(in_channels, out_channels, kernel_size)
    def forward(self, A):
        raise RuntimeError("the original ran")
    def backward(self, dLdZ):
        raise RuntimeError("the original ran")
    def describe(self):
        return f"{type(self).__name__} {self.stride} {self.conv2d_stride1.W.shape}"
"""
    module, _ = defined(mytorch, more=more)
    layer = module.Conv2d(3, 4, 2, 2, padding=1)
    assert isinstance(layer, module.Module)
    assert layer.describe() == "Conv2d 2 (4, 3, 2, 2)"
    assert layer.kind == "strided"
    called, Z = layer(A)
    assert called == "called"
    inner = layer.conv2d_stride1
    np.testing.assert_allclose(Z, F.conv2d_forward(A, inner.W, inner.b, 2, 1), atol=1e-12)
    assert layer.parameters() == [inner]
    assert not hasattr(layer, "W")  # which the user's has not, either
    assert (module.Conv2d.__doc__, module.Conv2d.__module__) == ("Mine.", "students")
    assert module.Conv2d.forward.__qualname__ == "Conv2d.forward"


@pytest.mark.parametrize("old_style", [False, True])
def test_super_in_either_style(mytorch, A, old_style):
    call = "super(Conv2d_stride1, self)" if old_style else "super()"
    source = STRIDE1.replace(
        "class Conv2d_stride1:",
        "class Base:\n    def __init__(self):\n        self.base = 1\n\nclass Conv2d_stride1(Base):",
    )
    mytorch.write(
        "students",
        source.format(parameters=PARAMETERS, body=f"{call}.__init__()\n        {USUAL}", backward="pass"),
    )
    fastconv.install(verify=old_style)
    layer = mytorch["students"].Conv2d_stride1(3, 4, 2)
    assert layer.base == 1
    assert np.allclose(layer.forward(A), F.conv2d_forward(A, layer.W, layer.b))


@pytest.mark.parametrize(
    "constructor", ["pass", "raise NotImplementedError", "self.W = self.b = None  # TODO"]
)
def test_an_unwritten_constructor_is_the_courses(mytorch, A, constructor):
    module, report = defined(mytorch, constructor)
    np.random.seed(4)
    layer = module.Conv2d_stride1(3, 4, 2, None, np.ones)
    np.random.seed(4)
    assert np.array_equal(layer.W, np.random.normal(0, 1.0, (4, 3, 2, 2)))
    assert np.array_equal(layer.b, np.ones(4))
    assert runs_compiled(layer, A)
    assert len(report.swapped) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("self.W = ", "self.weight = "), "it has no W"),
        (
            ("np.zeros(out_channels)", "np.zeros((out_channels, 1))"),
            "its b is an array (4, 1), not an array (4,)",
        ),
        (
            (
                "shape = out_channels, in_channels, kernel_size, kernel_size",
                "shape = out_channels, in_channels * kernel_size ** 2",
            ),
            "its W is an array (4, 12), not an array (4, 3, 2, 2)",
        ),
        (("self.dLdb = ", "self.kernel_size, self.dLdb = 7, "), "its kernel_size is 7, not 2"),
    ],
)
def test_a_constructor_that_makes_something_else_leaves_the_class_alone(mytorch, change, reason):
    body = USUAL.replace(*change).replace("self.W.shape", "shape")
    if "7" in change[1]:
        body = USUAL + "        self.kernel_size = 7\n"
    module, report = defined(mytorch, body)
    layer = module.Conv2d_stride1(3, 4, 2)
    assert type(layer) is module.Conv2d_stride1
    assert not isinstance(layer, fastconv.Layer)
    assert [e.reason for e in report.kept] == [reason]
    assert report.swapped == []


def test_an_argument_that_cannot_be_honoured_leaves_that_object_alone(mytorch, A):
    module, report = defined(mytorch, parameters=PARAMETERS + ", dilation=1")
    compiled = module.Conv2d_stride1(3, 4, 2)
    own = module.Conv2d_stride1(3, 4, 2, dilation=2)
    assert isinstance(compiled, fastconv.Layer)
    assert not isinstance(own, fastconv.Layer)
    assert own.forward(A).shape == (2, 4, 5, 6)
    assert "dilation=2 was asked for" in report.swapped[0].reason


def test_errors_of_the_constructor_are_the_users(mytorch):
    module, _ = defined(mytorch, "assert kernel_size > 1, 'too small'\n        " + USUAL)
    with pytest.raises(AssertionError, match="too small"):
        module.Conv2d_stride1(3, 4, 1)
    with pytest.raises(TypeError, match="out_channels"):
        module.Conv2d_stride1(3)


TOLERANT = """
class Flatten:
    def forward(self, A):
        assert A is not None, "nothing to flatten"
        self.shape = getattr(A, "shape", None)
        return A.reshape(len(A), -1) if self.shape else list(A)

    def backward(self, dLdZ):
        return dLdZ.reshape(self.shape)
"""


@pytest.mark.parametrize("verify", [False, True])
def test_an_input_that_only_the_users_class_takes_is_the_users(mytorch, verify):
    mytorch.write("tolerant", TOLERANT)
    report = fastconv.install(verify=verify)
    flat, other = mytorch["tolerant"].Flatten(), mytorch["tolerant"].Flatten()
    with pytest.raises(AssertionError, match="nothing to flatten") as error:
        flat.forward(None)
    assert error.value.__context__ is None
    assert isinstance(flat, fastconv.Layer)
    with pytest.raises(AttributeError, match="'shape'"):  # backward before forward, as ever
        flat.backward(np.ones((2, 12)))
    assert flat.forward("ab") == ["a", "b"]
    assert not isinstance(flat, fastconv.Layer)
    assert other.backward(other.forward(np.ones((2, 3, 4)))).shape == (2, 3, 4)
    if not verify:  # which puts the class back
        assert isinstance(other, fastconv.Layer)
        assert "some objects stay as they are: A must be an array" in report.swapped[0].reason


def test_a_missing_attribute_says_what_happened(mytorch):
    fastconv.install()
    pool = mytorch["pool"].MaxPool2d_stride1(2)
    pool.forward(np.zeros((1, 1, 3, 3)))
    with pytest.raises(
        AttributeError, match=r"no attribute 'where': fastconv has put .* pool.MaxPool2d_stride1"
    ) as error:
        _ = pool.where
    assert "fastconv run --except MaxPool2d_stride1" in str(error.value)
    assert not hasattr(pool, "where")


# ---- classes that users derive -------------------------------------------------------------------

DERIVED = """
from students import *

class Scaled(Conv2d_stride1):
    def __init__(self, in_channels, out_channels, kernel_size, factor=2.0):
        super().__init__(in_channels, out_channels, kernel_size)
        self.factor = factor

    def forward(self, A):
        return self.factor * super().forward(A)

    def backward(self, dLdZ):
        return super().backward(self.factor * dLdZ)
"""


@pytest.mark.parametrize("place", ["same module", "another module"])
def test_a_derived_class(mytorch, A, place):
    more = DERIVED.replace("from students import *", "") if place == "same module" else ""
    module, _ = defined(mytorch, more=more)
    if place == "another module":
        mytorch.write("derived", DERIVED)
        module = mytorch["derived"]
    layer = module.Scaled(3, 4, 2, factor=3.0)
    assert isinstance(layer, module.Conv2d_stride1)
    Z = layer.forward(A)
    np.testing.assert_allclose(Z, 3 * F.conv2d_forward(A, layer.W, layer.b), atol=1e-12)
    dLdA, dLdW, _ = F.conv2d_backward(3 * Z, A, layer.W)
    np.testing.assert_allclose(layer.backward(Z), dLdA, atol=1e-9)
    np.testing.assert_allclose(layer.dLdW, dLdW, atol=1e-9)
    again = pickle.loads(pickle.dumps(layer))
    assert type(again) is module.Scaled
    np.testing.assert_array_equal(again.forward(A), Z)

    fastconv.uninstall()
    assert not issubclass(module.Scaled, fastconv.Layer)
    assert not isinstance(layer, fastconv.Layer)
    np.testing.assert_allclose(layer.forward(A), Z, atol=1e-12)  # by the user's loops now


def test_a_layer_that_has_a_derived_one_inside_calls_it(mytorch, A):
    more = (
        DERIVED.replace("from students import *", "")
        + """
class Conv2d:
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding=0):
        self.stride, self.pad = stride, padding
        self.conv2d_stride1 = Scaled(in_channels, out_channels, kernel_size)
    def forward(self, A):
        return self.conv2d_stride1.forward(A)[:, :, ::self.stride, ::self.stride]
    def backward(self, dLdZ):
        return dLdZ
"""
    )
    module, report = defined(mytorch, more=more)
    layer = module.Conv2d(3, 4, 2, 2)
    np.testing.assert_allclose(
        layer.forward(A), 2 * F.conv2d_forward(A, layer.conv2d_stride1.W, None, 2), atol=1e-12
    )
    assert {e.name: e.reason for e in report.kept} == {
        "Conv2d": "its conv2d_stride1 is a Scaled, not a Conv2d_stride1"
    }


@pytest.mark.parametrize("patch", ["object", "class", "another"])
def test_patched_layers_inside_are_called(mytorch, A, patch):
    fastconv.install()
    module = mytorch["Conv2d"]
    layer = module.Conv2d(3, 4, 2, 2)
    plain = layer.forward(A)
    inner = layer.conv2d_stride1
    before = module.Conv2d_stride1.forward
    if patch == "object":
        inner.forward = lambda A: 5 * before(inner, A)
    elif patch == "class":
        module.Conv2d_stride1.forward = lambda self, A: 5 * before(self, A)
    else:
        layer.downsample2d = mytorch["resampling"].Downsample2d(1)
    Z = layer.forward(A)
    if patch == "another":
        assert Z.shape == (2, 4, 5, 6)
    else:
        np.testing.assert_allclose(Z, 5 * plain, atol=1e-12)
    assert layer.backward(Z).shape == A.shape


# ---- gradients as the user's backward leaves them ------------------------------------------------


@pytest.mark.parametrize(
    ("backward", "twice", "same_array"),
    [
        ("self.dLdW = np.zeros(self.W.shape)\n        self.dLdW += 0", 1, False),
        ("self.dLdW += 0", 2, True),
        ("self.dLdW[:, :, 0] += 0", 2, True),
        ("self.dLdW, self.dLdb = np.zeros(self.W.shape), 0\n        self.dLdW += 0", 1, False),
        ("self.dLdW = g = np.zeros(self.W.shape)\n        self.dLdW += 0", 1, False),
        ("self.dLdW = np.zeros_like(self.dLdW)\n        self.dLdW[0] += 0", 1, False),
        ("self.dLdW = np.zeros(self.dLdW.shape, self.dLdW.dtype)\n        self.dLdW[0] += 0", 1, False),
        ("self.dLdW = np.add(np.zeros_like(self.dLdW), self.dLdW)", 2, True),
        ("self.dLdW = self.dLdW + 0", 2, True),
        ("self.dLdW.fill(0)\n        self.dLdW[0] += 1", 1, True),
        ("self.dLdW[:, :, 0, 0] = 0", 1, True),
        ("np.sum(dLdZ, out=self.dLdW)", 1, True),
        ("np.copyto(self.dLdW, 0)", 1, True),
        ("np.add(self.dLdW, 0, out=self.dLdW)", 2, True),
    ],
)
def test_gradients_are_set_filled_or_summed(mytorch, A, backward, twice, same_array):
    module, _ = defined(mytorch, backward=backward)
    layer = module.Conv2d_stride1(3, 4, 2)
    array = layer.dLdW
    Z = layer.forward(A)
    wanted = F.conv2d_backward(Z, A, layer.W)[1]
    layer.backward(Z)
    np.testing.assert_allclose(layer.dLdW, wanted, atol=1e-9)
    layer.backward(Z)
    np.testing.assert_allclose(layer.dLdW, twice * wanted, atol=1e-9)
    assert (layer.dLdW is array) == same_array


def test_gradients_that_the_backward_of_a_base_sums(mytorch, A):
    """And what the methods of the class say of themselves."""
    source = STRIDE1.format(parameters=PARAMETERS, body=USUAL, backward="self.dLdW += 0")
    source = source.replace("class Conv2d_stride1:", "class Base:") + (
        "class Conv2d_stride1(Base):\n"
        "    def forward(self, A: 'np.ndarray', /):\n        return super().forward(A)\n"
        "    def backward(self, dLdZ):\n        return super().backward(dLdZ)\n"
    )
    mytorch.write("based", source)
    own = inspect.signature(mytorch["based"].Conv2d_stride1.forward)
    fastconv.install()
    layer = mytorch["based"].Conv2d_stride1(3, 4, 2)
    Z = layer.forward(A)
    layer.backward(Z)
    once = layer.dLdW.copy()
    layer.backward(Z)
    np.testing.assert_allclose(layer.dLdW, 2 * once, atol=1e-9)
    assert inspect.signature(type(layer).forward) == own
    assert typing.get_type_hints(type(layer).forward) == {"A": np.ndarray}


OLDER = """
import numpy as np

class Conv1D:
    def __init__(self, in_channel, out_channel, kernel_size, stride, weight_init_fn=None, bias_init_fn=None):
        self.in_channel, self.out_channel = in_channel, out_channel
        self.kernel_size, self.stride = kernel_size, stride
        self.W = np.random.normal(0, 1.0, (out_channel, in_channel, kernel_size))
        self.b = np.zeros(out_channel)
        self.dW, self.db = np.zeros(self.W.shape), np.zeros(self.b.shape)

    def __call__(self, x):
        return self.forward(x)

    def forward(self, x):
        self.x = x
        width = (x.shape[2] - self.kernel_size) // self.stride + 1
        y = np.zeros((len(x), self.out_channel, width))
        for i in range(width):
            at = i * self.stride
            y[:, :, i] = np.tensordot(x[:, :, at:at + self.kernel_size], self.W, ((1, 2), (1, 2))) + self.b
        return y

    def backward(self, delta):
        dx = np.zeros(self.x.shape)
        for i in range(delta.shape[2]):
            at = slice(i * self.stride, i * self.stride + self.kernel_size)
            self.dW += np.tensordot(delta[:, :, i], self.x[:, :, at], (0, 0))
            dx[:, :, at] += np.tensordot(delta[:, :, i], self.W, (1, 0))
        self.db += delta.sum((0, 2))
        return dx
"""


@pytest.mark.parametrize("verify", [False, True])
def test_the_oldest_revision(mytorch, A, verify):
    """Parameters on the strided layer, gradients called dW and db and summed."""
    mytorch.write("older", OLDER)
    plain = mytorch["older"].Conv1D
    report = fastconv.install(verify=verify)
    layer = mytorch["older"].Conv1D(3, 4, 2, 2)
    own = plain(3, 4, 2, 2)
    own.W, own.b = layer.W, layer.b
    assert isinstance(layer, fastconv.Conv1d)
    for x in (A[:, :, 0], A[:, :, 1]):
        y = layer(x)
        np.testing.assert_allclose(y, own(x), atol=1e-12)
        np.testing.assert_allclose(layer.backward(delta=y), own.backward(y), atol=1e-9)
        np.testing.assert_allclose(layer.dW, own.dW, atol=1e-9)
        np.testing.assert_allclose(layer.db, own.db, atol=1e-9)
    assert not hasattr(layer, "dLdW")
    if verify:
        assert report.swapped[0].calls == 4
        assert report.kept == []


STRIDE1_OLDER = """
import numpy as np

class Conv1d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size):
        self.kernel_size = kernel_size
        self.W = np.random.normal(0, 1.0, (out_channels, in_channels, kernel_size))
        self.b = np.zeros(out_channels)
        self.dW = np.zeros(self.W.shape)
        self.db = np.zeros(self.b.shape)
    def forward(self, x):
        self.x = x
        return np.stack([
            np.tensordot(x[:, :, i:i + self.kernel_size], self.W, ((1, 2), (1, 2))) + self.b
            for i in range(x.shape[2] - self.kernel_size + 1)], axis=2)
    def backward(self, delta):
        dx, self.dW = np.zeros(self.x.shape), np.zeros(self.W.shape)
        self.db = delta.sum((0, 2))
        for i in range(delta.shape[2]):
            at = slice(i, i + self.kernel_size)
            self.dW += np.tensordot(delta[:, :, i], self.x[:, :, at], (0, 0))
            dx[:, :, at] += np.tensordot(delta[:, :, i], self.W, (1, 0))
        return dx
"""


@pytest.mark.parametrize("way", ["update", "item", "setattr"])
@pytest.mark.parametrize("swapped", ["made", "live"])
@pytest.mark.parametrize(("source", "name"), [(OLDER, "Conv1D"), (STRIDE1_OLDER, "Conv1d_stride1")])
def test_a_checkpoint_of_the_objects_own_attributes(mytorch, A, source, name, swapped, way):
    """What is saved from ``vars(layer)`` of either class can be put back into either."""
    mytorch.write("older", source)
    plain = getattr(mytorch["older"], name)
    arguments = (3, 4, 2, 2)[: 4 if name == "Conv1D" else 3]
    own = plain(*arguments)
    if swapped == "made":
        fastconv.install()
        layer = getattr(mytorch["older"], name)(*arguments)
    else:
        layer = plain(*arguments)
        assert "not found" not in str(fastconv.swap(layer))
    assert isinstance(layer, fastconv.Layer)
    assert not any(isinstance(value, fastconv.Layer) for value in vars(layer).values())

    def arrays(of):
        return {k: v.copy() for k, v in vars(of).items() if isinstance(v, np.ndarray) and k not in ("x", "A")}

    def restore(to, state):
        if way == "update":
            vars(to).update(state)
        for key, value in state.items():
            if way == "item":
                to.__dict__[key] = value
            elif way == "setattr":
                setattr(to, key, value)

    def train(of):
        for _ in range(2):
            y = of.forward(A[:, :, 0])
            dx = of.backward(y)
            of.W -= 0.1 * of.dW
            of.b = of.b - 0.1 * of.db
        return y, dx, of.W, of.b, of.dW, of.db

    assert arrays(layer).keys() == arrays(own).keys() == {"W", "b", "dW", "db"}
    start = arrays(own)
    restore(layer, {k: v.copy() for k, v in start.items()})
    results = train(own)
    for found, wanted in zip(train(layer), results, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    end = arrays(layer)
    for key, wanted in arrays(own).items():
        np.testing.assert_allclose(end[key], wanted, atol=1e-9)
    restore(layer, start)
    for found, wanted in zip(train(layer), results, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)


WITHOUT_GRADIENTS = OLDER.replace("self.dW, self.db = np.zeros(self.W.shape), np.zeros(self.b.shape)", "")
WITHOUT_GRADIENTS = WITHOUT_GRADIENTS.replace("self.dW", "self.dLdW").replace("self.db", "self.dLdb").replace(
    "dx = np", "self.dLdW, self.dLdb = np.zeros(self.W.shape), 0\n        dx = np"
)  # fmt: skip


ELSEWHERE = """
    W = property(lambda self: self.params["weight"], lambda self, W: self.params.update(weight=W))
    @property
    def b(self):
        return self.bias
    @b.setter
    def b(self, b):
        self.bias = b
"""


def elsewhere(source):
    """The class with its parameters in a dict and under another name, and properties W and b."""
    source = source.replace("        self.W = ", "        self.params = {}\n        self.W = ")
    return source.replace("    def forward", f"{ELSEWHERE}\n    def forward")


@pytest.mark.parametrize("swapped", ["made", "verified", "live"])
@pytest.mark.parametrize(("source", "name"), [(OLDER, "Conv1D"), (STRIDE1_OLDER, "Conv1d_stride1")])
def test_parameters_under_other_names(mytorch, A, source, name, swapped):
    mytorch.write("older", elsewhere(source))
    plain = getattr(mytorch["older"], name)
    arguments = (3, 4, 2, 2)[: 4 if name == "Conv1D" else 3]
    own = plain(*arguments)
    if swapped == "live":
        layer = plain(*arguments)
        report = fastconv.swap(layer)
    else:
        report = fastconv.install(verify=swapped == "verified")
        layer = getattr(mytorch["older"], name)(*arguments)
    assert isinstance(layer, fastconv.Layer)
    assert vars(layer).keys() >= {"params", "bias"}
    assert not vars(layer).keys() & {"W", "b"}
    layer.params["weight"], layer.bias = own.W.copy(), own.b.copy()
    again = copy.deepcopy(layer) if swapped == "live" else pickle.loads(pickle.dumps(layer))
    for of in (layer, again, own):
        for _ in range(2):
            y = of.forward(A[:, :, 0])
            dx = of.backward(y)
            of.params["weight"] -= 0.1 * of.dW
            of.b = of.bias - 0.1 * of.db
        of.results = [y, dx, of.W, of.params["weight"], of.b, of.bias, of.dW, of.db]
    for found, copied, wanted in zip(layer.results, again.results, own.results, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        np.testing.assert_allclose(copied, wanted, atol=1e-9)
    assert report.kept == []
    report.undo()
    np.testing.assert_allclose(layer.forward(A[:, :, 0]), own.forward(A[:, :, 0]), atol=1e-12)


def test_gradients_that_are_properties_are_left_alone(mytorch):
    more = "\n    dLdW = property(lambda self: self.g, lambda self, g: setattr(self, 'g', g))\n"
    module, report = defined(mytorch, more=more)
    layer = module.Conv2d_stride1(3, 4, 2)
    assert not isinstance(layer, fastconv.Layer)
    assert "its gradients are properties" in str(report)


def test_gradients_that_the_backward_alone_makes(mytorch, A):
    mytorch.write("older", WITHOUT_GRADIENTS)
    own = mytorch["older"].Conv1D(3, 4, 2, 2)
    fastconv.install()
    layer = mytorch["older"].Conv1D(3, 4, 2, 2)
    layer.W = own.W
    assert not hasattr(layer, "dLdW")
    for of in (own, layer):
        of.backward(of.forward(A[:, :, 0]))
    np.testing.assert_allclose(layer.dLdW, own.dLdW, atol=1e-9)
    np.testing.assert_allclose(layer.dLdb, own.dLdb, atol=1e-9)


def test_a_pickle_names_nothing_of_ours(mytorch, A):
    pool = MODULES["pool"].replace("MaxPool2d_stride1", "_Inside").replace("maxpool2d_stride1", "inside")
    mytorch.write("own_pool", pool)
    mytorch.write("older", OLDER)
    fastconv.install()
    pool, conv = mytorch["own_pool"].MaxPool2d(2, 2), mytorch["older"].Conv1D(3, 4, 2, 2)
    for layer, x in ((pool, A), (conv, A[:, :, 0])):
        assert isinstance(layer, fastconv.Layer)
        layer.forward(x)
        assert b"fastconv" not in pickle.dumps(layer)


# ---- layers inside -------------------------------------------------------------------------------


def test_what_the_layers_inside_keep(mytorch, A):
    fastconv.install()
    conv = mytorch["Conv2d"].Conv2d(3, 4, 2, 2, padding=1)
    up = mytorch["ConvTranspose"].ConvTranspose2d(3, 4, 2, 2)
    pool = mytorch["pool"].MaxPool2d(2, 2)
    for layer in (conv, up, pool):
        layer.forward(A)
    np.testing.assert_array_equal(conv.conv2d_stride1.A, np.pad(A, ((0, 0), (0, 0), (1, 1), (1, 1))))
    np.testing.assert_array_equal(up.conv2d_stride1.A, F.upsample(A, 2, 2))
    assert pool.maxpool2d_stride1.A is A
    _, workspace = F.max_pool2d_forward(A, 2)
    np.testing.assert_array_equal(pool.maxpool2d_stride1.max_indices, workspace.max_indices)
    # Each part can go on alone.
    ones = np.ones((2, 4, 7, 8))
    np.testing.assert_allclose(
        conv.conv2d_stride1.backward(ones),
        F.conv2d_backward(ones, conv.conv2d_stride1.A, conv.conv2d_stride1.W)[0],
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("Conv2d", "Conv2d_stride1", (3, 4, 2)),
        ("Conv2d", "Conv2d", (3, 4, 2, 2, 1)),
        ("ConvTranspose", "ConvTranspose2d", (3, 4, 2, 2)),
        ("pool", "MaxPool2d", (2, 2)),
        ("pool", "MeanPool2d_stride1", (2,)),
        ("batchnorm2d", "BatchNorm2d", (3,)),
        ("dropout2d", "Dropout2d", (0.3,)),
        ("flatten", "Flatten", ()),
        ("resampling", "Downsample2d", (2,)),
    ],
)
def test_copies_and_pickles_go_on_from_the_same_state(mytorch, A, module, name, arguments, copied):
    fastconv.install()
    layer = getattr(mytorch[module], name)(*arguments)
    Z = layer.forward(A)
    other = copied(layer)
    assert type(other) is type(layer) is getattr(mytorch[module], name)
    np.testing.assert_array_equal(other.backward(Z), layer.backward(Z))


def test_a_pickle_is_readable_without_fastconv(mytorch, A):
    """It names the user's module and class, and holds what the user's class would."""
    fastconv.install()
    model = [mytorch["Conv2d"].Conv2d(3, 4, 2, 2), mytorch["batchnorm2d"].BatchNorm2d(4)]
    Z = model[1].forward(model[0].forward(A))
    data = pickle.dumps(model)
    assert b"fastconv" not in data
    fastconv.uninstall()
    conv, norm = pickle.loads(data)
    assert not isinstance(conv, fastconv.Layer)
    np.testing.assert_allclose(norm.forward(conv.forward(A)), Z, atol=1e-12)
    # And back: what plain Python has written is read into compiled layers.
    plain = pickle.dumps([conv, norm])
    fastconv.install()
    conv, norm = pickle.loads(plain)
    assert isinstance(conv, fastconv.Conv2d)
    np.testing.assert_allclose(
        conv.backward(norm.backward(Z)), model[0].backward(model[1].backward(Z)), atol=1e-9
    )
