"""ONNX Runtime: one node a model, forward alone. The weights are inputs, since they change in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._check import Array
from ...extras import need
from .arrays import Arrays
from .base import Call, Contender
from .torch import _rotated

_OPSET = 20  # the first with Gelu
_NODES = {"relu": "Relu", "gelu": "Gelu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}


class Onnx(Contender):
    name = "onnx"
    modules = ("onnx", "onnxruntime")

    def __init__(self) -> None:
        self.onnx, self.runtime = need("onnx", "peers"), need("onnxruntime", "peers")
        self.threads = 1

    def set_threads(self, count: int) -> None:
        self.threads = count  # of the sessions made from now on

    def conv(self, a: Arrays) -> dict[str, Call]:
        p = a.problem
        if all(u == 1 for u in p.up):
            return self._node(
                "Conv", {"X": a.X, "W": a.W, "b": a.b}, strides=p.stride, pads=p.padding * 2,
            )
        padding = tuple(k - 1 - q for k, q in zip(p.kernel, p.padding))
        if any(s > 1 for s in p.stride) or min(padding) < 0:
            return {}
        W = np.ascontiguousarray(_rotated(a.W))
        return self._node("ConvTranspose", {"X": a.X, "W": W, "b": a.b}, strides=p.up, pads=padding * 2)

    def pool(self, a: Arrays) -> dict[str, Call]:
        node = "MaxPool" if a.problem.op == "max" else "AveragePool"
        return self._node(node, {"X": a.X}, kernel_shape=a.problem.kernel, strides=a.problem.stride)

    def activation(self, a: Arrays) -> dict[str, Call]:
        return self._node(_NODES[a.problem.op], {"X": a.X})

    def linear(self, a: Arrays) -> dict[str, Call]:
        return self._node("Gemm", {"X": a.X, "W": a.W, "b": a.b}, transB=1)

    def _node(self, kind: str, feed: dict[str, Array], **attributes: Any) -> dict[str, Call]:
        helper, failures = self.onnx.helper, self.runtime.capi.onnxruntime_pybind11_state
        number = helper.np_dtype_to_tensor_dtype(feed["X"].dtype)
        inputs = [helper.make_tensor_value_info(name, number, x.shape) for name, x in feed.items()]
        output = helper.make_tensor_value_info("Z", number, None)
        node = helper.make_node(kind, list(feed), ["Z"], **attributes)
        graph = helper.make_graph([node], kind, inputs, [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # what it lacks is no news here
        try:
            session = self.runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except (failures.NotImplemented, failures.InvalidGraph):  # most nodes have no float64
            return {}
        return {"fwd": lambda: session.run(None, feed)[0]}
