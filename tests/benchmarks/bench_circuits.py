"""Figures of compiled circuits as JSON lines: python tests/benchmarks/bench_circuits.py [--batch 64]

First the training step of the quantum-state classifier (8 qubits) against PennyLane's batched backpropagation;
then forward and backward of a layered circuit with one input per qubit, at 4 and 8 qubits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml
import torch
from measuring import Figure, emit, median_s
from torch import Tensor
from torch.nn import functional

from fl.circuits.torch_circuit import compile_circuit
from fl.workloads.network import single_thread
from fl.workloads.quantum_states import network
from fl.workloads.quantum_states.ansatz import classifier
from fl.workloads.quantum_states.generators import product_states

N_QUBITS = 4
COPIES = 2
LAYERS = 3


def pennylane_logits(parameters: Tensor, prepared: Tensor) -> Tensor:
    """:func:`fl.workloads.quantum_states.network.logits` computed by PennyLane."""
    wires = prepared.shape[1].bit_length() - 1
    circuit = classifier(wires)

    def measured(weights: Tensor) -> Any:
        qml.StatePrep(prepared, wires=range(wires), validate_norm=False)
        circuit(None, weights)
        return qml.expval(qml.Z(0))

    device = qml.device("default.qubit", wires=wires)
    node = qml.QNode(measured, device, interface="torch", diff_method="backprop")
    expectation: Tensor = node(parameters[: -network.HEAD_PARAMETERS])
    return network.GAIN * (parameters[-2] * expectation + parameters[-1])


def quantum_state_benchmark(batch: int = 64, repeats: int = 9, seed: int = 1) -> dict[str, object]:
    """Milliseconds of a training step on both paths, and ``value``, how many times faster the torch path is.

    Both do the same training step in the same process on the same two-copy states: forward, cross-entropy,
    gradient of all parameters, in double precision; ``single_ms`` is the torch path in the single precision that
    training uses.  PennyLane runs ``default.qubit`` with the torch interface, the whole batch in one execution.
    Steps alternate between the two, so that a busy machine slows both, and the ratio is that of the medians.
    """
    single_thread()
    rng = np.random.default_rng(seed)
    states = product_states(batch, N_QUBITS, None, rng)
    prepared = network.interleaved_copies(states, COPIES)
    labels = torch.from_numpy(rng.integers(0, 2, batch).astype(np.float64))
    parameters = torch.from_numpy(network.initial_parameters(COPIES * N_QUBITS, seed)).double()

    def step(logits: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> Callable[[], Tensor]:
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        values = parameters.to(dtype).requires_grad_(True)
        inputs, targets = prepared.to(complex_dtype), labels.to(dtype)

        def run() -> Tensor:
            loss = functional.binary_cross_entropy_with_logits(logits(values, inputs), targets)
            return torch.autograd.grad(loss, values)[0]

        return run

    steps = {
        "pennylane_ms": step(pennylane_logits, torch.float64),
        "torch_ms": step(network.logits, torch.float64),
        "single_ms": step(network.logits, torch.float32),
    }
    difference = float((steps["torch_ms"]() - steps["pennylane_ms"]()).abs().max())
    times: dict[str, list[float]] = {name: [] for name in steps}
    steps["single_ms"]()
    for _ in range(repeats):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    medians: dict[str, object] = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(times["pennylane_ms"]) / statistics.median(times["torch_ms"])
    return {
        "value": ratio,
        **medians,
        "gradient_difference": difference,
        "batch": batch,
        "qubits": COPIES * N_QUBITS,
        "repeats": repeats,
    }


def quantum_states() -> dict[str, Figure]:
    """A training step of the quantum-state network, against PennyLane's own simulator."""
    return {"quantum_state_speedup": {"unit": "times faster", **quantum_state_benchmark()}}


def layered(n_wires: int) -> Callable[[Any, Any], None]:
    """Inputs as RY angles, then layers of general rotations and a ring of CNOTs."""

    def circuit(inputs: Any, weights: Any) -> None:
        for wire in range(n_wires):
            qml.RY(inputs[wire], wires=wire)
        angles = iter(weights)
        for _ in range(LAYERS):
            for wire in range(n_wires):
                qml.Rot(next(angles), next(angles), next(angles), wires=wire)
            for wire in range(n_wires):
                qml.CNOT(wires=[wire, (wire + 1) % n_wires])

    return circuit


def layered_step(n_wires: int, batch: int) -> dict[str, object]:
    """Forward and backward, gradients of inputs and weights."""
    observables = [qml.Z(wire) for wire in range(n_wires)]
    circuit = layered(n_wires)
    compiled = compile_circuit(circuit, n_wires, n_wires, 3 * n_wires * LAYERS, observables)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(batch, n_wires, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(compiled.n_weights, dtype=torch.float64, generator=generator).requires_grad_()

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def node(x: Tensor, w: Tensor) -> Any:
        circuit(x.T, w)
        return [qml.expval(observable) for observable in observables]

    def ours() -> object:
        return torch.autograd.grad(compiled(inputs, weights).square().mean(), [inputs, weights])

    def theirs() -> object:
        return torch.autograd.grad(
            torch.stack(list(node(inputs, weights))).square().mean(), [inputs, weights]
        )

    pennylane, compiled_ms = 1e3 * median_s(theirs, 5), 1e3 * median_s(ours, 15)
    return {
        "qubits": n_wires,
        "torch_ms": compiled_ms,
        "pennylane_ms": pennylane,
        "value": pennylane / compiled_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    batch = parser.parse_args().batch
    single_thread()
    emit("quantum_state_speedup", **quantum_state_benchmark(batch))
    for n_wires in (4, 8):
        emit("layered circuit", batch=batch, **layered_step(n_wires, batch))


if __name__ == "__main__":
    main()
