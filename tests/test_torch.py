"""PyTorch as an outside oracle, where it is installed: other code, written by others, of the same layers."""

import numpy as np
import pytest

import fastconv as fc
import oracles
from fastconv import functional as F

torch = pytest.importorskip("torch", reason="PyTorch, the outside oracle, is an optional dependency")

TF = torch.nn.functional


def leaf(x):
    """Computed in float64 whatever the dtype of x: more precise than what is tested in float32."""
    return torch.tensor(np.array(x, np.float64, order="C"), requires_grad=True)


def agree(found, expected, terms, dtype):
    """Within rounding of sums of so many products, each term taken for as large as the largest sum."""
    expected = np.asarray(expected.detach().numpy(), oracles.EXTENDED)
    assert found.dtype == dtype
    size = 1 + abs(expected).max() if expected.size else 1
    oracles.assert_within(found, expected, oracles.rounding(terms, dtype) * size)


CONVOLUTIONS = [
    # images, channels, filters, (H, W), kernel, stride, padding
    (2, 3, 4, (9, 11), (3, 3), 1, 0),
    (2, 3, 5, (9, 11), (3, 2), 2, 1),
    (3, 4, 7, (12, 10), (5, 4), 3, 4),
    (1, 1, 1, (4, 4), (4, 4), 1, 0),
    (2, 8, 20, (20, 19), (3, 3), 1, 1),
    (2, 2, 3, (15, 14), (2, 3), 5, 0),
]


@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=str)
def test_conv2d(backend, dtype, rng, problem):
    images, channels, filters, sizes, kernel, stride, padding = problem
    layer = fc.Conv2d(channels, filters, kernel, stride, padding, dtype=dtype)
    layer.b = rng.standard_normal(filters).astype(dtype)
    A = rng.standard_normal((images, channels, *sizes)).astype(dtype)
    a, w, b = leaf(A), leaf(layer.W), leaf(layer.b)
    z = TF.conv2d(a, w, b, stride=stride, padding=padding)
    dLdZ = rng.standard_normal(z.shape).astype(dtype)
    z.backward(torch.tensor(dLdZ.astype(np.float64)))
    taps = kernel[0] * kernel[1]
    agree(layer.forward(A), z, channels * taps, dtype)
    agree(layer.backward(dLdZ), a.grad, filters * taps, dtype)
    agree(layer.dLdW, w.grad, dLdZ.size // filters, dtype)
    agree(layer.dLdb, b.grad, dLdZ.size // filters, dtype)


@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=str)
def test_conv1d(backend, dtype, rng, problem):
    images, channels, filters, (_, width), (_, kernel), stride, padding = problem
    layer = fc.Conv1d(channels, filters, kernel, stride, padding, dtype=dtype)
    layer.b = rng.standard_normal(filters).astype(dtype)
    A = rng.standard_normal((images, channels, width)).astype(dtype)
    a, w, b = leaf(A), leaf(layer.W), leaf(layer.b)
    z = TF.conv1d(a, w, b, stride=stride, padding=padding)
    dLdZ = rng.standard_normal(z.shape).astype(dtype)
    z.backward(torch.tensor(dLdZ.astype(np.float64)))
    agree(layer.forward(A), z, channels * kernel, dtype)
    agree(layer.backward(dLdZ), a.grad, filters * kernel, dtype)
    agree(layer.dLdW, w.grad, dLdZ.size // filters, dtype)
    agree(layer.dLdb, b.grad, dLdZ.size // filters, dtype)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("axes", [1, 2])
def test_transposed_convolution(backend, dtype, rng, axes, factor):
    # The course's layer is another library's with the kernel rotated and padding k - 1.
    layer = (fc.ConvTranspose1d, fc.ConvTranspose2d)[axes - 1](3, 4, 3, factor, dtype=dtype)
    A = rng.standard_normal((2, 3, 7, 6)[: 2 + axes]).astype(dtype)
    turn = (slice(None),) * 2 + (slice(None, None, -1),) * axes
    a, w = leaf(A), leaf(layer.W[turn].swapaxes(0, 1))
    z = (TF.conv_transpose1d, TF.conv_transpose2d)[axes - 1](a, w, stride=factor, padding=2)
    dLdZ = rng.standard_normal(z.shape).astype(dtype)
    z.backward(torch.tensor(dLdZ.astype(np.float64)))
    agree(layer.forward(A), z, 3 * 3**axes, dtype)
    agree(layer.backward(dLdZ), a.grad, 4 * 3**axes, dtype)
    agree(layer.dLdW[turn].swapaxes(0, 1), w.grad, dLdZ.size // 4, dtype)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2), (5, 3), (1, 4), (17, 2)])
@pytest.mark.parametrize("kind", ["Max", "Mean"])
def test_pooling(backend, dtype, rng, kind, kernel, stride):
    layer = getattr(fc, f"{kind}Pool2d")(kernel, stride)
    A = rng.standard_normal((2, 3, 21, 23)).astype(dtype)
    a = leaf(A)
    z = (TF.max_pool2d if kind == "Max" else TF.avg_pool2d)(a, kernel, stride)
    dLdZ = rng.standard_normal(z.shape).astype(dtype)
    z.backward(torch.tensor(dLdZ.astype(np.float64)))
    agree(layer.forward(A), z, kernel**2, dtype)
    agree(layer.backward(dLdZ), a.grad, kernel**2, dtype)


def test_max_pool_indices(backend, rng):
    A = rng.integers(0, 3, (2, 3, 9, 10)).astype(float)
    _, workspace = F.max_pool2d_forward(A, (3, 2), (2, 1))
    _, flat = TF.max_pool2d(torch.tensor(A), (3, 2), (2, 1), return_indices=True)
    np.testing.assert_array_equal(np.stack(np.divmod(flat.numpy(), 10), axis=-1), workspace.max_indices)


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 1, 40, 30), (8, 5, 1, 1)], ids=str)
def test_batch_norm(backend, dtype, rng, shape):
    channels, count = shape[1], shape[0] * shape[2] * shape[3]
    layer = fc.BatchNorm2d(channels, 0.9, dtype=dtype)
    layer.BW, layer.Bb = (rng.standard_normal(layer.BW.shape).astype(dtype) for _ in range(2))
    twin = torch.nn.BatchNorm2d(channels, eps=1e-8, momentum=0.1, dtype=torch.float64)
    with torch.no_grad():
        twin.weight[:] = torch.tensor(layer.BW.ravel().astype(float))
        twin.bias[:] = torch.tensor(layer.Bb.ravel().astype(float))
    Z, dLdBZ = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    z = leaf(Z)
    bz = twin(z)
    bz.backward(torch.tensor(dLdBZ.astype(np.float64)))
    agree(layer.forward(Z), bz, count, dtype)
    agree(layer.backward(dLdBZ), z.grad, count, dtype)
    agree(layer.dLdBW.ravel(), twin.weight.grad, count, dtype)
    agree(layer.dLdBb.ravel(), twin.bias.grad, count, dtype)
    agree(layer.running_M.ravel(), twin.running_mean, count, dtype)
    # PyTorch keeps the unbiased variance, the course the biased one.
    unbiased = (twin.running_var - 0.9) * (count - 1) / count + 0.9
    agree(layer.running_V.ravel(), unbiased, count, dtype)
    with torch.no_grad():
        twin.running_var[:] = unbiased
    agree(layer.forward(Z, eval=True), twin.eval()(leaf(Z)), count, dtype)


ACTIVATIONS = {
    "Sigmoid": (fc.Sigmoid, torch.sigmoid),
    "Tanh": (fc.Tanh, torch.tanh),
    "ReLU": (fc.ReLU, torch.relu),
    "GELU": (fc.GELU, TF.gelu),
    "SiLU": (fc.Swish, TF.silu),
    "Swish": (lambda: fc.Swish(1.7), lambda z: z * torch.sigmoid(1.7 * z)),
    "Softmax": (fc.Softmax, lambda z: torch.softmax(z, dim=1)),
}


@pytest.mark.parametrize("pair", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_activations(backend, dtype, rng, pair):
    layer, Z = pair[0](), (rng.standard_normal((40, 7)) * 4).astype(dtype)
    z = leaf(Z)
    a = pair[1](z)
    dLdA = rng.standard_normal(Z.shape).astype(dtype)
    a.backward(torch.tensor(dLdA.astype(np.float64)))
    agree(layer.forward(Z), a, 7, dtype)
    agree(layer.backward(dLdA), z.grad, 7, dtype)


def test_linear(dtype, rng):
    layer = fc.Linear(6, 5, dtype=dtype)
    layer.W, layer.b = (rng.standard_normal(x.shape).astype(dtype) for x in (layer.W, layer.b))
    A, dLdZ = (rng.standard_normal(shape).astype(dtype) for shape in ((9, 6), (9, 5)))
    a, w, b = leaf(A), leaf(layer.W), leaf(layer.b.ravel())
    z = TF.linear(a, w, b)
    z.backward(torch.tensor(dLdZ.astype(np.float64)))
    agree(layer.forward(A), z, 6, dtype)
    agree(layer.backward(dLdZ), a.grad, 5, dtype)
    agree(layer.dLdW, w.grad, 9, dtype)
    agree(layer.dLdb.ravel(), b.grad, 9, dtype)


@pytest.mark.parametrize(
    ("name", "function"), [("MSELoss", TF.mse_loss), ("CrossEntropyLoss", TF.cross_entropy)]
)
def test_losses(dtype, rng, name, function):
    loss = getattr(fc, name)()
    A, Y = rng.standard_normal((8, 5)).astype(dtype), np.eye(5, dtype=dtype)[rng.integers(0, 5, 8)]
    a = leaf(A)
    value = function(a, torch.tensor(Y.astype(np.float64)))
    value.backward()
    assert abs(loss.forward(A, Y) - value.item()) <= oracles.rounding(40, dtype) * (1 + value.item())
    agree(loss.backward(), a.grad, 40, dtype)
