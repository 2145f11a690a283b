"""Compiled layers in the place of a user's own, in code that is not changed.

One class at a time: `recognise` says whether it can be replaced, `replace` makes the class that
takes its place, with the `state` of the user's objects, and `verify` compares the two at work.
They reach a program through `session`, which sees classes as they are built (`building`), compiled
modules as they are imported (`importing`) and child processes (`processes`); `graph` goes through
the objects of a live model instead. `script` runs a program. `report` says what was done.
"""

from __future__ import annotations

from collections.abc import Iterable

from .catalogue import check_names
from .graph import swap
from .recognise import Choice
from .report import SwapReport
from .session import Options, Session

__all__ = ["SwapReport", "install", "swap", "uninstall"]

_active: Session | None = None


def install(
    *, only: Iterable[str] = (), exclude: Iterable[str] = (), include: Iterable[str] = (),
    all: bool = False, verify: bool = False, pure: bool = False,
) -> SwapReport:
    """Replace the layer classes of your own modules, imported before and after, until `uninstall`.

    A class of a known name that is defined in your code, has a forward, a backward and a
    constructor that fastconv understands, is replaced wherever its name is bound. A second call
    starts anew.

    Parameters
    ----------
    only, exclude : names of classes
        To replace, or to leave alone.
    include : names of installed distributions
        Their code counts as yours.
    all : bool
        Also Linear, activations, losses, blocks and models, whose scaling differs between revisions
        of the course.
    verify : bool
        Run the first calls of every layer on your own class as well; one that differs is put back.
    pure : bool
        Compute with the NumPy kernels.

    Returns
    -------
    SwapReport
        It grows while modules are imported. ``report.undo()`` is `uninstall`.

    Raises
    ------
    ValueError
        A name that is no layer's.
    """
    choice = Choice(check_names(only), check_names(exclude), all)
    return start(Options(choice, tuple(include), verify, pure)).report


def start(options: Options) -> Session:
    """What `install` does, with its arguments put together; in child processes, too."""
    global _active
    uninstall()
    session = Session(options, undo=uninstall)
    session.start()
    _active = session
    return session


def uninstall() -> None:
    """End what `install` began: all names mean your own classes again, and imports are as they were.

    Layers made meanwhile stay compiled and go on working; those of classes that you have derived from
    a compiled one are your own again, with the values that they have now.
    """
    global _active
    session, _active = _active, None
    if session is not None:
        session.stop()
