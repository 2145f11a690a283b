"""Which classes are replaced, which are left alone, and the reason that is given."""

import textwrap

import numpy as np
import pytest

import fastconv
from support import environment, output_of, run_in

LAYER = """
import numpy as np
class {name}:
    def __init__(self, {parameters}):
        self.kernel, self.stride = 2, 2
    {forward}
    {backward}
"""
FORWARD = "def forward(self, A): return A"
BACKWARD = "def backward(self, dLdZ): return dLdZ"


def outcome(mytorch, source, name, **options):
    """The report's entry of a class in a module with that source, and the class."""
    mytorch.write("students", textwrap.dedent(source))
    report = fastconv.install(**options)
    module = mytorch["students"]
    entries = [e for e in (*report.swapped, *report.kept) if e.module == "students" and e.name == name]
    return (entries[0] if entries else None), getattr(module, name)


def layer(name="MaxPool2d", parameters="kernel, stride", forward=FORWARD, backward=BACKWARD):
    return LAYER.format(name=name, parameters=parameters, forward=forward, backward=backward)


@pytest.mark.parametrize(
    "parameters",
    [
        "kernel, stride",
        "stride, kernel",
        "kernel_size=3, stride=1",
        "kernel, stride, name='pool'",
        "kernel, stride, padding_mode='zeros', ceil_mode=False",
        "*args, **kwargs",
        "kernel, *, stride",
    ],
)
def test_constructors_that_are_understood(mytorch, parameters):
    entry, cls = outcome(mytorch, layer(parameters=parameters), "MaxPool2d")
    assert entry.by == "fastconv.MaxPool2d"
    assert issubclass(cls, fastconv.MaxPool2d)


DROPOUT = """
import functools
import numpy as np

def logged(method):
    @functools.wraps(method)
    def call(self, *args, **kwargs):
        return method(self, *args, **kwargs)
    return call

class Dropout2d:
    training = True
    def __init__(self, p=0.5):
        self.p, self.mode = p, "train"
    @logged
    def forward(self, x, eval=False):
        if CONDITION:
            return x
        self.mask = np.random.binomial(1, 1 - self.p, size=(*x.shape[:2], 1, 1))
        return x * self.mask / (1 - self.p)
    def backward(self, delta):
        return delta * self.mask / (1 - self.p)
"""


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        ("eval or not self.training", "training"),
        ("self.mode != 'train'", "mode"),
        ("not self.is_training()", "is_training"),
        ("eval", None),
        ("eval or self.p == 0", None),
    ],
)
def test_a_mode_that_is_an_attribute(mytorch, condition, asked):
    """It can change at any time, also when verification is over."""
    entry, _ = outcome(mytorch, DROPOUT.replace("CONDITION", condition), "Dropout2d")
    assert entry.reason == (f"its forward depends on its {asked}" if asked else "")
    assert bool(entry.by) == (asked is None)


@pytest.mark.parametrize(
    "draw", ["np.random.rand(*x.shape[:2]) > self.p", "rng.binomial(1, 1 - self.p, x.shape[:2])"]
)
def test_dropout_that_draws_otherwise_is_left_alone(mytorch, draw):
    forward = f"def forward(self, x, eval=False):\n        self.mask = {draw}\n        return x"
    entry, cls = outcome(
        mytorch, layer("Dropout2d", "p=0.5", forward, "def backward(self, delta): pass"), "Dropout2d"
    )
    assert entry.reason == "it does not draw by np.random.binomial"
    assert not issubclass(cls, fastconv.Layer)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parameters": "kernel, stride, engine"}, "its constructor needs engine"),
        ({"parameters": "kernel, stride, ceil_mode=True"}, "its constructor has ceil_mode=True"),
        ({"parameters": "kernel"}, "its constructor takes no stride"),
        ({"forward": "pass"}, "it has no forward"),
        ({"backward": "pass"}, "it has no backward"),
        ({"forward": "@staticmethod\n    def forward(A): pass"}, "its forward is not a method of objects"),
        (
            {"forward": "@classmethod\n    def forward(cls, A): pass"},
            "its forward is not a method of objects",
        ),
        ({"forward": "def forward(self, A, mask): pass"}, "its forward takes (A, mask), not (A)"),
        ({"forward": "def forward(self, A, train=True): pass"}, "its forward takes train"),
        ({"forward": "def forward(self): pass"}, "its forward takes (), not (A)"),
        ({"forward": FORWARD + "\n    __slots__ = ('kernel', 'stride')"}, "its objects have slots"),
    ],
)
def test_classes_that_are_left_alone(mytorch, changes, reason):
    entry, cls = outcome(mytorch, layer(**changes), "MaxPool2d")
    assert reason in entry.reason
    assert entry.by == ""
    assert not issubclass(cls, fastconv.Layer)


def test_a_class_of_another_name_or_inside_something_is_not_even_listed(mytorch):
    inside = "def make():\n" + textwrap.indent(layer(), "    ") + "    return MaxPool2d\nMaxPool2d = make()\n"
    entry, cls = outcome(mytorch, inside, "MaxPool2d")
    assert entry is None
    assert not issubclass(cls, fastconv.Layer)


def test_a_class_derived_from_an_installed_one_is_left_alone(mytorch):
    source = "import numpy\nclass Flatten(numpy.random.Generator):\n    " + FORWARD + "\n    " + BACKWARD
    entry, _ = outcome(mytorch, source, "Flatten")
    assert "it is derived from numpy" in entry.reason


@pytest.mark.parametrize(
    ("options", "swapped"),
    [
        ({}, False),
        ({"all": True}, True),
        ({"only": ["ReLU"]}, True),
        ({"exclude": ["ReLU"], "all": True}, False),
    ],
)
def test_the_choice_of_classes(mytorch, options, swapped):
    report = fastconv.install(**options)
    assert issubclass(mytorch["activation"].ReLU, fastconv.ReLU) == swapped
    assert ("ReLU" in {e.name for e in report.swapped}) == swapped
    assert issubclass(mytorch["flatten"].Flatten, fastconv.Flatten) == ("only" not in options)


@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_names_that_are_no_layers(argument):
    with pytest.raises(ValueError, match="Conv3d: no layer of that name; known are Conv1d_stride1"):
        fastconv.install(**{argument: ["Conv3d"]})


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "raise NotImplementedError",
        "return NotImplemented",
        "Z = None  # TODO\n        return Z",
        "'''Docstring.'''\n        self.A = A\n        # TODO\n        self.Z = None\n        return self.Z",
        "N, C = A.shape[:2]\n        raise NotImplementedError('to do')",
    ],
)
def test_an_unwritten_class_runs_and_is_said_to_be_unwritten(mytorch, body):
    forward = f"def forward(self, A):\n        {body}\n"
    entry, cls = outcome(mytorch, layer(forward=forward), "MaxPool2d")
    assert entry.reason == "forward still unwritten"
    assert cls(2, 2).forward(np.ones((1, 1, 4, 4))).shape == (1, 1, 2, 2)


@pytest.mark.parametrize(
    "body",
    [
        "return A",
        "Z = None\n        for a in A:\n            Z = a\n        return Z",
        "return A[::2]",
        "self.Z = None\n        self.Z = A + 1\n        return self.Z",
        "if A is None:\n            raise ValueError\n        return A",
    ],
)
def test_a_written_class_is_not_taken_for_unwritten(mytorch, body):
    entry, _ = outcome(mytorch, layer(forward=f"def forward(self, A):\n        {body}\n"), "MaxPool2d")
    assert entry.reason == ""


def test_installed_packages_are_left_alone_unless_included(tmp_path):
    """One installed by pip --target lies beside its metadata, wherever that is."""
    package = tmp_path / "target" / "somenet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(layer())
    record = tmp_path / "target" / "some_net-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: some-net\nVersion: 1.0\n")
    (record / "RECORD").write_text("somenet/__init__.py,,\n")
    script = """
        import fastconv
        report = fastconv.install(include={include})
        import somenet
        print(issubclass(somenet.MaxPool2d, fastconv.Layer), len(report.swapped) + len(report.kept))
        """
    path = {"PYTHONPATH": f"{tmp_path / 'target'}:{environment().get('PYTHONPATH', '')}"}
    assert output_of(script.format(include="[]"), **path) == "False 0"
    for name in ("some-net", "somenet"):
        assert output_of(script.format(include=[name]), **path) == "True 1"


COMPILED = """
class Conv2d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size, weight_init_fn=None, bias_init_fn=None):
        import numpy as np
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.W = np.random.normal(0, 1.0, (out_channels, in_channels, kernel_size, kernel_size))
        self.b = np.zeros(out_channels)
        self.dLdW, self.dLdb = np.zeros(self.W.shape), np.zeros(self.b.shape)

    def forward(self, A):
        raise RuntimeError("the original ran")

    def backward(self, dLdZ):
        raise RuntimeError("the original ran")

cdef class MaxPool2d:
    cdef int kernel, stride
    def __init__(self, kernel, stride):
        self.kernel, self.stride = kernel, stride
    def forward(self, A):
        raise RuntimeError("the original ran")
    def backward(self, dLdZ):
        raise RuntimeError("the original ran")

def make():
    return Conv2d_stride1(2, 3, 3)
"""


def test_compiled_modules_without_source(tmp_path):
    """Both kinds of classes that Cython makes; the ordinary one where the module itself uses it, too."""
    (tmp_path / "compiled.pyx").write_text(COMPILED)
    (tmp_path / "build.py").write_text(
        "from setuptools import setup\nfrom Cython.Build import cythonize\n"
        "setup(ext_modules=cythonize('compiled.pyx', compiler_directives={'binding': False}), script_args="
        "['-q', 'build_ext', '--inplace'])\n"
    )
    done = run_in(tmp_path, "build.py", CFLAGS="-O0 -w")
    assert done.returncode == 0, done.stderr
    (tmp_path / "compiled.pyx").unlink()
    (tmp_path / "compiled.c").unlink()
    script = """
    import sys
    sys.path.insert(0, "FOLDER")
    import numpy as np, fastconv
    report = fastconv.install()
    import compiled
    np.random.seed(3)
    wanted = np.random.normal(0, 1.0, (3, 2, 3, 3))
    np.random.seed(3)
    conv, pool = compiled.make(), compiled.MaxPool2d(2, 2)
    x = np.random.randn(2, 2, 6, 6)
    assert np.array_equal(conv.W, wanted)
    Z = conv.forward(x)
    assert np.allclose(Z, fastconv.functional.conv2d_forward(x, wanted))
    P = pool.forward(Z)
    assert conv.backward(pool.backward(P)).shape == x.shape
    print(sorted(e.name for e in report.swapped), type(conv).__module__)
    fastconv.uninstall()
    print(issubclass(compiled.Conv2d_stride1, fastconv.Layer), issubclass(compiled.MaxPool2d, fastconv.Layer))
    """.replace("FOLDER", str(tmp_path))
    assert output_of(script) == "['Conv2d_stride1', 'MaxPool2d'] compiled\nFalse False"


def test_a_class_whose_objects_cannot_change_it(mytorch):
    source = "from typing import Generic, TypeVar\nclass Stage(Generic[TypeVar('T')]): pass\n"
    source += layer().replace("class MaxPool2d", "class MaxPool2d(Stage[int])")
    entry, cls = outcome(mytorch, source, "MaxPool2d")
    assert entry.reason == "its objects cannot change their class"
    assert not issubclass(cls, fastconv.Layer)


def test_a_class_derived_from_a_decorated_one(mytorch):
    """Its base is the class that the name means afterwards."""
    source = layer().replace("class MaxPool2d", "def same(cls): return cls\n@same\nclass MaxPool2d")
    entry, cls = outcome(mytorch, source + "class Mine(MaxPool2d): pass\n", "MaxPool2d")
    assert entry.by == "fastconv.MaxPool2d"
    mine = mytorch["students"].Mine
    assert issubclass(mine, cls)
    assert isinstance(mine(2, 2), fastconv.MaxPool2d)
