"""Verification: a class that computes something else is found, named with numbers, and put back."""

import numpy as np
import pytest

import fastconv
from mytorch_projects import MODULES

# A change in a module of the project, with what it breaks.
WRONG = {
    "a scaled forward": (
        "Conv2d",
        "Conv2d_stride1",
        "* self.W[o]) + self.b[o]",
        "* self.W[o]) * 1.001 + self.b[o]",
    ),
    "no bias": ("Conv2d", "Conv2d_stride1", " + self.b[o]", ""),
    "a flipped kernel": (
        "Conv2d",
        "Conv2d_stride1",
        "window * self.W[o]",
        "window * self.W[o][:, ::-1, ::-1]",
    ),
    "a mean over the batch": (
        "Conv2d",
        "Conv2d_stride1",
        "np.sum(dLdZ, axis=(0, 2, 3))",
        "np.mean(dLdZ, axis=(0, 2, 3))",
    ),
    "a wrong input gradient": (
        "Conv1d",
        "Conv1d_stride1",
        "dLdA[n, :, i:end] += dLdZ[n, o, i] * self.W[o]",
        "dLdA[n, :, i:end] += dLdZ[n, o, i] * self.W[o][:, ::-1]",
    ),
    "a pool that assigns": ("pool", "MaxPool2d_stride1", "column] += dLdZ", "column] = dLdZ"),
    "another epsilon inside": (
        "batchnorm2d",
        "BatchNorm2d",
        "np.sqrt(self.V + self.eps)\n        self.BZ",
        "np.sqrt(self.V + 1e-5)\n        self.BZ",
    ),
    "another running mean": (
        "batchnorm2d",
        "BatchNorm2d",
        "self.alpha * self.running_M + (1 - self.alpha) * self.M",
        "(1 - self.alpha) * self.running_M + self.alpha * self.M",
    ),
    "another eval": (
        "batchnorm2d",
        "BatchNorm2d",
        "np.sqrt(self.running_V + self.eps)",
        "(self.running_V + self.eps)",
    ),
    "other use of the draws": (
        "dropout2d",
        "Dropout2d",
        "np.random.binomial(1, 1 - self.p, size=(N, C, 1, 1))",
        "np.random.binomial(1, 1 - self.p, size=(N, C, 1, 1))[::-1]",
    ),
    "an argument changed": (
        "dropout2d",
        "Dropout2d",
        "return x * self.mask / (1 - self.p)",
        "x *= self.mask / (1 - self.p)\n        return x",
    ),
    "channels last": ("flatten", "Flatten", "A.reshape(", "np.moveaxis(A, 1, -1).reshape("),
    "nearest neighbours": (
        "resampling",
        "Upsample2d",
        "Z[:, :, k * i, k * j] = A[:, :, i, j]",
        "Z[:, :, k * i : k * i + k, k * j : k * j + k] = A[:, :, i, j, None, None]",
    ),
    "an error": (
        "flatten",
        "Flatten",
        "self.shape = A.shape",
        "self.shape = A.shape\n        raise KeyError('x')",
    ),
}
MAKE = {
    "Conv2d_stride1": ((3, 4, 2, None, np.ones), (2, 3, 5, 5)),
    "Conv1d_stride1": ((3, 4, 2), (2, 3, 6)),
    "MaxPool2d_stride1": ((2,), (2, 2, 5, 5)),
    "BatchNorm2d": ((3,), (4, 3, 3, 3)),
    "Dropout2d": ((0.4,), (3, 4, 2, 2)),
    "Flatten": ((), (2, 3, 4)),
    "Upsample2d": ((2,), (1, 2, 3, 3)),
}


def drive(layer, A):
    """What a program sees of a layer: results, gradients, statistics, draws, changed arguments, errors."""
    np.random.seed(2)
    seen = []
    for _ in range(3):
        given = A.copy()
        try:
            Z = layer.forward(given)
            seen += [Z.copy(), given, layer.backward(np.cos(Z))]
        except KeyError as error:
            seen.append(np.array(str(error)))
        seen += [
            getattr(layer, name) for name in ("dLdW", "dLdb", "dLdBW", "running_M") if hasattr(layer, name)
        ]
        if hasattr(layer, "running_M"):
            seen.append(layer.forward(A, eval=True))
        seen.append(np.array(np.random.random()))
    return seen


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_class_is_put_back_and_the_program_runs_as_without(mytorch, rng, kind, capsys):
    module, name, old, new = WRONG[kind]
    assert old in MODULES[module]
    text = MODULES[module].replace(old, new)
    mytorch.write("wrong", text if module != "flatten" else f"import numpy as np\n{text}")
    arguments, shape = MAKE[name]
    A = rng.standard_normal(shape)
    np.random.seed(1)
    plain = drive(getattr(mytorch["wrong"], name)(*arguments), A)

    report = fastconv.install(verify=True)
    users = mytorch["wrong"]
    compiled = getattr(users, name)
    np.random.seed(1)
    layer = compiled(*arguments)
    other = compiled(*arguments)
    assert isinstance(layer, fastconv.Layer)
    np.random.seed(1)
    if hasattr(layer, "W"):
        layer.W = np.random.normal(0, 1.0, layer.W.shape)
    for found, wanted in zip(drive(layer, A), plain, strict=True):
        if wanted.dtype.kind == "U":
            assert found == wanted
        else:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)

    assert not isinstance(layer, fastconv.Layer)
    assert not issubclass(getattr(users, name), fastconv.Layer)
    assert type(layer) is getattr(users, name)
    entry = next(e for e in report.kept if e.name == name)
    assert entry.reason.startswith("verification: ")
    assert f"wrong.{name} computes something else than fastconv.{name}" in capsys.readouterr().err
    # Objects made before, and classes kept somewhere, are taken care of, too.
    assert drive(other, A) is not None
    assert not isinstance(other, fastconv.Layer)
    assert not isinstance(compiled(*arguments), fastconv.Layer)


ABSTRACT = """
import abc

class Module(abc.ABC):
    count = 0
    def __init__(self):
        type(self).count += 1
    @abc.abstractmethod
    def forward(self, A): ...
    @abc.abstractmethod
    def backward(self, dLdZ): ...

class Flatten(Module):
    def forward(self, A):
        self.seen = A.shape
        return A.reshape(len(A), -1) + OFF
    def backward(self, dLdZ):
        return dLdZ.reshape(self.seen)
"""


@pytest.mark.parametrize("wrong", [False, True])
def test_classes_derived_from_abstract_ones(mytorch, wrong):
    mytorch.write("abstract", ABSTRACT.replace("OFF", str(int(wrong))))
    report = fastconv.install(verify=True)
    module = mytorch["abstract"]
    flat = module.Flatten()
    assert isinstance(flat, module.Module)
    A = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(flat.forward(A), A.reshape(2, 12) + wrong)
    np.testing.assert_array_equal(flat.backward(A.reshape(2, 12)), A)
    assert isinstance(flat, fastconv.Layer) == (not wrong)
    assert len(report.kept) == wrong
    assert "extension type" not in str(report)
    module.Flatten()
    assert module.Flatten.count == 2
    report.undo()
    assert not issubclass(module.Flatten, fastconv.Layer)


COUNTED = """
class Flatten:
    made = []
    def __new__(cls):
        cls.made.append(super().__new__(cls))
        return cls.made[-1]
    def forward(self, A):
        self.seen = A.shape
        return A.reshape(len(A), -1)
    def backward(self, dLdZ):
        return dLdZ.reshape(self.seen)
"""


def test_no_object_is_made_that_the_class_would_notice(mytorch, rng):
    mytorch.write("counted", COUNTED)
    fastconv.install(verify=True)
    flat = mytorch["counted"].Flatten()
    for _ in range(3):
        flat.backward(flat.forward(rng.standard_normal((2, 3, 4))))
    assert mytorch["counted"].Flatten.made == [flat]


def test_the_numbers_are_given(mytorch, rng, capsys):
    mytorch.write(
        "wrong", MODULES["flatten"].replace("A.reshape(A.shape[0], -1)", "A.reshape(A.shape[0], -1) + 0.25")
    )
    fastconv.install(verify=True)
    mytorch["wrong"].Flatten().forward(np.full((2, 3), 4.0))
    assert "forward's result differs by up to 0.25, 4e-09 is allowed" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_right_classes_stay_compiled_at_any_scale(mytorch, rng, scale):
    report = fastconv.install(verify=True, all=True)
    conv, norm = mytorch["Conv2d"].Conv2d(3, 4, 3, 2, 1), mytorch["batchnorm2d"].BatchNorm2d(4)
    for _ in range(3):
        A = scale * rng.standard_normal((2, 3, 8, 8))
        Z = conv.forward(A)
        conv.backward(norm.backward(norm.forward(Z)))  # dLdb is zero but for rounding
        norm.forward(Z, eval=True)
    assert {e.name for e in report.kept} == set()
    assert isinstance(conv, fastconv.Layer)
    calls = {e.name: e.calls for e in report.swapped}
    assert calls["Conv2d"] == 4
    assert calls["BatchNorm2d"] == 6
    assert not any("_fastconv" in name for layer in (conv, norm) for name in vars(layer))


def test_float32_has_its_own_tolerance(mytorch, rng):
    report = fastconv.install(verify=True)
    conv = mytorch["Conv2d"].Conv2d_stride1(
        3, 4, 3, lambda *shape: rng.standard_normal(shape).astype(np.float32)
    )
    conv.b = conv.b.astype(np.float32)
    conv.backward(conv.forward(rng.standard_normal((2, 3, 6, 6)).astype(np.float32)).astype(np.float32))
    assert report.kept == []


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int64", "float16", "float32", "longdouble", "complex128", "object"]
)
@pytest.mark.parametrize("kind", MAKE)
def test_a_call_of_another_dtype_says_nothing_of_the_class(mytorch, rng, kind, dtype):
    """It is compared, or is the user's own, as without verification; other objects stay compiled."""
    module = {"Conv2d_stride1": "Conv2d", "Conv1d_stride1": "Conv1d", "MaxPool2d_stride1": "pool"}.get(
        kind, {"Upsample2d": "resampling"}.get(kind, kind.lower())
    )
    arguments, shape = MAKE[kind]
    A = np.round(9 * rng.standard_normal(shape)).astype(dtype)

    def results():
        np.random.seed(4)
        layer = getattr(mytorch[module], kind)(*arguments)
        try:
            Z = layer.forward(A)
            return [Z, layer.backward(np.cos(Z.real.astype(float)))]
        except TypeError as error:  # NumPy's, out of the user's own
            return [str(error)]

    def another():
        layer = getattr(mytorch[module], kind)(*arguments)
        layer.backward(layer.forward(rng.standard_normal(shape)))
        return layer

    mytorch[module]
    plain = results()
    report = fastconv.install(verify=True)
    another()
    for found, wanted in zip(results(), plain, strict=True):
        if isinstance(wanted, str):
            assert found == wanted
        else:
            wanted, found = wanted.astype(complex), found.astype(complex)
            tolerance = {"float16": 0.02, "float32": 1e-5}.get(dtype, 1e-9)
            np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)
    assert report.kept == []
    layer = another()
    assert isinstance(layer, fastconv.Layer)


def test_swap_verified_with_another_dtype_says_so(mytorch):
    model = Model(mytorch["flatten"].Flatten())
    report = fastconv.swap(model, verify=np.ones((2, 3, 4), complex))
    assert report.kept == []
    assert "not verified: A must hold" in report.swapped[0].reason


def test_many_layers_that_are_alike_are_not_all_verified(mytorch, rng):
    """The user's own runs for eight of them, and for others that differ in an argument or a shape."""
    counting = MODULES["pool"].replace("self.A = A", "self.A = A\n        calls.append(A.shape)", 1)
    mytorch.write("counted", f"{counting}\ncalls = []\n")
    fastconv.install(verify=True)
    pool = mytorch["counted"]

    def use(kernel, side, backward=True):
        before = len(pool.calls)
        for _ in range(12):
            layer = pool.MaxPool2d_stride1(kernel)
            for _ in range(2):
                Z = layer.forward(rng.standard_normal((1, 2, side, side)))
                if backward:
                    layer.backward(Z)
        return len(pool.calls) - before

    assert use(2, 5, backward=False) == 24  # whose backward has not been seen
    assert use(2, 5) == use(3, 5) == use(2, 6) == 16  # a layer's first and second call are two kinds
    assert use(2, 5) == 0


def test_draws_are_consumed_once(mytorch, rng):
    A = rng.standard_normal((3, 4, 2, 2))
    mytorch["dropout2d"]  # seeds the stream
    np.random.seed(6)
    mytorch["dropout2d"].Dropout2d(0.4).forward(A)
    wanted = np.random.random()
    fastconv.install(verify=True)
    np.random.seed(6)
    mytorch["dropout2d"].Dropout2d(0.4).forward(A)
    assert np.random.random() == wanted


def test_unwritten_methods_have_nothing_to_be_verified_with(mytorch):
    mytorch.write(
        "stub",
        "class Flatten:\n    def forward(self, A):\n        return NotImplemented\n"
        "    def backward(self, dLdZ):\n        pass\n",
    )
    report = fastconv.install(verify=True)
    flat = mytorch["stub"].Flatten()
    assert flat.backward(flat.forward(np.ones((2, 3, 4)))).shape == (2, 3, 4)
    assert report.kept == []
    assert "unwritten" in report.swapped[0].reason


def test_an_error_that_both_raise_is_the_users_and_no_difference(mytorch):
    report = fastconv.install(verify=True)
    conv = mytorch["Conv2d"].Conv2d(3, 4, 3, 1)
    with pytest.raises(ValueError, match="broadcast"):  # NumPy's, out of the user's loops
        conv.forward(np.ones((2, 5, 6, 6)))
    assert isinstance(conv, fastconv.Layer)
    assert report.kept == []


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    ("parameters", "keyword", "right"),
    [
        ("x", "x", True), ("x", "A", False), ("A, /", "A", False), ("x, /", "x", False), ("x, /", "A", False),
        ("A", "A", True), ("A", "x", False), ("x, **more", "x", True),
    ],
)  # fmt: skip
def test_keywords_are_those_of_the_users_method(mytorch, parameters, keyword, right, verify, rng):
    data = parameters.partition(",")[0]
    source = MODULES["flatten"].replace("forward(self, A):", f"forward(self, {parameters}):")
    mytorch.write("keywords", source.replace("A.", f"{data}."))
    A = rng.standard_normal((2, 3, 4))
    try:
        wanted = mytorch["keywords"].Flatten().forward(**{keyword: A})
    except TypeError as error:
        wanted = error
    assert isinstance(wanted, TypeError) != right
    report = fastconv.install(verify=verify)
    layer = mytorch["keywords"].Flatten()
    if right:
        np.testing.assert_array_equal(layer.forward(**{keyword: A}), wanted)
    else:
        with pytest.raises(TypeError) as raised:
            layer.forward(**{keyword: A})
        assert str(raised.value) == str(wanted)
    assert isinstance(layer, fastconv.Layer)
    assert report.kept == []
    assert layer.forward(A).shape == (2, 12)


def test_a_derived_class_is_put_back_with_its_base(mytorch, rng):
    mytorch.write(
        "wrong",
        MODULES["Conv2d"].replace("* self.W[o]) +", "* self.W[o]) * 3 +")
        + "\n\nclass Mine(Conv2d_stride1):\n    def forward(self, A):\n        return -super().forward(A)\n",
    )
    A = rng.standard_normal((2, 3, 4, 4))
    plain = mytorch["wrong"].Mine(3, 4, 2)
    fastconv.install(verify=True)
    del __import__("sys").modules["wrong"]
    module = mytorch["wrong"]
    layer = module.Mine(3, 4, 2)
    plain.W = layer.W
    for _ in range(2):
        np.testing.assert_allclose(layer.forward(A), plain.forward(A), atol=1e-12)
        np.testing.assert_allclose(
            layer.backward(np.ones((2, 4, 3, 3))), plain.backward(np.ones((2, 4, 3, 3))), atol=1e-12
        )
    assert not issubclass(module.Mine, fastconv.Layer)


# ---- swap(model, verify=x) -----------------------------------------------------------------------


class Model:
    def __init__(self, *layers):
        self.layers = list(layers)
        self.calls = 0

    def forward(self, A):
        self.calls += 1
        for layer in self.layers:
            A = layer.forward(A)
        return A


def test_swap_verifies_on_an_input(mytorch, rng):
    mytorch.write("wrong", MODULES["pool"].replace("/ K**2", "/ K"))
    model = Model(
        mytorch["Conv2d"].Conv2d(3, 4, 3, 1),
        mytorch["batchnorm2d"].BatchNorm2d(4),
        mytorch["dropout2d"].Dropout2d(0.5),
        mytorch["wrong"].MeanPool2d_stride1(2),
        mytorch["flatten"].Flatten(),
    )
    running = model.layers[1].running_M.copy()
    np.random.seed(9)
    with pytest.warns(RuntimeWarning, match="wrong.MeanPool2d_stride1 computes something else"):
        report = fastconv.swap(model, verify=rng.standard_normal((2, 3, 6, 6)))
    after = np.random.random()
    np.random.seed(9)
    assert after == np.random.random()
    assert model.calls == 0
    np.testing.assert_array_equal(model.layers[1].running_M, running)
    assert [isinstance(layer, fastconv.Layer) for layer in model.layers] == [True, True, True, False, True]
    assert [entry.where for entry in report.kept] == ["model.layers[3]"]
    assert report.kept[0].reason.startswith("verification: backward's result differs by up to")
    calls = {entry.where: entry.calls for entry in report.swapped}
    assert calls["model.layers[0]"] == calls["model.layers[4]"] == 2
    report.undo()
    assert not any(isinstance(layer, fastconv.Layer) for layer in model.layers)


def test_swap_of_a_right_model_says_nothing(mytorch, rng):
    model = Model(mytorch["Conv2d"].Conv2d(3, 4, 3, 2, 1), mytorch["pool"].MaxPool2d(2, 2))
    report = fastconv.swap(model, verify=(rng.standard_normal((2, 3, 8, 8)),))
    assert report.kept == []
    assert "verified in 2 calls" in str(report)


def test_swap_with_a_model_that_cannot_be_copied_changes_nothing(mytorch, rng):
    model = Model(mytorch["flatten"].Flatten())
    model.file = open(__file__)  # noqa: SIM115
    with model.file, pytest.raises(TypeError, match="verify needs a copy of the model"):
        fastconv.swap(model, verify=np.ones((2, 3, 4)))
    assert not isinstance(model.layers[0], fastconv.Layer)
