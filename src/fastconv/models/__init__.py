"""The course's models, made of the layers in `fastconv.nn`."""

from .cnn import CNN
from .mlp import MLP
from .scanning import CNN_DistributedScanningMLP, CNN_SimpleScanningMLP

__all__ = ["CNN", "MLP", "CNN_DistributedScanningMLP", "CNN_SimpleScanningMLP"]
