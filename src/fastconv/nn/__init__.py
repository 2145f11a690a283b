"""The layers: thin classes that hold parameters and what backward needs, and call `functional`."""

from .activation import GELU, Identity, ReLU, Sigmoid, Softmax, Swish, Tanh
from .batchnorm2d import BatchNorm2d
from .conv1d import Conv1d, Conv1d_stride1
from .conv2d import Conv2d, Conv2d_padding, Conv2d_stride1
from .conv_transpose import ConvTranspose1d, ConvTranspose2d
from .dropout2d import Dropout2d
from .flatten import Flatten
from .layer import Layer
from .linear import Linear
from .loss import CrossEntropyLoss, MSELoss
from .pool import MaxPool2d, MaxPool2d_stride1, MeanPool2d, MeanPool2d_stride1
from .resampling import Downsample1d, Downsample2d, Upsample1d, Upsample2d
from .resblock import ConvBlock, IdentityBlock, ResBlock

__all__ = [
    "GELU",
    "BatchNorm2d",
    "Conv1d",
    "Conv1d_stride1",
    "Conv2d",
    "Conv2d_padding",
    "Conv2d_stride1",
    "ConvBlock",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Downsample1d",
    "Downsample2d",
    "Dropout2d",
    "Flatten",
    "Identity",
    "IdentityBlock",
    "Layer",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "MaxPool2d_stride1",
    "MeanPool2d",
    "MeanPool2d_stride1",
    "ReLU",
    "ResBlock",
    "Sigmoid",
    "Softmax",
    "Swish",
    "Tanh",
    "Upsample1d",
    "Upsample2d",
]
