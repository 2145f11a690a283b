import numpy as np
from resampling import *


class Conv1d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size, weight_init_fn=None, bias_init_fn=None):
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        if weight_init_fn is None:
            self.W = np.random.normal(0, 1.0, (out_channels, in_channels, kernel_size))
        else:
            self.W = weight_init_fn(out_channels, in_channels, kernel_size)
        if bias_init_fn is None:
            self.b = np.zeros(out_channels)
        else:
            self.b = bias_init_fn(out_channels)
        self.dLdW = np.zeros(self.W.shape)
        self.dLdb = np.zeros(self.b.shape)

    def forward(self, A):
        self.A = A
        N, width = A.shape[0], A.shape[2] - self.kernel_size + 1
        Z = np.zeros((N, self.out_channels, width))
        for n in range(N):
            for o in range(self.out_channels):
                for i in range(width):
                    window = A[n, :, i : i + self.kernel_size]
                    Z[n, o, i] = np.sum(window * self.W[o]) + self.b[o]
        return Z

    def backward(self, dLdZ):
        N, _, width = dLdZ.shape
        dLdA = np.zeros(self.A.shape)
        self.dLdW = np.zeros(self.W.shape)
        self.dLdb = np.sum(dLdZ, axis=(0, 2))
        for n in range(N):
            for o in range(self.out_channels):
                for i in range(width):
                    end = i + self.kernel_size
                    self.dLdW[o] += dLdZ[n, o, i] * self.A[n, :, i:end]
                    dLdA[n, :, i:end] += dLdZ[n, o, i] * self.W[o]
        return dLdA


class Conv1d:
    def __init__(
        self, in_channels, out_channels, kernel_size, stride, padding=0, weight_init_fn=None, bias_init_fn=None
    ):
        self.stride = stride
        self.pad = padding
        self.conv1d_stride1 = Conv1d_stride1(
            in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn
        )
        self.downsample1d = Downsample1d(stride)

    def forward(self, A):
        A = np.pad(A, ((0, 0), (0, 0), (self.pad, self.pad)))
        return self.downsample1d.forward(self.conv1d_stride1.forward(A))

    def backward(self, dLdZ):
        dLdA = self.conv1d_stride1.backward(self.downsample1d.backward(dLdZ))
        return dLdA[:, :, self.pad : dLdA.shape[2] - self.pad]
