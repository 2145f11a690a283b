"""Weights in files: `save` and `load`, as .npz of NumPy or .safetensors, without pickle.

A file holds the parameters and running statistics of a model, each by its path in it ("layers.0.BW"). The
model that loads it says what is to be there: names, shapes and dtypes, so a file can neither choose how
much is read nor what is made of it. All of it is read and checked before the model is changed.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from . import _check as check
from ._check import Array
from .extras import MissingExtra, need
from .nn.layer import Layer, state_kept

Arrays = dict[str, Array]

# What a file may have beyond the numbers: for each array its name, twice, and headers; and some for itself.
_OVERHEAD, _OVERHEAD_OF_ARRAY = 1 << 16, 1 << 12


def save(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write the parameters and running statistics of a model to a file.

    Parameters
    ----------
    model : layer, block or model
    path : str or path
        Its suffix is the format: ``.npz``, or ``.safetensors`` (pip install 'fastconv[safetensors]').
        A file that is there is replaced when the new one is whole, and stays if anything fails, or if
        it is write-protected.

    Raises
    ------
    TypeError
        `model` is no layer, `path` no path; a parameter is no array of real numbers.
    ValueError
        The suffix is none of those; the path is that of a folder or a device.
    OSError
        It cannot be written.
    """
    arrays = {name: np.array(a, a.dtype.newbyteorder("="), order="C") for name, a in _state(model).items()}
    target = Path(os.path.realpath(_checked(path)))
    _write_whole(target, lambda file: _format(target)[0](file, arrays))


def load(model: Layer, path: str | os.PathLike[str]) -> None:
    """Set the parameters and running statistics of a model from a file that `save` wrote.

    The file must hold exactly the arrays that the model has, in its shapes and dtypes (`Layer.astype`
    changes those of a model). If it does not, or is damaged, the model stays as it was.

    Parameters
    ----------
    model : layer, block or model
    path : str or path
        Ends in ``.npz`` or ``.safetensors``.

    Raises
    ------
    TypeError
        `model` is no layer, `path` no path.
    ValueError
        The file is damaged, or not one of this model; the suffix is no known one.
    OSError
        It cannot be read.
    """
    wanted = _state(model)
    source = _checked(path)
    read = _format(source)[1]
    most = _most_bytes(wanted)
    with open(source, "rb") as file:
        content = file.read(most + 1)
        size = max(len(content), os.fstat(file.fileno()).st_size)
    if size > most:
        raise ValueError(f"{source} has {size} bytes, but the weights of this model need at most {most}")
    try:
        found = read(io.BytesIO(content), wanted)
    except _Misfit as error:
        raise ValueError(f"{source} does not fit the model: {error}") from None
    except MissingExtra:
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise ValueError(f"{source} is damaged: {type(error).__name__}: {error}") from error
    with state_kept(model):
        for name, layer, attribute, _ in _kept(model):
            setattr(layer, attribute, found[name])


class _Misfit(ValueError):
    """The file is whole, and not that of the model."""


# ---- models --------------------------------------------------------------------------------------


def _kept(model: Layer) -> list[tuple[str, Layer, str, Any]]:
    """What a file keeps of `Layer.named_parameters`: gradients are computed anew."""
    return [found for found in model.named_parameters() if not found[2].startswith("dLd")]


def _state(model: Layer) -> Arrays:
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a layer or model of fastconv, not {type(model).__name__}")
    return {name: check.array(name, value) for name, _, _, value in _kept(model)}


def _check_names(found: list[str], wanted: Arrays) -> None:
    missing, unexpected = sorted(wanted.keys() - set(found)), sorted(set(found) - wanted.keys())
    if missing or unexpected:
        raise _Misfit(f"missing: {_some(missing)}; not of this model: {_some(unexpected)}")
    if len(found) != len(wanted):
        raise _Misfit("an array is there twice")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "nothing"


def _check_array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], wanted: Array) -> None:
    if shape != wanted.shape or dtype.newbyteorder("=") != wanted.dtype.newbyteorder("="):
        raise _Misfit(
            f"{name} has shape {shape} and dtype {dtype}, but the model's has "
            f"{wanted.shape} and {wanted.dtype}"
        )


def _most_bytes(arrays: Arrays) -> int:
    return _OVERHEAD + sum(a.nbytes + _OVERHEAD_OF_ARRAY + 4 * len(name) for name, a in arrays.items())


# ---- files ---------------------------------------------------------------------------------------


def _checked(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path, not {path!r:.40}")
    checked = Path(path)
    _format(checked)
    if checked.exists() and not checked.is_file():
        raise ValueError(f"path must be that of a file, not {str(checked)!r:.80}")
    return checked


def _write_whole(target: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file beside the target, and put it in its place when all of it is on the disk."""
    if target.exists() and not os.access(target, os.W_OK):  # a folder that allows it is not enough
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    beside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, beside)
        os.replace(beside, target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and error.filename == str(beside):
            error.filename = str(target)  # the one that the caller knows
        raise
    with suppress(OSError):  # not every system can do this to a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# ---- formats -------------------------------------------------------------------------------------


def _write_npz(file: IO[bytes], arrays: Arrays) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, a in arrays.items():
            # A fixed date: equal weights are equal files.
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as member:
                npy.write_array(member, a, allow_pickle=False)


def _read_npz(file: IO[bytes], wanted: Arrays) -> Arrays:
    found = {}
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if not all(name.endswith(".npy") for name in names):
            raise _Misfit("it holds other files than arrays")
        _check_names([name[: -len(".npy")] for name in names], wanted)
        for name, like in wanted.items():
            entry = archive.getinfo(f"{name}.npy")
            # Others let a file say how much memory is taken to read it.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is compressed by method {entry.compress_type}")
            with archive.open(entry) as member:
                found[name] = _read_npy(member, name, like)
    return found


def _read_npy(member: IO[bytes], name: str, like: Array) -> Array:
    """An array of the shape and dtype of `like`, and no byte more."""
    version = npy.read_magic(member)
    if version != (1, 0):  # the later ones are for headers of gigabytes
        raise ValueError(f"{name} is an array of version {version}")
    shape, fortran, dtype = npy.read_array_header_1_0(member)
    _check_array(name, shape, dtype, like)
    data = bytearray()
    while len(data) < like.nbytes:
        part = member.read(min(like.nbytes - len(data), 1 << 24))
        if not part:
            raise ValueError(f"{name} ends after {len(data)} of {like.nbytes} bytes")
        data += part
    if member.read(1):  # the end, where the checksum is compared
        raise ValueError(f"{name} goes on after its {like.nbytes} bytes")
    a: Array = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
    return np.array(a, like.dtype.newbyteorder("="), order="C")


def _write_safetensors(file: IO[bytes], arrays: Arrays) -> None:
    file.write(need("safetensors.numpy", "safetensors").save(arrays))


def _read_safetensors(file: IO[bytes], wanted: Arrays) -> Arrays:
    found: Arrays = need("safetensors.numpy", "safetensors").load(file.read())
    _check_names(list(found), wanted)
    for name, like in wanted.items():
        _check_array(name, found[name].shape, found[name].dtype, like)
    # Their memory is that of the file's bytes, read-only.
    return {name: np.array(a, order="C") for name, a in found.items()}


Writer = Callable[[IO[bytes], Arrays], None]
Reader = Callable[[IO[bytes], Arrays], Arrays]
_FORMATS: dict[str, tuple[Writer, Reader]] = {
    ".npz": (_write_npz, _read_npz),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


def _format(path: Path) -> tuple[Writer, Reader]:
    try:
        return _FORMATS[path.suffix]
    except KeyError:
        raise ValueError(f"path must end in {' or '.join(_FORMATS)}, not {str(path)!r:.80}") from None
