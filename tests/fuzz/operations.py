"""What the fuzzer calls: of each operation, the sizes, the arrays, the results and what they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

import fastconv as fc
from fastconv import functional as F

from . import references as ref

Sizes = dict[str, Any]
EPS = 1e-8


@dataclass(frozen=True)
class Operation:
    draw: Callable[[Random], Sizes]
    shapes: Callable[[Sizes], dict[str, tuple[int, ...]]]
    # Results of the functions, and expectations, given the arrays by name.
    run: Callable[..., tuple[Any, ...]]
    expect: Callable[..., list[ref.Expected]]
    computes_in: tuple[str, ...]  # arrays whose dtypes decide
    layer: Callable[..., tuple[Any, ...]] | None = None  # the same results by a layer
    weight: int = 2


# ---- convolution ---------------------------------------------------------------------------------


def _few(r: Random, most: int) -> int:
    """Mostly 1 to 4, at times up to `most`."""
    return r.randint(1, 4) if r.random() < 0.85 else r.randint(1, most)


def _draw_conv(r: Random, dims: int) -> Sizes:
    while True:
        s: Sizes = {"n": r.choice((0, 1, 1, 2, 3, 9, 16, 64)), "ic": _few(r, 20), "oc": _few(r, 20)}
        for axis in "hw":
            flat = dims == 1 and axis == "h"
            s[f"k{axis}"] = 1 if flat else r.choice((1, 2, 3, 3, 5, r.randint(1, 9)))
            s[f"s{axis}"] = 1 if flat else r.choice((1, 1, 2, r.randint(1, 12)))
            s[f"p{axis}"] = 0 if flat else r.choice((0, 0, 1, s[f"k{axis}"] // 2, r.randint(0, 7)))
            s[f"u{axis}"] = 1 if flat else r.choice((1, 1, 1, 2, r.randint(1, 4)))
            s[f"i{axis}"] = 1 if flat else (r.randint(1, 9) if r.random() < 0.8 else r.randint(1, 40))
        outs = conv_out(s)
        if min(outs) < 1:
            continue
        if max(s["n"], 1) * s["ic"] * s["oc"] * outs[0] * outs[1] * s["kh"] * s["kw"] <= 20000:
            return s


def conv_out(s: Sizes) -> tuple[int, ...]:
    return tuple(
        (s[f"u{x}"] * (s[f"i{x}"] - 1) + 1 + 2 * s[f"p{x}"] - s[f"k{x}"]) // s[f"s{x}"] + 1 for x in "hw"
    )


def _conv_shapes(s: Sizes, dims: int, gradient: bool) -> dict[str, tuple[int, ...]]:
    last = slice(2 - dims, 2)
    image, kernel = (s["ih"], s["iw"])[last], (s["kh"], s["kw"])[last]
    A, W, out = (s["n"], s["ic"], *image), (s["oc"], s["ic"], *kernel), (s["n"], s["oc"], *conv_out(s)[last])
    return {"dLdZ": out, "A": A, "W": W} if gradient else {"A": A, "W": W, "b": (s["oc"],)}


def _steps(s: Sizes, dims: int) -> dict[str, Any]:
    names = {"stride": "s", "padding": "p", "upsampling": "u"}
    return {n: s[f"{x}w"] if dims == 1 else (s[f"{x}h"], s[f"{x}w"]) for n, x in names.items()}


def _plain(a: Any) -> np.ndarray:
    """The numbers of an array of any kind, with the axis that a 1-D image lacks."""
    a = np.asarray(a)
    return a[:, :, None] if a.ndim == 3 else a


def _conv_layer(s: Sizes, dims: int, A: Any, W: Any, b: Any = None, dLdZ: Any = None) -> tuple[Any, ...]:
    kernel = s["kw"] if dims == 1 else (s["kh"], s["kw"])
    pairs = [(s[f"{x}h"], s[f"{x}w"])[2 - dims :] for x in "spu"]
    if any(len(set(pair)) > 1 for pair in pairs):
        return ()
    stride, padding, up = (pair[0] for pair in pairs)
    if up == 1:
        make = fc.Conv1d if dims == 1 else fc.Conv2d
        layer: Any = make(s["ic"], s["oc"], kernel, stride, padding)
    elif stride == 1 and padding == 0:
        make = fc.ConvTranspose1d if dims == 1 else fc.ConvTranspose2d
        layer = make(s["ic"], s["oc"], kernel, up)
    else:
        return ()
    layer.W = W
    if dLdZ is None:
        layer.b = b
        return (layer.forward(A),)
    layer.forward(A)
    return layer.backward(dLdZ), layer.dLdW, layer.dLdb


def _conv(dims: int, gradient: bool) -> Operation:
    forward, backward = getattr(F, f"conv{dims}d_forward"), getattr(F, f"conv{dims}d_backward")

    def run(s: Sizes, **arrays: Any) -> tuple[Any, ...]:
        found = (backward if gradient else forward)(**arrays, **_steps(s, dims))
        return found if gradient else (found,)

    def expect(s: Sizes, real: ref.Real, **arrays: Any) -> list[ref.Expected]:
        expected = ref.conv(s, real, **{name: _plain(a) for name, a in arrays.items()})
        if dims == 2:
            return expected
        return [ref.Expected(*(x[:, :, 0] if np.ndim(x) == 4 else x for x in e)) for e in expected]

    return Operation(
        lambda r: _draw_conv(r, dims), lambda s: _conv_shapes(s, dims, gradient), run, expect,
        ("dLdZ", "A", "W") if gradient else ("A", "W"), lambda s, **a: _conv_layer(s, dims, **a), weight=8,
    )


# ---- pooling -------------------------------------------------------------------------------------


def _draw_pool(r: Random) -> Sizes:
    s: Sizes = {"n": r.choice((0, 1, 1, 2, 3)), "ic": _few(r, 20)}
    for axis in "hw":
        s[f"k{axis}"] = r.choice((1, 2, 3, r.randint(1, 7), r.randint(1, 20)))
        s[f"s{axis}"] = r.choice((1, 2, s[f"k{axis}"], r.randint(1, 9)))
        s[f"i{axis}"] = s[f"k{axis}"] + (r.randint(0, 9) if r.random() < 0.8 else r.randint(0, 40))
    return s


def _pool_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    out = tuple((s[f"i{x}"] - s[f"k{x}"]) // s[f"s{x}"] + 1 for x in "hw")
    return {"A": (s["n"], s["ic"], s["ih"], s["iw"]), "dLdZ": (s["n"], s["ic"], *out)}


def _pool(kind: str) -> Operation:
    forward, backward = getattr(F, f"{kind}_pool2d_forward"), getattr(F, f"{kind}_pool2d_backward")

    def run(s: Sizes, A: Any, dLdZ: Any) -> tuple[Any, ...]:
        Z, workspace = forward(A, (s["kh"], s["kw"]), (s["sh"], s["sw"]))
        places = () if workspace.places is None else (workspace.places,)
        return (Z, *places, backward(dLdZ, workspace))

    def layer(s: Sizes, A: Any, dLdZ: Any) -> tuple[Any, ...]:
        if s["kh"] != s["kw"] or s["sh"] != s["sw"]:
            return ()
        pool = getattr(fc, f"{kind.title()}Pool2d")(s["kh"], s["sh"])
        Z = pool.forward(A)
        places = () if kind == "mean" else (pool._workspace.places,)
        return (Z, *places, pool.backward(dLdZ))

    reference = ref.max_pool if kind == "max" else ref.mean_pool

    def expect(s: Sizes, real: ref.Real, A: Any, dLdZ: Any) -> list[ref.Expected]:
        # The gradient is computed in the dtype of dLdZ, and given in that of Z.
        own = ref.Real(_real_dtype([dLdZ]))
        result = reference(s, real, A, dLdZ)
        return [*result[:-1], reference(s, own, np.asarray(A).astype(own.dtype), dLdZ)[-1]] if (
            own.dtype == real.dtype or kind == "mean"
        ) else [*result[:-1], ref._pool_gradient(s, own, np.shape(A), own(dLdZ), result[1].value)]

    return Operation(_draw_pool, _pool_shapes, run, expect, ("A",), layer, weight=4)


# ---- the rest ------------------------------------------------------------------------------------


def _draw_image(r: Random) -> Sizes:
    n = r.choice((0, 1, 1, 2, 5))
    return {"n": n, "ic": _few(r, 30), "ih": _few(r, 40), "iw": r.choice((1, _few(r, 9), r.randint(1, 70)))}


def _image(s: Sizes) -> tuple[int, ...]:
    return s["n"], s["ic"], s["ih"], s["iw"]


def _positive(V: Any) -> np.ndarray:
    """A variance of the drawn numbers: their magnitudes, without what has no square root."""
    V = np.asarray(V)
    return np.abs(V.astype(np.float64))


def _draw_rows(r: Random) -> Sizes:
    return {"n": r.choice((0, 1, 2, r.randint(1, 20))), "ic": r.choice((1, _few(r, 9), r.randint(1, 70)))}


def _rows(s: Sizes) -> tuple[int, ...]:
    return s["n"], s["ic"]


def _activation(name: str, saved: str, layer: Any = None, **draws: Any) -> Operation:
    """Forward of Z and, with the same arrays, backward: of `saved`, the input or the output."""
    forward, backward = getattr(F, name), getattr(F, f"{name}_backward")
    reference, of_gradient = getattr(ref, name), getattr(ref, f"{name}_gradient")

    def run(s: Sizes, Z: Any, dLdA: Any) -> tuple[Any, ...]:
        extra = (s["beta"],) if "beta" in s else ()
        result = backward(dLdA, Z, *extra)
        return (forward(Z, *extra), *(result if isinstance(result, tuple) else (result,)))

    def expect(s: Sizes, real: ref.Real, Z: Any, dLdA: Any) -> list[ref.Expected]:
        extra = (s["beta"],) if "beta" in s else ()
        return [*reference(real, Z, *extra), *of_gradient(real, dLdA, Z, *extra)]

    def by_layer(s: Sizes, Z: Any, dLdA: Any) -> tuple[Any, ...]:
        made = fc.Swish(s["beta"]) if "beta" in s else layer()
        A = made.forward(Z)
        if saved == "A":  # its backward takes the activation, not Z
            return (A,)
        return (A, made.backward(dLdA), *((made.dLdbeta,) if "beta" in s else ()))

    def draw(r: Random) -> Sizes:
        beta = {"beta": r.choice((1.0, -1.0, 0.0, 1.702, r.uniform(-8, 8)))} if name == "swish" else {}
        return {**_draw_rows(r), **beta}

    return Operation(draw, lambda s: {"Z": _rows(s), "dLdA": _rows(s)}, run, expect, ("Z",), by_layer)


def _loss(name: str, make: Any) -> Operation:
    forward, backward, reference = getattr(F, name), getattr(F, f"{name}_backward"), getattr(ref, name)

    def by_layer(s: Sizes, A: Any, Y: Any) -> tuple[Any, ...]:
        loss = make()
        return loss.forward(A, Y), loss.backward()

    return Operation(
        _draw_rows, lambda s: {"A": _rows(s), "Y": _rows(s)},
        lambda s, A, Y: (forward(A, Y), backward(A, Y)),
        lambda s, real, A, Y: reference(real, A, Y), ("A",), by_layer,
    )


def _linear_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    return {"A": (s["n"], s["ic"]), "W": (s["oc"], s["ic"]), "b": (s["oc"], 1)}


def _linear_layer(s: Sizes, A: Any, W: Any, b: Any, dLdZ: Any = None) -> tuple[Any, ...]:
    layer = fc.Linear(s["ic"], s["oc"])
    layer.W, layer.b = W, b
    Z = layer.forward(A)
    return (Z,) if dLdZ is None else (layer.backward(dLdZ), layer.dLdW, layer.dLdb)


def _draw_linear(r: Random) -> Sizes:
    return {"n": r.choice((0, 1, 2, 7)), "ic": _few(r, 40), "oc": _few(r, 20)}


def _resampled(n: int, k: int, up: bool) -> int:
    return k * (n - 1) + 1 if up else (n - 1) // k + 1


def _resampling(up: bool, gradient: bool) -> Operation:
    function = getattr(F, ("up" if up else "down") + ("sample_backward" if gradient else "sample"))
    name = "dLdZ" if gradient else "A"

    def shape(s: Sizes) -> tuple[int, ...]:
        return s["n"], s["ic"], *((s["ih"], s["iw"]) if s["axes"] == 2 else (s["iw"],))

    def result(s: Sizes) -> tuple[int, ...]:
        return (*shape(s)[:2], *(_resampled(n, s["k"], up) for n in shape(s)[2:]))

    def run(s: Sizes, **arrays: Any) -> tuple[Any, ...]:
        return (function(arrays[name], s["k"], shape(s) if gradient else s["axes"]),)

    def expect(s: Sizes, real: ref.Real, **arrays: Any) -> list[ref.Expected]:
        if up != gradient:
            return ref.spread(real, arrays[name], s["k"], s["axes"], shape(s)[2:] if gradient else None)
        return ref.thin(real, arrays[name], s["k"], s["axes"])

    return Operation(
        lambda r: {**_draw_image(r), "axes": r.choice((1, 2)), "k": r.randint(1, 5)},
        lambda s: {name: result(s) if gradient else shape(s)}, run, expect, (name,), weight=1,
    )


def _draw_norm(r: Random) -> Sizes:
    return {**_draw_image(r), "eps": r.choice((EPS, EPS, 1e-5, 1.0))}


def _norm_layer(s: Sizes, Z: Any, BW: Any, Bb: Any) -> tuple[Any, ...]:
    layer = fc.BatchNorm2d(s["ic"])
    layer.BW, layer.Bb, layer.eps = BW, Bb, s["eps"]
    BZ = layer.forward(Z)
    return (BZ, *layer._workspace)


def _run_norm(s: Sizes, Z: Any, BW: Any, Bb: Any) -> tuple[Any, ...]:
    BZ, workspace = F.batchnorm2d_forward(Z, BW, Bb, s["eps"])
    return (BZ, *workspace)


OPERATIONS = {
    "conv2d": _conv(2, False),
    "conv2d_backward": _conv(2, True),
    "conv1d": _conv(1, False),
    "conv1d_backward": _conv(1, True),
    "max_pool": _pool("max"),
    "mean_pool": _pool("mean"),
    "batch_norm": Operation(
        _draw_norm, lambda s: {"Z": _image(s), "BW": (s["ic"],), "Bb": (1, s["ic"], 1, 1)},
        _run_norm, lambda s, real, Z, BW, Bb: ref.batch_norm(real, Z, BW, Bb, s["eps"]),
        ("Z", "BW"), _norm_layer,
    ),
    "batch_norm_eval": Operation(
        _draw_norm,
        lambda s: {"Z": _image(s), "BW": (s["ic"],), "Bb": (s["ic"],), "M": (s["ic"],), "V": (s["ic"],)},
        lambda s, V, **a: (F.batchnorm2d_eval(**a, V=_positive(V), eps=s["eps"]),),
        lambda s, real, V, **a: ref.batch_norm_eval(real, **a, V=_positive(V), eps=s["eps"]), ("Z", "BW"),
    ),
    "batch_norm_backward": Operation(
        _draw_norm,
        lambda s: {"dLdBZ": _image(s), "Z": _image(s), "BW": (s["ic"],), "M": (s["ic"],), "V": (s["ic"],)},
        lambda s, M, V, **a: F.batchnorm2d_backward(
            **a, workspace=F.BatchNormWorkspace(M, _positive(V)), eps=s["eps"]),
        lambda s, real, M, V, **a: ref.batch_norm_gradient(
            real, **a, mean=M, var=_positive(V), eps=s["eps"]),
        ("dLdBZ", "Z", "BW"),
    ),
    "scale_channels": Operation(
        _draw_image, lambda s: {"A": _image(s), "factors": (s["n"], s["ic"])},
        lambda s, **a: (F.scale_channels(**a),), lambda s, real, **a: ref.scale_channels(real, **a),
        ("A", "factors"), weight=1,
    ),
    "upsample": _resampling(True, False),
    "upsample_backward": _resampling(True, True),
    "downsample": _resampling(False, False),
    "downsample_backward": _resampling(False, True),
    "linear": Operation(
        _draw_linear, _linear_shapes, lambda s, **a: (F.linear_forward(**a),),
        lambda s, real, **a: ref.linear(real, **a), ("A", "W"), _linear_layer,
    ),
    "linear_backward": Operation(
        _draw_linear, lambda s: {"dLdZ": (s["n"], s["oc"]), **_linear_shapes(s)},
        lambda s, **a: F.linear_backward(**a), lambda s, real, **a: ref.linear_gradient(real, **a),
        ("dLdZ", "A", "W"), _linear_layer,
    ),
    "sigmoid": _activation("sigmoid", "A", fc.Sigmoid),
    "tanh": _activation("tanh", "A", fc.Tanh),
    "relu": _activation("relu", "Z", fc.ReLU),
    "gelu": _activation("gelu", "Z", fc.GELU),
    "swish": _activation("swish", "Z"),
    "softmax": _activation("softmax", "A", fc.Softmax),
    "mse": _loss("mse", fc.MSELoss),
    "cross_entropy": _loss("cross_entropy", fc.CrossEntropyLoss),
}


def _real_dtype(arrays: Any) -> np.dtype:
    """What NumPy promotes to, narrowed to float32 or float64; half precision alone is float64."""
    dtypes = [np.asarray(a).dtype for a in arrays]
    promoted = np.result_type(*dtypes)
    single = promoted == np.float32 or (promoted == np.float16 and len(dtypes) > 1)
    return np.dtype(np.float32 if single else np.float64)


def real_of(operation: Operation, arrays: dict[str, Any]) -> ref.Real:
    return ref.Real(_real_dtype([arrays[name] for name in operation.computes_in]))
