"""The course's models, and a ResNet, made of the layers in `fastconv.nn`."""

from .cnn import CNN
from .mlp import MLP
from .resnet import ResNet
from .scanning import CNN_DistributedScanningMLP, CNN_SimpleScanningMLP

__all__ = ["CNN", "MLP", "CNN_DistributedScanningMLP", "CNN_SimpleScanningMLP", "ResNet"]
