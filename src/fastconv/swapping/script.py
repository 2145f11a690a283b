"""Run a script or module as ``python`` does, in this process.

`run_script` makes a fresh ``__main__``, sets ``sys.argv`` and ``sys.path[0]``, and executes the code in
it. What the program raises goes on to the interpreter, which ends the process by it as it always
does: exit statuses, `SystemExit`, an interrupt. Only the frames in the traceback that are not the
program's are taken out on the way.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import linecache
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType, TracebackType
from typing import Any, NamedTuple

from .session import file_of

_HERE = os.path.dirname(__file__) + os.sep


class CannotRun(Exception):
    """There is no such program; the message is the interpreter's, `status` its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Program(NamedTuple):
    """What is to run as ``__main__``."""

    code: CodeType
    argv0: str
    folder: str  # sys.path[0]
    file: str | None
    loader: Any
    spec: importlib.machinery.ModuleSpec | None = None

    @property
    def package(self) -> str | None:
        return None if self.spec is None else self.spec.parent


def run_script(
    target: str, arguments: Sequence[str] = (), *, module: bool = False,
    around: Callable[[Callable[[], None]], None] = lambda run: run(),
) -> None:
    """Run a program as ``python target arguments...`` or ``python -m target arguments...`` would.

    Parameters
    ----------
    target : path of a script, of a folder or zip file with a ``__main__.py``, or a module's name; a
        script that is ``-`` is read from standard input
    module : whether it is a module's name
    around : called with a function that executes the program

    Raises
    ------
    CannotRun
        There is no such file or module.
    BaseException
        Whatever the program raises, SystemExit too.
    """
    if module:
        _set_path(os.getcwd())
        sys.argv[:] = ["-m", *arguments]
    program = _module(target) if module else _stdin() if target == "-" else _file(target)
    sys.argv[:] = [program.argv0, *arguments]
    _set_path(program.folder)
    _give_way()
    main = _main_module(program)
    before = sys.modules["__main__"]
    _replaced.append(before)
    for name in ("__main__", "__mp_main__"):  # the latter is multiprocessing's name for it
        if sys.modules.get(name) is before:
            sys.modules[name] = main
    try:
        around(lambda: _execute(program.code, main.__dict__))
    except SystemExit:
        raise
    except BaseException:
        _show_program_alone()
        raise


# The modules that were __main__: code of theirs is still running.
_replaced: list[ModuleType] = []


def _execute(code: CodeType, names: dict[str, Any]) -> None:
    exec(code, names)


def _set_path(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def _give_way() -> None:
    """A module beside the script is the script's, whatever was imported for our own use under its name."""
    folder = sys.path[0] or os.curdir
    finder = pkgutil.get_importer(os.path.abspath(folder))
    names = list(sys.modules)
    for name in names[names.index("fastconv") :]:
        spec = None if "." in name or name == "fastconv" or finder is None else finder.find_spec(name)
        if spec is not None and spec.loader is not None and spec.origin != file_of(sys.modules[name]):
            for gone in [n for n in names if n == name or n.startswith(f"{name}.")]:
                del sys.modules[gone]


def _main_module(program: Program) -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=program.file, __loader__=program.loader, __spec__=program.spec,
        __package__=program.package, __builtins__=sys.modules["builtins"], __annotations__={},
        __cached__=None if program.spec is None else program.spec.cached,
    )
    if program.file is None:
        del main.__dict__["__file__"]
    return main


# ---- finding the program -------------------------------------------------------------------------


def _file(path: str) -> Program:
    if os.path.isdir(path) or _is_archive(path):
        return _container(path)
    file = os.path.abspath(path)
    try:
        with io.open_code(file) as source:
            code = pkgutil.read_code(source)
        if code is None:
            with io.open_code(file) as source:
                code = compile(source.read(), file, "exec", dont_inherit=True)
    except OSError as error:
        raise CannotRun(
            f"{sys.executable}: can't open file {file!r}: [Errno {error.errno}] {error.strerror}", 2
        ) from None
    except BaseException:
        _show_program_alone()
        raise
    loader = importlib.machinery.SourceFileLoader("__main__", file)
    return Program(code, path, os.path.dirname(os.path.realpath(file)), file, loader)


def _stdin() -> Program:
    file = "<stdin>"
    text = sys.stdin.buffer.read()
    try:
        code = compile(text, file, "exec", dont_inherit=True)
    except BaseException:
        _show_program_alone()
        raise
    lines = text.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[file] = len(text), None, lines, file  # for `source`
    return Program(code, "-", "", file, importlib.machinery.BuiltinImporter)


def _is_archive(path: str) -> bool:
    return os.path.isfile(path) and not isinstance(
        pkgutil.get_importer(path), (type(None), importlib.machinery.FileFinder)
    )


def _container(path: str) -> Program:
    folder = os.path.abspath(path)
    importer: Any = pkgutil.get_importer(folder)
    spec = None if importer is None else importer.find_spec("__main__")
    if spec is None:
        raise CannotRun(f"{sys.executable}: can't find '__main__' module in {path!r}", 1)
    return Program(_code(spec), path, folder, spec.origin, spec.loader, spec)


def _module(name: str) -> Program:
    try:
        spec = importlib.util.find_spec(name)
        package = spec is not None and spec.submodule_search_locations is not None
        if package:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if not (isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")):
            _show_program_alone()  # of a package around the module
            raise
        reason = f"Error while finding module specification for {name!r} ({type(error).__name__}: {error})"
        raise CannotRun(f"{sys.executable}: {reason}", 1) from None
    if spec is None:
        if package:
            reason = f"No module named {name}.__main__; {name!r} is a package and cannot be directly executed"
        else:
            reason = f"No module named {name}"
        raise CannotRun(f"{sys.executable}: {reason}", 1)
    return Program(_code(spec), spec.origin or name, os.getcwd(), spec.origin, spec.loader, spec)


def _code(spec: importlib.machinery.ModuleSpec) -> CodeType:
    get_code = getattr(spec.loader, "get_code", None)
    code = None if get_code is None else get_code(spec.name)
    if code is None:
        raise CannotRun(f"{sys.executable}: No code object available for {spec.name}", 1)
    found: CodeType = code
    return found


# ---- tracebacks ----------------------------------------------------------------------------------


def _show_program_alone() -> None:
    """Let the interpreter's last words be those it would have for the program run by itself."""
    hook = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> Any:
        sys.excepthook = hook
        linecache.cache.pop("<stdin>", None)  # the interpreter shows no lines of it
        _strip(error, set())
        return hook(kind, error, error.__traceback__)

    sys.excepthook = excepthook


def _strip(error: BaseException | None, seen: set[int]) -> None:
    """Take frames out of the traceback of an error and of those it came from."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _stripped(error.__traceback__)
    _strip(error.__cause__, seen)
    _strip(error.__context__, seen)


def _stripped(traceback: TracebackType | None) -> TracebackType | None:
    """Without what led to the program, and without frames of ours that have called the program's."""
    kept: list[TracebackType] = []
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if traceback.tb_frame.f_code in [f.__code__ for f in (_execute, _file, _module, _stdin)]:
            kept.clear()
        else:
            if not _is_ours(file):
                kept = [entry for entry in kept if not _is_ours(entry.tb_frame.f_code.co_filename)]
            kept.append(traceback)
        traceback = traceback.tb_next
    for entry, following in zip(kept, [*kept[1:], None]):
        entry.tb_next = following
    return kept[0] if kept else None


def _is_ours(file: str) -> bool:
    return file.startswith(_HERE)
