"""What was swapped, what was left alone, and why: as text, as JSON, and with a way back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .catalogue import LAYERS


@dataclass(eq=False)
class Entry:
    """A class of the user, or an object in a model.

    Attributes
    ----------
    name : of the class
    module : it was defined in
    where : file, or path to the object in the model
    by : what computes instead, a class of fastconv; empty if it was left alone
    reason : why it was left alone, or what is to be said of the swap
    differences : of a verification, by what was compared: the largest difference, as a fraction of
        what it may be at most
    calls : that were verified, or None without verification
    """

    name: str
    module: str
    where: str
    by: str = ""
    reason: str = ""
    calls: int | None = None
    differences: dict[str, float] = field(default_factory=dict)

    def note(self, text: str) -> None:
        if text not in self.reason:
            self.reason = f"{self.reason}; {text}" if self.reason else text

    @property
    def place(self) -> str:
        """`where`, a file as seen from the current folder if that is shorter."""
        if not os.path.isabs(self.where):
            return self.where
        return min(self.where, os.path.relpath(self.where), key=len)

    @property
    def remark(self) -> str:
        if self.calls is None or not self.by:
            return self.reason
        verified = "not called, so not verified"
        if self.calls:
            share = max(self.differences.values(), default=0.0)
            verified = f"verified in {self.calls} calls, largest difference {share:.1g} of what is allowed"
        return f"{verified}; {self.reason}" if self.reason else verified


class SwapReport:
    """The outcome of a swap; prints as a table.

    Attributes
    ----------
    swapped, kept : lists of `Entry`
    """

    def __init__(self, undo: Callable[[], None] | None = None) -> None:
        self.swapped: list[Entry] = []
        self.kept: list[Entry] = []
        self._undo = undo

    def undo(self) -> None:
        """Give everything back to the user's own classes, with the values that it has now.

        A second call does nothing.
        """
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def put_back(self, entry: Entry, reason: str) -> None:
        if entry in self.swapped:
            self.swapped.remove(entry)
            self.kept.append(entry)
        entry.by, entry.reason = "", reason

    def as_dict(self) -> dict[str, Any]:
        return {
            "swapped": [asdict(entry) for entry in self.swapped],
            "kept": [asdict(entry) for entry in self.kept],
        }

    def write_json(self, file: str | Path, **more: Any) -> None:
        Path(file).write_text(json.dumps({**more, **self.as_dict()}, indent=2) + "\n")

    def __str__(self) -> str:
        lines = [f"swapped: {len(self.swapped)}"]
        lines += _table((e.name, e.place, f"by {e.by}", e.remark) for e in self.swapped)
        layers = [e for e in self.swapped if e.name in LAYERS]  # blocks and models are not verified
        if layers and all(e.calls is None for e in layers):
            lines.append("  They go by their names: verify compares their first calls with those of yours.")
        if not self.kept:
            return "\n".join(lines)
        lines.append(f"left alone: {len(self.kept)}")
        alike = Counter(e.reason for e in self.kept)
        lines += _table((e.name, e.place, e.reason) for e in self.kept if alike[e.reason] == 1)
        for reason in [reason for reason, count in alike.items() if count > 1]:
            names = dict.fromkeys(e.name for e in self.kept if e.reason == reason)
            lines.append(f"  {', '.join(names)}: {reason}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<SwapReport: {len(self.swapped)} swapped, {len(self.kept)} left alone>"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
