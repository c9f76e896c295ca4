"""Local testing mode: the same code, simulated here; agreement, noise, seeds and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import Statevector
from qiskit.transpiler import generate_preset_pass_manager

from fl.qpu.backends import Device, fake_names, open_device
from fl.qpu.errors import JobFailedError, ModelError, UnknownBackendError
from fl.qpu.evaluate import QpuReport, evaluate
from fl.qpu.journal import QpuFolder
from fl.qpu.model import CircuitModel
from fl.qpu.options import MITIGATIONS, RunOptions, RunOptionsError
from fl.qpu.prepare import best_layout, estimated_loss, prepare
from fl.qpu.runner import QpuEvent

FAST = RunOptions(shots=2048, sets_per_job=25, optimization_level=1, layout_trials=2)


def run(model: CircuitModel, device: Device, options: RunOptions, path: Path, **more: Any) -> QpuReport:
    with QpuFolder(path) as folder:
        return evaluate(model, device, options, folder, **more)


def test_without_noise_only_shot_noise_is_left(
    make_model: Callable[..., CircuitModel], tmp_path: Path
) -> None:
    model = make_model(60)
    report = run(model, open_device("aer"), FAST, tmp_path / "run")
    row = report.comparison.deviation
    assert row.rms == pytest.approx(row.shot_noise, rel=0.2)
    assert row.contrast == pytest.approx(1.0, abs=0.02)
    assert report.comparison.agreement >= 0.95
    assert report.local
    assert report.qpu_s is None


def test_a_device_with_more_qubits_than_any_machine_can_simulate_runs(
    make_model: Callable[..., CircuitModel], tmp_path: Path
) -> None:
    few = msgspec.structs.replace(FAST, shots=256, layout_trials=1)
    report = run(make_model(3), open_device("fake_brisbane"), few, tmp_path / "run")
    assert report.comparison.deviation.largest < 0.5


def test_device_noise_shows_and_trex_takes_the_readout_errors_away(
    make_model: Callable[..., CircuitModel], tmp_path: Path
) -> None:
    none, trex = (
        run(
            make_model(10),
            open_device("fake_manila"),
            msgspec.structs.replace(FAST, mitigation=mitigation),
            tmp_path / mitigation,
        ).comparison.deviation
        for mitigation in ("none", "trex")
    )
    assert none.rest > 2 * none.shot_noise
    assert trex.rest < none.rest / 2
    assert none.contrast < trex.contrast < 1.03


@pytest.mark.long
@pytest.mark.parametrize("name", ["fake_manila", "fake_brisbane"])
def test_every_mitigation_takes_more_of_the_devices_noise_away(
    make_model: Callable[..., CircuitModel], tmp_path: Path, name: str
) -> None:
    model = make_model(16)
    none, trex, zne = (
        run(
            model,
            open_device(name),
            msgspec.structs.replace(FAST, mitigation=mitigation),
            tmp_path / mitigation,
        )
        for mitigation in MITIGATIONS
    )
    rows = [report.comparison.deviation for report in (none, trex, zne)]
    assert rows[0].rest > 2 * rows[0].shot_noise
    assert rows[1].rest < rows[0].rest / 1.8
    assert rows[1].absolute < rows[0].absolute / 1.5
    assert rows[0].contrast < rows[1].contrast < rows[2].contrast < 1.03
    # What extrapolation leaves is explained by its own standard errors, which are larger than without.
    assert rows[2].rms == pytest.approx(rows[2].shot_noise, rel=0.35)
    assert rows[2].shot_noise > rows[1].shot_noise
    assert zne.at_own_noise is not None
    assert none.at_own_noise is None
    assert none.cost.executions < trex.cost.executions < zne.cost.executions / 2.5
    assert none.unused_locally == trex.unused_locally == zne.unused_locally == ()


def test_seeds_make_a_run_repeatable(make_model: Callable[..., CircuitModel], tmp_path: Path) -> None:
    model = make_model(4)
    first, second, other = (
        run(
            model,
            open_device("aer"),
            msgspec.structs.replace(FAST, seed=seed),
            tmp_path / name,
        )
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    )
    assert first.comparison == second.comparison
    assert first.comparison != other.comparison


def test_chunks_have_seeds_of_their_own() -> None:
    options = RunOptions(seed=0)
    seeds = [options.simulator_seed(chunk) for chunk in range(100)]
    assert len(set(seeds)) == 100
    assert min(seeds) > 0


def test_a_killed_simulation_is_run_again_and_says_so(
    make_model: Callable[..., CircuitModel], tmp_path: Path
) -> None:
    model = make_model(12)
    device = open_device("aer")
    short = msgspec.structs.replace(FAST, sets_per_job=5)
    whole = run(model, device, short, tmp_path / "whole")

    def die(event: QpuEvent) -> None:
        if event.kind == "submitted" and event.job == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, device, short, tmp_path / "cut", report=die)
    events: list[QpuEvent] = []
    report = run(model, device, short, tmp_path / "cut", resume=True, report=events.append)
    assert [(event.kind, event.job) for event in events if event.kind in ("kept", "again")] == [
        ("kept", 0),
        ("again", 1),
    ]
    assert report.comparison == whole.comparison
    assert report.submitted == 2


def test_the_transpiled_circuit_is_the_same_circuit(model: CircuitModel) -> None:
    prepared = prepare(model, open_device("fake_manila"), FAST)
    assert prepared.circuit.num_qubits == 5
    assert len(set(prepared.qubits)) == 3
    rows = [
        [
            Statevector(prepared.circuit.assign_parameters(values)).expectation_value(operator).real
            for operator in prepared.operators
        ]
        for values in prepared.values
    ]
    np.testing.assert_allclose(rows, model.exact(), atol=1e-9)


def test_the_best_qubits_of_several_trials_are_taken() -> None:
    backend = open_device("fake_brisbane").backend
    ring = QuantumCircuit(4)
    for wire in range(4):
        ring.ry(0.1 + wire, wire)
        ring.cz(wire, (wire + 1) % 4)
    chosen = best_layout(ring, backend, optimization_level=3, trials=20, seed=1)
    assert "measure" not in chosen.count_ops()
    chosen.measure_active()
    manager = generate_preset_pass_manager(optimization_level=3, backend=backend, seed_transpiler=1)
    usual = manager.run(ring)
    usual.measure_active()
    assert estimated_loss(chosen, backend.target) < 0.7 * estimated_loss(usual, backend.target)


def test_what_local_testing_mode_leaves_out_is_listed() -> None:
    options = RunOptions(mitigation="zne", dynamical_decoupling="XY4", twirl_gates=True, max_job_s=5)
    assert options.unused_locally == ("dynamical decoupling XY4", "limit of QPU seconds")


def test_backends_by_name() -> None:
    names = fake_names()
    assert {"fake_manila", "fake_brisbane"} <= set(names)
    assert open_device("FakeManilaV2").backend.name == "fake_manila"
    assert open_device("fake_brisbane").backend.num_qubits == 127
    for name in ("fake_nowhere", "aer:fake_nowhere"):
        with pytest.raises(UnknownBackendError, match="fake_manila"):
            open_device(name)


def test_a_circuit_larger_than_the_backend_is_refused(model: CircuitModel) -> None:
    small = msgspec.structs.replace(FAST)
    with pytest.raises(ModelError, match="1 qubits, the circuit needs 3"):
        prepare(model, open_device("fake_armonk"), small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": 1}, "shots"),
        ({"mitigation": "pec"}, "mitigation is 'pec'; it must be one of none, trex, zne"),
        ({"execution": "later"}, "execution"),
        ({"dynamical_decoupling": "ZZ"}, "dynamical_decoupling"),
        ({"max_job_s": 0}, "max_job_s"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RunOptionsError, match=message):
        RunOptions(**change)  # type: ignore[arg-type]


def test_a_simulation_that_fails_is_told(
    model: CircuitModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("aer")

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(device.backend, "run", broken)
    with pytest.raises(JobFailedError, match="out of memory"):
        run(model, device, FAST, tmp_path / "run")
    with QpuFolder(tmp_path / "run") as folder:
        assert folder.jobs()[0].state == "failed"
