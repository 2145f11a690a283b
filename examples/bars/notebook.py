"""A live model made fast, and slow again: cells as a notebook has them.

Run it here: python notebook.py
"""

# %% The model, on the layers in mytorch/: loops over every output
import time

from model import *

import fastconv

np.random.seed(0)
net = Net()
optimizer = SGD(net.layers, lr=0.3)


def train(steps):
    losses, start = [], time.perf_counter()
    for _ in range(steps):
        images, labels = bars(16)
        losses.append(net.loss.forward(net.forward(images), labels))
        net.backward()
        optimizer.step()
    return losses, (time.perf_counter() - start) / steps * 1e3


losses, milliseconds = train(4)
print(f"loss {losses[-1]:.3f}, {milliseconds:.1f} ms a step")

# %% The same objects, compiled; each layer is verified on some images first
report = fastconv.swap(net, verify=bars(8)[0])
print(report)

# %% It goes on from where it was: weights, running statistics, the optimizer's references
losses, milliseconds = train(100)
print(f"loss {losses[-1]:.3f}, {milliseconds:.2f} ms a step")

# %% And back, with the weights it has now
report.undo()
images, labels = bars(64)
right = (net.forward(images).argmax(axis=1) == labels.argmax(axis=1)).mean()
print(f"{right:.0%} right, by {type(net.layers[0]).__module__}.{type(net.layers[0]).__name__}")
