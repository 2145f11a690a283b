"""`install` and `uninstall`: what was imported before, what comes after, and that nothing is left behind."""

import builtins
import gc
import importlib
import pickle
import sys
import textwrap
import threading
import types
from multiprocessing import spawn

import numpy as np
import pytest

import fastconv
from fastconv import swapping
from support import output_of

MODULES = ("Conv1d", "Conv2d", "ConvTranspose", "pool", "batchnorm2d", "dropout2d", "flatten", "resampling")


def state_of_the_interpreter():
    return {
        "build": builtins.__build_class__,
        "meta_path": list(sys.meta_path),
        "spawn": spawn.get_preparation_data,
        "hooks": list(sys.path_hooks),
        "excepthook": sys.excepthook,
        "backend": fastconv.get_backend(),
        "modules": set(sys.modules),
    }


def layer_classes(modules):
    return {
        (name, key): value
        for name in MODULES
        for key, value in vars(modules[name]).items()
        if isinstance(value, type)
    }


@pytest.mark.parametrize("options", [{}, {"pure": True}, {"verify": True, "all": True}])
def test_nothing_is_left_behind(mytorch, options):
    fastconv.install()  # so that what it imports has been imported
    fastconv.uninstall()
    before, own = state_of_the_interpreter(), layer_classes(mytorch)
    state = state_of_the_interpreter()
    report = fastconv.install(**options)
    replaced = layer_classes(mytorch)
    assert all(issubclass(replaced[key], fastconv.Layer) for key in own)
    assert fastconv.get_backend() == ("pure" if options.get("pure") else before["backend"])
    assert state_of_the_interpreter() != state
    for key, cls in replaced.items():
        assert issubclass(cls, own[key])
    fastconv.uninstall()
    assert layer_classes(mytorch) == own
    after = state_of_the_interpreter()
    after["modules"] &= before["modules"] | set(MODULES)
    assert {**after, "modules": None} == {**state, "modules": None}
    assert all(e.by for e in report.swapped)  # the report stays
    fastconv.uninstall()  # does nothing


def test_modules_imported_before(mytorch):
    """Names that were copied by star imports, too, and a class that another class refers to."""
    conv, transposed = mytorch["Conv2d"], mytorch["ConvTranspose"]
    old = conv.Conv2d_stride1
    assert transposed.Conv2d_stride1 is old
    fastconv.install()
    assert issubclass(conv.Conv2d_stride1, fastconv.Conv2d_stride1)
    assert transposed.Conv2d_stride1 is conv.Conv2d_stride1
    assert isinstance(transposed.ConvTranspose2d(1, 1, 2, 2).conv2d_stride1, fastconv.Conv2d_stride1)
    assert mytorch["resampling"].Upsample2d is transposed.Upsample2d is conv.Upsample2d


def test_tables_of_classes(mytorch):
    """In modules imported before; and the user's hooks see each class once, the user's own."""
    source = """
        class Base:
            seen = []
            def __init_subclass__(cls, kind):
                Base.seen.append((cls.__name__, kind))
        class Flatten(Base, kind="shape"):
            def forward(self, A): pass
            def backward(self, dLdZ): pass
        TABLE, LIST = {"flatten": Flatten}, [Flatten]
        """
    mytorch.write("table", textwrap.dedent(source))
    module = mytorch["table"]
    own = module.Flatten
    for _ in range(2):
        fastconv.install()
        assert issubclass(module.Flatten, fastconv.Flatten)
        assert module.TABLE["flatten"] is module.LIST[0] is module.Flatten

        class Mine(module.Flatten, kind="mine"):
            pass

        assert module.Base.seen == [("Flatten", "shape"), ("Mine", "mine")]
        module.Base.seen.pop()
        fastconv.uninstall()
        assert module.TABLE["flatten"] is module.LIST[0] is module.Flatten is own


REGISTRIES = """
import abc
KINDS = {}
class Registry(abc.ABCMeta):
    seen, table = [], {}
    def __new__(mcs, name, bases, names, **options):
        mcs.seen.append(name)
        return super().__new__(mcs, name, bases, names)
    def __init__(cls, name, bases, names, **options):
        super().__init__(name, bases, names)
        cls.table[name] = KINDS[name] = cls
class Base(metaclass=Registry):
    @abc.abstractmethod
    def forward(self, A): pass
    @abc.abstractmethod
    def backward(self, dLdZ): pass
class Hooked:
    seen, table = [], {}
    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Hooked.seen.append(cls)
        Hooked.table[cls.__name__] = cls
class Flatten(Base):
    def forward(self, A): pass
    def backward(self, dLdZ): pass
class Upsample1d(Hooked):
    def __init__(self, upsampling_factor): self.upsampling_factor = upsampling_factor
    def forward(self, A): pass
    def backward(self, dLdZ): pass
"""


@pytest.mark.parametrize("late", [False, True])
def test_registries_that_classes_make(mytorch, late):
    """By a metaclass or ``__init_subclass__``: they hear of a class once, and hold the compiled one."""
    mytorch.write("registries", REGISTRIES)
    if late:
        mytorch["registries"]
    fastconv.install()
    module = mytorch["registries"]
    flatten, up = module.Flatten, module.Upsample1d
    assert issubclass(flatten, fastconv.Flatten)
    assert issubclass(up, fastconv.Upsample1d)
    assert type(flatten) is module.Registry
    assert isinstance(flatten(), module.Base)
    assert not isinstance(up(2), flatten)
    assert module.Registry.seen == ["Base", "Flatten"]
    assert module.Registry.table == module.KINDS == {"Base": module.Base, "Flatten": flatten}
    assert module.Hooked.seen == [up]
    assert module.Hooked.table == {"Upsample1d": up}
    assert type(pickle.loads(pickle.dumps(flatten()))) is flatten

    class Mine(flatten):
        pass

    assert module.Registry.seen == ["Base", "Flatten", "Mine"]
    fastconv.uninstall()
    assert module.Registry.table["Flatten"] is module.Flatten is module.KINDS["Flatten"] is not flatten
    assert module.Hooked.seen == [module.Upsample1d]


def test_modules_imported_after(mytorch):
    fastconv.install()
    assert "Conv2d" not in sys.modules
    conv = mytorch["Conv2d"]
    assert issubclass(conv.Conv2d, fastconv.Conv2d)
    assert mytorch["ConvTranspose"].Conv2d_stride1 is conv.Conv2d_stride1
    assert conv.np is np  # what else a module has


def test_every_way_of_importing(mytorch):
    fastconv.install()
    spec = importlib.util.spec_from_file_location("elsewhere", mytorch.folder / "pool.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.MaxPool2d.__module__ == "elsewhere"
    assert isinstance(module.MaxPool2d(2, 2), fastconv.MaxPool2d)
    pool = mytorch["pool"]
    first = pool.MaxPool2d
    assert importlib.reload(pool).MaxPool2d is not first
    assert issubclass(pool.MaxPool2d, fastconv.MaxPool2d)
    namespace = {"__name__": "pool", "__file__": pool.__file__}
    exec(compile((mytorch.folder / "pool.py").read_text(), pool.__file__, "exec"), namespace)
    assert issubclass(namespace["MeanPool2d"], fastconv.MeanPool2d)


DECORATED = """
import dataclasses
import numpy as np

def noted(cls):
    cls.noted = True
    return cls

@noted
class MaxPool2d:
    def __init__(self, kernel, stride):
        self.kernel, self.stride = kernel, stride
    def forward(self, A): raise RuntimeError("the original ran")
    def backward(self, dLdZ): raise RuntimeError("the original ran")

@dataclasses.dataclass
class MeanPool2d:
    kernel: int
    stride: int
    def forward(self, A): raise RuntimeError("the original ran")
    def backward(self, dLdZ): raise RuntimeError("the original ran")

class Last: pass
"""


def test_decorated_classes_are_decorated_first(mytorch):
    mytorch.write("decorated", DECORATED)
    fastconv.install()
    module = mytorch["decorated"]
    A = np.arange(16.0).reshape(1, 1, 4, 4)
    pools = module.MaxPool2d(2, 2), module.MeanPool2d(2, stride=2)
    assert pools[0].noted
    assert [p.forward(A).sum() for p in pools] == [40, 30]
    assert pools[1] == module.MeanPool2d(2, 2)  # as dataclasses are


def test_side_effects_of_a_module_happen_once(mytorch):
    """dropout2d.py seeds the global stream."""
    fastconv.install()
    np.random.seed(1)
    mytorch["dropout2d"]
    first = np.random.random()
    np.random.seed(11785)
    assert first == np.random.random()


def test_objects_made_meanwhile_go_on_working(mytorch, rng):
    fastconv.install()
    layer = mytorch["Conv2d"].Conv2d(3, 4, 3, 1)
    A = rng.standard_normal((2, 3, 6, 6))
    Z = layer.forward(A)
    fastconv.uninstall()
    assert np.array_equal(layer.forward(A), Z)
    assert layer.backward(Z).shape == A.shape
    assert not isinstance(mytorch["Conv2d"].Conv2d(3, 4, 3, 1), fastconv.Layer)
    for installed in (False, True):  # a pickle is of whatever the name means
        if installed:
            fastconv.install()
        again = pickle.loads(pickle.dumps(layer))
        assert type(again) is mytorch["Conv2d"].Conv2d
        np.testing.assert_allclose(again.forward(A), Z, atol=1e-12)


def test_a_second_install_starts_anew(mytorch):
    first = fastconv.install()
    pool = mytorch["pool"]
    second = fastconv.install(exclude=["MaxPool2d"])
    assert first is not second
    assert not issubclass(pool.MaxPool2d, fastconv.Layer)
    assert issubclass(pool.MeanPool2d, fastconv.Layer)
    second.undo()
    assert not issubclass(pool.MeanPool2d, fastconv.Layer)
    assert swapping._active is None


def test_a_hook_put_over_ours_stays(mytorch):
    plain = builtins.__build_class__
    fastconv.install()
    ours = builtins.__build_class__

    def over(*args, **kwargs):
        return ours(*args, **kwargs)

    builtins.__build_class__ = over
    try:
        fastconv.uninstall()
        assert builtins.__build_class__ is over
        assert not issubclass(mytorch["pool"].MaxPool2d, fastconv.Layer)
    finally:
        builtins.__build_class__ = plain


def test_a_notebook(tmp_path):
    """Cells run in __main__, have no file, and may define a class again."""
    script = """
    import sys, types, linecache
    import fastconv
    report = fastconv.install()
    source = "class Flatten:\\n    def forward(self, A): 1 / 0\\n    def backward(self, dLdZ): 1 / 0\\n"
    import numpy as np
    for cell in range(2):
        exec(compile(source, f"<ipython-input-{cell}>", "exec"), vars(sys.modules["__main__"]))
        print(issubclass(Flatten, fastconv.Flatten), Flatten().forward(np.ones((2, 3, 4))).shape)
    print(report.swapped[0].name, len(report.swapped))
    """
    assert output_of(script).splitlines() == ["True (2, 12)", "True (2, 12)", "Flatten 2"]


def test_threads_that_import(mytorch):
    fastconv.install()
    found = []

    def load(name):
        found.append((name, mytorch[name]))

    threads = [threading.Thread(target=load, args=(name,)) for name in MODULES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(MODULES)
    assert issubclass(mytorch["ConvTranspose"].ConvTranspose2d, fastconv.Layer)
    assert isinstance(mytorch["Conv2d"].Conv2d(1, 1, 1, 1).conv2d_stride1, fastconv.Layer)


def test_the_report_prints_as_a_table(mytorch, tmp_path):
    report = fastconv.install()
    for name in ("Conv2d", "linear", "activation"):
        mytorch[name]
    text = str(report).splitlines()
    assert text[0] == "swapped: 6"
    assert any(line.split()[0] == "Conv2d" and "by fastconv.Conv2d" in line for line in text)
    assert "left alone: 2" in text
    assert text[-1].startswith("  Linear, ReLU: revisions scale these differently")
    assert repr(report) == "<SwapReport: 6 swapped, 2 left alone>"
    assert [e["name"] for e in report.as_dict()["kept"]] == ["Linear", "ReLU"]


def test_memory_is_given_back(mytorch):
    """A class that was replaced is not kept alive by what replaced it, after uninstall."""
    fastconv.install()
    mytorch.write(
        "gone", "class Flatten:\n    def forward(self, A): pass\n    def backward(self, dLdZ): pass\n"
    )
    cls = mytorch["gone"].Flatten
    fastconv.uninstall()
    import weakref

    left = weakref.ref(cls)
    del cls, sys.modules["gone"]
    gc.collect()
    assert left() is None


def test_lazily_resolved_names_are_public():
    assert {"install", "uninstall", "swap"} <= set(dir(fastconv)) & set(fastconv.__all__)
    assert isinstance(fastconv.swap, types.FunctionType)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastconv.nothing
