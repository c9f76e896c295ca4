"""A PennyLane circuit as a batched, differentiable torch program on state vectors.

:func:`compile_circuit` traces the circuit (:mod:`fl.circuits.trace`), fuses its gates
(:mod:`fl.circuits.fusion`) and lays out the constants; calling the result computes, in few torch operations,

1. the cosine and sine of every angle and from them every gate's factors ``A + cos B + sin C``,
2. the matrices of all blocks and groups by batched products, log2(n) of them for n factors,
3. the states, one matrix product per group, and
4. the expectation values.

Gradients are torch's own.  PennyLane stays the definition: the tests compare both, values and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch
from torch import Tensor

from fl.circuits.fusion import (
    GROUP_WIRES,
    Block,
    Group,
    embedding,
    fuse_blocks,
    fuse_gates,
    in_light_cone,
    merge_per_example,
)
from fl.circuits.observables import PauliTable, pauli_table
from fl.circuits.trace import CircuitError, Input, QuantumFunction, TracedGate, Weight, trace


def compile_circuit(
    quantum_function: QuantumFunction,
    n_wires: int,
    n_inputs: int,
    n_weights: int,
    observables: Sequence[qml.operation.Operator],
    *,
    group_wires: int = GROUP_WIRES,
) -> TorchCircuit:
    """Compile ``quantum_function(inputs, weights)`` on wires 0..n_wires-1.

    Its gates take ``inputs[i]``, ``weights[j]`` or constants as they are; ``observables`` are sums of Pauli
    words.  Raises CircuitError for what cannot be compiled.
    """
    gates = trace(quantum_function, n_inputs, n_weights)
    for gate in gates:
        if outside := [wire for wire in gate.wires if wire >= n_wires]:
            raise CircuitError(f"gate {gate.name} acts on wire {outside[0]}; wires are 0 to {n_wires - 1}")
    table = pauli_table(observables, n_wires)
    groups = merge_per_example(
        fuse_blocks(fuse_gates(in_light_cone(gates, table.wires)), min(group_wires, n_wires))
    )
    return TorchCircuit(n_wires, n_inputs, n_weights, gates, table, groups)


class TorchCircuit:
    """A compiled circuit: ``circuit(inputs, weights) -> expectations``, differentiable in both.

    Works in the precision of ``weights``: float64 (complex128 states) or float32 (complex64 states).
    """

    def __init__(
        self,
        n_wires: int,
        n_inputs: int,
        n_weights: int,
        gates: tuple[TracedGate, ...],
        table: PauliTable,
        groups: Sequence[Group],
    ) -> None:
        self.n_wires = n_wires
        self.n_inputs = n_inputs
        self.n_weights = n_weights
        self.gates = gates
        self.n_observables = table.n_observables
        self._table = table
        self._plan = _plan(groups, n_wires, n_inputs, n_weights)
        self._constants: dict[torch.dtype, _Constants] = {}

    def __call__(self, inputs: Tensor | None, weights: Tensor, initial_state: Tensor | None = None) -> Tensor:
        """Expectation values, shape (batch, n_observables).

        ``inputs`` has shape (batch, n_inputs), or is None for a circuit without inputs; ``weights`` shape
        (n_weights,); ``initial_state`` shape (batch, 2^n_wires), complex, wire 0 most significant, by default
        |0...0>.
        """
        return self.expectations(self.states(inputs, weights, initial_state))

    def states(self, inputs: Tensor | None, weights: Tensor, initial_state: Tensor | None = None) -> Tensor:
        """The states at the end, shape (batch, 2^n_wires), up to gates that no observable sees."""
        batch = self._batch(inputs, weights, initial_state)
        constants = self._constants_for(weights.dtype)
        shared = _shared_matrices(constants, weights)
        per_example = None if inputs is None else _per_example_matrices(constants, inputs, weights)
        if initial_state is None:
            state = constants.zero_state.reshape((1,) + (2,) * self.n_wires)
        else:
            state = initial_state.to(constants.zero_state.dtype).reshape((-1,) + (2,) * self.n_wires)
        for step in self._plan.steps:
            k = len(step.wires)
            if step.per_example:
                assert per_example is not None
                ordered = state.permute(step.permutation).reshape(state.shape[step.permutation[0]], 2**k, -1)
                matrix = per_example[:, step.row]
                if k == 1:
                    matrix = matrix[:, ::2, ::2]
                state = torch.matmul(matrix, ordered)
                state = state.reshape((batch,) + (2,) * self.n_wires)
            else:
                sizes = [state.shape[axis] for axis in step.permutation]
                ordered = state.permute(step.permutation).reshape(2**k, -1)
                state = (shared[k][step.row] @ ordered).reshape(sizes)
        flat = state.permute(self._plan.final_permutation).reshape(-1, 2**self.n_wires)
        return flat.expand(batch, -1) if flat.shape[0] != batch else flat

    def expectations(self, states: Tensor) -> Tensor:
        """Expectation values of the circuit's observables in ``states``, shape (batch, n_observables)."""
        result: Tensor | None = None
        real = torch.float64 if states.dtype == torch.complex128 else torch.float32
        for flip, (re, im) in self._constants_for(real).observables.items():
            if flip == 0:
                part = torch.view_as_real(states).square().sum(-1) @ re
            else:
                flipped = states.index_select(1, torch.arange(2**self.n_wires) ^ flip)
                overlap = flipped.conj() * states
                part = overlap.real @ re - overlap.imag @ im
            result = part if result is None else result + part
        assert result is not None
        return result

    def _batch(self, inputs: Tensor | None, weights: Tensor, initial_state: Tensor | None) -> int:
        if weights.shape != (self.n_weights,):
            raise ValueError(f"weights have shape {tuple(weights.shape)}, the circuit has {self.n_weights}")
        if weights.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weights are {weights.dtype}; float32 or float64 is needed")
        if inputs is None and self.n_inputs:
            raise ValueError(f"the circuit takes {self.n_inputs} inputs and got none")
        if inputs is not None and (inputs.ndim != 2 or inputs.shape[1] != self.n_inputs):
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}, not (batch, {self.n_inputs})")
        if initial_state is not None and (
            initial_state.ndim != 2 or initial_state.shape[1] != 2**self.n_wires
        ):
            raise ValueError(
                f"initial states have shape {tuple(initial_state.shape)}, not (batch, {2**self.n_wires})"
            )
        sizes = {len(tensor) for tensor in (inputs, initial_state) if tensor is not None}
        if len(sizes) > 1:
            raise ValueError(f"inputs and initial states are for batches of different size: {sorted(sizes)}")
        return sizes.pop() if sizes else 1

    def _constants_for(self, dtype: torch.dtype) -> _Constants:
        if dtype not in self._constants:
            self._constants[dtype] = _constants(self._plan, self._table, self.n_wires, dtype)
        return self._constants[dtype]


@dataclass(frozen=True)
class _Step:
    """Apply matrix ``row`` (of its kind and size) to ``wires``.

    ``permutation`` brings the state's axes into the order (wires, others) for a shared matrix, (batch, wires,
    others) for one per example; they stay in that order.
    """

    wires: tuple[int, ...]
    per_example: bool
    row: int
    permutation: tuple[int, ...]


@dataclass(frozen=True)
class _FactorTable:
    """Factors of several blocks, padded with identities to one length.

    ``parts`` float64 of shape (blocks, length, 3, 32): real and imaginary parts of A, B and C, interleaved;
    ``arguments`` int64 of shape (blocks, length): index into (weights, inputs, 0); ``frequencies`` likewise.
    """

    parts: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    arguments: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    frequencies: np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class _Plan:
    steps: tuple[_Step, ...]
    final_permutation: tuple[int, ...]
    shared: _FactorTable | None
    per_example: _FactorTable | None
    embeddings: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]
    """By number of wires: index into (all shared block matrices flat, 0, 1), shape (groups, blocks, D, D)."""


@dataclass(frozen=True)
class _Constants:
    """The plan's numbers as tensors of one precision."""

    zero_state: Tensor
    shared: tuple[Tensor, Tensor, Tensor] | None
    per_example: tuple[Tensor, Tensor, Tensor] | None
    embeddings: dict[int, Tensor]
    observables: dict[int, tuple[Tensor, Tensor]]


def _plan(groups: Sequence[Group], n_wires: int, n_inputs: int, n_weights: int) -> _Plan:
    shared_rows: dict[object, int] = {}
    shared_blocks: list[Block] = []
    per_example_blocks: list[Block] = []
    stacks: dict[int, dict[object, int]] = {}
    members: dict[int, list[list[tuple[tuple[int, ...], int]]]] = {}
    steps: list[_Step] = []
    order = list(range(-1, n_wires))  # the wire on every axis of the state; -1 is the batch
    for group in groups:
        k = len(group.wires)
        if group.per_example:
            row = len(per_example_blocks)
            per_example_blocks += group.blocks
            target = [-1, *group.wires, *(axis for axis in order if axis != -1 and axis not in group.wires)]
        else:
            parts = []
            for block in group.blocks:
                key = _key(block)
                if key not in shared_rows:
                    shared_rows[key] = len(shared_blocks)
                    shared_blocks.append(block)
                places = tuple(group.wires.index(wire) for wire in block.wires)
                parts.append((places, shared_rows[key]))
            stack = stacks.setdefault(k, {})
            row = stack.setdefault(tuple(parts), len(stack))
            if row == len(members.setdefault(k, [])):
                members[k].append(parts)
            target = [*group.wires, *(axis for axis in order if axis not in group.wires)]
        steps.append(_Step(group.wires, group.per_example, row, tuple(order.index(axis) for axis in target)))
        order = target
    return _Plan(
        tuple(steps),
        tuple(order.index(axis) for axis in range(-1, n_wires)),
        _factor_table(shared_blocks, n_inputs, n_weights),
        _factor_table(per_example_blocks, n_inputs, n_weights),
        {k: _embeddings(k, rows, len(shared_blocks)) for k, rows in members.items()},
    )


def _key(block: Block) -> object:
    """Equal for blocks with the same matrix: layers that share weights are computed once."""
    return tuple(
        (
            gate.name,
            tuple(block.wires.index(wire) for wire in gate.wires),
            gate.arguments,
            None if gate.matrix is None else gate.matrix.tobytes(),
        )
        for gate in block.gates
    )


def _factor_table(blocks: Sequence[Block], n_inputs: int, n_weights: int) -> _FactorTable | None:
    if not blocks:
        return None
    factors = [block.factors() for block in blocks]
    shape = (len(blocks), max(len(row) for row in factors))
    matrices = np.zeros((*shape, 3, 4, 4), np.complex128)
    matrices[:, :, 0] = np.eye(4)
    arguments = np.full(shape, n_weights + n_inputs, np.int64)
    frequencies = np.zeros(shape)
    for i, row in enumerate(factors):
        for j, (a, b, c, frequency, argument) in enumerate(row):
            matrices[i, j] = a, b, c
            frequencies[i, j] = frequency
            if isinstance(argument, Weight):
                arguments[i, j] = argument.index
            elif isinstance(argument, Input):
                arguments[i, j] = n_weights + argument.index
    parts = np.stack([matrices.real, matrices.imag], -1).reshape(*shape, 3, 32)
    return _FactorTable(parts, arguments, frequencies)


def _embeddings(
    k: int, rows: Sequence[Sequence[tuple[tuple[int, ...], int]]], n_blocks: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    zero, one = 16 * n_blocks, 16 * n_blocks + 1
    length = max(len(row) for row in rows)
    index = np.where(np.eye(2**k, dtype=bool), one, zero)[None, None].repeat(len(rows), 0).repeat(length, 1)
    for i, row in enumerate(rows):
        for j, (places, block) in enumerate(row):
            entries = embedding(tuple(range(k)), places)
            index[i, j] = np.where(entries < 0, zero, entries + 16 * block)
    return index


def _constants(plan: _Plan, table: PauliTable, n_wires: int, dtype: torch.dtype) -> _Constants:
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64

    def tensors(factors: _FactorTable | None) -> tuple[Tensor, Tensor, Tensor] | None:
        if factors is None:
            return None
        return (
            torch.from_numpy(factors.parts).to(dtype),
            torch.from_numpy(factors.arguments),
            torch.from_numpy(factors.frequencies).to(dtype),
        )

    zero_state = torch.zeros(2**n_wires, dtype=complex_dtype)
    zero_state[0] = 1
    return _Constants(
        zero_state,
        tensors(plan.shared),
        tensors(plan.per_example),
        {k: torch.from_numpy(index) for k, index in plan.embeddings.items()},
        {
            flip: (
                torch.from_numpy(np.ascontiguousarray(weights.real.T)).to(dtype),
                torch.from_numpy(np.ascontiguousarray(weights.imag.T)).to(dtype),
            )
            for flip, weights in table.weights.items()
        },
    )


def _product(factors: Tensor) -> Tensor:
    """Products along the second-last-but-one axis, shape (..., n, D, D) -> (..., D, D); the first acts first."""
    while (n := factors.shape[-3]) > 1:
        even = n - n % 2
        pairs = factors[..., 1:even:2, :, :] @ factors[..., 0:even:2, :, :]
        factors = pairs if even == n else torch.cat([pairs, factors[..., even:, :, :]], -3)
    return factors.squeeze(-3)


def _shared_matrices(constants: _Constants, weights: Tensor) -> dict[int, Tensor]:
    """Matrices of all shared groups by number of wires, shape (groups, 2^k, 2^k)."""
    if constants.shared is None:
        return {}
    parts, arguments, frequencies = constants.shared
    padded = torch.cat([weights, weights.new_zeros(1)])
    angles = padded.index_select(0, arguments.clamp(max=len(weights)).reshape(-1)).view_as(arguments)
    angles = angles * frequencies
    coefficients = torch.stack([torch.ones_like(angles), angles.cos(), angles.sin()], -1).unsqueeze(-2)
    factors = torch.view_as_complex((coefficients @ parts).reshape(*arguments.shape, 4, 4, 2))
    blocks = _product(factors)
    flat = torch.cat([blocks.reshape(-1), blocks.new_tensor([0, 1])])
    return {
        k: _product(flat.index_select(0, index.reshape(-1)).view_as(index))
        for k, index in constants.embeddings.items()
    }


def _per_example_matrices(constants: _Constants, inputs: Tensor, weights: Tensor) -> Tensor | None:
    """Matrices of all blocks that take inputs, shape (batch, blocks, 4, 4)."""
    if constants.per_example is None:
        return None
    parts, arguments, frequencies = constants.per_example
    batch = len(inputs)
    table = torch.cat(
        [weights.expand(batch, -1), inputs.to(weights.dtype), weights.new_zeros(batch, 1)], dim=1
    )
    angles = table.index_select(1, arguments.reshape(-1)).view(batch, *arguments.shape) * frequencies
    ones = torch.ones_like(angles)
    coefficients = torch.stack([ones, angles.cos(), angles.sin()], -1)  # (batch, blocks, length, 3)
    factors = torch.einsum("bnlk,nlkd->bnld", coefficients, parts)
    return _product(torch.view_as_complex(factors.reshape(batch, *arguments.shape, 4, 4, 2).contiguous()))
