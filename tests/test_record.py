"""`fastconv.record`: what is noted, what it costs to note nothing, and that nothing is left behind."""

import builtins
import copy
import gc
import threading
import time
import weakref
from types import FunctionType

import numpy as np
import pytest

import fastconv as fc
from fastconv.profiling import hooks
from layers import CASES, COMPOSITES, HANDS_ON, make_cnn
from support import output_of, same_bits


class Net:
    """A model that is no layer: it holds some, and one of its own kind."""

    def __init__(self):
        self.stem = fc.Conv2d(3, 4, 3, 2, 1)
        self.blocks = [fc.ReLU(), Doubling()]

    def forward(self, x):
        for layer in (self.stem, *self.blocks):
            x = layer.forward(x)
        return x

    def backward(self, grad):
        for layer in reversed((self.stem, *self.blocks)):
            grad = layer.backward(grad)
        return grad


class Doubling:
    """A program's own layer."""

    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


def step(model, shape=(2, 3, 8, 8)):
    return model.backward(model.forward(np.ones(shape)))


def methods():
    """Every forward and backward of the package and of this file."""
    classes, waiting = {Net, Doubling}, [fc.Layer]
    while waiting:
        waiting += (cls := waiting.pop()).__subclasses__()
        classes.add(cls)
    return {(cls, name): vars(cls)[name] for cls in classes for name in hooks.METHODS if name in vars(cls)}


def rows_of(prof):
    return {(row.path, row.pass_): row for row in prof.rows}


def test_every_layer_is_recorded_with_its_path():
    with fc.record() as prof:
        model = Net()
        step(model)
        step(model)
    rows = rows_of(prof)
    paths = {
        "model": "Net", "model.stem": "Conv2d", "model.blocks[0]": "ReLU", "model.blocks[1]": "Doubling"
    }
    assert {path: rows[path, "forward"].layer for path in paths} == paths
    assert {path: rows[path, "backward"].time.calls for path in paths} == dict.fromkeys(paths, 2)
    assert rows["model.stem", "forward"].given == [2, 3, 8, 8]
    assert rows["model.stem", "forward"].result == [2, 4, 4, 4]
    assert rows["model.stem", "backward"].result == [2, 3, 8, 8]
    assert rows["model.stem", "forward"].backend == fc.get_backend()
    assert rows["model.stem", "forward"].dtype == "float64"
    assert rows["model.blocks[1]", "forward"].operations is None


def test_paths_begin_at_the_model_that_is_named():
    model = {"main": Net()}["main"]
    with fc.record(model) as prof:
        step(model)
    assert {row.path for row in prof.rows} == {"Net", "Net.stem", "Net.blocks[0]", "Net.blocks[1]"}
    assert {row.depth for row in prof.rows} == {0, 1}


def test_layers_that_no_model_holds_have_the_name_of_their_variable():
    first, others = fc.Conv2d(3, 3, 1, 1), [fc.ReLU(), fc.ReLU()]
    with fc.record() as prof:
        x = first.forward(np.ones((1, 3, 2, 2)))
        for layer in others:
            x = layer.forward(x)
    assert [row.path for row in prof.rows] == ["first", "others[0]", "others[1]"]


def test_models_of_the_package():
    cnn = make_cnn()
    with fc.record(cnn) as prof:
        cnn.forward(np.ones((2, 3, 20)))
        cnn.backward(np.eye(6)[:2])
    rows = rows_of(prof)
    assert rows["CNN.layers[0]", "forward"].layer == "Conv1d"
    inside = rows["CNN.criterion", "forward"]
    assert prof.rows[inside.parent].pass_ == "backward", "the loss is computed in CNN.backward"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_counts_and_adds_up(case, rng):
    layer = case.make()
    with fc.record(layer) as prof:
        Z = layer.forward(case.input(rng))
        layer.backward(np.ones_like(Z))
    rows = rows_of(prof)
    name = type(layer).__name__
    for pass_ in ("forward", "backward"):
        row = rows[name, pass_]
        assert row.bytes is not None
        assert (row.bytes == 0) == (case.name in HANDS_ON)
        assert (row.bound is None) == (case.name in COMPOSITES | HANDS_ON)


def test_times_add_up():
    model = fc.models.ResNet(3, 8, 4, (4, 6))
    start = time.perf_counter()
    with fc.record(model) as prof:
        for _ in range(3):
            step(model)
    wall = time.perf_counter() - start
    for i, row in enumerate(prof.rows):
        inside = [other for other in prof.rows if other.parent == i]
        assert all(other.depth == row.depth + 1 for other in inside)
        assert sum(other.time.total for other in inside) <= row.time.total
        assert row.time.own + sum(other.time.total for other in inside) == pytest.approx(row.time.total)
        assert row.operations is None or not inside or row.operations == sum(o.operations for o in inside)
    outermost = sum(row.time.total for row in prof.rows if row.parent is None)
    assert sum(row.time.own for row in prof.rows) == pytest.approx(outermost)
    assert outermost <= prof.report.seconds <= wall
    assert sum(row.share for row in prof.rows) == pytest.approx(1)


def test_times_are_those_of_the_clock():
    with fc.record() as prof:
        class Sleeping:
            def forward(self, x):
                time.sleep(0.02)
                return x

            def backward(self, grad):
                return grad

        Sleeping().forward(np.ones(1))
        start = time.perf_counter()
        Sleeping().forward(np.ones(1))
        took = time.perf_counter() - start
    assert prof.rows[0].time.low >= 0.02
    assert prof.rows[0].time.total < 0.04 + 2 * took


def test_nothing_is_left_behind():
    before, build = methods(), builtins.__build_class__
    with fc.record():
        assert methods() != before
        with fc.record():
            pass
        assert methods() != before, "the outer recording goes on"
    assert methods() == before
    assert builtins.__build_class__ is build
    assert "__init_subclass__" not in vars(fc.Layer)
    with pytest.raises(ZeroDivisionError), fc.record():
        raise ZeroDivisionError
    assert methods() == before


def test_classes_made_meanwhile_are_recorded_and_put_back():
    with fc.record() as prof:
        class Later(fc.ReLU):
            def forward(self, Z):
                return super().forward(Z)

        made = type("Dynamic", (fc.ReLU,), {"forward": lambda self, Z: fc.ReLU.forward(self, Z)})
        Later().forward(np.ones(3))
        made().forward(np.ones(3))
    assert {row.layer: row.time.calls for row in prof.rows} == {"Later": 1, "Dynamic": 1}
    assert not hasattr(vars(Later)["forward"], "_notes_for")
    assert not hasattr(vars(made)["forward"], "_notes_for")


def test_classes_made_in_functions_before_are_recorded():
    def make():
        class Local:
            def forward(self, x):
                return layer.forward(x)

            def backward(self, grad):
                return grad

        class LocalReLU(fc.ReLU):
            def forward(self, Z):
                return super().forward(Z)

        layer = LocalReLU()
        return Local()

    outer = make()
    with fc.record() as prof:
        outer.forward(np.ones(3))
    assert {row.layer: row.depth for row in prof.rows} == {"Local": 0, "LocalReLU": 1}


# ---- recording and swapping ----------------------------------------------------------------------


def noting_functions():
    """Whatever holds them: a class, a closure."""
    gc.collect()
    return {id(f) for f in gc.get_objects() if type(f) is FunctionType and hasattr(f, "_notes_for")}


ORDERS = (
    ("record", "install", "stop", "uninstall"), ("record", "install", "uninstall", "stop"),
    ("install", "record", "uninstall", "stop"), ("install", "record", "stop", "uninstall"),
)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_nothing_is_left_behind_with_classes_replaced_meanwhile(order, verify, mytorch):
    own, build, left = vars(mytorch["Conv2d"].Conv2d).copy(), builtins.__build_class__, noting_functions()
    recording = fc.record()
    do = {
        "record": recording.__enter__, "stop": lambda: recording.__exit__(None, None, None),
        "install": lambda: fc.install(verify=verify), "uninstall": fc.uninstall,
    }
    layers = []
    for what in order:
        do[what]()
        layers.append(mytorch["Conv2d"].Conv2d(2, 3, 3, 1))
        for layer in layers:
            layer.backward(layer.forward(np.ones((1, 2, 6, 6))))
    assert vars(mytorch["Conv2d"].Conv2d) == own
    assert builtins.__build_class__ is build
    assert noting_functions() == left
    # Seen are objects of the user's class, of that in its place, and of the user's again. (While they are
    # verified, also those that they are compared with.)
    seen = {row.path for row in recording.rows if row.layer == "Conv2d" and row.path.startswith("layers")}
    assert seen == {f"layers[{i}]" for i in range(order.index("stop"))}


def test_recording_changes_nothing_in_what_a_swapped_layer_runs(mytorch):
    """It runs as one call of the kernels, not as the user's composition of the layers inside."""
    fc.install()
    try:
        model = mytorch["Conv2d"].Conv2d(2, 3, 3, 2, 1)
        with fc.record(model) as prof:
            model.backward(model.forward(np.ones((1, 2, 6, 6))))
    finally:
        fc.uninstall()
    assert [(row.path, row.bound is None) for row in prof.rows] == [("Conv2d", False)] * 2


def test_layers_swapped_in_meanwhile_are_recorded_and_put_back(mytorch):
    model, left = mytorch["pool"].MaxPool2d(2, 2), noting_functions()
    x = np.ones((1, 2, 4, 4))
    with fc.record(model) as prof:
        model.forward(x)
        report = fc.swap(model)
        model.forward(x)
    assert [(row.path, row.time.calls, row.bound) for row in prof.rows if row.depth == 0] == [
        ("MaxPool2d", 2, None)
    ]
    assert noting_functions() == left
    with fc.record(model) as prof:
        model.forward(x)
    assert [(row.path, row.bound) for row in prof.rows] == [("MaxPool2d", "memory")]
    report.undo()
    assert type(model).__module__ == "pool"
    assert not isinstance(model, fc.Layer)


def test_methods_that_somebody_kept_go_on_and_note_nothing():
    layer = fc.ReLU()
    with fc.record() as first:
        kept = layer.forward

        class Copied(fc.ReLU):
            backward = fc.ReLU.backward
    assert kept(np.ones(2)).tolist() == [1, 1]
    assert first.rows == []
    with fc.record() as second:
        copied = Copied()
        copied.backward(copied.forward(np.ones(2)))
    assert [row.time.calls for row in second.rows] == [1, 1]


def test_objects_that_cannot_be_looked_at_do_not_stop_the_program():
    class Evil:
        @property
        def __dict__(self):
            raise OSError

    evil, layer = [Evil()], fc.ReLU()
    with fc.record() as prof:
        layer.forward(np.ones(2))
    assert evil
    assert len(prof.rows) == 1


def test_nested_recordings_have_what_is_theirs():
    layer, A = fc.ReLU(), np.ones(4)
    with fc.record() as outer:
        layer.forward(A)
        with fc.record() as inner:
            layer.forward(A)
            layer.backward(A)
        layer.forward(A)
    assert {row.pass_: row.time.calls for row in inner.rows} == {"forward": 1, "backward": 1}
    assert {row.pass_: row.time.calls for row in outer.rows} == {"forward": 3, "backward": 1}


def test_threads_keep_their_calls_apart():
    def work(results):
        model = Net()
        for _ in range(20):
            results.append(step(model))

    results = [[] for _ in range(4)]
    with fc.record() as prof:
        threads = [
            threading.Thread(target=work, args=(r,), name=f"worker {i}") for i, r in enumerate(results)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(prof.report.threads_seen) == [f"worker {i}" for i in range(4)]
    # Of models that live at the same time each has its own rows.
    assert sum(row.time.calls for row in prof.rows if row.layer == "Net") == 4 * 20 * 2
    assert all(row.time.own >= 0 for row in prof.rows)


def test_recordings_that_overlap_in_threads():
    other_on, go = threading.Event(), threading.Event()
    found, before_all = [], vars(fc.ReLU.__mro__[1])["forward"]

    def other():
        with fc.record() as prof:
            other_on.set()
            go.wait(60)
            fc.ReLU().forward(np.ones(2))
        found.append(prof)

    thread = threading.Thread(target=other)
    with fc.record() as first:
        thread.start()
        other_on.wait(60)
        fc.Tanh().forward(np.ones(2))
    before = {row.layer for row in first.rows}
    go.set()
    thread.join()
    assert before == {"Tanh"}
    assert {row.layer for row in found[0].rows} == {"Tanh", "ReLU"}
    assert vars(fc.ReLU.__mro__[1])["forward"] is before_all


def test_errors_pass_and_are_noted():
    layer = fc.Conv2d(3, 4, 3, 1)
    with fc.record() as prof:
        with pytest.raises(ValueError, match="channels"):
            layer.forward(np.ones((1, 2, 8, 8)))
        layer.forward(np.ones((1, 3, 8, 8)))
    (row,) = prof.rows
    assert row.time.calls == 2
    assert row.given == [1, 3, 8, 8]


def test_results_are_the_same_bits(rng):
    model = fc.models.ResNet(3, 8, 4, (4, 6))
    twin, A = copy.deepcopy(model), rng.standard_normal((2, 3, 8, 8))
    with fc.record():
        Z = model.forward(A)
        dLdA = model.backward(Z)
    assert same_bits(Z, twin.forward(A))
    assert same_bits(dLdA, twin.backward(Z))


def test_layers_are_not_kept_alive():
    def work():
        layer = fc.ReLU()
        layer.forward(np.ones(3))
        return weakref.ref(layer)

    with fc.record() as prof:
        reference = work()
        gc.collect()
        assert reference() is None
    assert prof.rows[0].time.calls == 1


def test_layers_made_again_and_again_are_one_row():
    with fc.record() as prof:
        for _ in range(50):
            layer = fc.ReLU()
            layer.forward(np.ones(3))
    assert sum(row.time.calls for row in prof.rows) == 50
    assert len(prof.rows) <= 2, "while a new layer is called its predecessor may still be there"


def test_backends_have_rows_of_their_own():
    layer, A = fc.Conv2d(3, 4, 3, 1), np.ones((1, 3, 8, 8))
    with fc.record() as prof:
        layer.forward(A)
        with fc.use_backend("pure"):
            layer.forward(A)
    assert {row.backend: row.isa is None for row in prof.rows} == {"compiled": False, "pure": True}


def test_the_report_is_there_when_the_block_has_ended():
    with fc.record() as prof, pytest.raises(RuntimeError, match="not ended"):
        _ = prof.rows
    assert prof.rows == []
    assert "No layer was called" in str(prof)


def test_importing_it_costs_nothing_until_it_is_used():
    script = """
    import sys, fastconv
    assert not any(name.startswith("fastconv.profiling") for name in sys.modules)
    assert "record" in fastconv.__all__ and callable(fastconv.record)
    print("fastconv.profiling" in sys.modules)
    """
    assert output_of(script) == "True"


def test_without_rich_all_but_the_table_works():
    script = """
    import sys
    sys.modules["rich"] = sys.modules["rich.console"] = None
    import numpy as np, fastconv
    with fastconv.record() as prof:
        fastconv.ReLU().forward(np.ones(3))
    print(len(prof.rows))
    try:
        str(prof)
    except ImportError as error:
        print(error)
    """
    assert output_of(script).splitlines() == [
        "1", "rich is not installed; it comes with: pip install 'fastconv[profile]'"
    ]
