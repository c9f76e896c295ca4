"""Local training with Adam over one flat parameter vector.

Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) suits heads and adapters, whose gradients differ by orders
of magnitude; every stretch of training starts with fresh moments, so that a client keeps no state between
rounds.  The rate falls linearly to zero over the stretch, as in :mod:`fl.workloads.network`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fl.workloads.base import Parameters

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

Batch = npt.NDArray[np.int64]
"""1-d int64: places of the texts of one step."""


@dataclass(frozen=True)
class TrainingPlan:
    """One client's work in a round.

    ``adapter_rate`` is the learning rate of the encoder's adapters; ``decay`` is the weight decay.
    """

    head_rate: float
    epochs: int
    batch_size: int
    adapter_rate: float = 0.0
    decay: float = 0.0


def adam(
    parameters: Parameters,
    rates: npt.NDArray[np.float32],
    batches: Iterable[Batch],
    n_steps: int,
    loss: Callable[[Tensor, Batch], Tensor],
    *,
    decay: float = 0.0,
) -> Parameters:
    """Take one step per batch, ``n_steps`` in all; returns final minus initial parameters.

    ``rates`` are the initial learning rates, 1-d float32, one per parameter; ``loss(flat, batch)`` is the mean loss.
    Every step shrinks the parameters by their rate times ``decay`` (decoupled weight decay; Loshchilov and
    Hutter, arXiv 1711.05101, algorithm 2).
    """
    start = torch.from_numpy(parameters.copy())
    flat = start.clone().requires_grad_(True)
    rate = torch.from_numpy(rates)
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step, batch in enumerate(batches):
        (gradient,) = torch.autograd.grad(loss(flat, batch), flat)
        first.lerp_(gradient, 1 - BETA_1)
        second.lerp_(gradient * gradient, 1 - BETA_2)
        with torch.no_grad():
            mean = first / (1 - BETA_1 ** (step + 1))
            spread = (second / (1 - BETA_2 ** (step + 1))).sqrt_().add_(EPSILON)
            present = rate * (1 - step / n_steps)
            flat.mul_(1 - decay * present).sub_(present * mean / spread)
    return np.ascontiguousarray((flat.detach() - start).numpy())


def shuffled(n_examples: int, batch_size: int, rng: np.random.Generator) -> list[Batch]:
    """All examples once, in random batches."""
    order = rng.permutation(n_examples)
    return [order[start : start + batch_size] for start in range(0, n_examples, batch_size)]


def bucketed(lengths: npt.NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[Batch]:
    """All examples once, in random batches (1-d int64) of about equal length: little padding, mixed order.

    Examples are shuffled, sorted by length within stretches of sixteen batches, and the batches shuffled.
    """
    order = rng.permutation(len(lengths))
    batches: list[Batch] = []
    for start in range(0, len(order), 16 * batch_size):
        stretch = order[start : start + 16 * batch_size]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        batches += [stretch[at : at + batch_size] for at in range(0, len(stretch), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]
