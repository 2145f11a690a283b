"""``fastconv bench``: that contenders compute the same, that figures follow from samples, the command."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

import fastconv
from fastconv import cli
from fastconv.backend import probe
from fastconv.bench import BenchError, machine, measure, results, suites, timing
from fastconv.bench.contenders import NAMES, Arrays, choose
from fastconv.bench.problems import parse
from support import output_of, run_python

pytest.importorskip("threadpoolctl", reason="the benchmark needs its extra: pip install 'fastconv[bench]'")
pytest.importorskip("rich", reason="the benchmark needs its extra: pip install 'fastconv[bench]'")

# ---- every contender computes what fastconv computes ---------------------------------------------

PROBLEMS = """
    n2ic3ih9oc4kh3ph1 n2ic16ih12oc20kh3ph1 n2ic3ih9iw7oc4kh3kw2sh2sw1ph1pw0 n2ic4ih7oc5kh1
    n3ic2ih8oc3kh2sh3ph2
    n2ic3iw20oc4kw5sw2pw1 n2ic3iw9oc4kw3 n2ic3ih5oc4kh3uh2 n2ic3iw6oc4kw4uw3 n2ic3ih6oc4kh3sh2ph2uh2
    max:n2ic3ih9kh3sh2 max:n2ic3ih9iw8kh2 mean:n2ic3ih9kh3 mean:n2ic3ih8kh2sh2
    bn:n3ic4ih6 relu:n2ic3ih4 gelu:n2ic3ih4 sigmoid:n2ic3iw5 tanh:n2ic3 softmax:n4ic5
    linear:n4ic5oc6 xent:n4ic5 mse:n4ic5 resnet:n8ic1ih8oc10 cnn:n8ic8iw8oc10
"""
ONE_CALL = [p for p in suites.PASSES if p != "import"]
# PyTorch, JAX and ONNX Runtime are compiled by others, for another summation order: what is left of
# a dtype's digits after the sums of some hundred terms here, and of Winograd's algorithm.
TOLERANCE = {"float32": 3e-5, "float64": 1e-13}


@pytest.fixture(scope="module", params=NAMES)
def contender(request):
    """One that is not installed is skipped."""
    chosen, missing = choose([request.param])
    if missing:
        pytest.skip(f"{request.param} is not installed")
    chosen[request.param].set_threads(1)
    return chosen[request.param]


@pytest.fixture(autouse=True)
def restore_threads():
    before = fastconv.get_num_threads()
    yield
    fastconv.set_num_threads(before)


def results_of(call):
    value = call()
    return [np.asarray(part) for part in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("text", PROBLEMS.split())
def test_every_contender_computes_the_same(contender, text, dtype):
    ours = choose(["compiled"])[0]["compiled"]
    for pass_ in ONE_CALL:
        arrays = Arrays(parse(text), dtype.name)
        before = [x.copy() for x in (arrays.X, arrays.W, arrays.b, arrays.dZ, arrays.Y)]
        reference, call = ours.call(arrays, pass_), contender.call(arrays, pass_)
        if reference is None or call is None:
            continue
        for _ in range(2 if pass_ == "step" else 1):  # the second step shows what the first one changed
            expected, found = results_of(reference), results_of(call)
        assert len(found) == len(expected)
        tolerance = TOLERANCE[dtype.name] * (1000 if pass_ == "step" else 1)
        for x, y in zip(found, expected):
            assert x.size == y.size
            assert x.dtype == dtype or x.size == 1  # losses are float64 here
            if x.ndim == y.ndim:
                assert x.shape == y.shape
            scale = max(1, abs(y).max())
            np.testing.assert_allclose(x.ravel(), y.ravel(), rtol=0, atol=tolerance * scale, err_msg=pass_)
        after = (arrays.X, arrays.W, arrays.b, arrays.dZ, arrays.Y)
        assert all(np.array_equal(x, y) for x, y in zip(before, after))


@pytest.mark.parametrize("suite", suites.SUITES)
def test_fastconv_has_every_row(suite):
    ours = choose(["compiled"])[0]["compiled"]
    for row in suites.rows_of(suite):
        if row.pass_ != "import":
            small = dataclasses.replace(row.problem, n=1)
            assert ours.call(Arrays(small, "float32"), row.pass_) is not None


@pytest.mark.parametrize("suite", ["conv", "pool", "norm", "dense", "model", "overhead"])
def test_pytorch_has_every_row(suite):
    pytest.importorskip("torch")
    torch = choose(["torch"])[0]["torch"]
    for row in suites.rows_of(suite):
        if row.pass_ != "import":
            small = dataclasses.replace(row.problem, n=1)
            assert torch.call(Arrays(small, "float64"), row.pass_) is not None


def test_the_halves_of_a_convolution_are_what_its_backward_gives(dtype):
    ours = choose(["compiled"])[0]["compiled"]
    arrays = Arrays(parse("n2ic3ih9oc4kh3sh2ph1"), dtype.name)
    whole = ours.call(arrays, "bwd")()
    halves = (ours.call(arrays, "dX")(), *ours.call(arrays, "dW")())
    assert all(np.array_equal(x, y) for x, y in zip(whole, halves))


def test_unknown_contender():
    with pytest.raises(BenchError, match="unknown contender 'tensorflow', wanted some of compiled"):
        choose(["tensorflow"])


# ---- timing and statistics, on made-up clocks and samples ----------------------------------------


class Clock:
    """Time that passes only in the calls."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def takes(self, name, seconds):
        def call():
            self.now += seconds
            self.calls.append(name)

        return call


def test_calls_are_interleaved_and_every_round_begins_with_another():
    clock = Clock()
    samples = timing.interleaved(
        {"a": clock.takes("a", 1e-3), "b": clock.takes("b", 1e-3), "c": clock.takes("c", 1e-3)}, 6e-3, clock
    )
    assert "".join(clock.calls).endswith("abcbcacababcbcacab")
    for times in samples.values():
        assert times == pytest.approx([1e-3] * 6)


def test_short_calls_are_repeated_between_looks_at_the_clock():
    clock = Clock()
    samples = timing.interleaved({"tiny": clock.takes("tiny", 1e-6)}, 1e-3, clock)["tiny"]
    assert samples == pytest.approx([1e-6] * len(samples))
    timed = len(clock.calls) - 1 - timing.WARM_UP
    assert timed * 1e-6 >= timing.LEAST_SAMPLE * len(samples)


def test_a_slow_call_has_few_rounds_spread_over_all():
    clock = Clock()
    calls = {"fast": clock.takes("fast", 1e-3), "slow": clock.takes("slow", 1.0)}
    samples = timing.interleaved(calls, 0.1, clock)
    taken = np.flatnonzero(~np.isnan(samples["slow"]))
    assert 3 <= len(taken) <= 5
    (step,) = set(np.diff(taken))
    assert step * len(taken) >= len(samples["fast"])
    assert not np.isnan(samples["fast"]).any()


def test_statistics_leave_out_rounds_not_taken():
    samples = np.array([5.0, np.nan, 1.0, 2.0])
    assert timing.statistic(samples, "median") == 2
    assert timing.statistic(samples, "min") == 1


@pytest.mark.parametrize("statistic", ["median", "min"])
def test_noise_that_meets_both_cancels_in_the_ratio(statistic, rng):
    noise = rng.lognormal(0, 0.5, 200)
    point, low, high = timing.ratio(3 * noise, noise, statistic)
    assert point == pytest.approx(3)
    assert (low, high) == pytest.approx((3, 3))


def test_the_interval_holds_the_ratio_about_as_often_as_it_says(rng):
    inside = 0
    for _ in range(100):
        a, b = 2 * rng.lognormal(0, 0.2, 40), rng.lognormal(0, 0.2, 40)
        _, low, high = timing.ratio(a, b, "median")
        inside += low <= 2 <= high
    assert inside >= 85  # of 95 expected: fewer are less likely than 1 in 10,000


def test_the_ratio_takes_rounds_that_both_took_part_in():
    reference = np.array([2.0, 2.0, 100.0, 100.0])
    assert timing.ratio(reference, np.array([1.0, 1.0, np.nan, np.nan]), "median")[0] == 2


def test_geometric_mean():
    assert timing.geometric_mean([1, 4]) == pytest.approx(2)
    assert math.isnan(timing.geometric_mean([]))


# ---- the machine -----------------------------------------------------------------------------------


def test_probe_kernels(backend, dtype):
    for threads in (1, 2):
        out = np.full(threads, np.nan, dtype)
        operations = probe(dtype).multiply_adds(out, 1000, threads)
        assert operations > 0
        assert np.isfinite(out).all()
        source, target = np.arange(1003, dtype=dtype), np.zeros(1003, dtype)
        probe(dtype).copy(source, target, 2, threads)
        assert np.array_equal(source, target)


def test_compiled_multiply_adds_come_to_what_was_counted(dtype):
    """Every lane tends to 1: their sum is their number, and each has had two operations a round."""
    out = np.zeros(1, dtype)
    assert probe(dtype).multiply_adds(out, 1000, 1) == 2 * 1000 * round(out[0])


def test_machine_survives_json():
    found = machine.measure(["float32"], [1])
    assert machine.Machine(**json.loads(json.dumps(found.as_json()))) == found
    assert found.peak("float32", 1) > 0
    assert math.isnan(found.peak("float64", 1))
    assert {level["level"] for level in found.copy} == {"L2", "L3", "memory"}


def test_bandwidth_is_of_the_smallest_cache_that_holds_it():
    copies = [{"level": n, "bytes": b, "threads": 1, "gbs": g} for n, b, g in
              (("L2", 100, 9.0), ("L3", 1000, 5.0), ("memory", 9999, 2.0))]
    limits = machine.Machine("cpu", 1, {}, {}, copies)
    assert [limits.bandwidth(size, 1) for size in (100, 101, 1001, 10**6)] == [9, 5, 2, 2]
    assert math.isnan(limits.bandwidth(1, 2))


# ---- results ---------------------------------------------------------------------------------------


@pytest.fixture
def report():
    limits = machine.Machine("cpu", 2, {}, {"float32 x 1": 100.0}, [])
    settings = measure.Settings(0.001, "median", "numpy")
    contenders, _ = choose(["compiled", "numpy"])
    found = []
    for text in ("n2ic3ih9oc4kh3ph1", "max:n2ic3ih9kh3sh2"):
        for row in suites.rows_for("problem", parse(text)):
            found += measure.measure(row, "float32", 1, contenders, limits, settings)
    return results.Report(
        "2000-01-01T00:00:00+00:00", fastconv.config(), limits, {"compiled": "0", "numpy": "0"},
        {"seconds": 0.001, "statistic": "median", "reference": "numpy"}, found,
    )


def test_what_is_measured_follows_from_the_samples(report):
    for r in report.rows:
        assert 0 < r.min <= r.median
        assert r.samples >= 3
        assert r.interval[0] <= r.ratio <= r.interval[1]
        if r.contender == "numpy":
            assert r.ratio == 1
        if r.op == "conv":
            assert r.gflops == pytest.approx(parse(r.problem).flops(r.pass_) / r.median / 1e9)
            assert r.percent == pytest.approx(r.gflops)  # of 100 GFLOP/s
        else:
            assert r.gflops is None
            assert r.percent is None


def test_json_round_trip(report, tmp_path):
    path = str(tmp_path / "a.json")
    report.save(path)
    assert results.load(path) == report
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == results.SCHEMA


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no", "no JSON"),
        ("[]", "schema None, wanted 1"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1}', "complete"),
        ("[" * 100_000, "no JSON"),
        ("9" * 5000, "no JSON"),
        (" " * (results._LARGEST + 1), "larger than any report"),
    ],
    ids=range(7),
)
def test_other_files_are_refused(content, said, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BenchError, match=said):
        results.load(str(tmp_path / "a.json"))


WRONG = [None, True, 0.0, -1.0, math.inf, math.nan, 10**400, [], {}, "[/red]"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *itertools.product(("statistic", "problem", "pass_", "dtype", "median", "min"), WRONG),
        ("threads", True), ("threads", "1"), ("interval", [1.0]), ("interval", {}), ("interval", 1.0),
    ],
    ids=lambda value: f"{value!r:.10}",
)
def test_reports_that_do_not_hold_what_is_used(place, value, report, tmp_path):
    content = {"schema": results.SCHEMA, **dataclasses.asdict(report)}
    (content["settings"] if place == "statistic" else content["rows"][0])[place] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(BenchError, match="is no report: "):
        results.load(str(tmp_path / "a.json"))


def test_compare(report):
    twice = [dataclasses.replace(r, median=r.median / 2) for r in report.rows[:-2]]
    changes, mean = results.compare(report, dataclasses.replace(report, rows=twice))
    assert len(changes) == len([r for r in twice if r.contender == "compiled"])
    assert [c.speedup for c in changes] == pytest.approx([2] * len(changes))
    assert mean == pytest.approx(2)
    with pytest.raises(BenchError, match="in common"):
        results.compare(report, dataclasses.replace(report, rows=[]))


# ---- the command -----------------------------------------------------------------------------------

SHORT = ("--contenders", "compiled,numpy", "--time", "0.001", "--dtype", "float32")
TINY = ("--problem", "n1ic2ih6oc3kh3", *SHORT)


def bench(capfd, *arguments):
    status = cli.main(["bench", *arguments])
    return status, *capfd.readouterr()


def test_table_is_plain_and_fits(capfd):
    long = "n11ic12ih113iw114oc15kh1kw2sh31sw32ph1pw0"
    status, out, err = bench(capfd, *TINY, "--problem", long)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    assert "…" not in out
    assert "n1ic2ih6oc3kh3" not in out  # the images of the batch are 1, and left out
    for word in ("ic2ih6oc3kh3", "fwd", "dX", "dW", "compiled", "numpy", "geometric mean", "worst"):
        assert word in out
    folded = "".join(line.split(" ")[0] for line in out.splitlines())
    assert long in folded


def test_the_setting_of_the_process_stays(capfd):
    fastconv.set_num_threads(1)
    with fastconv.use_backend("compiled"):
        bench(capfd, *TINY, "--threads", "2")
    assert fastconv.get_num_threads() == 1


def test_files(capfd, tmp_path):
    pytest.importorskip("matplotlib")
    a, plot = str(tmp_path / "a.json"), tmp_path / "a.png"
    assert bench(capfd, *TINY, "--json", a, "--plot", str(plot))[0] == 0
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")
    status, out, _ = bench(capfd, "--compare", a, a)
    assert status == 0
    assert "3 rows, geometric mean of the speed-ups 1.000" in out


def test_growth_is_plotted_and_fitted(capfd, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "g.png"
    status, out, _ = bench(
        capfd, "growth", "--filter", "ih(8|16|32)oc32kh3ph1 fwd", "--plot", str(plot), "--dtype", "float32",
        "--contenders", "compiled", "--time", "0.001",
    )
    assert status == 0
    assert "image side" in out
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")


def test_import_times(capfd):
    status, out, _ = bench(
        capfd, "overhead", "--filter", "import", "--contenders", "compiled,pure", "--time", "0.001"
    )
    assert status == 0
    assert out.count("import ") >= 1
    assert " ms" in out


def test_pages_are_filled_in_place(capfd, tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    text = "before\n<!-- bench:{} -->\n{}<!-- /bench -->\nafter\n"
    page.write_text(text.format("norm", "old\n") + text.format("machine", ""))
    arguments = ("--markdown", str(page), *SHORT, "--filter", "ih7")
    for _ in range(2):  # a page that has tables already is filled as well
        assert bench(capfd, *arguments)[0] == 0
        filled = page.read_text()
        assert filled.count("before\n<!-- bench:norm -->\n") == 1
        assert filled.count("after\n") == 2
        assert "old" not in filled
        assert "| `bn:n8ic512ih7` |" in filled
        assert "multiply-adds, GFLOP/s by threads" in filled


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("convolution",), "unknown suite 'convolution', wanted conv, pool"),
        (("--problem", "n8ic64zz3"), "problem 'n8ic64zz3': unknown size 'zz'"),
        (("conv", "--problem", "ic1ih3oc1kh1"), "either suites or --problem"),
        (("--contenders", "tensorflow"), "unknown contender 'tensorflow', wanted some of compiled"),
        (("--against", "tensorflow"), "unknown contender 'tensorflow'"),
        (("--dtype", "float16"), "unknown dtype 'float16', wanted some of float32, float64"),
        (("--passes", "back"), "unknown pass 'back', wanted some of fwd"),
        (("--filter", "nothing"), "no row is left of 48"),
        (("--filter", "("), "--filter '(' is no regular expression"),
        (("--compare", "no.json", "no.json"), "cannot read no.json"),
        (("--markdown", "no.md"), "/no.md: No such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(capfd, arguments, said):
    status, out, err = bench(capfd, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("fastconv bench: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("package", ["rich", "threadpoolctl"])
def test_without_its_extra_it_says_what_to_install(package):
    code = (
        f"import sys; sys.modules[{package!r}] = sys.modules[{package + '.console'!r}] = None\n"
        "from fastconv.cli import main\n"
        "sys.exit(main(['bench']))"
    )
    outcome = run_python(code)
    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"fastconv bench: {package} is not installed; it comes with: pip install 'fastconv[bench]'\n"
    )


def test_importing_the_package_does_not_import_it():
    assert output_of("import sys, fastconv; print('fastconv.bench' in sys.modules)") == "False"


def test_a_contender_that_is_not_installed_is_left_out_and_named():
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'jax' else find(name, *rest)\n"
        "from fastconv.cli import main\n"
        "tiny = ['--problem', 'ic1ih3oc1kh3', '--time', '0.001', '--contenders', 'compiled,jax']\n"
        "sys.exit(main(['bench', *tiny]))"
    )
    outcome = run_python(code)
    assert outcome.returncode == 0
    assert outcome.stderr == "fastconv bench: not installed, left out: jax\n"
