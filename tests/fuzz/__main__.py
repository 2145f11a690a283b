"""The command: ``cd tests && python -m fuzz [--cases N] [--seed S] | [--problem LINE]``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable

from .differential import failures, run_compiled
from .problems import Problem, numbered, parse


def _judge(judge: Callable[[Problem], list[str]], problem: Problem) -> list[str]:
    try:
        return judge(problem)
    except Exception:  # whatever it is, the problem must be told
        return traceback.format_exc().splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first case (default 0)")
    parser.add_argument("--problem", help="one problem, as printed")
    parser.add_argument("--only-run", action="store_true", help="the compiled kernels, and compare nothing")
    parser.add_argument("--most-failures", type=int, default=20, help="then stop (default 20)")
    arguments = parser.parse_args()
    if arguments.problem:
        problems = iter([parse(arguments.problem)])
    else:
        indices = range(arguments.first, arguments.first + arguments.cases)
        problems = (numbered(arguments.seed, index) for index in indices)
    started, counts, failed = time.perf_counter(), Counter[str](), 0
    for problem in problems:
        counts[problem.operation] += 1
        lines = _judge(run_compiled if arguments.only_run else failures, problem)
        if lines:
            failed += 1
            print(problem, *(f"    {line}" for line in lines), sep="\n", flush=True)
            if failed >= arguments.most_failures:
                break
    took = time.perf_counter() - started
    print(f"{sum(counts.values())} cases, seed {arguments.seed} from {arguments.first}, "
          f"{failed} failed, {took:.0f} s")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
