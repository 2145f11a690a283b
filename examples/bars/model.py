"""A small network on the layers of mytorch, and its optimizer."""

import sys

sys.path.append("mytorch")

import numpy as np
from activation import *
from batchnorm2d import *
from Conv2d import *
from dropout2d import *
from flatten import *
from linear import *
from loss import *
from pool import *


def he(*shape):
    return np.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)


class Net:
    """Says of an 8 x 8 image whether its bar is horizontal, vertical or diagonal."""

    def __init__(self):
        self.layers = [
            Conv2d(1, 8, 3, stride=1, padding=1, weight_init_fn=he),
            BatchNorm2d(8),
            ReLU(),
            MaxPool2d(2, 2),
            Conv2d(8, 12, 3, stride=1, padding=0, weight_init_fn=he),
            ReLU(),
            Dropout2d(p=0.1),
            MeanPool2d(2, 1),
            Flatten(),
            Linear(12, 3),
        ]
        self.loss = CrossEntropyLoss()

    def forward(self, A):
        for layer in self.layers:
            A = layer.forward(A)
        return A

    def backward(self):
        grad = self.loss.backward()
        for layer in reversed(self.layers):
            grad = layer.backward(grad)


class SGD:
    def __init__(self, layers, lr):
        self.layers = [getattr(layer, "conv2d_stride1", layer) for layer in layers]
        self.lr = lr

    def step(self):
        for layer in self.layers:
            for name in ("W", "b", "BW", "Bb"):
                if hasattr(layer, name):
                    setattr(layer, name, getattr(layer, name) - self.lr * getattr(layer, "dLd" + name))


def bars(count):
    """Images with one bar each, in noise, and their labels as one-hot rows."""
    images = np.random.normal(0, 0.3, (count, 1, 8, 8))
    kinds = np.random.randint(0, 3, count)
    for image, kind, place in zip(images[:, 0], kinds, np.random.randint(1, 7, count)):
        if kind == 0:
            image[place, :] += 1
        elif kind == 1:
            image[:, place] += 1
        else:
            image += np.eye(8, k=place - 3)
    return images, np.eye(3)[kinds]
