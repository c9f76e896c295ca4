"""Generator circuits trained to a target value of a measure, and the states they make.

A generator is a fixed circuit acting on random product states.  Its angles are trained with Adam (Kingma and
Ba, arXiv 1412.6980) until the measure of its output states is close to the target on average over the
inputs (the idea of the NTangled data set, Schatzki et al., arXiv 2109.03400, section IV, equation 3):

    loss = (mean M - target)^2 + mean (M - target)^2

Values scatter around the target, because one circuit entangles different inputs differently; two classes
with close targets therefore overlap, and no classifier can separate them fully (the oracle threshold).

Inputs are products of single-qubit states, either **uniform** - every qubit uniformly on the Bloch sphere -
or **clustered** around |0...0>: the polar angle of every qubit is normal with deviation ``polar_angle``, its
azimuth uniform.  Uniform inputs have the maximally mixed state as their average whatever the generator, so a
single copy of a state tells nothing about its class on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch
from torch import Tensor

from fl.circuits.torch_circuit import TorchCircuit, compile_circuit
from fl.workloads.quantum_states.ansatz import GENERATORS, GeneratorAnsatz
from fl.workloads.quantum_states.measures import MeasureName, measure

SCREENED_STARTS = 8
SCREENING_STEPS = 50
TRAINING_STEPS = 150
TRAINING_BATCH = 64
LEARNING_RATE = 0.05
ATTEMPTS = 4
CHECK_STATES = 512


class GeneratorError(RuntimeError):
    """No generator came close enough to its target."""


@dataclass(frozen=True)
class StateClass:
    """What a generator is trained for: ``measure`` close to ``target`` on inputs with ``polar_angle`` (rad).

    ``polar_angle`` None means uniform inputs.  A generator is accepted when the root-mean-square distance
    from the target over its inputs is at most ``tolerance``.
    """

    measure: MeasureName
    target: float
    tolerance: float
    polar_angle: float | None


@dataclass(frozen=True)
class Generator:
    """A trained generator circuit."""

    ansatz: GeneratorAnsatz
    n_qubits: int
    n_layers: int
    angles: tuple[float, ...]

    def states(self, inputs: Tensor) -> Tensor:
        """What the circuit makes of ``inputs``, both complex128 of shape (batch, 2^n_qubits)."""
        circuit = _compiled(self.ansatz, self.n_qubits, self.n_layers)
        return circuit.states(None, torch.tensor(self.angles, dtype=torch.float64), inputs)


def _compiled(ansatz: GeneratorAnsatz, n_qubits: int, n_layers: int) -> TorchCircuit:
    weights = ansatz.n_weights(n_qubits, n_layers)
    everything = [qml.Z(qubit) for qubit in range(n_qubits)]
    return compile_circuit(ansatz.circuit(n_qubits, n_layers), n_qubits, 0, weights, everything)


def product_states(count: int, n_qubits: int, polar_angle: float | None, rng: np.random.Generator) -> Tensor:
    """Random product states, complex128 of shape (count, 2^n_qubits)."""
    if polar_angle is None:
        polar = np.arccos(rng.uniform(-1, 1, (count, n_qubits)))
    else:
        polar = polar_angle * rng.normal(size=(count, n_qubits))
    azimuth = rng.uniform(0, 2 * math.pi, (count, n_qubits))
    qubits = np.stack([np.cos(polar / 2) + 0j, np.sin(polar / 2) * np.exp(1j * azimuth)], -1)
    states = qubits[:, 0]
    for qubit in range(1, n_qubits):
        states = (states[:, :, None] * qubits[:, None, qubit]).reshape(count, -1)
    return torch.from_numpy(states)


def train_generator(
    ansatz: GeneratorAnsatz, wanted: StateClass, n_qubits: int, n_layers: int, seed: Sequence[int]
) -> Generator:
    """A generator of ``wanted`` states, the same for the same seed.

    Several random starts are trained briefly and the best one to the end, because some end in plateaus.
    Raises GeneratorError when ``ATTEMPTS`` of such searches end too far from the target.
    """
    circuit = _compiled(ansatz, n_qubits, n_layers)
    distances = []
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([*seed, attempt])
        screened = []
        for _ in range(SCREENED_STARTS):
            start = torch.from_numpy(rng.uniform(0, 2 * math.pi, circuit.n_weights))
            screened.append(_descend(circuit, start, wanted, n_qubits, SCREENING_STEPS, rng))
        distance, angles = min(screened, key=lambda result: result[0])
        if distance > wanted.tolerance / 2:
            distance, angles = _descend(circuit, angles, wanted, n_qubits, TRAINING_STEPS, rng)
        if distance <= wanted.tolerance:
            return Generator(ansatz, n_qubits, n_layers, tuple(angles.tolist()))
        distances.append(distance)
    raise GeneratorError(
        f"{ansatz.name} with {n_layers} layers does not reach {wanted.measure} {wanted.target} within "
        f"{wanted.tolerance}: root-mean-square distances {', '.join(f'{d:.3f}' for d in distances)}; allow more "
        "layers or a wider tolerance"
    )


def _descend(
    circuit: TorchCircuit,
    start: Tensor,
    wanted: StateClass,
    n_qubits: int,
    steps: int,
    rng: np.random.Generator,
) -> tuple[float, Tensor]:
    """Train from ``start``; returns the root-mean-square distance from the target, and the angles."""
    angles = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([angles], lr=LEARNING_RATE)
    for _ in range(steps):
        inputs = product_states(TRAINING_BATCH, n_qubits, wanted.polar_angle, rng)
        values = measure(wanted.measure, circuit.states(None, angles, inputs))
        loss = (values.mean() - wanted.target) ** 2 + ((values - wanted.target) ** 2).mean()
        (angles.grad,) = torch.autograd.grad(loss, angles)
        optimiser.step()
    with torch.no_grad():
        inputs = product_states(CHECK_STATES, n_qubits, wanted.polar_angle, rng)
        values = measure(wanted.measure, circuit.states(None, angles, inputs))
    return float((values - wanted.target).square().mean().sqrt()), angles.detach()


def generator_ansatz(index: int) -> GeneratorAnsatz:
    """The ansatz of generator ``index``: there are four, then they repeat with other angles."""
    return GENERATORS[index % len(GENERATORS)]
