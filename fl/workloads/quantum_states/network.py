"""The classifier of quantum states: a quantum convolutional network on two copies, with a logistic head.

A network that sees one copy of a state can only compute a linear function of its density matrix; on product
inputs that are uniformly random, both classes have the same average state and it stays at chance.  Two copies
give functions that are quadratic in the density matrix, and concentratable entanglement is one of them (it is
the probability of finding a qubit and its copy antisymmetric).  Copies are interleaved, every qubit next to
its copy, so that the first convolution can compare them.

The head is ``logit = GAIN (scale <Z> + bias)``; parameters are the circuit's angles, then scale and bias.  The
constant gain lets scale and bias move as fast as the angles under the same learning rate.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pennylane as qml
import torch
from torch import Tensor
from torch.nn import functional

from fl.circuits.torch_circuit import TorchCircuit, compile_circuit
from fl.workloads.base import Evaluation, Parameters
from fl.workloads.quantum_states.ansatz import classifier, n_classifier_weights

GAIN = 5.0
HEAD_PARAMETERS = 2
EVALUATION_BATCH = 256


@cache
def classifier_circuit(n_wires: int) -> TorchCircuit:
    """The compiled network on ``n_wires`` qubits; its only observable is Z of wire 0."""
    return compile_circuit(classifier(n_wires), n_wires, 0, n_classifier_weights(n_wires), [qml.Z(0)])


def interleaved_copies(states: Tensor, copies: int) -> Tensor:
    """``copies`` (1 or 2) of every state, complex64 of shape (batch, dimension ** copies), each qubit next to its copy."""
    if copies == 1:
        return states
    if copies != 2:
        raise ValueError(f"one or two copies are supported, not {copies}")
    batch, dimension = states.shape
    n = dimension.bit_length() - 1
    product = (states[:, :, None] * states[:, None, :]).reshape(batch, *(2,) * (2 * n))
    order = [1 + copy * n + qubit for qubit in range(n) for copy in range(2)]
    return product.permute(0, *order).reshape(batch, dimension**2)


def initial_parameters(n_wires: int, seed: int) -> Parameters:
    """Normal angles, scale 1 and bias 0."""
    angles = np.random.default_rng([seed, 0x9C22]).normal(size=n_classifier_weights(n_wires))
    return np.concatenate([angles, [1.0, 0.0]]).astype(np.float32)


def logits(parameters: Tensor, prepared: Tensor) -> Tensor:
    """Log-odds of class 1 for states on all wires (copies made), float32 of shape (batch,)."""
    circuit = classifier_circuit(prepared.shape[1].bit_length() - 1)
    expectation = circuit(None, parameters[:-HEAD_PARAMETERS], prepared)[:, 0]
    return GAIN * (parameters[-2] * expectation + parameters[-1])


def loss(parameters: Tensor, prepared: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats; ``labels`` are float32 0 or 1, shape (batch,)."""
    return functional.binary_cross_entropy_with_logits(logits(parameters, prepared), labels)


def train(
    parameters: Parameters,
    prepared: Tensor,
    labels: npt.NDArray[np.int64],
    *,
    learning_rate: float,
    steps: int,
    batch_size: int,
    falling_to: float,
    rng: np.random.Generator,
) -> Parameters:
    """Train with Adam (arXiv 1412.6980) on shuffled batches; returns the change of the parameters.

    The learning rate falls linearly to ``falling_to`` times its first value.  ``prepared`` are states of shape
    (n, 2^wires), copies made; ``labels`` are 1-d int64, 0 or 1.
    """
    start = torch.from_numpy(parameters.copy())
    values = start.clone().requires_grad_(True)
    targets = torch.from_numpy(labels.astype(np.float32))
    optimiser = torch.optim.Adam([values], lr=learning_rate)
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < min(batch_size, len(labels)):
            order = np.concatenate([order, rng.permutation(len(labels))])
        batch, order = torch.from_numpy(order[:batch_size]), order[batch_size:]
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - (1 - falling_to) * step / steps)
        (values.grad,) = torch.autograd.grad(loss(values, prepared[batch], targets[batch]), values)
        optimiser.step()
    return np.ascontiguousarray((values.detach() - start).numpy())


def evaluate(parameters: Parameters, prepared: Tensor, labels: npt.NDArray[np.int64]) -> Evaluation:
    """Accuracy and mean cross-entropy on states of shape (n, 2^wires), copies made, with ``labels`` 1-d int64."""
    values, targets = torch.from_numpy(parameters.copy()), torch.from_numpy(labels.astype(np.float32))
    with torch.no_grad():
        starts = range(0, len(prepared), EVALUATION_BATCH)
        parts = [logits(values, prepared[start : start + EVALUATION_BATCH]) for start in starts]
        log_odds = torch.cat(parts)
        right = ((log_odds > 0) == (targets > 0.5)).float().mean()
        cross_entropy = functional.binary_cross_entropy_with_logits(log_odds, targets)
    return Evaluation(float(right), float(cross_entropy))
