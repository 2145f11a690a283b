import numpy as np
from resampling import *


class MaxPool2d_stride1:
    def __init__(self, kernel):
        self.kernel = kernel

    def forward(self, A):
        self.A = A
        K = self.kernel
        N, C, H, W = A.shape
        Z = np.zeros((N, C, H - K + 1, W - K + 1))
        self.where = np.zeros((*Z.shape, 2), dtype=int)
        for n in range(N):
            for c in range(C):
                for i in range(H - K + 1):
                    for j in range(W - K + 1):
                        window = A[n, c, i : i + K, j : j + K]
                        row, column = np.unravel_index(np.argmax(window), window.shape)
                        Z[n, c, i, j] = window[row, column]
                        self.where[n, c, i, j] = i + row, j + column
        return Z

    def backward(self, dLdZ):
        N, C, height, width = dLdZ.shape
        dLdA = np.zeros(self.A.shape)
        for n in range(N):
            for c in range(C):
                for i in range(height):
                    for j in range(width):
                        row, column = self.where[n, c, i, j]
                        dLdA[n, c, row, column] += dLdZ[n, c, i, j]
        return dLdA


class MeanPool2d_stride1:
    def __init__(self, kernel):
        self.kernel = kernel

    def forward(self, A):
        self.A = A
        K = self.kernel
        N, C, H, W = A.shape
        Z = np.zeros((N, C, H - K + 1, W - K + 1))
        for i in range(H - K + 1):
            for j in range(W - K + 1):
                Z[:, :, i, j] = np.mean(A[:, :, i : i + K, j : j + K], axis=(2, 3))
        return Z

    def backward(self, dLdZ):
        K = self.kernel
        _, _, height, width = dLdZ.shape
        dLdA = np.zeros(self.A.shape)
        for i in range(height):
            for j in range(width):
                dLdA[:, :, i : i + K, j : j + K] += dLdZ[:, :, i, j, None, None] / K**2
        return dLdA


class MaxPool2d:
    def __init__(self, kernel, stride):
        self.kernel = kernel
        self.stride = stride
        self.maxpool2d_stride1 = MaxPool2d_stride1(kernel)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A):
        return self.downsample2d.forward(self.maxpool2d_stride1.forward(A))

    def backward(self, dLdZ):
        return self.maxpool2d_stride1.backward(self.downsample2d.backward(dLdZ))


class MeanPool2d:
    def __init__(self, kernel, stride):
        self.kernel = kernel
        self.stride = stride
        self.meanpool2d_stride1 = MeanPool2d_stride1(kernel)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A):
        return self.downsample2d.forward(self.meanpool2d_stride1.forward(A))

    def backward(self, dLdZ):
        return self.meanpool2d_stride1.backward(self.downsample2d.backward(dLdZ))
