"""``fastconv run``: a program on compiled layers, and a summary at its end."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from .._version import __version__
from ..backend import ISA, get_backend, get_num_threads
from ..outputs import cannot_write
from . import start
from .catalogue import check_names
from .recognise import Choice
from .report import SwapReport
from .script import CannotRun, run_script
from .session import Options


def add_run(commands: Any) -> None:
    """Add the subcommand to those of the command line."""
    run = commands.add_parser(
        "run",
        help="run a script or module with its layer classes replaced by compiled ones",
        description="Runs a program as python does, with the mytorch layer classes that its own modules "
        "define replaced by compiled ones. Nothing is changed on disk.",
        usage="fastconv run [options] script.py [args...]\n       fastconv run [options] -m module [args...]",
    )
    add_options(run)
    run.add_argument("-m", dest="module", action="store_true", help="run a module, as python -m does")
    run.add_argument("program", help="a script, a folder or zip file with __main__.py; or a module")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="of the program")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that say what is replaced."""
    parser.add_argument("--pure", action="store_true", help="replace by the NumPy kernels")
    parser.add_argument("--only", type=_layers, default=(), metavar="NAME,...", help="replace these classes")
    parser.add_argument(
        "--except", type=_layers, default=(), metavar="NAME,...", dest="exclude", help="leave these alone"
    )
    parser.add_argument(
        "--all", action="store_true",
        help="also Linear, activations, losses, blocks and models, which are scaled differently in revisions",
    )
    parser.add_argument(
        "--include", type=_names, action="extend", default=[], metavar="PACKAGE,...",
        help="installed distributions whose code counts as the program's",
    )
    parser.add_argument(
        "--verify", action="store_true",
        help="run the first calls of every layer on the program's own class, too; what differs is put back",
    )
    parser.add_argument("--quiet", action="store_true", help="no summary")
    parser.add_argument("--report", metavar="FILE.json", help="write what was replaced, and what was not")


def options_of(arguments: argparse.Namespace) -> Options:
    choice = Choice(frozenset(arguments.only), frozenset(arguments.exclude), arguments.all)
    return Options(choice, tuple(arguments.include), arguments.verify, arguments.pure)


def run(
    arguments: argparse.Namespace, around: Callable[[Callable[[], None]], None] = lambda program: program()
) -> int:
    """Run the program with what `arguments` says replaced; `around` as of `run_script`."""
    if arguments.report and (reason := cannot_write(arguments.report)):
        print(f"fastconv run: {reason}", file=sys.stderr)
        return 2
    report = start(options_of(arguments)).report
    # The program's own exit handlers come later and thus run before.
    atexit.register(_finish, report, os.getpid(), arguments.quiet, arguments.report)
    try:
        run_script(arguments.program, arguments.arguments, module=arguments.module, around=around)
    except CannotRun as error:
        atexit.unregister(_finish)
        print(error, file=sys.stderr)
        return error.status
    return 0


def _finish(report: SwapReport, process: int, quiet: bool, file: str | None) -> None:
    if os.getpid() != process:  # a fork that came to its own end
        return
    if file is not None:
        report.write_json(file, fastconv=__version__, backend=get_backend(), isa=ISA)
    if not quiet and sys.stderr is not None:
        lines = [f"fastconv: {_kernels()}", *(f"  {line}" for line in str(report).splitlines())]
        print("\n".join(lines), file=sys.stderr, flush=True)


def _kernels() -> str:
    if get_backend() == "pure":
        return "NumPy kernels"
    threads = get_num_threads()
    return f"compiled kernels, {ISA}, {threads} thread{'' if threads == 1 else 's'}"


def _layers(text: str) -> frozenset[str]:
    try:
        return check_names(_names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(text: str) -> list[str]:
    return text.split(",")
