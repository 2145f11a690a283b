"""The layers without their state: arrays in, arrays out, safe in threads.

This is the one door to the kernels. A function here checks all its arguments, allocates its
results and calls one kernel of the active backend (`fastconv.backend`), once; nothing above it
touches a kernel, nothing below it checks. What a backward needs besides the arguments of its
forward, the forward returns as a *workspace*.
"""

from .activation import (
    gelu,
    gelu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    swish,
    swish_backward,
    tanh,
    tanh_backward,
)
from .conv import conv1d_backward, conv1d_forward, conv2d_backward, conv2d_forward
from .dense import linear_backward, linear_forward
from .loss import cross_entropy, cross_entropy_backward, mse, mse_backward
from .norm import (
    BatchNormWorkspace,
    batchnorm2d_backward,
    batchnorm2d_eval,
    batchnorm2d_forward,
    scale_channels,
)
from .pool import (
    PoolWorkspace,
    max_pool2d_backward,
    max_pool2d_forward,
    mean_pool2d_backward,
    mean_pool2d_forward,
)
from .resample import downsample, downsample_backward, upsample, upsample_backward

__all__ = [
    "BatchNormWorkspace",
    "PoolWorkspace",
    "batchnorm2d_backward",
    "batchnorm2d_eval",
    "batchnorm2d_forward",
    "conv1d_backward",
    "conv1d_forward",
    "conv2d_backward",
    "conv2d_forward",
    "cross_entropy",
    "cross_entropy_backward",
    "downsample",
    "downsample_backward",
    "gelu",
    "gelu_backward",
    "linear_backward",
    "linear_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mean_pool2d_backward",
    "mean_pool2d_forward",
    "mse",
    "mse_backward",
    "relu",
    "relu_backward",
    "scale_channels",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "swish",
    "swish_backward",
    "tanh",
    "tanh_backward",
    "upsample",
    "upsample_backward",
]
