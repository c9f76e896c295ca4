"""What a PennyLane quantum function does, as a list of gates with symbolic arguments.

A circuit is written once, as ``f(inputs, weights)`` full of PennyLane gates.  To find out which input or
weight each gate takes, ``f`` is run once with placeholders instead of numbers: a placeholder is a float that
knows its index, gates store it unopened, and it is read back from PennyLane's queue.  Arithmetic on a
placeholder would silently lose the index, so it raises instead: **gate arguments must be inputs, weights or
constants, passed straight through**.

For PennyLane's own batched execution pass ``inputs`` transposed, shape (n_inputs, batch), so that
``inputs[i]`` is one value per example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pennylane as qml

QuantumFunction = Callable[[Any, Any], object]
"""``f(inputs, weights)``: sequences of numbers (or arrays of one number per example) -> queues gates."""


class CircuitError(ValueError):
    """A circuit cannot be traced or compiled; says which gate and what would work."""


@dataclass(frozen=True)
class Input:
    """The gate takes ``inputs[index]``, a value of its own for every example."""

    index: int


@dataclass(frozen=True)
class Weight:
    """The gate takes ``weights[index]``, the same value for all examples."""

    index: int


Argument = Input | Weight | float


@dataclass(frozen=True)
class TracedGate:
    """One gate: PennyLane's name, wires 0..n-1 in PennyLane's order, and arguments in PennyLane's order.

    ``matrix`` is the unitary of a gate whose arguments are all constants (complex128, first wire most
    significant), otherwise None.
    """

    name: str
    wires: tuple[int, ...]
    arguments: tuple[Argument, ...]
    matrix: npt.NDArray[np.complex128] | None = None

    @property
    def takes_inputs(self) -> bool:
        """Whether the gate differs from example to example."""
        return any(isinstance(argument, Input) for argument in self.arguments)


class _Placeholder(float):
    """Stands for ``inputs[index]`` or ``weights[index]`` while a circuit is traced; its value is NaN."""

    argument: Input | Weight

    def __new__(cls, argument: Input | Weight) -> _Placeholder:
        self = super().__new__(cls, "nan")
        self.argument = argument
        return self

    def _refuse(self, *_: object) -> NoReturn:
        kind = "inputs" if isinstance(self.argument, Input) else "weights"
        raise CircuitError(
            f"the circuit computes with {kind}[{self.argument.index}]; gate arguments must be inputs, weights "
            "or constants passed straight through - do the arithmetic before the circuit"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _refuse
    __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = _refuse


def _placeholders(kind: type[Input] | type[Weight], count: int) -> npt.NDArray[np.object_]:
    values = np.empty(count, object)
    for index in range(count):
        values[index] = _Placeholder(kind(index))
    return values


def trace(quantum_function: QuantumFunction, n_inputs: int, n_weights: int) -> tuple[TracedGate, ...]:
    """The gates of ``quantum_function`` in order; measurements that it returns are ignored.

    Gates with constant arguments on more than two wires are replaced by their decomposition.  Raises
    CircuitError when gate arguments are computed, or when wires are not numbered.
    """
    script = qml.tape.make_qscript(quantum_function)(
        _placeholders(Input, n_inputs), _placeholders(Weight, n_weights)
    )
    return tuple(_read(script.operations))


def _read(operations: Sequence[qml.operation.Operator]) -> list[TracedGate]:
    gates: list[TracedGate] = []
    for operation in operations:
        if isinstance(operation, qml.Barrier):
            continue
        arguments = tuple(_argument(operation, parameter) for parameter in operation.parameters)
        wires = tuple(_wire(operation, wire) for wire in operation.wires)
        if any(isinstance(argument, (Input, Weight)) for argument in arguments):
            gates.append(TracedGate(operation.name, wires, arguments))
        elif len(wires) <= 2:
            gates.append(TracedGate(operation.name, wires, arguments, _matrix(operation)))
        elif operation.has_decomposition:
            gates += _read(operation.decomposition())
        else:
            raise CircuitError(f"gate {operation.name} on {len(wires)} wires has no decomposition")
    return gates


def _argument(operation: qml.operation.Operator, parameter: object) -> Argument:
    if isinstance(parameter, _Placeholder):
        return parameter.argument
    value = np.asarray(parameter)
    if value.ndim == 0 and value.dtype.kind in "iuf" and not np.isnan(value):
        return float(value)
    raise CircuitError(
        f"gate {operation.name} takes {type(parameter).__name__} of shape {value.shape}; "
        "gate arguments must be single inputs, weights or constants"
    )


def _wire(operation: qml.operation.Operator, wire: object) -> int:
    if not isinstance(wire, (int, np.integer)) or wire < 0:
        raise CircuitError(f"gate {operation.name} acts on wire {wire!r}; wires are numbered from 0")
    return int(wire)


def _matrix(operation: qml.operation.Operator) -> npt.NDArray[np.complex128]:
    try:
        return np.asarray(qml.matrix(operation, wire_order=operation.wires), np.complex128)
    except (qml.operation.MatrixUndefinedError, qml.exceptions.TransformError) as error:
        raise CircuitError(f"{operation.name} is not a gate with a unitary matrix") from error
