"""Train the network, print its losses and the time that its convolutions took.

python train.py [steps] [weights.npz]
"""

import sys
import time

from model import *


class Stopwatch:
    """A layer that counts the time of another."""

    def __init__(self, layer):
        self.layer = layer
        self.seconds = 0.0

    def forward(self, A):
        start = time.perf_counter()
        Z = self.layer.forward(A)
        self.seconds += time.perf_counter() - start
        return Z

    def backward(self, dLdZ):
        start = time.perf_counter()
        dLdA = self.layer.backward(dLdZ)
        self.seconds += time.perf_counter() - start
        return dLdA


def main(steps=60, file=None):
    np.random.seed(0)
    net = Net()
    optimizer = SGD(net.layers, lr=0.3)
    watches = [Stopwatch(layer) for layer in net.layers if isinstance(layer, Conv2d)]
    net.layers = [next((w for w in watches if w.layer is layer), layer) for layer in net.layers]
    for step in range(int(steps)):
        images, labels = bars(16)
        loss = net.loss.forward(net.forward(images), labels)
        net.backward()
        optimizer.step()
        print(f"step {step:2}  loss {loss:.10f}")
    print(f"convolutions took {sum(watch.seconds for watch in watches) * 1e3:.1f} ms", file=sys.stderr)
    if file:
        layers = [layer for layer in optimizer.layers if hasattr(layer, "W")]
        np.savez(file, *[array for layer in layers for array in (layer.W, layer.b)])


if __name__ == "__main__":
    main(*sys.argv[1:])
