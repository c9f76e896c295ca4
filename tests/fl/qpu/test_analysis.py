"""How deviations are split, how sure an agreement is, and what a run costs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from fl.qpu.analysis import compare, deviation, sampled, wilson
from fl.qpu.backends import open_device
from fl.qpu.cost import circuit_length_s
from fl.qpu.errors import without_secrets
from fl.qpu.evaluate import cost_of
from fl.qpu.model import CircuitModel, expectations_of
from fl.qpu.options import MITIGATIONS, RunOptions
from fl.qpu.prepare import prepare


def test_shot_noise_and_bias_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    shots, contrast, offset = 1000, 0.8, 0.05
    exact = rng.uniform(-1, 1, 20_000)
    device = contrast * exact + offset
    measured = 2 * rng.binomial(shots, (1 + device) / 2) / shots - 1
    row = deviation("Z", exact, measured, np.sqrt((1 - measured**2) / shots))
    bias = np.sqrt(np.mean((device - exact) ** 2))
    assert row.rest == pytest.approx(bias, rel=0.01)
    assert row.shot_noise == pytest.approx(np.sqrt(np.mean((1 - device**2) / shots)), rel=0.01)
    assert row.contrast == pytest.approx(contrast, rel=0.01)
    assert row.mean == pytest.approx(offset, abs=0.01)


def test_a_perfect_device_has_no_rest() -> None:
    exact = np.linspace(-0.9, 0.9, 50)
    row = deviation("Z", exact, exact, np.full(50, 0.01))
    assert (row.rms, row.rest, row.contrast) == (0.0, 0.0, pytest.approx(1.0))


def test_sampling_has_the_binomial_spread(model: CircuitModel) -> None:
    probabilities = model.probabilities()
    exact = expectations_of(probabilities, model.observables)
    draws = np.array([sampled(probabilities, model.observables, 100, seed) for seed in range(400)])
    np.testing.assert_allclose(draws.var(axis=0), (1 - exact**2) / 100, rtol=0.4, atol=1e-4)
    np.testing.assert_allclose(draws.mean(axis=0), exact, atol=0.03)


def test_labels_that_flip_count_against_agreement(make_model: Callable[..., CircuitModel]) -> None:
    model = make_model(50)
    exact = model.exact()
    flipped = exact.copy()
    flipped[:5] *= -3
    same = compare(model, exact, np.full_like(exact, 1e-6), shots=10**6, seed=1)
    assert (same.agreement, same.accuracy_exact, same.accuracy_backend) == (1.0, 1.0, 1.0)
    assert same.shot_noise_agreement >= 0.98
    changed = int(np.sum(model.predict(flipped) != model.predict(exact)))
    assert changed >= 3
    assert compare(model, flipped, exact * 0, shots=100, seed=1).agreement == 1 - changed / 50


def test_wilson_interval() -> None:
    # Brown, Cai and DasGupta: x = 190 of n = 200
    assert wilson(190, 200) == (pytest.approx(0.9104, abs=1e-3), pytest.approx(0.9726, abs=1e-3))
    assert wilson(200, 200)[1] == pytest.approx(1.0)
    assert wilson(0, 10)[0] == pytest.approx(0.0)


def test_cost_follows_the_documented_formula(make_model: Callable[..., CircuitModel]) -> None:
    device = open_device("fake_manila")
    options = RunOptions(shots=1000, sets_per_job=4, mitigation="none", optimization_level=1, layout_trials=2)
    prepared = prepare(make_model(10), device, options)
    length = circuit_length_s(prepared.circuit, device.backend)
    assert 2e-6 < length < 2e-5
    none, trex, zne = (
        cost_of(prepared, device, msgspec.structs.replace(options, mitigation=each)) for each in MITIGATIONS
    )
    assert (none.jobs, none.circuits, none.executions, none.bases) == (3, 10, 10_000, 1)
    assert none.qpu_s == pytest.approx(3 * 2.0 + 10_000 * (250e-6 + length))
    # 16 twirled circuits of 64 shots make up 1000 shots; each of the three jobs is calibrated with as many.
    assert (trex.circuits, trex.executions) == (16 * (10 + 3), 16 * 64 * (10 + 3))
    assert (zne.circuits, zne.executions) == (16 * (3 * 10 + 3), 16 * 64 * (3 * 10 + 3))
    assert zne.qpu_s == pytest.approx(
        3 * 2.0 + zne.executions * 250e-6 + 16 * 64 * ((1 + 3 + 5) * 10 + 3) * length
    )
    assert "mitigation zne, in 3 jobs: 528 circuits, 33,792 shots in all" in zne.text()
    assert "costs nothing" in zne.text()


def test_length_is_the_longest_chain_of_gates() -> None:
    from qiskit import QuantumCircuit

    backend = open_device("fake_manila").backend
    gate = backend.target["cx"][(0, 1)].duration
    measure = backend.target["measure"][(0,)].duration
    circuit = QuantumCircuit(5)
    circuit.cx(0, 1)
    assert circuit_length_s(circuit, backend) == pytest.approx(gate + measure)
    circuit.cx(3, 4)
    other = backend.target["cx"][(3, 4)].duration
    assert circuit_length_s(circuit, backend) == pytest.approx(max(gate, other) + measure)
    circuit.cx(0, 1)
    assert circuit_length_s(circuit, backend) == pytest.approx(max(2 * gate, other) + measure)


@pytest.mark.parametrize(
    "text",
    [
        "GET /jobs with Authorization: Bearer abcdefghijklmnop0123",
        "apikey=abcdefghijklmnop0123 was refused",
        '{"token": "abcdefghijklmnop0123"}',
        "x-access-token abcdefghijklmnop0123",
    ],
)
def test_tokens_are_removed_from_texts(text: str) -> None:
    assert "abcdefghijklmnop0123" not in without_secrets(text)
    assert "[removed]" in without_secrets(text)


def test_other_texts_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_secrets("Error code 6054: job d0rk3f1a failed") == "Error code 6054: job d0rk3f1a failed"
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "my-own-secret-1")
    assert without_secrets("refused my-own-secret-1!") == "refused [removed]!"
