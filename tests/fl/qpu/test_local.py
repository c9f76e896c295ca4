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
from fl.qpu.options import OptionsError, RunOptions
from fl.qpu.prepare import best_layout, estimated_loss, prepare
from fl.qpu.readout import correct
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


def test_device_noise_shows_and_readout_calibration_takes_most_of_it_away(
    make_model: Callable[..., CircuitModel], tmp_path: Path
) -> None:
    report = run(make_model(30), open_device("fake_manila"), FAST, tmp_path / "run")
    assert report.readout_calibrated
    assert report.unmitigated is not None
    raw, corrected = report.unmitigated.deviation, report.comparison.deviation
    assert raw.rest > 2 * raw.shot_noise
    assert corrected.rest < raw.rest / 2
    assert raw.contrast < corrected.contrast < 1.02
    assert report.comparison.agreement >= 0.9


def test_no_mitigation_at_resilience_zero(make_model: Callable[..., CircuitModel], tmp_path: Path) -> None:
    options = msgspec.structs.replace(FAST, resilience_level=0)
    report = run(make_model(4), open_device("aer"), options, tmp_path / "run")
    assert (report.readout_calibrated, report.unmitigated, report.unused_locally) == (False, None, ())


def test_seeds_make_a_run_repeatable(make_model: Callable[..., CircuitModel], tmp_path: Path) -> None:
    model = make_model(4)
    first, second, other = (
        run(
            model,
            open_device("aer"),
            msgspec.structs.replace(FAST, seed=seed, resilience_level=0),
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


def test_readout_errors_are_taken_out_exactly() -> None:
    true = np.array([[0.9, -0.4], [-1.0, 0.2]])
    zeros, ones = np.array([0.98, 0.9]), np.array([-0.94, -0.7])
    read = (zeros + ones) / 2 + (zeros - ones) / 2 * true
    corrected, errors = correct(read, np.full((2, 2), 0.01), np.stack([zeros, ones]), np.zeros((2, 2)))
    np.testing.assert_allclose(corrected, true, atol=1e-12)
    np.testing.assert_allclose(errors, np.tile(0.01 / ((zeros - ones) / 2), (2, 1)))
    with pytest.raises(JobFailedError, match=r"contrast of 0\.1"):
        correct(read, read, np.stack([zeros, zeros - 0.2]), np.zeros((2, 2)))


def test_errors_of_the_calibration_reach_the_corrected_values() -> None:
    rng = np.random.default_rng(8)
    zeros, ones, read, sigma = 0.95, -0.85, 0.4, 0.01
    draws = [
        correct(
            np.array([[read]]),
            np.zeros((1, 1)),
            np.array([[zeros], [ones]]) + sigma * rng.normal(size=(2, 1)),
            np.full((2, 1), sigma),
        )
        for _ in range(2000)
    ]
    spread = np.std([corrected for corrected, _ in draws])
    assert spread == pytest.approx(np.mean([error for _, error in draws]), rel=0.1)


def test_what_local_testing_mode_leaves_out_is_listed() -> None:
    options = RunOptions(resilience_level=2, dynamical_decoupling="XY4", twirl_gates=True, max_job_s=5)
    assert options.unused_locally(("ZI", "IZ")) == (
        "zero-noise extrapolation",
        "dynamical decoupling XY4",
        "twirling",
        "limit of QPU seconds",
    )
    assert options.unused_locally(("ZZ",))[0] == "readout mitigation"


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
        ({"resilience_level": 3}, "resilience_level"),
        ({"execution": "later"}, "execution"),
        ({"readout": "guess"}, "readout"),
        ({"dynamical_decoupling": "ZZ"}, "dynamical_decoupling"),
        ({"max_job_s": 0}, "max_job_s"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
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
