"""Small torch networks over one flat parameter vector, trained by plain stochastic gradient descent.

The layers are views into the vector, so an optimiser step is one operation on it and an update is the
difference of two vectors.  With one torch thread the result is the same on every run (torch's CPU kernels
are deterministic for a fixed number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fl.workloads.base import Evaluation, Examples, Parameters

Forward = Callable[[Sequence[Tensor], Tensor], Tensor]
"""(layer tensors, batch of inputs) -> logits of shape (batch, classes)."""

EVALUATION_BATCH = 2048


@dataclass(frozen=True)
class Network:
    """A model as the shapes of its weights and biases, in the order of the vector, and a forward function.

    A weight has its outputs on the first axis and its inputs on the others; with ``inputs_first`` a matrix
    has them the other way round.
    """

    shapes: tuple[tuple[int, ...], ...]
    forward: Forward
    inputs_first: bool = False

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def array_sizes(self) -> dict[str, int]:
        """Name and number of values of every array, in the order of the vector: ``layer1.weight``, ``layer1.bias``."""
        found, layer = dict[str, int](), 0
        for shape in self.shapes:
            layer += len(shape) > 1
            found[f"layer{layer}.{'weight' if len(shape) > 1 else 'bias'}"] = math.prod(shape)
        return found

    def layers(self, flat: Tensor) -> list[Tensor]:
        """Views of ``flat`` (1-d float32) with the shapes of the layers."""
        parts, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            parts.append(flat[start : start + size].view(shape))
            start += size
        return parts

    def initial(self, seed: int) -> Parameters:
        """He-uniform weights (He et al., arXiv 1502.01852, eq. 10) and zero biases."""
        rng = np.random.default_rng([seed, 0x1217])
        parts = []
        for shape in self.shapes:
            if len(shape) == 1:
                parts.append(np.zeros(shape))
            else:
                fan_in = shape[0] if self.inputs_first else math.prod(shape[1:])
                bound = math.sqrt(6 / fan_in)
                parts.append(rng.uniform(-bound, bound, math.prod(shape)))
        return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class LocalTraining:
    """One client's work in a round: stochastic gradient descent with momentum.

    A rate that is ``falling`` goes linearly to zero over the round.  It makes the update depend little on
    the order of the last batches, so that accuracy does not jump from round to round.
    """

    learning_rate: float
    momentum: float
    epochs: int
    batch_size: int
    falling: bool = True

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of ``step`` (from 0) among the ``steps`` of a round."""
        return self.learning_rate * (1 - step / steps) if self.falling else self.learning_rate


def single_thread() -> None:
    """Make torch deterministic: one thread per process, which also leaves the other cores to other processes."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def train(
    network: Network, parameters: Parameters, data: Examples, plan: LocalTraining, seed: Sequence[int]
) -> Parameters:
    """Train on ``data`` as ``plan`` says; returns final minus initial parameters."""
    start = torch.from_numpy(parameters.copy())
    flat = start.clone().requires_grad_(True)
    velocity = torch.zeros_like(start)
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    rng = np.random.default_rng(list(seed))
    steps = plan.epochs * math.ceil(len(data) / plan.batch_size)
    step = 0
    for _ in range(plan.epochs):
        order = torch.from_numpy(rng.permutation(len(data)))
        for first in range(0, len(data), plan.batch_size):
            batch = order[first : first + plan.batch_size]
            logits = network.forward(network.layers(flat), inputs[batch])
            (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels[batch]), flat)
            velocity.mul_(plan.momentum).add_(gradient)
            with torch.no_grad():
                flat.sub_(velocity, alpha=plan.rate(step, steps))
            step += 1
    return np.ascontiguousarray((flat.detach() - start).numpy())


def evaluate(network: Network, parameters: Parameters, data: Examples) -> Evaluation:
    """Accuracy and mean cross-entropy on ``data``."""
    layers = network.layers(torch.from_numpy(parameters.copy()))
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    right, loss = 0, 0.0
    with torch.no_grad():
        for start in range(0, len(data), EVALUATION_BATCH):
            stop = start + EVALUATION_BATCH
            logits = network.forward(layers, inputs[start:stop])
            right += int((logits.argmax(1) == labels[start:stop]).sum())
            loss += float(functional.cross_entropy(logits, labels[start:stop], reduction="sum"))
    return Evaluation(right / len(data), loss / len(data))


def mlp(*widths: int) -> Network:
    """A multilayer perceptron with ReLU between layers of the given widths."""
    shapes: list[tuple[int, ...]] = []
    for fan_in, fan_out in pairwise(widths):
        shapes += [(fan_out, fan_in), (fan_out,)]

    def forward(layers: Sequence[Tensor], inputs: Tensor) -> Tensor:
        hidden = inputs
        for index in range(0, len(layers), 2):
            if index:
                hidden = functional.relu(hidden)
            hidden = functional.linear(hidden, layers[index], layers[index + 1])
        return hidden

    return Network(tuple(shapes), forward)


def small_cnn(side: int, channels: tuple[int, int], classes: int) -> Network:
    """Two 3x3 convolutions, each with ReLU and 2x2 max pooling, and a linear layer.

    Inputs have shape (batch, 1, side, side).
    """
    first, second = channels
    features = second * (side // 4) ** 2
    shapes = ((first, 1, 3, 3), (first,), (second, first, 3, 3), (second,), (classes, features), (classes,))

    def forward(layers: Sequence[Tensor], inputs: Tensor) -> Tensor:
        hidden = functional.conv2d(inputs, layers[0], layers[1], padding=1)
        hidden = functional.max_pool2d(functional.relu(hidden), 2)
        hidden = functional.conv2d(hidden, layers[2], layers[3], padding=1)
        hidden = functional.max_pool2d(functional.relu(hidden), 2)
        return functional.linear(hidden.flatten(1), layers[4], layers[5])

    return Network(shapes, forward)


def strided_cnn(side: int, channels: tuple[int, int], hidden: int, classes: int) -> Network:
    """A 5x5 and a 3x3 convolution, both with stride 2 instead of pooling, and two linear layers.

    Inputs have shape (batch, 1, side, side).  The large linear layer comes first in the parameters, so that
    the convolutions and the output layer are at their end (see :mod:`fl.rounds.compression`).
    """
    first, second = channels
    features = second * (side // 4) ** 2
    large = ((hidden, features), (hidden,))
    convolutions = ((first, 1, 5, 5), (first,), (second, first, 3, 3), (second,))
    output = ((classes, hidden), (classes,))

    def forward(layers: Sequence[Tensor], inputs: Tensor) -> Tensor:
        maps = functional.relu(functional.conv2d(inputs, layers[2], layers[3], stride=2, padding=2))
        maps = functional.relu(functional.conv2d(maps, layers[4], layers[5], stride=2, padding=1))
        activity = functional.relu(functional.linear(maps.flatten(1), layers[0], layers[1]))
        return functional.linear(activity, layers[6], layers[7])

    return Network(large + convolutions + output, forward)


def train_together(
    network: Network,
    parameters: Parameters,
    data: Sequence[Examples],
    plan: LocalTraining,
    seeds: Sequence[Sequence[int]],
) -> list[Parameters]:
    """:func:`train` without momentum for several clients with equally many examples, batched by ``vmap``.

    Every client has its own parameters; one call of a kernel serves them all.
    """
    if plan.momentum or len({len(examples) for examples in data}) != 1:
        raise ValueError("clients train together with equally many examples and without momentum")
    start = torch.from_numpy(parameters.copy())
    flat = start.expand(len(data), -1).clone()
    size = len(data[0])
    inputs = torch.from_numpy(np.stack([examples.inputs for examples in data]))
    labels = torch.from_numpy(np.stack([examples.labels for examples in data]))
    generators = [np.random.default_rng(list(seed)) for seed in seeds]
    rows = torch.arange(len(data))[:, None]

    def loss(one: Tensor, batch: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(network.forward(network.layers(one), batch), targets)

    gradients = torch.func.vmap(torch.func.grad(loss))
    steps = plan.epochs * math.ceil(size / plan.batch_size)
    step = 0
    for _ in range(plan.epochs):
        order = torch.from_numpy(np.stack([rng.permutation(size) for rng in generators]))
        for first in range(0, size, plan.batch_size):
            batch = order[:, first : first + plan.batch_size]
            flat.sub_(gradients(flat, inputs[rows, batch], labels[rows, batch]), alpha=plan.rate(step, steps))
            step += 1
    return list(flat.sub_(start).numpy())
