"""``fastconv demo``: train on real images, then show that the pure kernels do the same, slower.

The data are the 1,797 handwritten digits of 8 x 8 pixels that come inside scikit-learn (from the
UCI collection "Optical Recognition of Handwritten Digits"). Two models learn them: a `ResNet`, and
the course's 1-D `CNN`, which takes an image's rows as channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _check as check
from .backend import get_num_threads, use_backend
from .config import config
from .extras import need
from .models import CNN, ResNet
from .nn import CrossEntropyLoss, Layer, ReLU
from .profiling import record

BATCH = 64
TEST_IMAGES = 360
ENOUGH_ACCURACY = 0.97
# What rounding alone may do to a loss curve within the repeated steps. (float32 has 2^29 times the
# rounding of float64.)
ENOUGH_AGREEMENT = {"float64": 1e-9, "float32": 1e-2}


@dataclass
class Digits:
    """Images (N, 1, 8, 8) from 0 to 1 and one-hot labels (N, 10), split at random."""

    images: check.Array
    labels: check.Array
    test_images: check.Array
    test_labels: check.Array

    @classmethod
    def load(cls, dtype: str, rng: np.random.Generator) -> Digits:
        data = need("sklearn.datasets", "demo").load_digits()
        order = rng.permutation(len(data.images))
        images = (data.images[order, None] / 16).astype(dtype)
        labels = np.eye(10, dtype=dtype)[data.target[order]]
        n = TEST_IMAGES
        return cls(images[n:], labels[n:], images[:n], labels[:n])

    def batches(self, epochs: int, rng: np.random.Generator) -> Iterator[tuple[check.Array, check.Array]]:
        for _ in range(epochs):
            order = rng.permutation(len(self.images))
            for first in range(0, len(order) - BATCH + 1, BATCH):
                chosen = order[first : first + BATCH]
                yield self.images[chosen], self.labels[chosen]

    def steps(self, epochs: int) -> int:
        return epochs * (len(self.images) // BATCH)


class ResNetTraining:
    """A ResNet under gradient descent with momentum and a learning rate that falls to zero."""

    name = "ResNet"

    def __init__(self, dtype: str, steps: int, rate: float = 0.1, momentum: float = 0.9) -> None:
        self.model = ResNet(1, 8, 10, dtype=dtype)
        self.criterion = CrossEntropyLoss()
        self.parameters = list(_parameters(self.model))
        self.velocity = [np.zeros_like(getattr(layer, name)) for layer, name in self.parameters]
        self.steps, self.rate, self.momentum = steps, rate, momentum
        self.taken = 0

    def step(self, images: check.Array, labels: check.Array) -> float:
        loss = self.criterion.forward(self.model.forward(images), labels)
        self.model.backward(self.criterion.backward())
        # A Python number: one of NumPy would make float64 of float32 gradients.
        rate = self.rate * (1 + math.cos(math.pi * self.taken / self.steps)) / 2
        for velocity, (layer, name) in zip(self.velocity, self.parameters):
            velocity *= self.momentum
            velocity -= rate * getattr(layer, f"dLd{name}")
            setattr(layer, name, getattr(layer, name) + velocity)
        self.taken += 1
        return float(loss)

    def accuracy(self, images: check.Array, labels: check.Array) -> float:
        return _accuracy(self.model.forward(images, eval=True), labels)


class CNNTraining:
    """The course's CNN with its own plain gradient descent; the rows of an image are channels."""

    name = "CNN"

    def __init__(self, dtype: str, steps: int) -> None:
        self.model = CNN(
            input_width=8, num_input_channels=8, num_channels=[32, 64], kernel_sizes=[3, 3],
            strides=[1, 1], num_linear_neurons=10, activations=[ReLU(), ReLU()],
            conv_weight_init_fn=_he, bias_init_fn=np.zeros, linear_weight_init_fn=_he,
            criterion=CrossEntropyLoss(), lr=0.2, dtype=dtype,
        )

    def step(self, images: check.Array, labels: check.Array) -> float:
        self.model.zero_grads()
        self.model.forward(images[:, 0])
        self.model.backward(labels)
        self.model.step()
        return float(self.model.loss)

    def accuracy(self, images: check.Array, labels: check.Array) -> float:
        return _accuracy(self.model.forward(images[:, 0]), labels)


@dataclass
class Run:
    """What one training did: a loss and a time for every step, and each layer's time."""

    training: Any
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    # Of each layer that calls no other, a forward and a backward: medians, as a step may have stalled.
    layer_seconds: dict[str, float] = field(default_factory=dict)


def run(dtype: str, epochs: int, pure_steps: int, seed: int) -> int:
    """Train, compare, print. Returns 0 if both models learnt and both sets of kernels agree."""
    console = need("rich.console", "demo").Console()
    need("sklearn", "demo")
    console.print(_heading(dtype), highlight=False)
    # The models run one after the other, so that each has the machine to itself.
    outcomes = [
        _show(console, kind, dtype, kind_epochs, pure_steps, seed)
        for kind, kind_epochs in ((ResNetTraining, epochs), (CNNTraining, 5 * epochs))
    ]
    return 0 if all(outcomes) else 1


def _heading(dtype: str) -> str:
    c = config()
    return (
        f"fastconv {c['fastconv']}, {c['instruction set'] or 'no compiled kernels'}, "
        f"{get_num_threads()} threads, {dtype}; handwritten digits, batches of {BATCH}"
    )


def _show(
    console: Any, kind: Callable[..., Any], dtype: str, epochs: int, pure_steps: int, seed: int
) -> bool:
    digits = Digits.load(dtype, np.random.default_rng(seed))
    total = digits.steps(epochs)
    pure_steps = min(pure_steps, total)
    with _progress(console) as progress:
        start = time.perf_counter()
        compiled = _train(kind, "compiled", digits, dtype, epochs, total, seed, progress)
        took = time.perf_counter() - start
        accuracy = compiled.training.accuracy(digits.test_images, digits.test_labels)
        # Each layer is timed in a run of its own, so that the timers do not count in the steps.
        timed, pure = (
            _train(kind, backend, digits, dtype, epochs, pure_steps, seed, progress, timed=True)
            for backend in ("compiled", "pure")
        )
    difference = max(abs(a - b) for a, b in zip(compiled.losses, pure.losses))
    enough = ENOUGH_AGREEMENT[dtype]
    times = [float(np.median(r.seconds[1:] or r.seconds)) for r in (compiled, pure)]
    console.print(
        f"\n[bold]{compiled.training.name}[/]: [bold]{accuracy:.1%}[/] of {TEST_IMAGES} test images right "
        f"after {total} steps in {took:.1f} s\n"
        f"  time a step: compiled {times[0] * 1e3:.2f} ms, pure {times[1] * 1e3:.2f} ms: "
        f"[bold]{times[1] / times[0]:.1f} times faster[/]\n"
        f"  largest difference between the two loss curves, {pure_steps} steps: {difference:.1e}"
        f" ({'below' if difference < enough else 'NOT below'} {enough:.0e})",
        highlight=False,
    )
    console.print(_layer_table(timed, pure))
    return accuracy >= ENOUGH_ACCURACY and difference < enough


def _train(
    kind: Callable[..., Any], backend: str, digits: Digits, dtype: str, epochs: int, steps: int,
    seed: int, progress: Any, timed: bool = False,
) -> Run:
    """The first `steps` steps of a training of so many epochs; equal seeds give equal runs."""
    np.random.seed(seed)
    outcome = Run(kind(dtype, digits.steps(epochs)))
    recording = record(outcome.training.model)
    label = f"{outcome.training.name}, {backend}{', layer by layer' if timed else ''}"
    task = progress.add_task(label, total=steps, loss="")
    with use_backend(backend), recording if timed else nullcontext():
        batches = digits.batches(epochs, np.random.default_rng(seed))
        for _, (images, labels) in zip(range(steps), batches):
            start = time.perf_counter()
            outcome.losses.append(outcome.training.step(images, labels))
            outcome.seconds.append(time.perf_counter() - start)
            progress.update(task, advance=1, loss=f"loss {outcome.losses[-1]:.4f}")
    if timed:
        outcome.layer_seconds = _layer_seconds(recording)
    return outcome


def _layer_seconds(recording: record) -> dict[str, float]:
    outer = {row.parent for row in recording.rows}
    seconds: dict[str, float] = {}
    for i, row in enumerate(recording.rows):
        path = row.path[len(row.path.partition(".")[0]) :]  # without the model's name
        if path and i not in outer:
            name = f"{path.replace('.layers[', '[').lstrip('.')} {row.layer}"
            seconds[name] = seconds.get(name, 0.0) + row.time.median
    return seconds


def _progress(console: Any) -> Any:
    rich = need("rich.progress", "demo")
    return rich.Progress(
        rich.TextColumn("{task.description:34}"), rich.BarColumn(bar_width=24), rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(), rich.TextColumn("{task.fields[loss]}"), console=console,
    )


def _layer_table(compiled: Run, pure: Run) -> Any:
    table = need("rich.table", "demo").Table(box=need("rich.box", "demo").SIMPLE)
    table.add_column("layer, forward + backward")
    for column in ("compiled, ms", "pure, ms", "speed-up"):
        table.add_column(column, justify="right")
    for path, fast in compiled.layer_seconds.items():
        slow = pure.layer_seconds[path]
        table.add_row(path, f"{fast * 1e3:.3f}", f"{slow * 1e3:.3f}", f"{slow / fast:.1f}x")
    return table


def _parameters(layer: Layer) -> Iterator[tuple[Layer, str]]:
    for name in layer.parameter_names:
        if f"dLd{name}" in layer.parameter_names:
            yield layer, name
    for inner in layer.sublayers():
        yield from _parameters(inner)


def _he(*shape: int) -> check.Array:
    return np.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)


def _accuracy(logits: check.Array, labels: check.Array) -> float:
    return float((logits.argmax(axis=1) == labels.argmax(axis=1)).mean())
