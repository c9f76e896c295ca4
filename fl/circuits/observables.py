"""Expectation values of sums of Pauli words from state vectors.

A Pauli word P with X or Y on the wires of the bit mask f, Z or Y on those of z and y letters Y maps

    P |x> = i^y (-1)^{popcount(x & z)} |x xor f>

so ``<P> = sum_x conj(psi[x xor f]) i^y (-1)^{popcount(x & z)} psi[x]``.  Words with the same f share the
product of the amplitudes, and all diagonal words (f = 0) together are one product of a sign table with the
probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pennylane as qml

from fl.circuits.trace import CircuitError

REAL_TOLERANCE = 1e-12


@dataclass(frozen=True)
class PauliTable:
    """All observables of a circuit: for every flip mask f the weights of ``conj(psi[x xor f]) psi[x]``.

    ``weights[f]`` has shape (n_observables, 2^n_wires), complex128; wire 0 is the most significant bit.
    """

    n_observables: int
    wires: tuple[int, ...]
    weights: dict[int, npt.NDArray[np.complex128]]


def pauli_table(observables: Sequence[qml.operation.Operator], n_wires: int) -> PauliTable:
    """The table of ``observables``; raises CircuitError unless each is a real sum of Pauli words."""
    if not observables:
        raise CircuitError("a circuit needs at least one observable")
    states = np.arange(2**n_wires)
    weights: dict[int, npt.NDArray[np.complex128]] = {}
    observed: set[int] = set()
    for row, observable in enumerate(observables):
        sentence = observable.pauli_rep
        if sentence is None:
            raise CircuitError(f"observable {observable} is not a sum of Pauli words")
        for word, coefficient in sentence.items():
            if abs(np.imag(coefficient)) > REAL_TOLERANCE:
                raise CircuitError(f"observable {observable} has the complex coefficient {coefficient}")
            if outside := [wire for wire in word if wire not in range(n_wires)]:
                raise CircuitError(
                    f"observable {observable} is on wire {outside[0]!r}; wires are 0 to {n_wires - 1}"
                )
            observed.update(word)
            letters = {wire: 1 << (n_wires - 1 - wire) for wire in word}
            flip = sum(bit for wire, bit in letters.items() if word[wire] in "XY")
            sign = sum(bit for wire, bit in letters.items() if word[wire] in "ZY")
            n_y = sum(letter == "Y" for letter in word.values())
            table = weights.setdefault(flip, np.zeros((len(observables), 2**n_wires), np.complex128))
            parity = np.bitwise_count(states & sign) & 1
            table[row] += float(np.real(coefficient)) * 1j**n_y * (1.0 - 2.0 * parity)
    return PauliTable(len(observables), tuple(sorted(observed)), weights)
