"""Ways in which an array can lie in memory. All change no number but the broadcast ones."""

import numpy as np

import guarded


class Subclass(np.ndarray):
    """An ndarray by another name."""


def in_a_larger_array(a):
    larger = np.zeros([2 * size for size in a.shape], a.dtype)
    every_second = larger[(slice(None, None, 2),) * a.ndim]
    every_second[...] = a
    return every_second


def unaligned(a):
    buffer = bytearray(a.nbytes + 1)
    view = np.frombuffer(buffer, a.dtype, offset=1, count=a.size).reshape(a.shape)
    view[...] = a
    return view


def reversed_on_all_axes(a):
    everywhere = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[everywhere])[everywhere]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "first and last axis exchanged": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "negative strides": reversed_on_all_axes,
    "gaps": in_a_larger_array,
    "zero strides in the batch": lambda a: np.broadcast_to(a[:1], a.shape),
    "zero strides in rows": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "all strides zero": lambda a: np.broadcast_to(a.ravel()[0], a.shape),
    "unaligned": unaligned,
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
    "before a forbidden page": guarded.copy,
    "behind a forbidden page": lambda a: guarded.copy(a, "start"),
    "subclass": lambda a: a.view(Subclass),
    "masked array without a mask": np.ma.array,
    "nested lists": lambda a: a.tolist(),
}
