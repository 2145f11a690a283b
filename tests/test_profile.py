"""`fastconv.profile`: figures, and that the model does not notice."""

import copy
import io
import sys
import time

import numpy as np
import pytest

import fastconv as fc
from fastconv.bench.machine import Machine
from fastconv.profiling import compare, limits, recorder
from fastconv.profiling.counts import kind_of, work
from fastconv.profiling.graph import kept
from layers import MODELS, make_cnn
from support import differences, output_of, same_bits, snapshot


def profile(model, x, *args, **options):
    return fc.profile(model, x, *args, **{"budget": 1.0, **options})


class Noisy(fc.Layer):
    """Its own generator, an array changed in place, a list that grows: all of it state."""

    def __init__(self):
        self.rng = np.random.default_rng(3)
        self.seen = np.zeros(1)
        self.calls = []
        self.conv = fc.Conv2d(3, 4, 3, 1)
        self.norm = fc.BatchNorm2d(4)
        self.dropout = fc.Dropout2d(0.5)

    def forward(self, A):
        self.seen += 1
        self.calls.append(A.shape)
        A = A + self.rng.standard_normal(A.shape)
        return self.dropout.forward(self.norm.forward(self.conv.forward(A)))

    def backward(self, grad):
        return self.conv.backward(self.norm.backward(self.dropout.backward(grad)))


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_models_of_the_package(case, rng):
    found = profile(case.make(), case.input(rng))
    for row in found.rows:
        assert row.pure.samples >= 1
        assert row.time.samples >= 3
        assert row.time.low <= row.time.median <= row.time.high
        assert row.speedup == pytest.approx(row.pure.median / row.time.median)
        assert row.differences["output" if row.pass_ == "forward" else "dLdA"][1] < 1e-9
    assert found.report.speedup == pytest.approx(found.report.pure_seconds / found.report.seconds)
    assert sum(row.share for row in found.rows) == pytest.approx(1)


def test_the_model_and_the_random_stream_are_as_they_were(rng):
    model, x = Noisy(), rng.standard_normal((2, 3, 6, 6))
    model.backward(model.forward(x))
    before, state = snapshot(model), model.rng.bit_generator.state
    kept_objects = {name: id(value) for name, value in vars(model.norm).items()}
    stream = np.random.get_state()[1].copy()
    found = profile(model, x)
    after = snapshot(model)
    del before["rng"], after["rng"]
    assert differences(before, after) == []
    assert model.rng.bit_generator.state == state
    assert {name: id(value) for name, value in vars(model.norm).items()} == kept_objects
    assert same_bits(np.random.get_state()[1], stream)
    # Equal state gives equal masks and noise: both runs compute the same.
    assert max(row.difference for row in found.rows) < 1e-9


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_so_they_are_after_a_failure(error, rng):
    class Failing(fc.Layer):
        def __init__(self):
            self.conv = fc.Conv2d(3, 4, 3, 1)

        def forward(self, A):
            self.Z = self.conv.forward(A)
            np.random.rand()
            return self.Z

        def backward(self, grad):
            self.conv.W += 1
            raise error

    model = Failing()
    before, stream = snapshot(model), np.random.get_state()[1].copy()
    forward = vars(fc.Conv2d.__mro__[1])["forward"]
    with pytest.raises(error):
        profile(model, rng.standard_normal((2, 3, 6, 6)))
    assert differences(before, snapshot(model)) == []
    assert same_bits(np.random.get_state()[1], stream)
    assert vars(fc.Conv2d.__mro__[1])["forward"] is forward
    assert fc.get_backend() == "compiled"


def test_a_user_s_classes_that_are_no_layers(rng):
    class Net:
        def __init__(self):
            self.convs = {"first": fc.Conv2d(3, 4, 3, 2, 1)}

        def forward(self, x):
            return self.convs["first"].forward(x)

        def backward(self, grad):
            return self.convs["first"].backward(grad)

    found = profile(Net(), rng.standard_normal((2, 3, 8, 8)))
    assert {row.path for row in found.rows} == {"Net", "Net.convs['first']"}


def test_labels_where_the_model_wants_them(rng):
    cnn = make_cnn()
    found = profile(cnn, rng.standard_normal((2, 3, 20)), np.eye(6)[[1, 4]])
    assert {"CNN.criterion", "CNN.layers[0]"} <= {row.path for row in found.rows}
    assert cnn.loss is None


def test_forward_alone_runs_in_evaluation_where_it_can(rng):
    model = fc.ResBlock(3, 4, 3, 2, 1)
    found = profile(model, rng.standard_normal((2, 3, 8, 8)), train=False)
    assert {row.pass_ for row in found.rows} == {"forward"}
    assert profile(fc.ReLU(), rng.standard_normal(5), train=False).rows[0].speedup is not None


@pytest.mark.parametrize(("terminal", "wanted"), [(True, True), (True, False), (False, True)])
def test_progress_is_shown_on_a_terminal(terminal, wanted, rng, monkeypatch):
    pytest.importorskip("rich")
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    profile(fc.Conv2d(3, 4, 3, 1), rng.standard_normal((2, 3, 8, 8)), budget=0.5, progress=wanted)
    assert ("0:00:00" in stderr.getvalue()) == (terminal and wanted)


def test_what_differs_is_found(rng):
    class Wrong(fc.Conv2d):
        def forward(self, A):
            return super().forward(A) + (0.5 if fc.get_backend() == "pure" else 0.0)

    model = fc.models.mlp.Sequential()
    model.layers = [fc.Conv2d(3, 4, 3, 1), Wrong(4, 2, 3, 1)]
    found = profile(model, rng.standard_normal((2, 3, 8, 8)))
    apart = {row.path: row.differences["output"] for row in found.rows if row.pass_ == "forward"}
    assert apart["Sequential.layers[0]"][1] < 1e-14
    assert apart["Sequential.layers[1]"][0] == pytest.approx(0.5)
    backward = {row.path: row.differences for row in found.rows if row.pass_ == "backward"}
    assert set(backward["Sequential.layers[1]"]) == {"dLdA", "dLdW", "dLdb"}
    assert max(relative for _, relative in backward["Sequential.layers[0]"].values()) < 1e-12


def test_a_nan_in_both_is_no_difference_and_in_one_it_is():
    a, b = np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf])
    assert compare._differences({"output": a}, {"output": b}) == {"output": [0.0, 0.0]}
    b[1] = 0.0
    assert compare._differences({"output": a}, {"output": b})["output"][0] == np.inf


def test_a_pure_run_over_its_budget_stops_between_layers(rng):
    class Slow(fc.ReLU):
        def forward(self, Z):
            if fc.get_backend() == "pure":
                time.sleep(0.3)
            return super().forward(Z)

    model = fc.models.mlp.Sequential()
    model.layers = [fc.Conv2d(3, 4, 3, 1), Slow(), Slow(), fc.Conv2d(4, 4, 3, 1)]
    before = snapshot(model)
    found = profile(model, rng.standard_normal((2, 3, 8, 8)), budget=0.2)
    rows = {(row.path, row.pass_): row for row in found.rows}
    assert rows["Sequential.layers[0]", "forward"].speedup is not None
    assert rows["Sequential.layers[3]", "forward"].pure is None
    assert rows["Sequential", "forward"].pure is None
    assert found.report.pure_seconds is None
    assert all(row.time.samples >= 3 for row in found.rows)
    assert "before its budget was over" in str(found).replace("\n", " ")
    assert differences(before, snapshot(model)) == []


def test_the_times_are_those_of_an_outside_clock(rng):
    """The medians of both, on a machine where others run, too: within a factor that noise does not reach."""
    model, x = fc.Conv2d(32, 32, 3, 1, 1), rng.standard_normal((8, 32, 24, 24))
    found = profile(model, x, train=False, budget=2.0)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        model.forward(x)
        times.append(time.perf_counter() - start)
    assert min(times) / 3 < found.report.seconds < 3 * max(times)


@pytest.mark.parametrize(
    ("layer", "shape", "operations", "backward"),
    [
        (lambda: fc.Conv2d(3, 8, 3, 2, 1), (2, 3, 9, 9), 2 * 2 * 8 * 5 * 5 * 3 * 9, 2),
        (lambda: fc.Conv1d(24, 8, 8, 4), (4, 24, 128), 2 * 4 * 8 * 31 * 24 * 8, 2),
        (lambda: fc.Conv2d_stride1(3, 8, (2, 5)), (2, 3, 9, 9), 2 * 2 * 8 * 8 * 5 * 3 * 10, 2),
        (lambda: fc.Linear(20, 30), (7, 20), 2 * 7 * 20 * 30, 2),
        (lambda: fc.MaxPool2d(2, 2), (2, 3, 8, 8), 3 * 2 * 3 * 16, 1 / 3),
        (lambda: fc.MeanPool2d(2, 2), (2, 3, 8, 8), 4 * 2 * 3 * 16, 1),
        (lambda: fc.ReLU(), (5, 6), 30, 1),
    ],
)
def test_operations_are_those_of_the_formula(layer, shape, operations, backward, rng):
    model = layer()
    with fc.record(model) as prof:
        for _ in range(2):
            model.backward(model.forward(rng.standard_normal(shape)))
    forward, gradient = prof.rows
    assert forward.operations == 2 * operations
    assert gradient.operations == 2 * operations * backward
    x, z = np.prod(forward.given), np.prod(forward.result)
    w = model.W.size if hasattr(model, "W") else 0
    assert forward.bytes == 2 * 8 * (x + z + w)
    assert forward.gflops == pytest.approx(operations / forward.time.median / 1e9)
    assert forward.gbs == pytest.approx(forward.bytes / 2 / forward.time.median / 1e9)
    assert forward.intensity == pytest.approx(forward.operations / forward.bytes)


def test_what_hands_its_input_on_does_no_work(rng):
    model = fc.Dropout2d(0.5)
    with fc.record(model) as prof:
        model.forward(rng.standard_normal((2, 3, 4, 4)), eval=True)
    assert (prof.rows[0].operations, prof.rows[0].bytes, prof.rows[0].bound) == (0, 0, None)


def test_inserted_zeros_are_no_operations(rng):
    model = fc.ConvTranspose2d(3, 4, 3, 2)
    kind = kind_of(model)
    shape, out = (2, 3, 5, 5), model.forward(rng.standard_normal((2, 3, 5, 5))).shape
    inserted = np.zeros((9, 9))
    inserted[::2, ::2] = 1
    pairs = sum(int(inserted[i : i + 3, j : j + 3].sum()) for i in range(7) for j in range(7))
    assert work(kind, False, shape, out, 8).operations == 2 * 2 * 3 * 4 * pairs


MACHINE = Machine(
    "a processor", 2, {}, {f"{dtype} x {n}": 100.0 for dtype in ("float32", "float64") for n in range(1, 9)},
    [{"level": level, "bytes": size, "threads": n, "gbs": gbs}
     for n in range(1, 9) for level, size, gbs in (("L2", 1 << 19, 50.0), ("memory", 1 << 27, 10.0))],
)  # fmt: skip


def test_limits_are_those_of_the_machine(rng, monkeypatch):
    monkeypatch.setattr(recorder, "machine", lambda dtypes, threads: MACHINE)
    dense, light = fc.Conv2d(64, 64, 3, 1, 1), fc.ReLU()
    with fc.record() as prof:
        Z = dense.forward(rng.standard_normal((4, 64, 16, 16)))
        light.forward(Z)
    rows = {row.path: row for row in prof.rows}
    assert rows["dense"].bound == "arithmetic"
    assert rows["dense"].limit == pytest.approx(rows["dense"].gflops / 100)
    assert rows["light"].bound == "memory"
    assert rows["light"].bytes == 2 * 8 * 4 * 64 * 16 * 16 > 1 << 19, "does not fit the cache"
    assert rows["light"].limit == pytest.approx(rows["light"].gbs / 10)


def test_the_machine_is_measured_once():
    first = limits.machine(("float32",), 1)
    assert limits.machine(("float32",), 1) is first
    assert first.peak("float32", 1) > 0
    assert [level["level"] for level in first.copy] == ["L2", "L3", "memory"]


def test_a_composite_is_held_against_what_is_in_it(rng):
    model = fc.ConvBlock(3, 8, 3, 1, 1)
    with fc.record(model) as prof:
        model.forward(rng.standard_normal((4, 3, 16, 16)))
    whole, *parts = prof.rows
    ideal = sum(part.limit * part.time.total for part in parts)
    assert whole.limit == pytest.approx(ideal / whole.time.total)
    assert whole.bound is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((object(), np.ones(3)), "forward"), ((fc.ReLU(), "a"), "A|Z")],
)
def test_what_is_no_model_or_input(arguments, message):
    with pytest.raises((TypeError, AttributeError), match=message):
        profile(*arguments)


def test_what_calls_no_layer_is_refused():
    class Empty:
        def forward(self, x):
            return x

        def backward(self, grad):
            return grad

    with pytest.raises(ValueError, match="no layer of fastconv"):
        profile(Empty(), np.ones(3))
    with pytest.raises(ValueError, match="budget must be positive"):
        profile(fc.ReLU(), np.ones(3), budget=0)


def test_kept_brings_back_what_was_deleted_and_added():
    class Holder:
        pass

    holder = Holder()
    holder.items, holder.table, holder.array = [1, 2], {"a": np.zeros(2)}, np.arange(3.0)
    before = copy.deepcopy(vars(holder))
    array = holder.array
    with kept(holder):
        holder.items.append(3)
        del holder.table["a"]
        holder.array += 1
        holder.array = None
        holder.more = 1
    assert differences(vars(holder), before) == []
    assert holder.array is array


def test_without_compiled_kernels_it_says_so():
    script = """
    import numpy as np, fastconv
    fastconv.backend._BACKENDS.pop("compiled")
    try:
        fastconv.profile(fastconv.ReLU(), np.ones(3))
    except ImportError as error:
        print(error)
    """
    assert "'compiled' is not there" in output_of(script, FASTCONV_BACKEND="pure")
