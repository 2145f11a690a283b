import numpy as np
from resampling import *


class Conv2d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size, weight_init_fn=None, bias_init_fn=None):
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        if weight_init_fn is None:
            self.W = np.random.normal(0, 1.0, (out_channels, in_channels, kernel_size, kernel_size))
        else:
            self.W = weight_init_fn(out_channels, in_channels, kernel_size, kernel_size)
        if bias_init_fn is None:
            self.b = np.zeros(out_channels)
        else:
            self.b = bias_init_fn(out_channels)
        self.dLdW = np.zeros(self.W.shape)
        self.dLdb = np.zeros(self.b.shape)

    def forward(self, A):
        self.A = A
        K = self.kernel_size
        N, _, H, W = A.shape
        Z = np.zeros((N, self.out_channels, H - K + 1, W - K + 1))
        for n in range(N):
            for o in range(self.out_channels):
                for i in range(H - K + 1):
                    for j in range(W - K + 1):
                        window = A[n, :, i : i + K, j : j + K]
                        Z[n, o, i, j] = np.sum(window * self.W[o]) + self.b[o]
        return Z

    def backward(self, dLdZ):
        K = self.kernel_size
        N, _, height, width = dLdZ.shape
        dLdA = np.zeros(self.A.shape)
        self.dLdW = np.zeros(self.W.shape)
        self.dLdb = np.sum(dLdZ, axis=(0, 2, 3))
        for n in range(N):
            for o in range(self.out_channels):
                for i in range(height):
                    for j in range(width):
                        self.dLdW[o] += dLdZ[n, o, i, j] * self.A[n, :, i : i + K, j : j + K]
                        dLdA[n, :, i : i + K, j : j + K] += dLdZ[n, o, i, j] * self.W[o]
        return dLdA


class Conv2d:
    def __init__(
        self, in_channels, out_channels, kernel_size, stride, padding=0, weight_init_fn=None, bias_init_fn=None
    ):
        self.stride = stride
        self.pad = padding
        self.conv2d_stride1 = Conv2d_stride1(
            in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn
        )
        self.downsample2d = Downsample2d(stride)

    def forward(self, A):
        A = np.pad(A, ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)))
        return self.downsample2d.forward(self.conv2d_stride1.forward(A))

    def backward(self, dLdZ):
        dLdA = self.conv2d_stride1.backward(self.downsample2d.backward(dLdZ))
        H, W = dLdA.shape[2:]
        return dLdA[:, :, self.pad : H - self.pad, self.pad : W - self.pad]
