"""Choosing kernels: by call, by context, by environment; and what is said where it cannot be."""

import asyncio
import contextvars
import json
import threading

import numpy as np
import pytest

import fastconv
from fastconv import backend as backends
from fastconv import get_backend, set_backend, use_backend
from support import output_of, run_python

PRESENT = fastconv.config()["instruction sets present"]


@pytest.fixture(autouse=True)
def restore():
    before = get_backend()
    yield
    set_backend(before)


def in_new_thread(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_set_backend_holds_for_all_threads():
    for name in ("pure", "compiled"):
        set_backend(name)
        assert get_backend() == name
        assert in_new_thread(get_backend) == name


def test_use_backend_nests_and_goes_over_set_backend():
    set_backend("compiled")
    with use_backend("pure"):
        assert get_backend() == "pure"
        with use_backend("compiled"):
            assert get_backend() == "compiled"
            set_backend("pure")
            assert get_backend() == "compiled"
        assert get_backend() == "pure"
        set_backend("compiled")
        assert get_backend() == "pure"
    assert get_backend() == "compiled"


def test_use_backend_ends_with_an_exception():
    set_backend("compiled")

    def fail():
        with use_backend("pure"):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert get_backend() == "compiled"


def test_use_backend_holds_for_its_own_thread():
    set_backend("compiled")
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def other():
        with use_backend("pure"):
            entered.set()
            leave.wait(30)
            seen.append(get_backend())

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(30)
    assert get_backend() == "compiled"
    leave.set()
    thread.join()
    assert seen == ["pure"]
    assert get_backend() == "compiled"


def test_use_backend_holds_for_its_own_context():
    set_backend("compiled")

    async def task(name, turns):
        with use_backend(name):
            for _ in range(turns):
                await asyncio.sleep(0)
                assert get_backend() == name

    async def main():
        await asyncio.gather(task("pure", 5), task("compiled", 5), task("pure", 3))

    asyncio.run(main())
    with use_backend("pure"):
        context = contextvars.copy_context()
    assert context.run(get_backend) == "pure"
    assert get_backend() == "compiled"


def test_the_chosen_kernels_run(monkeypatch):
    calls = []

    def spy(*arguments):
        calls.append("pure")
        return correlate(*arguments)

    # The sets hold the functions themselves, so the spy must be in the set.
    pure = backends._BACKENDS["pure"]
    correlate = pure["d"].correlate
    monkeypatch.setitem(pure, "d", pure["d"]._replace(correlate=spy))
    A, W = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    for name, expected in (("compiled", 0), ("pure", 1)):
        with use_backend(name):
            fastconv.functional.conv1d_forward(A, W)
        assert len(calls) == expected


@pytest.mark.parametrize("name", ["cuda", "", None, 1, "Compiled", ["pure"]])
@pytest.mark.parametrize("choose", [set_backend, lambda name: use_backend(name).__enter__()])
def test_unknown_backends(choose, name):
    before = get_backend()
    with pytest.raises(ValueError, match="'compiled' or 'pure'"):
        choose(name)
    assert get_backend() == before


@pytest.mark.parametrize("name", ["compiled", "pure"])
def test_backend_from_the_environment(name):
    assert output_of("import fastconv; print(fastconv.get_backend())", FASTCONV_BACKEND=name) == name


def test_without_wishes_the_highest_level_runs():
    found = output_of("import fastconv; c = fastconv.config(); print(c['backend'], c['instruction set'])")
    assert found == f"compiled {PRESENT[-1]}"


CONVOLVE = """
import numpy as np, fastconv, fastconv.functional as F
rng = np.random.default_rng(1)
for dtype in ("f4", "f8"):
    A, W = (rng.integers(-8, 8, shape).astype(dtype) for shape in ((2, 5, 11, 40), (7, 5, 3, 3)))
    Z = F.conv2d_forward(A, W, stride=2, padding=1)
    print(Z.sum(), (Z * np.arange(Z.size).reshape(Z.shape) % 1009).sum())
    print(*(float((g * g).sum()) for g in F.conv2d_backward(np.sign(Z), A, W, 2, 1)))
    print(*(float(x.sum()) for x in (F.max_pool2d_forward(A, 3)[0], F.mean_pool2d_forward(A, 2)[0])))
    print(F.batchnorm2d_forward(A, np.ones(5), np.zeros(5))[1].mean.round(10).tolist())
"""


def test_every_level_present_agrees():
    # Small integers: exact in any order of summation, so agreement is equality.
    assert PRESENT[0] == "baseline"
    pure = output_of(CONVOLVE, FASTCONV_BACKEND="pure")
    for isa in PRESENT:
        check = f"import fastconv; assert fastconv.config()['instruction set'] == {isa!r}"
        assert output_of(check + CONVOLVE, FASTCONV_ISA=isa) == pure


@pytest.mark.parametrize(("variables", "error", "says"), [
    ({"FASTCONV_ISA": "x86-64-v9"}, "ImportError", ["FASTCONV_ISA", "x86-64-v9", *PRESENT]),
    ({"FASTCONV_ISA": "BASELINE"}, "ImportError", ["FASTCONV_ISA", *PRESENT]),
    ({"FASTCONV_ISA": "../baseline"}, "ImportError", ["FASTCONV_ISA", *PRESENT]),
    ({"FASTCONV_BACKEND": "cuda"}, "ValueError", ["FASTCONV_BACKEND", "compiled", "pure", "cuda"]),
    ({"FASTCONV_NUM_THREADS": "0"}, "ValueError", ["FASTCONV_NUM_THREADS", "'0'"]),
    ({"FASTCONV_NUM_THREADS": "-1"}, "ValueError", ["FASTCONV_NUM_THREADS", "'-1'"]),
    ({"FASTCONV_NUM_THREADS": "2.5"}, "ValueError", ["FASTCONV_NUM_THREADS", "'2.5'"]),
    ({"FASTCONV_NUM_THREADS": "many"}, "ValueError", ["FASTCONV_NUM_THREADS", "'many'"]),
    ({"FASTCONV_NUM_THREADS": "²"}, "ValueError", ["FASTCONV_NUM_THREADS"]),
    # As many as set_num_threads refuses: starting them would end the process.
    ({"FASTCONV_NUM_THREADS": "1000000"}, "ValueError", ["FASTCONV_NUM_THREADS", "1000000"]),
    ({"FASTCONV_NUM_THREADS": "9" * 5000}, "ValueError", ["FASTCONV_NUM_THREADS"]),
], ids=str)
def test_wishes_that_cannot_be_met(variables, error, says):
    done = run_python("import fastconv", **variables)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{error}: ")
    for word in says:
        assert word in last


@pytest.mark.parametrize("count", ["1", "3"])
def test_threads_from_the_environment(count):
    script = "import fastconv; print(fastconv.get_num_threads())"
    assert output_of(script, FASTCONV_NUM_THREADS=count) == count
    assert output_of(script, OMP_NUM_THREADS=count) == count
    assert output_of(script, FASTCONV_NUM_THREADS=count, OMP_NUM_THREADS="2,1") == count


@pytest.mark.parametrize("count", ["1025", "1000000", "2147483648", "4294967295", "4294967296"])
def test_as_many_threads_as_openmp_believes_are_never_asked_for(count):
    script = "import fastconv; print(1 <= fastconv.get_num_threads() <= 1024)"
    assert output_of(script, OMP_NUM_THREADS=count) == "True"


def test_numpys_error_state_is_the_callers(backend):
    with np.errstate(all="raise"):
        before = np.geterr()
        fastconv.BatchNorm2d(2).forward(np.ones((2, 2, 3, 3)))  # one kernel inside another
        assert np.geterr() == before


def test_config_is_json_and_true(backend):
    found = json.loads(json.dumps(fastconv.config()))
    assert found == fastconv.config()
    assert found["backend"] == backend
    assert found["fastconv"] == fastconv.__version__
    assert found["numpy"] == np.__version__
    assert found["threads"] == fastconv.get_num_threads()
    assert found["instruction set"] in found["instruction sets present"]


def test_show_config_prints_every_entry(backend, capsys):
    fastconv.show_config()
    lines = capsys.readouterr().out.splitlines()
    config = fastconv.config()
    assert [line.split(":")[0] for line in lines] == list(config)
    shown = dict(line.split(":", 1) for line in lines)
    assert shown["backend"].strip() == backend
    assert shown["threads"].strip() == str(config["threads"])
    assert shown["instruction sets present"].strip() == ", ".join(PRESENT)
    assert shown["OpenMP"].strip() == ("yes" if config["OpenMP"] else "no")


@pytest.mark.parametrize("shape", [(0, 3), (1, 4, 256, 256), (1, 1, 1024, 256), (7, 33, 51, 93)])
def test_large_results_begin_with_a_cache_line(dtype, shape):
    held = [backends.empty("the result", shape, np.dtype(dtype)) for _ in range(4)]
    for result in held:
        assert (type(result), result.shape, result.dtype) == (np.ndarray, shape, dtype)
        assert result.flags.c_contiguous
        assert result.flags.writeable
        if result.nbytes >= 2**20:
            assert result.ctypes.data % 64 == 0
