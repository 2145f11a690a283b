"""Whole projects, run plainly and through ``fastconv run``: the same losses and the same weights."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from mytorch_projects import LAYOUTS, lay_out
from support import environment

STEPS = "8"


def run(script, *arguments, fastconv=()):
    launcher = ["-m", "fastconv", "run", *fastconv] if fastconv else []
    done = subprocess.run(
        [sys.executable, *launcher, str(script), *arguments],
        cwd=script.parent,
        text=True,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def weights(file):
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def losses(done):
    return [float(line.split()[-1]) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    done = run(lay_out("flat", folder), STEPS, str(folder / "w.npz"))
    return losses(done), weights(folder / "w.npz")


def digest(folder):
    return {
        str(file): hashlib.sha256(file.read_bytes()).digest() for file in folder.rglob("*") if file.is_file()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_training_in_every_layout(layout, plain, tmp_path):
    script = lay_out(layout, tmp_path / "project")
    before = digest(script.parent)
    outside = tmp_path / "w.npz", tmp_path / "report.json"
    done = run(script, STEPS, str(outside[0]), fastconv=["--report", str(outside[1])])
    assert np.allclose(losses(done), plain[0], rtol=0, atol=1e-10)
    for found, wanted in zip(weights(outside[0]), plain[1], strict=True):
        assert np.abs(found - wanted).max() < 1e-10
    assert digest(script.parent) == before

    report = json.loads(outside[1].read_text())
    swapped = {entry["name"]: entry for entry in report["swapped"]}
    assert {
        "Conv2d",
        "Conv2d_stride1",
        "MaxPool2d",
        "MeanPool2d",
        "BatchNorm2d",
        "Dropout2d",
        "Flatten",
    } <= set(swapped)
    assert swapped["Conv2d"]["by"] == "fastconv.Conv2d"
    assert {entry["name"] for entry in report["kept"]} == {"Linear", "ReLU", "CrossEntropyLoss"}
    assert "swapped: " in done.stderr
    assert "Linear" in done.stderr


def test_all_layers_verified(plain, tmp_path):
    script = lay_out("flat", tmp_path / "project")
    file = tmp_path / "report.json"
    done = run(
        script,
        STEPS,
        str(tmp_path / "w.npz"),
        fastconv=["--verify", "--all", "--quiet", "--report", str(file)],
    )
    assert losses(done) == pytest.approx(plain[0], abs=1e-10)
    report = json.loads(file.read_text())
    called = {"Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Dropout2d", "MeanPool2d", "Flatten", "Linear"}
    entries = {entry["name"]: entry for entry in report["swapped"]}
    for name in called:
        assert entries[name]["calls"] >= 4, name  # two forwards and backwards
        assert 0 <= max(entries[name]["differences"].values()) < 0.01
    assert "fastconv" not in done.stderr


def test_the_pure_set_trains_the_same(plain, tmp_path):
    script = lay_out("flat", tmp_path / "project")
    done = run(script, STEPS, fastconv=["--pure", "--only", "Conv2d,MaxPool2d"])
    assert losses(done) == pytest.approx(plain[0], abs=1e-10)
    assert "NumPy kernels" in done.stderr
    assert "swapped: 2\n" in done.stderr


def test_the_notebook(tmp_path):
    script = lay_out("flat", tmp_path / "project").with_name("notebook.py")
    lines = run(script).stdout.splitlines()
    assert "swapped: 15" in lines
    assert "left alone: 4" in lines
    assert lines[-1].endswith("right, by Conv2d.Conv2d")
    losses = [float(line.split()[1].rstrip(",")) for line in lines if line.startswith("loss ")]
    assert losses[1] < 0.5 < losses[0]
