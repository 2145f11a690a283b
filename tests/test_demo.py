"""The demo's parts: real data, seeded runs, and an honest verdict."""

import re
import subprocess
import sys

import numpy as np
import pytest

from fastconv import demo

pytest.importorskip("sklearn", reason="the demo needs its extra: pip install 'fastconv[demo]'")
pytest.importorskip("rich", reason="the demo needs its extra: pip install 'fastconv[demo]'")


class NoProgress:
    def add_task(self, *args, **kwargs):
        return 0

    def update(self, *args, **kwargs):
        pass


@pytest.fixture(scope="module")
def digits():
    return demo.Digits.load("float64", np.random.default_rng(0))


def test_the_digits_are_split_without_overlap(digits):
    assert len(digits.images) + len(digits.test_images) == 1797
    assert len(digits.test_images) == demo.TEST_IMAGES
    train = {image.tobytes() for image in digits.images}
    assert not any(image.tobytes() in train for image in digits.test_images)
    assert digits.images.min() == 0
    assert digits.images.max() == 1
    assert (digits.labels.sum(axis=1) == 1).all()


@pytest.mark.parametrize("kind", [demo.ResNetTraining, demo.CNNTraining])
def test_both_sets_of_kernels_take_the_same_steps(kind, digits):
    losses = [
        demo._train(kind, backend, digits, "float64", 1, 3, 0, NoProgress(), timed=timed).losses
        for backend, timed in (("compiled", False), ("compiled", True), ("pure", False))
    ]
    assert losses[0] == losses[1]
    assert np.abs(np.subtract(losses[0], losses[2])).max() < 1e-9
    assert losses[0][-1] < losses[0][0]


def test_it_runs_and_says_whether_the_models_learnt():
    """After one epoch they have not: that must show in the exit status, and no figure be missing."""
    outcome = subprocess.run(
        [sys.executable, "-m", "fastconv", "demo", "--epochs", "1", "--pure-steps", "2", "--seed", "3"],
        capture_output=True, text=True, timeout=300,
    )
    assert outcome.stderr == ""
    accuracies = [float(a) for a in re.findall(r"([\d.]+)% of 360 test images right", outcome.stdout)]
    assert len(accuracies) == 2
    assert outcome.returncode == (0 if min(accuracies) >= 97 else 1)
    differences = [float(d) for d in re.findall(r"2 steps: (\S+)", outcome.stdout)]
    assert len(differences) == 2
    assert max(differences) < 1e-9
    for layer in ("Conv2d", "BatchNorm2d", "ReLU", "MeanPool2d", "Flatten", "Linear", "Conv1d"):
        assert re.search(rf"{layer} .*x", outcome.stdout)
