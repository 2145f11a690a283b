"""The forms of a report: table, JSON, page, trace, pstats, plot, and the command that writes them."""

import io
import json
import os
import pstats
import re
import subprocess
import sys
import time
from dataclasses import fields
from html.parser import HTMLParser

import numpy as np
import pytest

import fastconv as fc
from fastconv.profiling import Row, Times
from fastconv.profiling.others import others, usage
from fastconv.profiling.report import SORTS
from fastconv.profiling.table import rate_text, show
from support import environment

pytest.importorskip("rich", reason="tables need their extra: pip install 'fastconv[profile]'")


@pytest.fixture(scope="module")
def recording():
    model, x = fc.models.ResNet(3, 8, 4, (4, 6)), np.ones((2, 3, 8, 8))
    with fc.record(model, title="<b>a & b</b></script>") as prof:
        for _ in range(3):
            model.backward(model.forward(x))
    return prof


@pytest.fixture(scope="module")
def comparison():
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    return fc.profile(fc.models.ResNet(3, 8, 4, (4, 6)), x, budget=0.5)


@pytest.fixture(params=["recording", "comparison"])
def found(request):
    return request.getfixturevalue(request.param)


def test_the_table_fits_and_is_plain(found):
    for sort in SORTS:
        lines = found.table(sort, most=None).splitlines()
        assert max(map(len, lines)) <= 100
        assert not any("\x1b" in line for line in lines)
    assert sum("Conv2d" in line and (" fwd " in line or " bwd " in line) for line in lines) == 8


def test_a_terminal_gets_colours_and_a_file_does_not(found):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plain, coloured = io.StringIO(), Terminal()
    show(found.report, plain)
    show(found.report, coloured)
    assert "\x1b" not in plain.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured.getvalue()).split()[:20] == plain.getvalue().split()[:20]


def test_a_narrow_terminal(found, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    narrow = Terminal()
    show(found.report, narrow)
    lines = re.sub(r"\x1b\[[\d;]*m", "", narrow.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("\u2026" in line for line in lines), "nothing but names is cut short"


def test_of_two_backends_the_table_says_which(rng):
    layer, x = fc.ReLU(), np.ones(3)
    with fc.record() as prof:
        layer.forward(x)
        with fc.use_backend("pure"):
            layer.forward(x)
    assert {"fwd compiled", "fwd pure"} <= set(re.findall(r"fwd \w+", prof.table()))


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("time", lambda row: -row.time.own),
        ("total", lambda row: -row.time.total),
        ("calls", lambda row: -row.time.calls),
        ("limit", lambda row: -(row.limit or 0)),
        ("speedup", lambda row: -(row.speedup or 0)),
        ("difference", lambda row: -(row.difference or 0)),
        ("path", lambda row: row.path),
    ],
)
def test_it_sorts(found, sort, key):
    keys = [key(row) for row in found.report.sorted_rows(sort)]
    assert keys == sorted(keys)
    assert len(keys) == len(found.rows)


def test_what_to_sort_by_is_checked(found):
    with pytest.raises(ValueError, match="sort must be one of time"):
        found.table("size")


def test_the_tree_is_in_the_order_of_the_calls(recording):
    rows = recording.report.sorted_rows("order")
    assert [row.path for row in rows[:4]] == [
        "ResNet", "ResNet.layers[0]", "ResNet.layers[0].layers[0]", "ResNet.layers[0].layers[1]"
    ]
    assert "    layers[0] Conv2d" in recording.table("order")


def test_the_most_important_comes_first(found):
    first = found.report.sentences[0]
    by_layer = {}
    for row in found.rows:
        by_layer[row.path] = by_layer.get(row.path, 0) + row.share
    path = max(by_layer, key=by_layer.get)
    assert first.startswith(found.report.short(path))
    assert f"takes {by_layer[path]:.0%} of the time" in first


def test_sentences_name_the_limit():
    layer, x = fc.Conv2d(64, 64, 3, 1, 1), np.ones((4, 64, 16, 16))
    with fc.record() as prof:
        layer.forward(x)
    (row,) = prof.rows
    for limit, bound, words in (
        (0.6, "arithmetic", "bound by arithmetic: its forward reaches 60% of this machine's peak"),
        (0.5, "memory", "bound by memory: its forward reaches 50% of the speed of copying"),
        (1.5, "arithmetic", "Winograd's algorithm multiplies less than is counted"),
        (1.5, "memory", "were still in a cache"),
        (0.1, "memory", "Memory is its nearer limit, but its forward reaches only 10%"),
        (None, None, "operations are not known"),
    ):
        row.limit, row.bound = limit, bound
        assert words in prof.report.sentences[0]


def test_times_that_vary_are_told():
    with fc.record() as prof:
        for _ in range(4):
            fc.ReLU().forward(np.ones(9))
    times, prof.report.others = prof.rows[0].time, None
    times.samples, times.low, times.median, times.high = 4, 1e-3, 1.1e-3, 1.2e-3
    assert "vary" not in " ".join(prof.report.sentences)
    times.high = 2e-3
    assert "a quarter of them below 1.00 ms and a quarter above 2.00 ms" in prof.report.sentences[1]


def test_nothing_is_rounded_away(comparison):
    row = comparison.rows[1]
    before = row.limit, row.speedup, row.gflops, row.gbs, row.bound
    row.limit, row.speedup, row.gflops, row.bound = 0.003, 0.0341, 0.0123, "arithmetic"
    table = comparison.table("order", most=2)
    assert "0.034x" in table
    assert "<1% ari" in table
    assert rate_text(row) == "0.012 GF/s"
    row.limit, row.speedup, row.gflops, row.gbs, row.bound = before


def test_results_that_are_the_same_are_said_to_be(comparison):
    before = [row.differences for row in comparison.rows]
    for row in comparison.rows:
        row.differences = {name: [0.0, 0.0] for name in row.differences}
    assert comparison.report.sentences[-1] == "The results of both are the same."
    for row, differences in zip(comparison.rows, before):
        row.differences = differences


def test_other_programs_at_work_are_told(recording):
    """Counted: a process that keeps a processor busy, while this one counts on all of them."""
    cpus = os.cpu_count() or 1
    script = "print(flush=True)\nwhile True: pass"
    busy = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        busy.stdout.readline()
        start = usage()
        time.sleep(1.0)
        stop = usage()
    finally:
        busy.kill()
        busy.communicate()
    if start is not None:  # the system counts
        assert others(start, stop, cpus) > 0.3, "as far as the scheduler lets it"
        idle = stop._replace(all=start.all + (stop.own - start.own))
        assert others(start, idle, cpus) == pytest.approx(0, abs=1e-6)
        one_more = stop._replace(processors=cpus + 8)
        assert others(start, one_more, 1) == 0.0, "there are enough"
        assert others(start, start, cpus) is None
    report = recording.report
    before, report.others = report.others, 1.3
    assert f"other programs took 1.3 of the {report.threads} processors" in report.sentences[1]
    report.others = 0.05
    assert "other programs took" not in " ".join(report.sentences)
    report.others = before


def test_json_is_what_is_documented(found, tmp_path):
    found.to_json(str(tmp_path / "f.json"))
    content = json.loads((tmp_path / "f.json").read_text())
    documented = re.findall(r"^    (\w+(?:, \w+)*)  ", sys.modules["fastconv.profiling.report"].__doc__, re.M)
    alone = {"pure_seconds", "speedup", "threads_seen"}  # in lines without their explanation
    assert set(content) == {name for line in documented for name in line.split(", ")} | alone
    assert content["schema"] == 1
    assert content["kind"] in ("recording", "comparison")
    for row, original in zip(content["rows"], found.rows):
        assert set(row) == {field.name for field in fields(Row)}
        assert set(row["time"]) == {field.name for field in fields(Times)}
        assert row["time"]["median"] == original.time.median
    for index, start, took, thread, backend in content["calls"]:
        assert 0 <= index < len(content["rows"])
        assert start >= 0
        assert took >= 0
        assert content["threads_seen"][thread]
        assert backend in ("compiled", "pure")


def test_infinities_are_null_in_json(comparison, tmp_path):
    row = comparison.rows[0]
    before, row.differences = row.differences, {"output": [np.inf, np.inf]}
    comparison.to_json(str(tmp_path / "f.json"))
    row.differences = before
    assert json.loads((tmp_path / "f.json").read_text())["rows"][0]["differences"] == {"output": [None, None]}


def test_the_trace_follows_its_format(found, tmp_path):
    """As the Trace Event Format has it: complete events, with metadata that name processes and threads."""
    found.to_trace(str(tmp_path / "f.json"))
    content = json.loads((tmp_path / "f.json").read_text())
    assert content["displayTimeUnit"] == "ms"
    events = [event for event in content["traceEvents"] if event["ph"] == "X"]
    metadata = [event for event in content["traceEvents"] if event["ph"] == "M"]
    assert len(events) + len(metadata) == len(content["traceEvents"])
    assert len(events) == len(found.report.calls)
    named = {(m["name"], m["pid"], m["tid"]) for m in metadata}
    for event in events:
        assert {type(event[name]) for name in ("ts", "dur")} == {float}
        assert {type(event[name]) for name in ("pid", "tid")} == {int}
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert ("process_name", event["pid"], 0) in named
        assert ("thread_name", event["pid"], event["tid"]) in named
    assert all(isinstance(m["args"]["name"], str) for m in metadata)
    # Viewers nest events of a thread by their times: none may reach over the end of the one around it.
    for lane in {(event["pid"], event["tid"]) for event in events}:
        ends: list[float] = []
        for event in (e for e in events if (e["pid"], e["tid"]) == lane):
            start, end = event["ts"], event["ts"] + event["dur"]
            while ends and start >= ends[-1] - 2e-3:
                ends.pop()
            assert not ends or end <= ends[-1] + 2e-3
            ends.append(end)
    conv = next(e for e in events if e["name"] == "ResNet.layers[0].layers[0] forward")
    assert conv["args"]["input"] == [2, 3, 8, 8]
    assert conv["args"]["fastconv bench --problem"] == "n2ic3ih8oc4kh3ph1"


def test_pstats_reads_its_file(recording, tmp_path):
    recording.to_pstats(str(tmp_path / "f.pstats"))
    stream = io.StringIO()
    stats = pstats.Stats(str(tmp_path / "f.pstats"), stream=stream)
    stats.sort_stats("cumulative").print_stats()
    stats.print_callers("Conv2d")
    rows = {f"{row.path}.{row.pass_}": row for row in recording.rows}
    found = {name.split(" ")[0]: entry for (_, _, name), entry in stats.stats.items()}
    root = found.pop(recording.report.title.split(" ")[0])
    assert root[4] == {}
    assert set(found) == set(rows)
    for name, (primitive, calls, own, total, callers) in found.items():
        assert primitive == calls == rows[name].time.calls
        assert own == pytest.approx(rows[name].time.own)
        assert total == pytest.approx(rows[name].time.total)
        assert sum(caller[3] for caller in callers.values()) == pytest.approx(total)
    assert root[:2] == (1, 1)
    assert root[3] == pytest.approx(recording.report.seconds)
    assert stats.total_tt == pytest.approx(recording.report.seconds), "with the time outside of layers"
    file = next(file for file, _, name in stats.stats if "layers[0].layers[0].forward" in name)
    assert file == sys.modules["fastconv.nn.conv"].__file__
    assert "Conv2d" in stream.getvalue()


def test_the_plot_is_a_picture(found, tmp_path):
    pytest.importorskip("matplotlib")
    found.to_plot(str(tmp_path / "f.png"))
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.opened, self.data, self.within, self.addresses = [], [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.within = dict(attrs).get("id") if tag == "script" else self.within
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag):
        self.within = None if tag == "script" else self.within

    def handle_data(self, data):
        if self.within == "figures":
            self.data.append(data)


def test_the_page_needs_nothing_else(found, tmp_path):
    found.to_html(str(tmp_path / "f.html"))
    text = (tmp_path / "f.html").read_text()
    page = Page(text)
    assert page.addresses == ["data:,"], "an empty icon, or browsers would ask for one"
    assert not re.search(r"@import|url\(['\"]?http|fetch\(|XMLHttpRequest", text)
    assert "viewport" in text
    assert page.opened.count("script") == 2, "nothing in the figures can end their element"
    content = json.loads("".join(page.data))
    assert content["title"] == found.report.title
    assert len(content["rows"]) == len(found.rows)


def test_long_recordings_are_cut_to_their_last_steps_on_the_page(tmp_path):
    model, x = fc.models.mlp.Sequential(), np.ones((2, 3))
    model.layers = [fc.ReLU(), fc.Tanh()]
    with fc.record(model) as prof:
        for _ in range(300):
            model.backward(model.forward(x))
    prof.to_html(str(tmp_path / "f.html"))
    content = json.loads("".join(Page((tmp_path / "f.html").read_text()).data))
    assert len(content["calls"]) + content["calls_left_out"] == len(prof.report.calls) == 1800
    assert 300 < len(content["calls"]) <= 400
    assert content["rows"][content["calls"][0][0]]["depth"] == 0, "begins with a whole call"


def test_reports_of_nothing(tmp_path):
    with fc.record() as prof:
        pass
    for write in (prof.to_json, prof.to_html, prof.to_trace, prof.to_pstats):
        write(str(tmp_path / "f"))
    prof.to_plot(str(tmp_path / "f"))
    assert "No layer was called." in prof.table()


# ---- the command ---------------------------------------------------------------------------------

SCRIPT = """
import sys
import numpy as np

class Linear:
    def forward(self, A):
        return A @ np.ones((A.shape[1], 2))
    def backward(self, grad):
        return grad @ np.ones((2, self.width))

class MaxPool2d:
    def __init__(self, kernel, stride):
        self.kernel, self.stride = kernel, stride
    def forward(self, A):
        k, s = self.kernel, self.stride
        N, C, H, W = A.shape
        Z = np.zeros((N, C, (H - k) // s + 1, (W - k) // s + 1))
        for i in range(Z.shape[2]):
            for j in range(Z.shape[3]):
                Z[:, :, i, j] = A[:, :, i * s : i * s + k, j * s : j * s + k].max(axis=(2, 3))
        return Z
    def backward(self, dLdZ):
        return dLdZ

pool, linear = MaxPool2d(2, 2), Linear()
for _ in range(3):
    Z = pool.forward(np.ones((2, 3, 8, 8)))
    linear.forward(Z.reshape(2, -1))
print("program:", sys.argv[1:], __name__)
sys.exit(int(sys.argv[1]))
"""


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "fastconv", "profile", *map(str, arguments)], cwd=cwd, env=environment(),
        capture_output=True, text=True, timeout=200, check=False,
    )


@pytest.fixture
def files(tmp_path):
    suffixes = {"json": "f.json", "html": "f.html", "trace": "f.trace", "pstats": "f.pstats", "plot": "f.png"}
    return [f"--{name}={tmp_path / file}" for name, file in suffixes.items()]


@pytest.mark.parametrize("status", [0, 3])
def test_a_script_is_swapped_and_recorded(tmp_path, files, status):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run("--quiet", *files, "script.py", status, "--json", cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith(f"program: ['{status}', '--json'] __main__\n")
    assert "pool MaxPool2d" in done.stdout
    rows = {row["path"]: row for row in json.loads((tmp_path / "f.json").read_text())["rows"]}
    assert rows["pool"]["time"]["calls"] == 3
    assert rows["pool"]["bound"] == "memory"
    assert rows["linear"]["time"]["calls"] == 3
    assert rows["linear"]["bound"] is None
    assert {file.name for file in tmp_path.iterdir()} >= {"f.html", "f.trace", "f.pstats", "f.png"}


def test_a_program_that_raises_is_shown_up_to_there(tmp_path):
    (tmp_path / "script.py").write_text(
        "import numpy as np, fastconv\nfastconv.ReLU().forward(np.ones(3))\nraise LookupError('x')\n"
    )
    done = run("--quiet", "script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "ReLU" in done.stdout
    assert done.stderr.splitlines()[-1] == "LookupError: x"
    assert "profiling" not in done.stderr, "the traceback is the program's alone"


def test_a_model_is_compared(tmp_path, files):
    (tmp_path / "mine.py").write_text(
        "import fastconv\nmake = lambda: fastconv.Conv2d(3, 4, 3, 1)\n"
        "class Models:\n    small = fastconv.ReLU()\n"
    )
    done = run(
        "--model=mine:make", "--input=2x3x8x8", "--dtype=float32", "--threads=1", "--budget=0.5", "--train",
        "--sort=path", *files, cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "f.json").read_text())
    assert content["kind"] == "comparison"
    assert [(row["dtype"], row["pass_"]) for row in content["rows"]] == [
        ("float32", "forward"), ("float32", "backward")
    ]
    assert content["threads"] == 1
    assert run("--model=mine:Models.small", "--input=5", "--budget=0.1", cwd=tmp_path).returncode == 0


def test_files_are_written_where_they_were_asked_for(tmp_path):
    """However the program changes its folder."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "script.py").write_text("import os\nos.chdir('inner')\n")
    done = run("--quiet", "--json=f.json", "script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.json").exists()


# No layer itself; lists in lists, a dict, a layer inside a layer, one that is used twice.
COMPOSED = """
import numpy as np, fastconv

class Net:
    def __init__(self):
        self.relu = fastconv.ReLU()
        self.stages = [[fastconv.Conv2d(3, 4, 3, 1, 1), [fastconv.BatchNorm2d(4)]], (self.relu,)]
        self.named = {"block": fastconv.ResBlock(4, 4, 3, 1, 1), "again": self.relu}
        self.order = [self.stages[0][0], self.stages[0][1][0], self.relu, self.named["block"], self.relu]
    def forward(self, x):
        for layer in self.order:
            x = layer.forward(x)
        return x
    def backward(self, grad):
        for layer in reversed(self.order):
            grad = layer.backward(grad)
        return grad

class Gate:
    def __init__(self):
        self.openings = np.full(4, 0.5)
    def forward(self, x):
        return x * self.openings[:, None, None]
    def backward(self, grad):
        return grad * self.openings[:, None, None]

class Gated(Net):
    def __init__(self):
        super().__init__()
        self.gate = Gate()
        self.order.append(self.gate)
"""


def test_a_composed_model_comes_out_in_the_dtype_asked_for(tmp_path):
    (tmp_path / "mine.py").write_text(COMPOSED)
    options = ("--input=2x3x8x8", "--dtype=float32", "--train", "--budget=0.5", "--json=f.json")
    done = run("--model=mine:Net", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert {row["dtype"] for row in rows} == {"float32"}
    assert "float64" not in done.stdout + done.stderr
    # What the program's own code keeps under names of its own cannot be known; what comes of it is said.
    done = run("--model=mine:Gated", *options, cwd=tmp_path)
    assert "not all is float32: the forward of Gated.gate (Gate) gives float64" in done.stderr


MADE = """import fastconv
print("running") if __name__ == "__main__" else None
conv = fastconv.Conv2d(3, 4, 3, 1)
def raising():
    {}["n"]
class Failing(fastconv.ReLU):
    def backward(self, grad):
        super().backward(grad)
        raise RuntimeError("not today")
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either a script or --model"),
        (("--model=fastconv:ReLU", "script.py"), "give either a script or --model"),
        (("--model=fastconv:ReLU",), "--model wants --input, say --input 8x3x32x32"),
        (("--model=fastconv:ReLU", "--input=8,3"), "--input '8,3' is not like 8x3x32x32"),
        (("--model=fastconv", "--input=8"), "--model 'fastconv' is not like module:factory"),
        (("--model=no.where:x", "--input=8"), "--model 'no.where:x': there is no module 'no'"),
        (("--model=fastconv:nothing", "--input=8"), "--model 'fastconv:nothing': fastconv has no 'nothing'"),
        (("--model=fastconv:config", "--input=8"), "--model 'fastconv:config' gives dict, which has no for"),
        (("--sort=size", "script.py"), "--sort 'size' is none of time, total, calls"),
        (("--model=os.py:x", "--input=8"), "--model 'os.py:x': there is no module 'os.py'; say os:x"),
        (("--model=fastconv:nn", "--input=8"), "--model 'fastconv:nn' is a module, no model and no function"),
        (("--model=fastconv:Linear", "--input=8"), "--model 'fastconv:Linear' is called without arguments: "
         "missing a required argument: 'in_features'"),
        (("--model=made:raising", "--input=8"), "--model 'made:raising': KeyError: 'n' ("),
        (("--model=made:conv", "--input=2x4x8x8"), "--model made:conv on --input 2x4x8x8: ValueError: A has "
         "4 channels, but W has 3"),
        (("--model=made:Failing", "--input=5", "--train"), "--model made:Failing on --input 5: RuntimeError: "
         "not today ("),
        (("--input=8", "made.py"), "--input goes with --model"),
        (("--dtype=float32", "made.py"), "--dtype goes with --model"),
        (("--json=no/where", "made.py"), "cannot write no/where: there is no folder no"),
        (("--html=.", "made.py"), "cannot write .: it is a folder"),
        (("--plot=no/where", "--model=made:raising", "--input=8"), "cannot write no/where"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(arguments, message, tmp_path):
    (tmp_path / "made.py").write_text(MADE)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "", "nothing has run"
    if message.endswith("("):
        line = {"made:raising": 5, "made:Failing": 9}[arguments[0].partition("=")[2]]
        assert done.stderr.endswith(f" ({tmp_path / 'made.py'}, line {line})\n")
    assert done.stderr.splitlines()[-1].startswith(f"fastconv profile: {message}")
    assert "Traceback" not in done.stderr
