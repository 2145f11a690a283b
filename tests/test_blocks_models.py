"""ConvBlock, IdentityBlock, ResBlock, MLP, the scanning networks and CNN: composition of the layers."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles
from support import differences, snapshot

# ---- blocks --------------------------------------------------------------------------------------


def test_conv_block_is_a_padded_convolution_and_batch_norm(backend, rng):
    block = fc.ConvBlock(3, 4, 3, 2, 1)
    conv, norm = block.layers
    assert (type(conv), type(norm)) == (fc.Conv2d, fc.BatchNorm2d)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.pad) == (3, 4, 3, 2, 1)
    A = rng.standard_normal((2, 3, 8, 9))
    alone, alone_norm = fc.Conv2d(3, 4, 3, 2, 1), fc.BatchNorm2d(4)
    alone.W = conv.W.copy()
    BZ = alone_norm.forward(alone.forward(A))
    assert_array_equal(block.forward(A), BZ)
    dLdZ = rng.standard_normal(BZ.shape)
    assert_array_equal(block.backward(dLdZ), alone.backward(alone_norm.backward(dLdZ)))
    assert_array_equal(conv.dLdW, alone.dLdW)
    assert_array_equal(norm.dLdBW, alone_norm.dLdBW)
    before = norm.running_M.copy()
    assert_array_equal(block.forward(A, eval=True), alone_norm.forward(alone.forward(A), eval=True))
    assert_array_equal(norm.running_M, before)


def test_identity_block_changes_nothing(rng):
    A = rng.standard_normal((2, 3, 4, 5))
    assert_array_equal(fc.IdentityBlock().forward(A), A)
    assert_array_equal(fc.IdentityBlock().forward(A, eval=True), A)
    assert_array_equal(fc.IdentityBlock().backward(A), A)


def test_res_block_draws_main_then_residual():
    np.random.seed(9)
    block = fc.ResBlock(3, 4, 3, 2, 1)
    first, activation, second = block.convolution_layers
    assert [type(x) for x in block.convolution_layers] == [fc.ConvBlock, fc.ReLU, fc.ConvBlock]
    assert type(activation) is type(block.final_activation) is fc.ReLU
    np.random.seed(9)
    for part, shape, steps in (
        (first, (4, 3, 3, 3), (2, 1)), (second, (4, 4, 1, 1), (1, 0)),
        (block.residual_connection, (4, 3, 3, 3), (2, 1)),
    ):
        conv = part.layers[0]
        assert_array_equal(conv.W, np.random.normal(0, 1.0, shape), strict=True)
        assert (conv.stride, conv.pad) == steps
    default = fc.ResBlock(3, 4, 3).convolution_layers[0].layers[0]
    assert (default.stride, default.pad) == (3, 1)


@pytest.mark.parametrize(
    ("arguments", "identity"),
    [((3, 3, 1, 1, 0), True), ((3, 4, 1, 1, 0), False), ((3, 3, 3, 1, 1), False), ((3, 3, 1, 2, 0), False),
     ((3, 3, 1, 1, 1), False)],
)
def test_residual_connection_is_the_identity_where_it_can_be(arguments, identity):
    block = fc.ResBlock(*arguments)
    assert type(block.residual_connection) is (fc.IdentityBlock if identity else fc.ConvBlock)


@pytest.mark.parametrize("arguments", [(3, 4, 3, 2, 1), (3, 3, 1, 1, 0)])
def test_res_block_is_the_sum_of_its_paths(backend, rng, arguments):
    A = rng.standard_normal((2, 3, 8, 9))
    np.random.seed(2)
    block = fc.ResBlock(*arguments)
    np.random.seed(2)
    twin = fc.ResBlock(*arguments)
    first, activation, second = twin.convolution_layers

    def by_parts(**kwargs):
        main = second.forward(activation.forward(first.forward(A, **kwargs)), **kwargs)
        return np.maximum(main + twin.residual_connection.forward(A, **kwargs), 0)

    Z = by_parts()
    assert_array_equal(block.forward(A), Z)
    dLdZ = rng.standard_normal(Z.shape)
    through = dLdZ * (Z > 0)
    residual = twin.residual_connection.backward(through)
    main = first.backward(activation.backward(second.backward(through)))
    oracles.assert_within(block.backward(dLdZ), main + residual, 4e-16 * (abs(main) + abs(residual)))
    assert_array_equal(block.convolution_layers[0].layers[0].dLdW, first.layers[0].dLdW)
    assert_array_equal(block.forward(A, eval=True), by_parts(eval=True))
    norm = block.convolution_layers[0].layers[1]
    assert_array_equal(norm.running_M, first.layers[1].running_M)


# ---- MLP and the scanning networks ---------------------------------------------------------------


def test_mlp_is_linear_and_relu(rng):
    mlp = fc.MLP([5, 4, 3, 2])
    assert [type(x) for x in mlp.layers] == [fc.Linear, fc.ReLU, fc.Linear, fc.ReLU, fc.Linear]
    weights = [rng.standard_normal(shape) for shape in ((5, 4), (4, 3), (3, 2))]
    mlp.init_weights(weights)
    for linear, weight in zip(mlp.layers[::2], weights):
        assert_array_equal(linear.W, weight.T)
        linear.b = rng.standard_normal(linear.b.shape)
    A = rng.standard_normal((6, 5))
    hidden, b = A, [linear.b.T for linear in mlp.layers[::2]]
    for i, weight in enumerate(weights):
        hidden = hidden @ weight + b[i]
        if i < 2:
            hidden = np.maximum(hidden, 0)
    oracles.assert_within(mlp.forward(A), hidden, 1e-13)
    dLdZ = rng.standard_normal((6, 2))
    slopes = oracles.numeric_gradient(lambda: (mlp.forward(A) * dLdZ).sum(), A, list(np.ndindex(6, 5)))
    mlp.forward(A)
    oracles.assert_within(mlp.backward(dLdZ).ravel(), slopes, 1e-9)


def scanned(mlp, A):
    """The MLP on each window of 8 frames, as (N, 4, windows), then flat as a CNN's output is."""
    starts = range(0, A.shape[2] - 7, 4)
    outputs = [mlp.forward(A[:, :, t : t + 8].transpose(0, 2, 1).reshape(len(A), -1)) for t in starts]
    return np.stack(outputs, axis=2).reshape(len(A), -1)


def mlp_weights(rng):
    return [rng.integers(-4, 5, shape).astype(float) for shape in ((192, 8), (8, 16), (16, 4))]


def shared_mlp_weights(rng):
    """An MLP that computes the same of frames 0-1, 2-3, 4-5, 6-7, then of the pairs of them, then of all."""
    first, second, third = (rng.integers(-4, 5, s).astype(float) for s in ((48, 2), (4, 8), (16, 4)))
    return [np.kron(np.eye(4), first), np.kron(np.eye(2), second), third]


@pytest.mark.parametrize("frames", [8, 11, 12, 128])
@pytest.mark.parametrize(
    ("model", "weights"),
    [(fc.CNN_SimpleScanningMLP, mlp_weights), (fc.CNN_DistributedScanningMLP, shared_mlp_weights)],
)
def test_scanning_network_equals_the_scanned_mlp(backend, rng, model, weights, frames):
    # Integers, so that whatever the order of summation the outputs must be equal.
    cnn, mlp, matrices = model(), fc.MLP([192, 8, 16, 4]), weights(rng)
    cnn.init_weights(matrices)
    mlp.init_weights(matrices)
    A = oracles.small_integers(rng, (3, 24, frames))
    assert_array_equal(cnn.forward(A), scanned(mlp, A), strict=True)
    assert abs(cnn.forward(A)).max() > 0


def test_scanning_network_within_rounding_of_the_scanned_mlp(backend, rng):
    cnn, mlp = fc.CNN_SimpleScanningMLP(), fc.MLP([192, 8, 16, 4])
    matrices = [rng.standard_normal(w.shape) for w in mlp_weights(rng)]
    cnn.init_weights(matrices)
    mlp.init_weights(matrices)
    A = rng.standard_normal((2, 24, 64))
    sums = np.einsum("nct->nt", abs(A)).max() * 8 * abs(matrices[0]).max()
    for matrix in matrices[1:]:
        sums = sums * abs(matrix).sum(axis=0).max()
    oracles.assert_within(cnn.forward(A), scanned(mlp, A), oracles.rounding(192 + 8 + 16, float) * sums)


def test_shapes_of_the_scanning_networks():
    for model, shapes in (
        (fc.CNN_SimpleScanningMLP, [(24, 8, 8, 4), (8, 16, 1, 1), (16, 4, 1, 1)]),
        (fc.CNN_DistributedScanningMLP, [(24, 2, 2, 2), (2, 8, 2, 2), (8, 4, 2, 1)]),
    ):
        layers = model().layers
        assert [type(x) for x in layers] == [fc.Conv1d, fc.ReLU, fc.Conv1d, fc.ReLU, fc.Conv1d, fc.Flatten]
        found = [(x.in_channels, x.out_channels, x.kernel_size, x.stride) for x in layers[:5:2]]
        assert found == shapes


# ---- CNN -----------------------------------------------------------------------------------------

WIDTH, LR = 40, 0.125


def cnn(conv_fn=None, bias_fn=None, linear_fn=np.random.randn, criterion=None):
    return fc.CNN(WIDTH, 3, [5, 4, 6], [4, 3, 2], [3, 2, 1], 7, [fc.Tanh(), fc.Sigmoid(), fc.Tanh()],
                  conv_fn, bias_fn, linear_fn, criterion or fc.CrossEntropyLoss(), LR)


def labels(rng, N):
    return np.eye(7)[rng.integers(0, 7, N)]


def test_cnn_attributes():
    model = cnn()
    assert [type(x) for x in model.layers] == [
        fc.Conv1d, fc.Tanh, fc.Conv1d, fc.Sigmoid, fc.Conv1d, fc.Tanh, fc.Flatten, fc.Linear
    ]
    assert model.convolutional_layers == model.layers[:6:2]
    assert model.activations == model.layers[1:6:2]
    assert (model.flatten, model.linear_layer) == tuple(model.layers[6:])
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in model.convolutional_layers] == [
        (3, 5, 4, 3), (5, 4, 3, 2), (4, 6, 2, 1)
    ]
    # 40 -> 13 -> 6 -> 5 positions of 6 channels.
    assert model.linear_layer.W.shape == (7, 30)
    assert (model.nlayers, model.lr, type(model.criterion)) == (3, LR, fc.CrossEntropyLoss)
    assert model.train_mode
    model.eval()
    assert not model.train_mode
    model.train()
    assert model.train_mode


@pytest.mark.parametrize("kind", ["int8", "uint8", "uint64"])
def test_cnn_of_small_integers(kind):
    """Whose own arithmetic would wrap round."""
    sizes = (np.array(values, kind) for values in ([50, 60], [3, 2], [2, 1]))
    model = fc.CNN(300, 3, *sizes, 7, [fc.Tanh(), fc.ReLU()], None, None, None, fc.MSELoss(), LR)
    assert model.linear_layer.W.shape == (7, 60 * 148)


@pytest.mark.parametrize(("name", "value", "error"), [
    ("num_channels", None, TypeError), ("kernel_sizes", 3, TypeError), ("kernel_sizes", [3, 2.5], TypeError),
    ("strides", [1, 0], ValueError), ("strides", [1], ValueError), ("activations", None, TypeError),
])
def test_cnn_names_what_is_wrong(name, value, error):
    sizes = {
        "num_channels": [4, 5], "kernel_sizes": [3, 2], "strides": [2, 1], "num_linear_neurons": 6,
        "activations": [fc.Tanh(), fc.ReLU()],
    }
    with pytest.raises(error, match=name):
        fc.CNN(20, 3, **{**sizes, name: value}, conv_weight_init_fn=None, bias_init_fn=None,
               linear_weight_init_fn=None, criterion=fc.MSELoss(), lr=LR)


def test_cnn_uses_its_init_functions():
    calls = []

    def recorded(name):
        return lambda *shape: calls.append((name, shape)) or np.full(shape, 2.0)

    model = cnn(recorded("conv"), recorded("bias"), recorded("linear"))
    assert sorted(calls) == sorted([
        ("conv", (5, 3, 4)), ("conv", (4, 5, 3)), ("conv", (6, 4, 2)), ("linear", (7, 30)),
        ("bias", (5,)), ("bias", (4,)), ("bias", (6,)), ("bias", (7,)),
    ])
    for layer in (*model.convolutional_layers, model.linear_layer):
        assert (layer.W == 2).all()
        assert (layer.b == 2).all()
    np.random.seed(4)
    first = cnn(linear_fn=None).convolutional_layers[0]
    np.random.seed(4)
    assert_array_equal(first.W, np.random.normal(0, 1.0, (5, 3, 4)))


def test_cnn_runs_its_layers(backend, rng):
    model = cnn()
    A, Y = rng.standard_normal((2, 3, WIDTH)), labels(rng, 2)
    hidden = A
    for layer in model.layers:
        hidden = layer.forward(hidden)
    assert_array_equal(model.forward(A), hidden)
    assert_array_equal(model.Z, hidden)
    criterion = fc.CrossEntropyLoss()
    loss = criterion.forward(hidden, Y)
    gradient = criterion.backward()
    for layer in reversed(model.layers):
        gradient = layer.backward(gradient)
    expected = [x.dLdW.copy() for x in model.convolutional_layers]
    assert_array_equal(model.backward(Y), gradient)
    assert model.loss == loss
    for layer, dLdW in zip(model.convolutional_layers, expected):
        assert_array_equal(layer.conv1d_stride1.dLdW, dLdW)


@pytest.mark.parametrize("criterion", ["MSELoss", "CrossEntropyLoss"])
def test_cnn_gradient_is_the_slope_of_its_loss(backend, rng, criterion):
    model = cnn(criterion=getattr(fc, criterion)())
    A, Y = rng.standard_normal((2, 3, WIDTH)), labels(rng, 2)
    loss = getattr(fc, criterion)()
    model.forward(A)
    gradient = model.backward(Y)
    conv, linear = model.convolutional_layers[1], model.linear_layer
    for x, found in ((A, gradient), (conv.W, conv.dLdW), (linear.b, linear.dLdb)):
        places = oracles.some_places(rng, x.shape, 25)
        slopes = oracles.numeric_gradient(lambda: loss.forward(model.forward(A), Y), x, places)
        oracles.assert_within(np.array([found[place] for place in places]), slopes, 1e-9)


@pytest.mark.parametrize("lr", ["x", None, 1j, np.ones(3), float("nan")], ids=repr)
def test_cnn_checks_its_learning_rate(lr, rng):
    model = cnn()
    model.forward(rng.standard_normal((2, 3, WIDTH)))
    model.backward(labels(rng, 2))
    model.lr, before = lr, model.linear_layer.W
    with pytest.raises((TypeError, ValueError), match="lr must be"):
        model.step()
    assert model.linear_layer.W is before


def test_a_step_that_fails_changes_nothing(rng):
    model = cnn()
    model.forward(rng.standard_normal((2, 3, WIDTH)))
    model.backward(labels(rng, 2))
    model.linear_layer.dLdb = np.ones((2, 2))  # the last that a step uses
    before = snapshot(model)
    with pytest.raises(ValueError, match="broadcast"):
        model.step()
    assert not differences(before, vars(model))


def test_cnn_steps_down_its_gradients(backend, rng):
    model = cnn()
    A, Y = rng.standard_normal((2, 3, WIDTH)), labels(rng, 2)
    layers = [c.conv1d_stride1 for c in model.convolutional_layers] + [model.linear_layer]
    model.forward(A)
    model.backward(Y)
    before = [(x.W.copy(), x.b.copy(), x.dLdW.copy(), x.dLdb.copy()) for x in layers]
    assert all(dLdW.any() for _, _, dLdW, _ in before)
    first = model.loss
    model.step()
    for layer, (W, b, dLdW, dLdb) in zip(layers, before):
        assert_array_equal(layer.W, W - LR * dLdW)
        assert_array_equal(layer.b, b - LR * dLdb)
    model.zero_grads()
    for layer, (W, b, _, _) in zip(layers, before):
        assert_array_equal(layer.dLdW, np.zeros_like(W))
        assert_array_equal(layer.dLdb, np.zeros_like(b))
    for _ in range(30):
        model.forward(A)
        model.backward(Y)
        model.step()
    assert model.loss < first / 2
