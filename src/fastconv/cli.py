"""The command line: ``fastconv`` and ``python -m fastconv``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ._version import __version__
from .backend import MOST_THREADS
from .bench import STATISTICS
from .config import show_config
from .extras import MissingExtra
from .outputs import file_to_write
from .swapping.command import add_options, add_run, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "run":  # what the program raises is the interpreter's business
        return run(arguments)
    try:
        return int(arguments.run(arguments) or 0)
    except MissingExtra as error:
        print(f"fastconv {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastconv", description="The mytorch layers on compiled kernels.")
    parser.add_argument("--version", action="version", version=f"fastconv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    info = commands.add_parser("info", help="versions, backend, instruction sets, threads")
    info.set_defaults(run=lambda _: show_config())

    add_run(commands)

    demo = commands.add_parser(
        "demo",
        help="train a ResNet and a CNN on handwritten digits, compiled against pure",
        description="Trains a ResNet and the CNN model on the handwritten digits that scikit-learn ships "
        "(1,797 images of 8 x 8), then repeats the first steps with the pure kernels from the same seed. "
        "Needs: pip install 'fastconv[demo]'.",
    )
    demo.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    demo.add_argument("--epochs", type=_positive, default=8, help="of the ResNet (default 8)")
    demo.add_argument(
        "--pure-steps", type=_positive, default=8, help="steps repeated with the pure kernels (default 8)"
    )
    demo.add_argument("--seed", type=_seed, default=0)
    demo.set_defaults(run=_demo)
    _add_bench(commands)
    _add_profile(commands)
    return parser


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure the kernels against other libraries and against this machine",
        description="Times fastconv and other libraries, in turn, on the same NumPy arrays. "
        "Suites: conv (the default), pool, norm, dense, model, overhead, growth, or all. "
        "Needs: pip install 'fastconv[bench]', and for the other libraries 'fastconv[peers]'.",
    )
    bench.add_argument("suites", nargs="*", metavar="suite", help="what to measure (default conv)")
    bench.add_argument(
        "--problem", action="append", metavar="STRING",
        help="a problem instead of suites, n8ic64ih32oc64kh3ph1 or max:n8ic64ih56kh2sh2; may be repeated",
    )
    bench.add_argument("--filter", metavar="REGEX", help="only rows 'suite problem pass' that it matches")
    bench.add_argument("--passes", type=_names, metavar="LIST", help="of fwd, dX, dW, bwd, ... (default all)")
    bench.add_argument(
        "--contenders", type=_names, metavar="LIST",
        help="of compiled, direct (without Winograd), pure, numpy, torch, jax, onnx "
        "(default compiled, and torch if it is installed, else numpy)",
    )
    bench.add_argument("--against", metavar="NAME", help="whom ratios refer to (default torch, else numpy)")
    bench.add_argument("--dtype", type=_names, default=("float32", "float64"), metavar="LIST")
    bench.add_argument("--threads", type=_counts, default=(1,), metavar="LIST", help="say 1,2 (default 1)")
    bench.add_argument(
        "--time", type=_seconds, default=0.5, metavar="SECONDS", help="of each contender, a row (default 0.5)"
    )
    bench.add_argument(
        "--statistic", choices=STATISTICS, default=STATISTICS[0], help="that ratios are of"
    )
    bench.add_argument("--json", type=file_to_write, metavar="FILE", help="write all that was found")
    bench.add_argument(
        "--plot", type=file_to_write, metavar="FILE.png", help="write a plot of the ratios, or of growth"
    )
    bench.add_argument(
        "--markdown", type=file_to_write, metavar="FILE",
        help="make the tables between the page's markers again",
    )
    bench.add_argument(
        "--compare", nargs=2, metavar=("A.json", "B.json"), help="measure nothing; show how B differs from A"
    )
    bench.set_defaults(run=_bench)


def _add_profile(commands: Any) -> None:
    profile = commands.add_parser(
        "profile",
        help="where the time of a script or a model goes, layer by layer",
        usage="fastconv profile [options] script.py [args...]\n"
        "       fastconv profile [options] -m module [args...]\n"
        "       fastconv profile [options] --model module:factory --input 8x3x32x32",
        description="Records every call of a layer while a script runs as with 'fastconv run', or runs a "
        "model on the compiled and the pure kernels in turn and compares them. "
        "Needs: pip install 'fastconv[profile]'.",
    )
    add_options(profile)
    profile.add_argument("-m", dest="module", action="store_true", help="run a module, as python -m does")
    profile.add_argument("program", nargs="?", help="a script, as of 'fastconv run'")
    profile.add_argument("arguments", nargs=argparse.REMAINDER, help="of the program")
    profile.add_argument("--model", metavar="MODULE:FACTORY", help="a model, or a function that makes one")
    profile.add_argument("--input", metavar="SHAPE", help="of the model's input, say 8x3x32x32")
    profile.add_argument("--dtype", choices=("float64", "float32"), help="of the input and the parameters")
    profile.add_argument("--threads", type=_threads, metavar="N")
    profile.add_argument("--train", action="store_true", help="forward and backward (default: forward alone)")
    profile.add_argument(
        "--budget", type=_seconds, default=20.0, metavar="SECONDS", help="of the comparison (default 20)"
    )
    profile.add_argument(
        "--sort", default="time", metavar="NAME",
        help="the table by time (in the layer itself, the default), total, calls, limit, speedup, difference "
        "or path; or order: of the calls, as a tree",
    )
    profile.add_argument("--rows", type=_positive, default=40, metavar="N", help="of the table (default 40)")
    profile.add_argument("--json", type=file_to_write, metavar="FILE", help="write all that was found")
    profile.add_argument(
        "--html", type=file_to_write, metavar="FILE", help="write a page with charts and tables"
    )
    profile.add_argument(
        "--trace", type=file_to_write, metavar="FILE", help="write the calls for ui.perfetto.dev"
    )
    profile.add_argument("--plot", type=file_to_write, metavar="FILE.png", help="write a plot")
    profile.add_argument(
        "--pstats", type=file_to_write, metavar="FILE", help="write a profile for pstats, snakeviz and others"
    )
    profile.set_defaults(run=_profile)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be positive, not {value}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {(1 << 32) - 1}, not {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, not {text}")
    return value


def _names(text: str) -> list[str]:
    return text.split(",")


def _threads(text: str) -> int:
    value = _positive(text)
    if value > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_THREADS}, not {value}")
    return value


def _counts(text: str) -> list[int]:
    return list(dict.fromkeys(_threads(part) for part in text.split(",")))


def _bench(arguments: argparse.Namespace) -> int:
    from .bench import BenchError  # only here: it needs an extra
    from .bench.run import run

    try:
        return run(arguments)
    except BenchError as error:
        print(f"fastconv bench: {error}", file=sys.stderr)
        return 2


def _profile(arguments: argparse.Namespace) -> int:
    from .profiling.command import ProfileError, run  # only here: it needs an extra

    try:
        return run(arguments)
    except ProfileError as error:
        print(f"fastconv profile: {error}", file=sys.stderr)
        return 2


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run  # only here: it needs an extra

    return run(
        dtype=arguments.dtype, epochs=arguments.epochs, pure_steps=arguments.pure_steps, seed=arguments.seed
    )
