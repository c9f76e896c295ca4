"""What stands on top of a sentence embedding: three heads from 384 numbers to two logits.

``hybrid`` is a linear layer to four angles, the circuit of :mod:`fl.workloads.sentiment.circuit` and a linear
read-out: 384*4 + 4 + 16 + 4*2 + 2 = 1566 parameters.  ``classical`` is its control, equal in size to the
parameter: the sixteen angles of the circuit become a 4x4 matrix between tanh units.  ``linear`` is logistic
regression with two outputs, 770 parameters.

Features are embeddings of length one times sqrt(width), so that their entries are of order one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fl.workloads.sentiment.circuit import N_QUBITS, N_WEIGHTS, compiled_head

CLASSES = 2
START = 0.05
"""Spread of the first layer's sums at the start.  Small, so that angles lie where the sine is straight: with a
spread of 1 the hybrid head needs several times as many rounds and ends a point lower."""

HEADS = ("hybrid", "classical", "linear")


@dataclass(frozen=True)
class Head:
    """Shapes of the trained values, how they are drawn, and the map to logits (batch, 2)."""

    shapes: tuple[tuple[int, ...], ...]
    spreads: tuple[float, ...]
    """Standard deviations of the initial normal values, one per shape."""
    forward: Callable[[Sequence[Tensor], Tensor], Tensor]

    def initial(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Initial values, 1-d float32."""
        parts = [
            spread * rng.standard_normal(math.prod(shape))
            for shape, spread in zip(self.shapes, self.spreads, strict=True)
        ]
        return np.concatenate(parts).astype(np.float32)


def angles(layers: Sequence[Tensor], features: Tensor) -> Tensor:
    """The circuit's inputs (batch, N_QUBITS), float32, each within -pi/2..pi/2."""
    return torch.tanh(functional.linear(features, layers[0], layers[1])) * (math.pi / 2)


def read_out(layers: Sequence[Tensor], expectations: Tensor) -> Tensor:
    """Logits (batch, 2), of the type of the circuit's expectation values (batch, N_QUBITS), float32 or float64."""
    return functional.linear(expectations, layers[3], layers[4])


def _hybrid(layers: Sequence[Tensor], features: Tensor) -> Tensor:
    return read_out(layers, compiled_head()(angles(layers, features), layers[2]))


def _classical(layers: Sequence[Tensor], features: Tensor) -> Tensor:
    hidden = torch.tanh(functional.linear(features, layers[0], layers[1]))
    return read_out(layers, torch.tanh(functional.linear(hidden, layers[2].view(N_QUBITS, N_QUBITS))))


def _linear(layers: Sequence[Tensor], features: Tensor) -> Tensor:
    return functional.linear(features, layers[0], layers[1])


def head_named(name: str, width: int) -> Head:
    """The head called ``name`` for embeddings of ``width`` numbers."""
    entry = START / math.sqrt(width)
    shapes = ((N_QUBITS, width), (N_QUBITS,), (N_WEIGHTS,), (CLASSES, N_QUBITS), (CLASSES,))
    if name == "hybrid":
        return Head(shapes, (entry, 0.0, 0.1, 1.0, 0.0), _hybrid)
    if name == "classical":
        return Head(shapes, (entry, 0.0, 1 / math.sqrt(N_QUBITS), 1.0, 0.0), _classical)
    if name == "linear":
        return Head(((CLASSES, width), (CLASSES,)), (0.0, 0.0), _linear)
    raise ValueError(f"no head is called {name!r}; there are {', '.join(HEADS)}")
