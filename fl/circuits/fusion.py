"""Which gates are multiplied together before they touch the state.

Multiplying a whole batch of state vectors by a 2x2 matrix costs the time of moving the memory, and an
operation of an automatic-differentiation library costs microseconds however small it is.  So gates are
fused twice:

1. into **blocks** on at most two wires (4x4 matrices, each the product of its gates' factors), and
2. blocks that are the same for all examples into **groups** on at most four wires (16x16 matrices), each of
   which is one matrix product with the batch.

Blocks that take inputs differ from example to example and are applied by themselves.  Before fusing, gates
outside the observables' backward light cone are dropped: they cannot change an expectation value.

Fusing only reorders gates that act on different wires, so the circuit's unitary is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fl.circuits.gates import Matrix, embed, factors_of
from fl.circuits.trace import Argument, TracedGate

BLOCK_WIRES = 2
GROUP_WIRES = 4

Factor = tuple[Matrix, Matrix, Matrix, float, Argument | None]
"""``A + cos(f t) B + sin(f t) C``: A, B, C, frequency f and argument t; a constant factor has no argument."""


@dataclass(eq=False)
class Block:
    """Neighbouring gates on at most two wires, in the order in which they act."""

    wires: tuple[int, ...]
    per_example: bool
    gates: list[TracedGate] = field(default_factory=list)

    def factors(self) -> list[Factor]:
        """The block's factors with 4x4 matrices, constant gates folded into them.

        A block on one wire acts on the first of the two.
        """
        result: list[Factor] = []
        pending = np.eye(4, dtype=np.complex128)
        for gate in self.gates:
            place = tuple(self.wires.index(wire) for wire in gate.wires)
            if gate.matrix is not None:
                pending = embed(gate.matrix, place, BLOCK_WIRES) @ pending
                continue
            for form, position in factors_of(gate):
                a, b, c = (
                    embed(part, place, BLOCK_WIRES) for part in (form.constant, form.cosine, form.sine)
                )
                argument = gate.arguments[position]
                if isinstance(argument, float):
                    angle = form.frequency * argument
                    pending = (a + np.cos(angle) * b + np.sin(angle) * c) @ pending
                else:
                    result.append((a @ pending, b @ pending, c @ pending, form.frequency, argument))
                    pending = np.eye(4, dtype=np.complex128)
        if result:
            a, b, c, frequency, last = result[-1]
            result[-1] = (pending @ a, pending @ b, pending @ c, frequency, last)
        else:
            nothing = np.zeros((4, 4), np.complex128)
            result.append((pending, nothing, nothing, 0.0, None))
        return result


@dataclass(eq=False)
class Group:
    """Neighbouring blocks: shared ones on at most four wires, or a single one that takes inputs."""

    wires: tuple[int, ...]
    per_example: bool
    blocks: list[Block]


def in_light_cone(gates: Sequence[TracedGate], observed: Iterable[int]) -> tuple[TracedGate, ...]:
    """The gates that can change expectation values on the ``observed`` wires, in order."""
    cone = set(observed)
    kept = []
    for gate in reversed(gates):
        if cone.intersection(gate.wires):
            cone.update(gate.wires)
            kept.append(gate)
    return tuple(reversed(kept))


def fuse_gates(gates: Sequence[TracedGate]) -> list[Block]:
    """Blocks on at most two wires whose product is the circuit."""
    blocks: list[Block] = []
    last_on: dict[int, Block] = {}
    for gate in gates:
        per_example, before = gate.takes_inputs, [last_on.get(wire) for wire in gate.wires]
        home = before[0]
        if home is not None and home.per_example == per_example and all(block is home for block in before):
            home.gates.append(gate)
            continue
        block = Block(tuple(sorted(gate.wires)), per_example)
        if len(gate.wires) == 2:
            for earlier in before:
                if earlier is not None and len(earlier.wires) == 1 and earlier.per_example == per_example:
                    block.gates += earlier.gates
                    blocks.remove(earlier)
        block.gates.append(gate)
        blocks.append(block)
        for wire in gate.wires:
            last_on[wire] = block
    return blocks


def fuse_blocks(blocks: Sequence[Block], group_wires: int = GROUP_WIRES) -> list[Group]:
    """Groups whose product is the product of the ``blocks``.

    A block joins the earliest-grown group that it can reach without passing a group on its wires and that
    grows least by it.
    """
    groups: list[Group] = []
    for block in blocks:
        candidates = []
        for group in reversed(groups):
            wires = set(group.wires) | set(block.wires)
            limit = BLOCK_WIRES if block.per_example else group_wires
            if group.per_example == block.per_example and len(wires) <= limit:
                candidates.append((len(wires) - len(group.wires), group))
            if set(group.wires) & set(block.wires):
                break
        if candidates:
            home = min(candidates, key=lambda candidate: candidate[0])[1]
            home.wires = tuple(sorted(set(home.wires) | set(block.wires)))
            home.blocks.append(block)
        else:
            groups.append(Group(block.wires, block.per_example, [block]))
    return groups


def merge_per_example(groups: Sequence[Group]) -> list[Group]:
    """Every group that takes inputs as one block on its wires, so that its factors multiply directly."""
    merged = []
    for group in groups:
        if group.per_example:
            gates = [gate for block in group.blocks for gate in block.gates]
            group = Group(group.wires, True, [Block(group.wires, True, gates)])
        merged.append(group)
    return merged


def embedding(wires: tuple[int, ...], block_wires: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Where each entry of a block's matrix embedded on ``wires`` comes from.

    int64 of shape (2^k, 2^k): an index into the flat 4x4 matrix of the block, or -1 where the entry is 0.
    """
    k = len(wires)
    states = np.arange(2**k)
    bits = {wire: (states >> (k - 1 - position)) & 1 for position, wire in enumerate(wires)}
    local, rest = np.zeros_like(states), np.zeros_like(states)
    for position, wire in enumerate(block_wires):
        local += bits[wire] << (BLOCK_WIRES - 1 - position)
    for position, wire in enumerate(wire for wire in wires if wire not in block_wires):
        rest += bits[wire] << position
    index = local[:, None] * 4 + local[None, :]
    return np.where(rest[:, None] == rest[None, :], index, -1)
