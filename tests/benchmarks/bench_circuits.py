"""Figures of compiled circuits as JSON lines: python tests/benchmarks/bench_circuits.py [--batch 64]

First the training step of the quantum-state classifier (8 qubits) against PennyLane's batched backpropagation;
then forward and backward of a layered circuit with one input per qubit, at 4 and 8 qubits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import pennylane as qml
import torch
from torch import Tensor

from fl.circuits.torch_circuit import compile_circuit
from fl.workloads.network import single_thread
from fl.workloads.quantum_states.benchmark import quantum_state_benchmark

LAYERS = 3


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


def median_ms(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


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

    pennylane, compiled_ms = median_ms(theirs, 5), median_ms(ours, 15)
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
    print(json.dumps({"what": "quantum_state_speedup", **quantum_state_benchmark(batch)}), flush=True)
    for n_wires in (4, 8):
        print(
            json.dumps({"what": "layered circuit", "batch": batch, **layered_step(n_wires, batch)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
