import numpy as np


class Linear:
    def __init__(self, in_features, out_features):
        self.W = np.random.normal(0, (2 / in_features) ** 0.5, (out_features, in_features))
        self.b = np.zeros((out_features, 1))
        self.dLdW = np.zeros(self.W.shape)
        self.dLdb = np.zeros(self.b.shape)

    def forward(self, A):
        self.A = A
        return A @ self.W.T + self.b.T

    def backward(self, dLdZ):
        self.dLdW = dLdZ.T @ self.A
        self.dLdb = np.sum(dLdZ, axis=0)[:, None]
        return dLdZ @ self.W
