"""The command line, as a user starts it."""

import subprocess
import sys

import numpy as np
import pytest

import fastconv
from fastconv.cli import main


def run(*arguments, code=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "fastconv"]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_info_prints_the_configuration():
    outcome = run("info")
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    lines = dict(line.split(":", 1) for line in outcome.stdout.splitlines())
    assert lines["fastconv"].strip() == fastconv.__version__
    assert lines["numpy"].strip() == np.__version__
    assert lines["backend"].strip() in ("compiled", "pure")
    assert {"instruction set", "instruction sets present", "threads", "OpenMP", "compiler"} <= set(lines)


def test_version():
    assert run("--version").stdout.strip() == f"fastconv {fastconv.__version__}"


@pytest.mark.parametrize("arguments", [
    (), ("nothing",), ("demo", "--epochs", "0"), ("demo", "--seed", "-1"),
    ("demo", "--seed", "4294967296"), ("bench", "--threads", "1025"), ("profile", "--threads", "1025", "x"),
])
def test_what_it_does_not_know_is_a_usage_error(arguments):
    outcome = run(*arguments)
    assert outcome.returncode == 2
    assert "usage: fastconv" in outcome.stderr


@pytest.mark.parametrize("package", ["rich", "sklearn"])
def test_demo_without_its_extra_says_what_to_install(package):
    """None in sys.modules is how Python marks a package that cannot be imported."""
    code = (
        "import sys, types\n"
        # Whether or not the other one is installed, it is not what is missing here.
        "sys.modules['rich'] = sys.modules['rich.console'] = types.SimpleNamespace(Console=lambda: None)\n"
        f"sys.modules[{package!r}] = sys.modules[{package + '.console'!r}] = None\n"
        "from fastconv.cli import main\n"
        "sys.exit(main(['demo']))"
    )
    outcome = run(code=code)
    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"fastconv demo: {package} is not installed; it comes with: pip install 'fastconv[demo]'\n"
    )


OUTPUTS = {
    "run": ("--report",),
    "profile": ("--report", "--json", "--html", "--trace", "--plot", "--pstats"),
    "bench": ("--json", "--plot", "--markdown"),
}


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in OUTPUTS.items() for o in options])
def test_a_file_that_cannot_be_written_is_told_at_once(command, option, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text("print('running')\n")
    (tmp_path / "file").write_text("")
    for path, reason in {
        "no/where": "there is no folder no", "file/x": "there is no folder file", ".": "it is a folder",
    }.items():  # fmt: skip
        with pytest.raises(SystemExit) as exit:
            main([command, option, path, "program.py"])
        assert exit.value.code == 2
        told = capfd.readouterr()
        assert told.err.endswith(f"argument {option}: cannot write {path}: {reason}\n")
        assert told.out == ""
