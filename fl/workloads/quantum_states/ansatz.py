"""The circuits of the workload, written in PennyLane: four state generators and the classifier.

**Generators** act on product states and differ in their gates, so that their states differ too: each is a
hardware-efficient ansatz of layers of rotations and entangling gates, the family used for the NTangled data
set (Schatzki et al., arXiv 2109.03400, section IV).

**Classifier**: a quantum convolutional network (Cong, Choi and Lukin, arXiv 1810.03787): a convolution applies
one general two-qubit gate (15 angles: Vatan and Williams, quant-ph/0308006, figure 6, up to the order of
rotations) to all neighbouring pairs, pooling turns one qubit of each pair by an angle that depends on the
other and drops the latter; so 8 qubits become 4, 2, 1, whose <Z> is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pennylane as qml

from fl.circuits.trace import QuantumFunction

Angles = Iterator[Any]
Pair = tuple[int, int]

CONVOLUTION_ANGLES = 15
POOLING_ANGLES = 2


@dataclass(frozen=True)
class GeneratorAnsatz:
    """A generator circuit by name: ``layer(angles, n_qubits)`` repeated, then a rotation of every qubit."""

    name: str
    layer: Callable[[Angles, int], None]
    angles_per_qubit: int
    """Angles of one layer divided by the number of qubits."""

    def n_weights(self, n_qubits: int, n_layers: int) -> int:
        """Number of angles of the whole circuit."""
        return n_qubits * (self.angles_per_qubit * n_layers + 3)

    def circuit(self, n_qubits: int, n_layers: int) -> QuantumFunction:
        """The circuit as a function of its angles (it takes no inputs)."""

        def generator(_inputs: object, weights: Any) -> None:
            angles = iter(weights)
            for _ in range(n_layers):
                self.layer(angles, n_qubits)
            for qubit in range(n_qubits):
                qml.Rot(next(angles), next(angles), next(angles), wires=qubit)

        return generator


def ring(n_qubits: int) -> list[Pair]:
    """Neighbours on a ring; two qubits have one pair."""
    if n_qubits == 2:
        return [(0, 1)]
    return [(qubit, (qubit + 1) % n_qubits) for qubit in range(n_qubits)]


def _cnot_layer(angles: Angles, n_qubits: int) -> None:
    for qubit in range(n_qubits):
        qml.RY(next(angles), wires=qubit)
        qml.RZ(next(angles), wires=qubit)
    for pair in ring(n_qubits)[: n_qubits - 1]:
        qml.CNOT(wires=pair)


def _cz_layer(angles: Angles, n_qubits: int) -> None:
    for qubit in range(n_qubits):
        qml.RX(next(angles), wires=qubit)
        qml.RZ(next(angles), wires=qubit)
    for pair in ring(n_qubits):
        qml.CZ(wires=pair)


def _ising_layer(angles: Angles, n_qubits: int) -> None:
    for qubit in range(n_qubits):
        qml.RY(next(angles), wires=qubit)
    for pair in ring(n_qubits):
        qml.IsingXX(next(angles), wires=pair)


def _controlled_layer(angles: Angles, n_qubits: int) -> None:
    for qubit in range(n_qubits):
        qml.RY(next(angles), wires=qubit)
    for pair in ring(n_qubits):
        qml.CRX(next(angles), wires=pair)


GENERATORS: Sequence[GeneratorAnsatz] = (
    GeneratorAnsatz("cnot-chain", _cnot_layer, 2),
    GeneratorAnsatz("cz-ring", _cz_layer, 2),
    GeneratorAnsatz("ising-ring", _ising_layer, 2),
    GeneratorAnsatz("controlled-ring", _controlled_layer, 2),
)


def convolution(angles: Sequence[Any], wires: Pair) -> None:
    """A general two-qubit gate: rotations, interaction along XX, YY and ZZ, rotations."""
    first, second = wires
    qml.Rot(*angles[0:3], wires=first)
    qml.Rot(*angles[3:6], wires=second)
    qml.IsingXX(angles[6], wires=wires)
    qml.IsingYY(angles[7], wires=wires)
    qml.IsingZZ(angles[8], wires=wires)
    qml.Rot(*angles[9:12], wires=first)
    qml.Rot(*angles[12:15], wires=second)


def pooling(angles: Sequence[Any], dropped: int, kept: int) -> None:
    """Rotate ``kept`` about one axis if ``dropped`` is 1 and about another if it is 0."""
    qml.CRZ(angles[0], wires=(dropped, kept))
    qml.PauliX(wires=dropped)
    qml.CRX(angles[1], wires=(dropped, kept))
    qml.PauliX(wires=dropped)


def n_classifier_weights(n_wires: int) -> int:
    """Angles of :func:`classifier`: one convolution and one pooling for every halving of the qubits."""
    return (CONVOLUTION_ANGLES + POOLING_ANGLES) * (n_wires - 1).bit_length()


def classifier(n_wires: int) -> QuantumFunction:
    """The convolutional network on wires 0..n_wires-1, read out as <Z> of wire 0."""

    def network(_inputs: object, weights: Any) -> None:
        active = list(range(n_wires))
        start = 0
        while len(active) > 1:
            count = len(active)
            conv = weights[start : start + CONVOLUTION_ANGLES]
            start += CONVOLUTION_ANGLES
            pool = weights[start : start + POOLING_ANGLES]
            start += POOLING_ANGLES
            for first in (*range(0, count - 1, 2), *(range(1, count, 2) if count > 2 else ())):
                convolution(conv, (active[first], active[(first + 1) % count]))
            for first in range(0, count - 1, 2):
                pooling(pool, active[first + 1], active[first])
            active = active[::2]

    return network
