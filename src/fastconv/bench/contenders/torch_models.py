"""The demo's models in PyTorch: the same layers with the same weights, the same optimiser."""

from __future__ import annotations

from typing import Any

from ... import nn
from ...demo import ResNetTraining
from .arrays import Arrays
from .base import Call
from .ours import training_of


def step(torch: Any, a: Arrays) -> Call:
    """A training step: forward, loss, autograd's backward, update; returns the loss."""
    training = training_of(a)
    model = _module(torch, training.model)
    if isinstance(training, ResNetTraining):
        optimiser = torch.optim.SGD(model.parameters(), training.rate, training.momentum)
    else:
        optimiser = torch.optim.SGD(model.parameters(), training.model.lr)
    criterion = torch.nn.CrossEntropyLoss()

    def take() -> float:
        images, labels = torch.from_numpy(a.X), torch.from_numpy(a.Y)
        optimiser.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return take


def _module(torch: Any, layer: Any) -> Any:
    """The module that computes what the layer does, from the layer's weights."""
    if isinstance(layer, nn.ResBlock):
        return _residual(torch, layer)
    if hasattr(layer, "layers"):
        return torch.nn.Sequential(*(_module(torch, inner) for inner in layer.layers))
    return _leaf(torch, layer)


def _residual(torch: Any, layer: nn.ResBlock) -> Any:
    class Residual(torch.nn.Module):  # type: ignore[misc]  # the base is not known before run time
        def __init__(self) -> None:
            super().__init__()
            self.main = torch.nn.Sequential(*(_module(torch, x) for x in layer.convolution_layers))
            self.residual = _module(torch, layer.residual_connection)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.main(x) + self.residual(x))

    return Residual()


def _leaf(torch: Any, layer: Any) -> Any:
    module: Any
    if isinstance(layer, nn.ReLU):
        return torch.nn.ReLU()
    if isinstance(layer, nn.Flatten):
        return torch.nn.Flatten()
    if isinstance(layer, nn.IdentityBlock):
        return torch.nn.Identity()
    if isinstance(layer, nn.MeanPool2d):
        return torch.nn.AvgPool2d(layer.kernel, layer.stride)
    if isinstance(layer, nn.BatchNorm2d):
        module = torch.nn.BatchNorm2d(layer.BW.size, eps=layer.eps, momentum=1 - layer.alpha)
        weight, bias = layer.BW, layer.Bb
    elif isinstance(layer, nn.Linear):
        module = torch.nn.Linear(layer.in_features, layer.out_features)
        weight, bias = layer.W, layer.b
    else:
        kind = torch.nn.Conv1d if isinstance(layer, nn.Conv1d) else torch.nn.Conv2d
        module = kind(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.pad)
        weight, bias = layer.W, layer.b
    module.to(torch.from_numpy(weight).dtype)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight).reshape(module.weight.shape))
        module.bias.copy_(torch.from_numpy(bias).reshape(module.bias.shape))
    return module
