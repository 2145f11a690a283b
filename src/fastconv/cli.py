"""The command line: ``fastconv`` and ``python -m fastconv``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ._version import __version__
from .config import show_config
from .extras import MissingExtra


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
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
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be positive, not {value}")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run  # only here: it needs an extra

    return run(
        dtype=arguments.dtype, epochs=arguments.epochs, pure_steps=arguments.pure_steps, seed=arguments.seed
    )
