"""The rows of each suite."""

from __future__ import annotations

from dataclasses import dataclass

from . import BenchError, growth
from .problems import Problem, parse

LAYER_PASSES = ("layer fwd", "layer bwd")
PASSES = ("fwd", "dX", "dW", "bwd", *LAYER_PASSES, "step", "import")


@dataclass(frozen=True)
class Row:
    """What is measured: one pass of a problem.

    `pass_` is "fwd"; "dX", the gradient of the input alone; "dW", those of the weights and bias;
    "bwd", all gradients; "layer fwd" and "layer bwd", through the layer class; "step", a training
    step; "import", the import of the library.
    """

    suite: str
    problem: Problem
    pass_: str

    def __str__(self) -> str:
        return f"{self.suite} {self.problem} {self.pass_}"


_PROBLEMS = {
    # Layers of the course's models and graders, then of well-known networks; 1-D; transposed.
    "conv": """
        n32ic1ih28oc8kh5 n32ic8ih12oc16kh3 n3ic10ih70oc10kh5 n8ic3ih32oc64kh3ph1 n8ic64ih32oc64kh3ph1
        n8ic64ih32oc128kh3sh2ph1 n8ic128ih16oc128kh3ph1 n8ic256ih8oc256kh3ph1 n8ic512ih4oc512kh3ph1
        n4ic64ih56oc64kh3ph1 n2ic64ih56oc256kh1 ic3ih224oc64kh7sh2ph3
        n32ic24iw128oc8kw8sw4 n16ic64iw1000oc64kw5 n8ic15iw300oc10kw9sw3
        n8ic64ih16oc32kh3uh2
    """,
    "pool": """
        max:n8ic64ih56kh2sh2 max:n8ic64ih56kh3sh2 max:n8ic64ih56kh3 max:n8ic64ih56kh5
        mean:n8ic64ih56kh2sh2 mean:n8ic64ih56kh3sh2 mean:n8ic64ih56kh3 mean:n8ic64ih56kh5
        max:n32ic8ih24kh2sh2 mean:n32ic8ih24kh2sh2 mean:n8ic512ih7kh7
    """,
    "norm": "bn:n8ic64ih56 bn:n32ic16ih28 bn:n8ic512ih7 bn:n64ic16ih8",
    "dense": """
        relu:n8ic64ih56 gelu:n8ic64ih56 sigmoid:n8ic64ih56 tanh:n8ic64ih56 softmax:n256ic1000
        linear:n64ic784oc256 linear:n256ic1024oc1024 xent:n256ic1000 xent:n64ic10 mse:n256ic1000
    """,
    "model": "resnet:n64ic1ih8oc10 cnn:n64ic8iw8oc10",
    "overhead": "ic1ih8oc1kh3 max:ic1ih8kh2sh2 mean:ic1ih8kh2sh2 bn:ic1ih8 relu:ic1ih8 linear:ic8oc8 import",
}
SUITES = (*_PROBLEMS, "growth")


def rows_of(suite: str) -> list[Row]:
    """The rows of a suite by name.

    Raises
    ------
    BenchError
        There is none of that name.
    """
    if suite not in SUITES:
        raise BenchError(f"unknown suite {suite!r}, wanted {', '.join(SUITES)} or all")
    sweeps = suite == "growth"
    problems = growth.problems() if sweeps else [parse(text) for text in _PROBLEMS[suite].split()]
    return [row for problem in problems for row in rows_for(suite, problem)]


def rows_for(suite: str, problem: Problem) -> list[Row]:
    """All that a suite measures of one problem."""
    through_layers = suite == "overhead" and problem.op != "import"
    return [Row(suite, problem, p) for p in (LAYER_PASSES if through_layers else problem.passes)]
