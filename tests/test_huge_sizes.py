"""Sizes beyond any memory, and beyond any integer of the machine: refused before anything is allocated.

Each runs in a process of its own: where such sizes get through they kill or hang it.
"""

import pytest

from support import output_of

PREPARE = """
import copy, warnings
import numpy as np
import fastconv as fc
import fastconv.functional as F
warnings.simplefilter("error")
A1, A2 = np.ones((2, 3, 9)), np.ones((2, 3, 9, 9))
W1, W2 = np.ones((4, 3, 3)), np.ones((4, 3, 3, 3))
def huge(*shape):
    return np.broadcast_to(1.0, shape)
def outcome(call):
    try:
        return call().shape
    except (MemoryError, ValueError) as error:
        return type(error).__name__
"""
REFUSED = {
    # name: (what is called, what it raises)
    "padding": ("F.conv2d_forward(A2, W2, padding=2**62)", "ValueError"),
    "padding beyond 64 bits": ("F.conv1d_forward(A1, W1, padding=2**70)", "ValueError"),
    "upsampling": ("F.conv2d_forward(A2, W2, upsampling=2**40)", "ValueError"),
    "upsampling in 1-D": ("F.conv1d_forward(A1, W1, upsampling=2**60)", "ValueError"),
    "Upsample1d": ("fc.Upsample1d(2**62).forward(A1)", "ValueError"),
    "Upsample2d": ("fc.Upsample2d(2**40).forward(A2)", "ValueError"),
    "more memory than there is": ("fc.Upsample2d(2**17).forward(A2)", "MemoryError"),
    "more memory than there is, by padding": ("F.conv2d_forward(A2, W2, padding=2**20)", "MemoryError"),
    "ConvTranspose2d": ("fc.ConvTranspose2d(3, 4, 3, 2**40).forward(A2)", "ValueError"),
    "Conv2d padding": ("fc.Conv2d(3, 4, 3, 1, 2**62).forward(A2)", "ValueError"),
    "both stride and padding": ("F.conv2d_forward(A2, W2, stride=2**62, padding=2**62)", "ValueError"),
    "both, beyond 64 bits": ("F.conv2d_forward(A2, W2, stride=2**70, padding=2**70)", "ValueError"),
}
# Sizes that are large and still mean something: the same as a size that just exceeds the input.
MEANT = {
    "stride": ("F.conv2d_forward(A2, W2, stride={})", 20),
    "stride in 1-D": ("F.conv1d_forward(A1, W1, stride={})", 20),
    "gradient of a stride": ("F.conv2d_backward(np.ones((2, 4, 1, 1)), A2, W2, stride={})[0]", 20),
    "weight gradient of a stride": ("F.conv2d_backward(np.ones((2, 4, 1, 1)), A2, W2, stride={})[1]", 20),
    "max pool": ("fc.MaxPool2d(3, {}).forward(A2)", 20),
    "mean pool": ("fc.MeanPool2d(3, {}).forward(A2)", 20),
    "gradient of a mean pool": ("F.mean_pool2d_backward(np.ones((2, 3, 1, 1)), "
                                "F.mean_pool2d_forward(A2, 3, {})[1])", 20),
    "gradient of a max pool": ("F.max_pool2d_backward(np.ones((2, 3, 1, 1)), "
                               "F.max_pool2d_forward(A2, 3, {})[1])", 20),
    "downsampling": ("fc.Downsample2d({}).forward(A2)", 20),
    "upsampling of one number": ("fc.Upsample1d({}).forward(A1[:, :, :1])", 20),
    "transposed convolution of one number": (
        "F.conv1d_forward(A1[:, :, :1], W1[:, :, :1], upsampling={})", 20),
    "gradient of a transposed convolution": (
        "F.conv1d_backward(np.ones((2, 4, 1)), A1[:, :, :1], W1[:, :, :1], upsampling={})[1]", 20),
}
VIEWS = {
    "Conv1d": ("fc.Conv1d(3, 4, 3, 2**42)", "huge(2, 3, 2**43)"),
    "Conv2d": ("fc.Conv2d(3, 4, 3, 2**20)", "huge(2, 3, 2**22, 2**22)"),
    "Conv2d of integers": ("fc.Conv2d(3, 4, 3, 2**20)", "np.broadcast_to(np.int8(1), (2, 3, 2**22, 2**22))"),
    "MaxPool2d": ("fc.MaxPool2d(3, 2**20)", "huge(2, 3, 2**22, 2**22)"),
    "MeanPool2d": ("fc.MeanPool2d(3, 2**20)", "huge(2, 3, 2**22, 2**22)"),
    "BatchNorm2d": ("fc.BatchNorm2d(3)", "huge(2, 3, 2**22, 2**22)"),
    "Dropout2d": ("fc.Dropout2d(0.5)", "huge(2, 3, 2**22, 2**22)"),
    "Upsample1d": ("fc.Upsample1d(2)", "huge(2, 3, 2**43)"),
    "Downsample1d": ("fc.Downsample1d(2)", "huge(2, 3, 2**43)"),
    "Downsample2d": ("fc.Downsample2d(2)", "huge(2, 3, 2**22, 2**22)"),
    "Linear": ("fc.Linear(5, 4)", "huge(2**43, 5)"),
    "Softmax": ("fc.Softmax()", "huge(2**43, 5)"),
    "ReLU": ("fc.ReLU()", "huge(2**43, 5)"),
    "GELU": ("fc.GELU()", "huge(2**43, 5)"),
    "Sigmoid": ("fc.Sigmoid()", "huge(2**43, 5)"),
    "Tanh": ("fc.Tanh()", "huge(2**43, 5)"),
    "Swish": ("fc.Swish()", "huge(2**43, 5)"),
    "ResBlock": ("fc.ResBlock(3, 4, 3)", "huge(2, 3, 2**22, 2**22)"),
}
backends = pytest.mark.parametrize("backend", ["compiled", "pure"])


def run(script, **variables):
    return output_of(PREPARE + script, timeout=200, **variables).splitlines()


@backends
def test_sizes_that_overflow(backend):
    script = "".join(f"print(outcome(lambda: {call}))\n" for call, _ in REFUSED.values())
    found = dict(zip(REFUSED, run(script, FASTCONV_BACKEND=backend)))
    assert found == {name: error for name, (_, error) in REFUSED.items()}


def exceeding(call, enough):
    """A script that prints True for each size whose answer is right, or a ValueError."""
    return f"wanted = {call.format(enough)}\n" + "".join(
        f"""
try:
    same = np.array_equal({call.format(size)}, wanted)
except ValueError:
    same = True
print(same)
""" for size in ("10**9", "2**62", "2**63 - 1", "2**70"))


# A process for each, for any may hang; the pure kernels have nothing to overflow.
@pytest.mark.parametrize("name", MEANT)
def test_sizes_that_exceed_the_input(name):
    assert run(exceeding(*MEANT[name])) == ["True"] * 4


def test_sizes_that_exceed_the_input_of_pure_kernels():
    script = "".join(exceeding(*values) for values in MEANT.values())
    assert run(script, FASTCONV_BACKEND="pure") == ["True"] * 4 * len(MEANT)


@backends
def test_huge_views_are_judged_before_they_are_copied(backend):
    script = "".join(f"""
layer = {make}
before = repr(vars(copy.deepcopy(layer)).keys())
outcomes = [outcome(lambda: layer.forward({view})), repr(vars(layer).keys()) == before]
try:
    layer.backward(1.0)
except (RuntimeError, TypeError, ValueError, AssertionError) as error:
    outcomes.append(type(error).__name__)
print(*outcomes)
""" for make, view in VIEWS.values())
    for name, line in zip(VIEWS, run(script, FASTCONV_BACKEND=backend), strict=True):
        error, same, after = line.split()
        assert error in ("MemoryError", "ValueError"), name
        assert same == "True", name
        # Nothing was stored. An upsampling layer needs nothing stored, and judges the gradient.
        assert after == ("ValueError" if "Upsample" in name else "RuntimeError"), name


@backends
def test_huge_gradients_and_parameters(backend):
    calls = [
        "F.conv2d_backward(huge(2, 4, 2**22, 2**22), huge(2, 3, 2**22 + 2, 2**22 + 2), W2)[0]",
        "F.conv2d_forward(A2, huge(4, 3, 2**22, 2**22), padding=2**21, stride=2**30)",
        "F.mean_pool2d_backward(huge(2, 3, 2**22, 2**22), F.mean_pool2d_forward(A2, 3)[1])",
        "F.batchnorm2d_backward(huge(2, 3, 2**22, 2**22), huge(2, 3, 2**22, 2**22), np.ones(3), "
        "(np.zeros(3), np.ones(3)))[0]",
        "F.linear_backward(huge(2**43, 4), huge(2**43, 5), np.ones((4, 5)), np.ones(4))[0]",
        "F.linear_forward(huge(4, 2**43), huge(4, 2**43), np.ones(4))",
        "F.linear_backward(huge(4, 3), huge(4, 2**43), huge(3, 2**43), np.ones(3))[0]",
        "F.softmax_backward(huge(2**43, 5), huge(2**43, 5))",
        "F.relu_backward(huge(2**43, 5), huge(2**43, 5))",
        "F.sigmoid_backward(huge(2**43, 5), huge(2**43, 5))",
        "F.mse_backward(huge(2**43, 5), huge(2**43, 5))",
        "F.cross_entropy(huge(2**43, 5), huge(2**43, 5))",
        "F.upsample_backward(huge(2, 3, 2**43 - 1), 2, (2**42,))",
        "F.downsample_backward(np.ones((2, 3, 1)), 2**70, (2**62,))",
    ]
    script = "".join(f"print(outcome(lambda: {call}), flush=True)\n" for call in calls)
    found = run(script, FASTCONV_BACKEND=backend)
    for call, error in zip(calls, found, strict=True):
        assert error in ("MemoryError", "ValueError"), call


@backends
def test_huge_layers(backend):
    calls = [
        "fc.Conv2d(2**20, 2**20, 2**20, 1)", "fc.Linear(2**40, 2**40)", "fc.BatchNorm2d(2**50)",
        "fc.Conv1d(2**70, 1, 1, 1)", "fc.Linear(2**21, 2**21)",
    ]
    script = "".join(f"print(outcome(lambda: {call}))\n" for call in calls)
    for line in run(script, FASTCONV_BACKEND=backend):
        assert line in ("MemoryError", "ValueError")


@backends
def test_a_workspace_that_lies_cannot_reach_other_memory(backend):
    script = """
n = 0
for kernel in ((4, 4), (-5, -5), (0, 0), (3, 3), (2.5, 2.5), (2**62, 2**62)):
    for stride in ((-1, -1), (0, 0), (1, 1), (1.0, 1.0), (-2**62, 1)):
        for size in range(0, 12):
            for make, backward in (("max", F.max_pool2d_backward), ("mean", F.mean_pool2d_backward)):
                places = np.full((1, 1, size, size), 3, np.uint8) if make == "max" else None
                workspace = F.PoolWorkspace((1, 1, 3, 3), np.dtype(float), kernel, stride, places)
                try:
                    dLdA = backward(np.ones((1, 1, size, size)), workspace)
                    assert (kernel, stride, size) == ((3, 3), (1, 1), 1), (kernel, stride, size)
                    assert dLdA.sum() == 1
                    n += 1
                except (TypeError, ValueError) as error:
                    pass
print(n)
"""
    assert run(script, FASTCONV_BACKEND=backend) == ["2"]
