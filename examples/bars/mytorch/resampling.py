import numpy as np


class Upsample1d:
    def __init__(self, upsampling_factor):
        self.upsampling_factor = upsampling_factor

    def forward(self, A):
        k = self.upsampling_factor
        N, C, W = A.shape
        Z = np.zeros((N, C, k * (W - 1) + 1))
        for i in range(W):
            Z[:, :, k * i] = A[:, :, i]
        return Z

    def backward(self, dLdZ):
        return dLdZ[:, :, :: self.upsampling_factor].copy()


class Downsample1d:
    def __init__(self, downsampling_factor):
        self.downsampling_factor = downsampling_factor

    def forward(self, A):
        self.input_width = A.shape[2]
        return A[:, :, :: self.downsampling_factor].copy()

    def backward(self, dLdZ):
        N, C, _ = dLdZ.shape
        dLdA = np.zeros((N, C, self.input_width))
        dLdA[:, :, :: self.downsampling_factor] = dLdZ
        return dLdA


class Upsample2d:
    def __init__(self, upsampling_factor):
        self.upsampling_factor = upsampling_factor

    def forward(self, A):
        k = self.upsampling_factor
        N, C, H, W = A.shape
        Z = np.zeros((N, C, k * (H - 1) + 1, k * (W - 1) + 1))
        for i in range(H):
            for j in range(W):
                Z[:, :, k * i, k * j] = A[:, :, i, j]
        return Z

    def backward(self, dLdZ):
        k = self.upsampling_factor
        return dLdZ[:, :, ::k, ::k].copy()


class Downsample2d:
    def __init__(self, downsampling_factor):
        self.downsampling_factor = downsampling_factor

    def forward(self, A):
        k = self.downsampling_factor
        self.input_width, self.input_height = A.shape[2:]
        return A[:, :, ::k, ::k].copy()

    def backward(self, dLdZ):
        k = self.downsampling_factor
        N, C, _, _ = dLdZ.shape
        dLdA = np.zeros((N, C, self.input_width, self.input_height))
        dLdA[:, :, ::k, ::k] = dLdZ
        return dLdA
