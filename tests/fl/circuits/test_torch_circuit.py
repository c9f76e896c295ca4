"""Compiled circuits against PennyLane: the same values and gradients; what cannot be compiled is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl.circuits import torch_circuit
from fl.circuits.torch_circuit import compile_circuit
from fl.circuits.trace import CircuitError, Input, Weight, trace

ONE_ANGLE = [qml.RX, qml.RY, qml.RZ, qml.PhaseShift]
THREE_ANGLES = [qml.Rot, qml.U3]
CONSTANT = [qml.Hadamard, qml.S, qml.T, qml.PauliX, qml.PauliY]
CONSTANT_PAIR = [qml.CNOT, qml.CZ, qml.SWAP, qml.ISWAP]
PAIR = [
    qml.CRX,
    qml.CRY,
    qml.CRZ,
    qml.IsingXX,
    qml.IsingYY,
    qml.IsingZZ,
    qml.IsingXY,
    qml.ControlledPhaseShift,
]
N_INPUTS, N_WEIGHTS, BATCH = 3, 5, 3


@dataclass(frozen=True)
class Gate:
    """A gate with its arguments as ("input", index), ("weight", index) or ("constant", value)."""

    make: Callable[..., object]
    arguments: tuple[tuple[str, Any], ...]
    wires: tuple[int, ...]


def random_gates(rng: random.Random, n_wires: int, count: int) -> list[Gate]:
    def symbol() -> tuple[str, Any]:
        if rng.random() < 0.3:
            return ("input", rng.randrange(N_INPUTS))
        return ("weight", rng.randrange(N_WEIGHTS))

    def argument() -> tuple[str, Any]:
        return ("constant", rng.uniform(-3, 3)) if rng.random() < 0.1 else symbol()

    gates = []
    for _ in range(count):
        kind = rng.random()
        wire, pair = (rng.randrange(n_wires),), tuple(rng.sample(range(n_wires), 2)) if n_wires > 1 else ()
        if kind < 0.3:
            gates.append(Gate(rng.choice(ONE_ANGLE), (argument(),), wire))
        elif kind < 0.45:
            # Symbols only: PennyLane itself cannot mix a number and a torch tensor in U3.
            gates.append(Gate(rng.choice(THREE_ANGLES), (symbol(), symbol(), symbol()), wire))
        elif kind < 0.6 or n_wires == 1:
            gates.append(Gate(rng.choice(CONSTANT), (), wire))
        elif kind < 0.75:
            gates.append(Gate(rng.choice(CONSTANT_PAIR), (), pair))
        elif kind < 0.97:
            gates.append(Gate(rng.choice(PAIR), (argument(),), pair))
        else:
            gates.append(Gate(qml.CRot, (symbol(), symbol(), symbol()), pair))
    return gates


def function_of(gates: Sequence[Gate]) -> Callable[[Any, Any], None]:
    def circuit(inputs: Any, weights: Any) -> None:
        values = {"input": lambda i: inputs[i], "weight": lambda i: weights[i], "constant": lambda v: v}
        for gate in gates:
            gate.make(*(values[kind](value) for kind, value in gate.arguments), wires=list(gate.wires))

    return circuit


def pennylane_values(
    circuit: Callable[[Any, Any], None],
    n_wires: int,
    observables: Sequence[Any],
    inputs: Tensor,
    weights: Tensor,
    initial: Tensor | None,
) -> Tensor:
    """Expectations from default.qubit, one example after the other."""

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def node(row: int) -> list[Any]:
        if initial is not None:
            qml.StatePrep(initial[row], wires=range(n_wires))
        circuit(inputs[row], weights)
        return [qml.expval(observable) for observable in observables]

    return torch.stack([torch.stack(list(node(row))) for row in range(len(inputs))])


def random_states(n_wires: int, generator: torch.Generator) -> Tensor:
    states = torch.randn(BATCH, 2**n_wires, dtype=torch.complex128, generator=generator)
    return states / states.norm(dim=1, keepdim=True)


def observables_on(n_wires: int) -> list[Any]:
    last = n_wires - 1
    several = [0.3 * qml.X(0) @ qml.Y(last) + 1.2 * qml.Z(last) - 0.5 * qml.Z(0) @ qml.Z(last), qml.Y(last)]
    return [qml.Z(0), *(several if n_wires > 1 else [qml.X(0) + 2.0 * qml.Y(0)])]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32), n_wires=st.integers(1, 5), count=st.integers(0, 40), prepared=st.booleans()
)
def test_random_circuits_agree_with_pennylane(seed: int, n_wires: int, count: int, prepared: bool) -> None:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    circuit = function_of(random_gates(rng, n_wires, count))
    observables = observables_on(n_wires)
    inputs = torch.randn(BATCH, N_INPUTS, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(N_WEIGHTS, dtype=torch.float64, generator=generator).requires_grad_()
    initial = random_states(n_wires, generator) if prepared else None
    cotangent = torch.randn(BATCH, len(observables), dtype=torch.float64, generator=generator)

    def with_gradients(values: Tensor) -> list[Tensor]:
        total = (values * cotangent).sum() + 0 * inputs.sum() + 0 * weights.sum()
        return [values, *torch.autograd.grad(total, [inputs, weights])]

    compiled = compile_circuit(circuit, n_wires, N_INPUTS, N_WEIGHTS, observables)
    ours = with_gradients(compiled(inputs, weights, initial))
    theirs = with_gradients(pennylane_values(circuit, n_wires, observables, inputs, weights, initial))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-9, rtol=0)


@pytest.mark.parametrize("group_wires", [2, 3, 5])
def test_the_size_of_fused_groups_changes_nothing(group_wires: int) -> None:
    rng, generator = random.Random(7), torch.Generator().manual_seed(7)
    circuit = function_of(random_gates(rng, 6, 80))
    inputs = torch.randn(BATCH, N_INPUTS, dtype=torch.float64, generator=generator)
    weights = torch.randn(N_WEIGHTS, dtype=torch.float64, generator=generator)
    observables = [qml.Z(0), qml.X(3) @ qml.Y(5)]
    default = compile_circuit(circuit, 6, N_INPUTS, N_WEIGHTS, observables)
    other = compile_circuit(circuit, 6, N_INPUTS, N_WEIGHTS, observables, group_wires=group_wires)
    torch.testing.assert_close(default(inputs, weights), other(inputs, weights), atol=1e-12, rtol=0)


def test_agreement_is_not_an_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above notices a product taken in the wrong order."""
    right = torch_circuit._product
    circuit = function_of(random_gates(random.Random(3), 3, 30))
    compiled = compile_circuit(circuit, 3, N_INPUTS, N_WEIGHTS, [qml.Z(0)])
    inputs, weights = torch.ones(1, N_INPUTS, dtype=torch.float64), torch.ones(N_WEIGHTS, dtype=torch.float64)
    expected = pennylane_values(circuit, 3, [qml.Z(0)], inputs, weights, None)
    assert (compiled(inputs, weights) - expected).abs().max() < 1e-9
    monkeypatch.setattr(torch_circuit, "_product", lambda factors: right(factors.flip(-3)))
    assert (compiled(inputs, weights) - expected).abs().max() > 1e-3


def test_single_precision_follows_the_weights() -> None:
    circuit = function_of(random_gates(random.Random(5), 4, 40))
    compiled = compile_circuit(circuit, 4, N_INPUTS, N_WEIGHTS, [qml.Z(0)])
    inputs, weights = torch.ones(2, N_INPUTS), torch.linspace(0, 1, N_WEIGHTS)
    single = compiled(inputs, weights)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), compiled(inputs.double(), weights.double()), atol=2e-6, rtol=0
    )


def test_a_batch_is_its_examples_one_by_one() -> None:
    circuit = function_of(random_gates(random.Random(11), 4, 40))
    compiled = compile_circuit(circuit, 4, N_INPUTS, N_WEIGHTS, [qml.Z(0), qml.X(2)])
    inputs = torch.randn(5, N_INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(-1, 1, N_WEIGHTS, dtype=torch.float64)
    together = compiled(inputs, weights)
    one_by_one = torch.cat([compiled(row[None], weights) for row in inputs])
    torch.testing.assert_close(together, one_by_one, atol=1e-12, rtol=0)


def test_gates_that_no_observable_sees_are_dropped() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.RX(weights[0], wires=0)
        qml.CNOT(wires=[1, 2])
        qml.RY(weights[1], wires=2)

    compiled = compile_circuit(circuit, 3, 0, 2, [qml.Z(0)])
    assert len(compiled.gates) == 3
    weights = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)
    value = compiled(None, weights)
    (gradient,) = torch.autograd.grad(value.sum(), weights)
    assert value.item() == pytest.approx(np.cos(0.4))
    assert gradient.tolist() == pytest.approx([-np.sin(0.4), 0.0])


def test_tracing_finds_which_argument_goes_where() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.Rot(*weights[1:3], inputs[0], wires=1)
        qml.RY(0.25, wires=0)
        qml.Toffoli(wires=[0, 1, 2])

    gates = trace(circuit, 1, 3)
    assert gates[0].name == "Rot"
    assert gates[0].wires == (1,)
    assert gates[0].arguments == (Weight(1), Weight(2), Input(0))
    assert gates[1].arguments == (0.25,)
    assert max(len(gate.wires) for gate in gates) == 2


def test_arithmetic_on_arguments_is_refused() -> None:
    with pytest.raises(CircuitError, match=r"weights\[1\].*passed straight through"):
        trace(lambda inputs, weights: qml.RX(2 * weights[1], wires=0), 0, 2)
    with pytest.raises(CircuitError, match=r"inputs\[0\]"):
        trace(lambda inputs, weights: qml.RX(-inputs[0], wires=0), 1, 0)


def test_what_cannot_be_compiled_is_named() -> None:
    with pytest.raises(CircuitError, match="MultiRZ"):
        compile_circuit(lambda x, w: qml.MultiRZ(w[0], wires=[0, 1]), 2, 0, 1, [qml.Z(0)])
    with pytest.raises(CircuitError, match="wire 2"):
        compile_circuit(lambda x, w: qml.RX(w[0], wires=2), 2, 0, 1, [qml.Z(0)])
    with pytest.raises(CircuitError, match="sum of Pauli words"):
        compile_circuit(lambda x, w: qml.RX(w[0], wires=0), 1, 0, 1, [qml.Hermitian(np.eye(2), wires=0)])
    with pytest.raises(CircuitError, match="observable"):
        compile_circuit(lambda x, w: qml.RX(w[0], wires=0), 1, 0, 1, [])


def test_arrays_of_the_wrong_shape_are_refused() -> None:
    compiled = compile_circuit(lambda x, w: qml.RX(x[0], wires=0), 1, 1, 1, [qml.Z(0)])
    weights = torch.zeros(1)
    with pytest.raises(ValueError, match="inputs"):
        compiled(None, weights)
    with pytest.raises(ValueError, match=r"\(batch, 1\)"):
        compiled(torch.zeros(4, 2), weights)
    with pytest.raises(ValueError, match="weights"):
        compiled(torch.zeros(4, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="different size"):
        compiled(torch.zeros(4, 1), weights, torch.zeros(3, 2, dtype=torch.complex64))
