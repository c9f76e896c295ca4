"""What a run costs in QPU seconds, before anything is submitted.

The service's own formula for the usage of a job (IBM Quantum documentation, "Workload usage", section on
local estimation, https://quantum.cloud.ibm.com/docs/guides/estimate-job-run-time) is

    <per sub-job overhead> + (rep_delay + <circuit length>) * <executions>

with an overhead of about 2 s and, unless the backend says otherwise, a repetition delay of 250 us.  An
execution is one shot of one circuit.  Mitigation adds to both: twirling makes of every circuit up to 32 that
share its shots, the calibration of ``trex`` is as many again in every job, ``zne`` runs every circuit at noise
factors 1, 3 and 5, the amplified ones that many times as long (:mod:`fl.qpu.options`).  Circuits and shots are
exact; the seconds are an estimate: the service may split jobs and a session is charged by the clock while it
is open.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from qiskit import QuantumCircuit

from fl.qpu.options import Mitigation, RunOptions

SOURCE = "https://quantum.cloud.ibm.com/docs/guides/estimate-job-run-time"
JOB_OVERHEAD_S = 2.0
DEFAULT_REPETITION_DELAY_S = 250e-6
DEFAULT_CIRCUIT_LENGTH_S = 100e-6


class CostEstimate(msgspec.Struct, frozen=True):
    """``qpu_s`` QPU seconds for ``executions``, the shots of all ``circuits`` together, in ``jobs`` jobs."""

    parameter_sets: int
    bases: int
    shots: int
    mitigation: Mitigation
    jobs: int
    circuits: int
    executions: int
    circuit_length_s: float
    repetition_delay_s: float
    qpu_s: float
    free: bool
    source: str = SOURCE

    def text(self) -> str:
        """For people."""
        work = (
            f"{self.parameter_sets} parameter sets x {self.bases} basis x {self.shots} shots, mitigation "
            f"{self.mitigation}, in {self.jobs} jobs: {self.circuits:,} circuits, {self.executions:,} shots in all, "
            f"{1e6 * self.circuit_length_s:.1f} us each"
        )
        if self.free:
            return f"{work}; simulated here, costs nothing (a QPU would take about {self.qpu_s:.0f} s)"
        return f"{work}; about {self.qpu_s:.0f} s of QPU time (formula: {self.source})"


def estimate_cost(
    circuit: QuantumCircuit,
    backend: Any,
    options: RunOptions,
    *,
    parameter_sets: int,
    bases: int,
    local: bool,
) -> CostEstimate:
    """The cost of measuring ``circuit`` (already transpiled for ``backend``) in ``bases`` bases for every set."""
    length = circuit_length_s(circuit, backend)
    delay = _repetition_delay_s(backend)
    jobs = math.ceil(parameter_sets / options.sets_per_job)
    twirled, shots_each = options.twirled
    measured = parameter_sets * bases * twirled
    calibration = jobs * twirled if options.mitigation != "none" else 0
    circuits = measured * len(options.noise_factors) + calibration
    waiting_s = circuits * shots_each * delay
    running_s = (measured * sum(options.noise_factors) + calibration) * shots_each * length
    return CostEstimate(
        parameter_sets=parameter_sets,
        bases=bases,
        shots=options.shots,
        mitigation=options.mitigation,
        jobs=jobs,
        circuits=circuits,
        executions=circuits * shots_each,
        circuit_length_s=length,
        repetition_delay_s=delay,
        qpu_s=JOB_OVERHEAD_S * jobs + waiting_s + running_s,
        free=local,
    )


def circuit_length_s(circuit: QuantumCircuit, backend: Any) -> float:
    """Duration of a transpiled circuit and its measurement, from the backend's gate times: the longest chain of
    gates that wait for each other.  Backends without gate times count 100 us."""
    target = getattr(backend, "target", None)
    if target is None or not any(target.durations().duration_by_name_qubits):
        return DEFAULT_CIRCUIT_LENGTH_S
    busy_until = dict.fromkeys(circuit.qubits, 0.0)
    for instruction in circuit.data:
        start = max((busy_until[qubit] for qubit in instruction.qubits), default=0.0)
        qubits = tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits)
        for qubit in instruction.qubits:
            busy_until[qubit] = start + _gate_s(target, instruction.operation.name, qubits)
    used = [qubit for qubit in circuit.qubits if busy_until[qubit] > 0.0] or circuit.qubits[:1]
    return max(
        busy_until[qubit] + _gate_s(target, "measure", (circuit.find_bit(qubit).index,)) for qubit in used
    )


def _gate_s(target: Any, name: str, qubits: tuple[int, ...]) -> float:
    properties = target[name].get(qubits) if name in target.operation_names else None
    duration = getattr(properties, "duration", None)
    return float(duration) if duration else 0.0


def _repetition_delay_s(backend: Any) -> float:
    delay = getattr(backend, "default_rep_delay", None)
    return float(delay) if delay else DEFAULT_REPETITION_DELAY_S
