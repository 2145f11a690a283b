"""``fastconv run`` against ``python``: a program cannot tell the difference, and neither can its caller."""

import re
import textwrap
import zipfile

import pytest

from support import run_in

TELL = """
import __main__, sys
print(__name__, sys.argv, sys.path[0], sep="|")
print(__file__, __package__, __spec__ and __spec__.name, type(__loader__).__name__, __doc__, sep="|")
print(sorted(set(vars(__main__)) - {"__annotations__"}), sys.modules["__main__"] is __main__)
print(__builtins__ is sys.modules["builtins"])
"""

PROGRAMS = {
    "what it knows of itself": TELL,
    "a syntax error": "x = 1\ny = = 2\n",
    "an exception": "def f():\n    raise ValueError('no')\n\nf()\n",
    "a chain of exceptions": """
        try:
            {}["x"]
        except KeyError as error:
            raise RuntimeError("worse") from error
        """,
    "an exception while handling another": "try:\n    1 / 0\nfinally:\n    print(undefined)\n",
    "an error in a class body": "class Conv2d:\n    raise TypeError('in the body')\n",
    "an error in a module": "import broken\n",
    "a missing module": "import no_such_module_anywhere\n",
    "exit": "import sys\nprint('out')\nsys.exit(7)\n",
    "exit with a message": "import sys\nsys.exit('that was all')\n",
    "exit without anything": "raise SystemExit\n",
    "a hard exit": "import os, sys\nprint('out', flush=True)\nos._exit(3)\n",
    "an interrupt": "raise KeyboardInterrupt\n",
    "a signal": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n",
    "a killed program": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "its own excepthook": """
        import sys
        sys.excepthook = lambda kind, error, tb: print("hook", kind.__name__, error, tb.tb_lineno)
        raise LookupError("x")
        """,
    "exit handlers and threads": """
        import atexit, threading, time
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        print("main ends")
        """,
    "standard streams": """
        import sys
        print(sys.stdin.read().upper(), end="")
        print("to stderr", file=sys.stderr)
        sys.stdout.write("no newline")
        """,
    "pickles of its own classes": """
        import pickle
        class Thing:
            pass
        print(type(pickle.loads(pickle.dumps(Thing()))) is Thing)
        """,
    "dataclasses and annotations": """
        from dataclasses import dataclass
        import typing
        @dataclass
        class Point:
            x: "int" = 1
        print(typing.get_type_hints(Point), Point())
        """,
}


def both(folder, *arguments, stdin="", options=()):
    """What a caller sees of a program: exit status and output, plain and through ``fastconv run``."""
    seen = []
    for launcher in ((), ("-m", "fastconv", "run", "--quiet", *options)):
        done = run_in(folder, *launcher, *arguments, stdin=stdin)
        seen.append((done.returncode, done.stdout, done.stderr))
    return seen


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "program.py").write_text(textwrap.dedent(PROGRAMS[name]))
    (tmp_path / "folder" / "broken.py").write_text("def g():\n    assert False, 'broken'\n\ng()\n")
    arguments = ("--quiet", "-x", "--", "two words") if name == "what it knows of itself" else ()
    plain, through = both(tmp_path, "folder/program.py", *arguments, stdin="some\ntext\n")
    assert through == plain


@pytest.mark.parametrize(
    "name", ["package", "package.module", "package.empty", "nothing.here", "package.bad"]
)
def test_a_module(name, tmp_path):
    package = tmp_path / "package"
    (package / "empty").mkdir(parents=True)
    (package / "__init__.py").write_text("print('package')\n")
    (package / "empty" / "__init__.py").write_text("")
    (package / "__main__.py").write_text(TELL + "from . import module\n")
    (package / "module.py").write_text(TELL)
    (package / "bad.py").write_text("import sys\n1 / 0\n")
    plain, through = both(tmp_path, "-m", name, "a", "-b")
    # The interpreter names runpy in what it says of modules; fastconv need not.
    frames = re.compile(r'  File "(<frozen runpy>|.*/runpy\.py)".*\n(    .*\n)?')
    assert through[:2] == plain[:2]
    assert through[2] == frames.sub("", plain[2])


def test_a_folder_and_an_archive(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(
        TELL.replace("__file__", "__spec__.origin") + "import side\n"
    )
    (tmp_path / "app" / "side.py").write_text("print('side', __file__)\n")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for file in (tmp_path / "app").iterdir():
            archive.write(file, file.name)
    for target in ("app", "app.zip"):
        plain, through = both(tmp_path, target, "x")
        assert plain[0] == 0
        assert through == plain


def test_standard_input(tmp_path):
    for name in ("what it knows of itself", "a syntax error", "an exception", "standard streams", "exit"):
        plain, through = both(tmp_path, "-", "x", "-y", stdin=textwrap.dedent(PROGRAMS[name]))
        assert through == plain, name


ADDING = """
import numpy as np
class Conv1d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size):
        self.W = np.ones((out_channels, in_channels, kernel_size))
        self.b = np.zeros(out_channels)
        self.dLdW, self.dLdb = np.zeros_like(self.W), np.zeros_like(self.b)
    def forward(self, A):
        self.A = A
        return np.zeros((1, 1, 2))
    def backward(self, dLdZ):
        self.dLdW += 1.0
        return np.zeros((1, 1, 2))
layer = Conv1d_stride1(1, 1, 1)
for _ in range(3):
    layer.forward(np.ones((1, 1, 2)))
    layer.backward(np.full((1, 1, 2), 0.5))
print(layer.dLdW, type(layer).__mro__[1].__module__)
"""


def test_classes_in_standard_input_are_replaced_and_their_source_read(tmp_path):
    plain, through = both(tmp_path, "-", stdin=ADDING)
    assert plain[1] == "[[[3.]]] builtins\n"  # added to, which the source alone tells
    assert through == (0, "[[[3.]]] fastconv.swapping.standin\n", "")


def test_a_module_beside_the_script_is_the_scripts(tmp_path):
    """Whatever fastconv has imported under that name for itself, before or after."""
    names = ("calendar", "csv", "string", "json", "random", "copy", "report", "catalogue")
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"mine = {name!r}\n")
    (tmp_path / "email").mkdir()
    (tmp_path / "email" / "__init__.py").write_text("mine = 'email'\n")
    (tmp_path / "email" / "utils.py").write_text("mine = 'utils'\n")
    lines = [f"import {name}\nprint({name}.mine)\n" for name in names]
    (tmp_path / "program.py").write_text("".join(lines) + "import email.utils\nprint(email.utils.mine)\n")
    plain = run_in(None, tmp_path / "program.py")
    report = tmp_path / "out.json"
    through = run_in(None, "-m", "fastconv", "run", "--report", report, tmp_path / "program.py")
    assert plain.stdout.split() == [*names, "utils"]
    assert through.stdout == plain.stdout, through.stderr
    assert "swapped: 0" in through.stderr
    assert '"swapped": []' in report.read_text()


def test_a_file_that_is_not_there(tmp_path):
    plain, through = both(tmp_path, "missing.py")
    assert plain[0] == 2
    assert through == plain


def test_the_summary_comes_last_whatever_happens(tmp_path):
    script = tmp_path / "program.py"
    script.write_text("import atexit, sys\natexit.register(print, 'bye', file=sys.stderr)\n1 / 0\n")
    done = run_in(None, "-m", "fastconv", "run", str(script))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-4:-2] == ["ZeroDivisionError: division by zero", "bye"]
    assert lines[-2].startswith("fastconv: ")
    assert lines[-1] == "  swapped: 0"


@pytest.mark.parametrize("options", [("--only", "Conv3d"), ("--except", ""), ("--nothing",), ()])
def test_usage_errors(options, tmp_path):
    done = run_in(None, "-m", "fastconv", "run", *options)
    assert done.returncode == 2
    assert "usage: fastconv run" in done.stderr


def test_the_report_is_written_where_the_program_was_started(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "program.py").write_text("import os\nos.chdir('else')\n")
    done = run_in(tmp_path, "-m", "fastconv", "run", "--report", "r.json", "program.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.json").exists()
