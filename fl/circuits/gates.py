"""Parametrised gates as products of factors that are linear in the cosine and sine of one angle.

Every gate here is a product of factors

    F(t) = A + cos(f t) B + sin(f t) C

with constant matrices A, B, C and a frequency f.  A Pauli rotation ``exp(-i t P / 2)`` has A = 0, B = 1,
C = -i P, f = 1/2 (Nielsen and Chuang, Quantum Computation and Quantum Information, eq. 4.4-4.6); a rotation
of a target under a control acts only where the control is 1: with ``n = |1><1|`` it is A = |0><0|, B = n,
C = -i n (x) P.  In this form the matrices of all gates of a circuit come out of a handful of torch
operations, however many gates there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.circuits.trace import CircuitError, TracedGate

Matrix = npt.NDArray[np.complex128]
"""complex128 of shape (2^n, 2^n) for n wires, the first wire most significant."""

I = np.eye(2, dtype=np.complex128)  # noqa: E741
X = np.array([[0, 1], [1, 0]], np.complex128)
Y = np.array([[0, -1j], [1j, 0]], np.complex128)
Z = np.diag([1, -1]).astype(np.complex128)
ZERO, ONE = np.diag([1, 0]).astype(np.complex128), np.diag([0, 1]).astype(np.complex128)


def kron(first: Matrix, second: Matrix) -> Matrix:
    """``first`` on the more significant wire, ``second`` on the other."""
    return np.asarray(np.kron(first, second), np.complex128)


@dataclass(frozen=True)
class Form:
    """``A + cos(f t) B + sin(f t) C`` of one angle t; matrices of size 2 or 4."""

    constant: Matrix
    cosine: Matrix
    sine: Matrix
    frequency: float


def rotation(pauli: Matrix) -> Form:
    """``exp(-i t P / 2)``."""
    identity = np.eye(len(pauli), dtype=np.complex128)
    return Form(np.zeros_like(identity), identity, -1j * pauli, 0.5)


def controlled(form: Form) -> Form:
    """``form`` on the second wire where the first is 1."""
    return Form(
        kron(ZERO, I) + kron(ONE, form.constant),
        kron(ONE, form.cosine),
        kron(ONE, form.sine),
        form.frequency,
    )


RX, RY, RZ = rotation(X), rotation(Y), rotation(Z)
PHASE = Form(ZERO, ONE, 1j * ONE, 1.0)
_XY_SPACE = np.diag([0, 1, 1, 0]).astype(np.complex128)
_XY = Form(np.eye(4) - _XY_SPACE, _XY_SPACE, 0.5j * (kron(X, X) + kron(Y, Y)), 0.5)

FORMS: dict[str, tuple[tuple[Form, int], ...]] = {
    "RX": ((RX, 0),),
    "RY": ((RY, 0),),
    "RZ": ((RZ, 0),),
    "PhaseShift": ((PHASE, 0),),
    "U1": ((PHASE, 0),),
    "Rot": ((RZ, 0), (RY, 1), (RZ, 2)),
    "U3": ((PHASE, 2), (RY, 0), (PHASE, 1)),
    "CRX": ((controlled(RX), 0),),
    "CRY": ((controlled(RY), 0),),
    "CRZ": ((controlled(RZ), 0),),
    "CRot": ((controlled(RZ), 0), (controlled(RY), 1), (controlled(RZ), 2)),
    "ControlledPhaseShift": ((controlled(PHASE), 0),),
    "IsingXX": ((rotation(kron(X, X)), 0),),
    "IsingYY": ((rotation(kron(Y, Y)), 0),),
    "IsingZZ": ((rotation(kron(Z, Z)), 0),),
    "IsingXY": ((_XY, 0),),
}
"""Factors of every parametrised gate in the order in which they act, each with the argument it takes.

Conventions are PennyLane's: ``Rot(a, b, c) = RZ(c) RY(b) RZ(a)`` and
``U3(t, p, d) = PhaseShift(p) RY(t) PhaseShift(d)``.
"""


def factors_of(gate: TracedGate) -> tuple[tuple[Form, int], ...]:
    """The factors of a gate with symbolic arguments; raises CircuitError for a gate not in the table."""
    try:
        return FORMS[gate.name]
    except KeyError:
        raise CircuitError(
            f"gate {gate.name} cannot take inputs or weights here; gates that can are {', '.join(FORMS)}"
        ) from None


def embed(matrix: Matrix, positions: tuple[int, ...], n_wires: int) -> Matrix:
    """``matrix`` acting on the wires at ``positions`` of ``n_wires`` (first wire most significant)."""
    rest = [position for position in range(n_wires) if position not in positions]
    big = kron(matrix, np.eye(2 ** len(rest), dtype=np.complex128)).reshape((2,) * (2 * n_wires))
    place = [(*positions, *rest).index(position) for position in range(n_wires)]
    axes = [*place, *(n_wires + axis for axis in place)]
    return np.ascontiguousarray(big.transpose(axes)).reshape(2**n_wires, 2**n_wires)
