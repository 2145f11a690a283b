"""Max and mean pooling of 2-D images, with any window and stride, unpadded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _check as check
from .._check import FLOAT32, FLOAT64, Array, Pair
from ..backend import empty, kernels, threads_for

# A number of the image takes about as long as so many multiply-adds: 0.3 to 1 ns. Two threads pay
# from 30000 numbers on.
_STEPS = 8


class PoolWorkspace(NamedTuple):
    """What a pooling forward keeps for its backward.

    Attributes
    ----------
    shape, dtype
        Of the input A.
    kernel, stride : (int, int)
    places : ndarray (N, C, Ho, Wo), or None for a mean
        Each output's argmax, as its position in the window, row-major: uint8 for windows of up to
        256 elements, else intp.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kernel: Pair
    stride: Pair
    places: Array | None = None

    @property
    def out_shape(self) -> tuple[int, ...]:
        return _out_shape(self.shape, self.kernel, self.stride)

    @property
    def max_indices(self) -> Array:
        """Each output's argmax as (row, column) in the input, int64 (N, C, Ho, Wo, 2)."""
        assert self.places is not None
        rows, cols = np.divmod(self.places.astype(np.int64), self.kernel[1])
        rows += np.arange(self.places.shape[2])[:, None] * self.stride[0]
        cols += np.arange(self.places.shape[3]) * self.stride[1]
        return np.stack((rows, cols), axis=-1)


def max_pool2d_forward(
    A: Any, kernel: int | Pair, stride: int | Pair = 1
) -> tuple[Array, PoolWorkspace]:
    """Maximum over each window.

    Parameters
    ----------
    A : array_like (N, C, H, W)
    kernel, stride : int or (int, int)

    Returns
    -------
    Z : ndarray (N, C, (H - k)//s + 1, (W - k)//s + 1)
        float32 for float32, else float64. A window that holds a NaN gives NaN.
    workspace : PoolWorkspace
        For `max_pool2d_backward`. Ties, and NaNs, go to the first in row-major order.

    Raises
    ------
    TypeError, ValueError
        A is no array of real numbers with four dimensions; a size is no positive integer; the
        window is larger than the image.
    """
    a, k, s, Z = _prepare(A, kernel, stride)
    places = empty("the places", Z.shape, _dtype_of_places(k))
    kernels(Z.dtype).max_pool(a, Z, places, k, s, threads_for(_STEPS * a.size))
    return Z, PoolWorkspace(a.shape, Z.dtype, k, s, places)


def max_pool2d_backward(dLdZ: Any, workspace: PoolWorkspace) -> Array:
    """Route dLdZ to each window's argmax, adding where windows share it.

    Returns
    -------
    ndarray (N, C, H, W)
        In the dtype of the forward's result.

    Raises
    ------
    TypeError, ValueError
        dLdZ is no such array or not of the shape of Z; the workspace is not one of
        `max_pool2d_forward`.
    """
    dz, dx, workspace = _prepare_backward(dLdZ, workspace)
    places = workspace.places
    if (
        type(places) is not np.ndarray
        or places.shape != dz.shape
        or places.dtype != _dtype_of_places(workspace.kernel)
        or not kernels(dx.dtype).max_pool_gradient(
            dz, check.ready(places, places.dtype), dx, workspace.kernel, workspace.stride,
            threads_for(_STEPS * dx.size),
        )
    ):
        raise ValueError("workspace.places is not what max_pool2d_forward made")
    return dx.astype(workspace.dtype, copy=False)


def mean_pool2d_forward(
    A: Any, kernel: int | Pair, stride: int | Pair = 1
) -> tuple[Array, PoolWorkspace]:
    """Mean over each window. Arguments, results and errors as of `max_pool2d_forward`."""
    a, k, s, Z = _prepare(A, kernel, stride)
    kernels(Z.dtype).mean_pool(a, Z, k, s, threads_for(_STEPS * a.size))
    return Z, PoolWorkspace(a.shape, Z.dtype, k, s)


def mean_pool2d_backward(dLdZ: Any, workspace: PoolWorkspace) -> Array:
    """Spread dLdZ / (kh * kw) over each window. Results and errors as of `max_pool2d_backward`."""
    dz, dx, workspace = _prepare_backward(dLdZ, workspace)
    kernels(dx.dtype).mean_pool_gradient(
        dz, dx, workspace.kernel, workspace.stride,
        threads_for(_STEPS * dx.size),
    )
    return dx.astype(workspace.dtype, copy=False)


def _dtype_of_places(kernel: Pair) -> np.dtype[Any]:
    return np.dtype(np.uint8 if kernel[0] * kernel[1] <= 256 else np.intp)


def _out_shape(shape: tuple[int, ...], kernel: Pair, stride: Pair) -> tuple[int, ...]:
    N, C, H, W = shape
    return N, C, (H - kernel[0]) // stride[0] + 1, (W - kernel[1]) // stride[1] + 1


def _prepare(A: Any, kernel: int | Pair, stride: int | Pair) -> tuple[Array, Pair, Pair, Array]:
    a = check.array("A", A, 4)
    k, s = check.pair("kernel", kernel, 1), check.pair("stride", stride, 1)
    check.not_empty("A", a)
    if k[0] > a.shape[2] or k[1] > a.shape[3]:
        raise ValueError(f"the window {k} is larger than the image of A: {a.shape[2:]}")
    # A longer step than the image is as good, and can overflow in the kernels.
    s = min(s[0], a.shape[2]), min(s[1], a.shape[3])
    dtype = check.real_dtype(a)
    Z = empty("the result", _out_shape(a.shape, k, s), dtype)
    return check.ready(a, dtype, "A"), k, s, Z


def _prepare_backward(dLdZ: Any, workspace: PoolWorkspace) -> tuple[Array, Array, PoolWorkspace]:
    dz = check.array("dLdZ", dLdZ, 4)
    workspace = _checked(workspace)
    check.same_shape("dLdZ", dz, workspace.out_shape, "Z")
    dtype = check.real_dtype(dz)
    dx = empty("dLdA", workspace.shape, dtype)
    return check.ready(dz, dtype, "dLdZ"), dx, workspace


def _checked(workspace: PoolWorkspace) -> PoolWorkspace:
    """The kernels write where a workspace says, so one that does not fit itself must not reach them."""
    if type(workspace) is not PoolWorkspace:  # what another class gives may be another thing each time
        raise TypeError(f"workspace must be the PoolWorkspace of the forward, not {type(workspace).__name__}")
    shape = _integers("shape", workspace.shape, (0, 1, 1, 1))
    kernel = _integers("kernel", workspace.kernel, (1, 1))
    stride = _integers("stride", workspace.stride, (1, 1))
    if kernel[0] > shape[2] or kernel[1] > shape[3] or stride[0] > shape[2] or stride[1] > shape[3]:
        raise ValueError(f"workspace does not fit itself: shape {shape}, kernel {kernel}, stride {stride}")
    dtype = workspace.dtype
    if dtype is not FLOAT32 and dtype is not FLOAT64:
        dtype = check.parameter_dtype(dtype)
    return PoolWorkspace(shape, dtype, (kernel[0], kernel[1]), (stride[0], stride[1]), workspace.places)


def _integers(name: str, values: Any, least: tuple[int, ...]) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) != len(least):
        raise ValueError(f"workspace.{name} must be {len(least)} integers, not {values!r:.40}")
    for value, lowest in zip(values, least):
        if type(value) is not int or value < lowest:
            return tuple(check.integer(f"workspace.{name}", n, low) for n, low in zip(values, least))
    return values
