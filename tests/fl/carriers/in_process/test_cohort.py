"""Rounds of a cohort: every mode gives the plain sum bit for bit, and what does not is noticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fl.carriers.in_process import clients
from fl.carriers.in_process.checkpoint import CohortFolder
from fl.carriers.in_process.clients import members_of
from fl.carriers.in_process.plan import make_plan
from fl.carriers.in_process.results import CohortError, CohortEvent, CohortPhase, CohortRound, InexactSumError
from fl.carriers.in_process.run import run_cohort
from fl.keys.simulated import KeyReuseError, SimulatedKeySupply
from fl.modes.thresholds import ShareCodeError
from fl.rounds.aggregation import aggregation_for
from fl.rounds.config import ConfigError, FLConfig
from fl.rounds.quantise import RingWidthError, UpdateNotFiniteError, quantisation_rng
from fl.workloads.base import training_seed
from fl.workloads.data import DataError
from orchestrator.delivery.masking import add_words

Settings = Callable[..., FLConfig]
MODES = ("plain", "otp", "expanded", "lightsecagg")
COMPRESSED = {"keep": 0.3, "levels": 2, "error_feedback": True, "clip_decay": 0.9}


@pytest.mark.parametrize("chosen", [{}, COMPRESSED, {"keep": 0.3, "levels": 2}, {"weights": (3, 1, 2, 5, 1)}])
def test_all_modes_end_with_the_same_bits(settings: Settings, targets: Any, chosen: dict[str, Any]) -> None:
    """Masks cancel, shares decode: the model does not know how its updates were protected."""
    results = {
        mode: run_cohort(settings(5, mode=mode, **chosen), workers=0, task=targets()) for mode in MODES
    }
    for result in results.values():
        assert np.array_equal(result.parameters, results["plain"].parameters)
        assert [r.exact for r in result.rounds] == [True] * 4
    assert np.abs(results["plain"].parameters).max() > 0.01
    assert {mode: result.security for mode, result in results.items()} == {
        "plain": "none",
        "otp": "information-theoretic",
        "expanded": "computational",
        "lightsecagg": "information-theoretic",
    }
    assert {result.key_supply for result in results.values()} == {"simulated"}


def test_two_clients_are_a_cohort(settings: Settings, targets: Any) -> None:
    plain, masked = (
        run_cohort(settings(2, mode=mode), workers=0, task=targets()).parameters for mode in ("plain", "otp")
    )
    assert np.array_equal(plain, masked)


def averaged_by_hand(task: Any, config: FLConfig, quantised: bool) -> npt.NDArray[np.float32]:
    """Federated averaging as it is written down, without anything of a cohort."""
    model, n = task.initial_parameters(config.seed), config.n_clients
    data = [task.client_data(index, n, config.seed) for index in range(n)]
    for number in range(1, config.rounds + 1):
        updates = []
        for index in range(n):
            update = task.local_train(model, data[index], training_seed(config.seed, number, index))
            if quantised:
                rng = quantisation_rng(config.seed, number, index)
                update = config.quantiser.quantise(update, rng, client="c", round_number=number)
            updates.append(update.astype(np.float64))
        mean = np.sum(updates, axis=0) / n
        if quantised:
            mean *= config.clip / config.levels
        model = model + mean.astype(np.float32)
    return model  # type: ignore[no-any-return]


def test_a_cohort_without_compression_averages_quantised_updates(settings: Settings, targets: Any) -> None:
    config = settings(4, mode="otp", clip=0.8)
    expected = averaged_by_hand(targets(), config, quantised=True)
    assert np.allclose(run_cohort(config, workers=0, task=targets()).parameters, expected, atol=1e-6)


def test_float32_averages_updates_as_they_are(settings: Settings, targets: Any) -> None:
    config = settings(4)
    result = run_cohort(config, workers=0, task=targets(), float32=True)
    assert np.allclose(result.parameters, averaged_by_hand(targets(), config, quantised=False), atol=1e-6)
    assert result.security == "none"
    assert result.rounds[0].upload_bytes_per_client == 4 * 53
    assert result.key_bits_spent == 0


def test_bytes_and_key_are_those_of_the_formulas(settings: Settings, targets: Any) -> None:
    """d b bits per pair; 2 ceil(d / (U-T)) ceil(log2 p) for shares, and 2 * 384 for tags; 256 bits to expand."""
    first = {
        mode: run_cohort(settings(10, mode=mode, rounds=1, levels=2), workers=0, task=targets(100)).rounds[0]
        for mode in MODES
    }
    ring_width, pairs = 6, 45
    assert first["otp"].key_bits == pairs * 100 * ring_width
    assert first["expanded"].key_bits == pairs * 256
    assert first["plain"].key_bits == 0
    assert first["otp"].upload_bytes_per_client == 75
    share_symbols, symbol_bits = -(-100 // (8 - 5)), 6
    assert first["lightsecagg"].key_bits == pairs * 2 * (share_symbols * symbol_bits + 384)
    share_bytes = -(-share_symbols * symbol_bits // 8)
    assert first["lightsecagg"].upload_bytes_per_client == 75 + 10 * share_bytes + 2 * 9 * 16


@pytest.mark.parametrize("mode", MODES)
def test_a_round_costs_what_it_would_between_nodes(settings: Settings, targets: Any, mode: Any) -> None:
    """What is simulated, what is forecast and what a distributed round spends agree."""
    config = settings(5, mode=mode, rounds=1, keep=0.5, weights=(2, 1, 1, 1, 3))
    (row,) = run_cohort(config, workers=0, task=targets()).rounds
    aggregation = aggregation_for(config, 53)
    context = aggregation.context(1, config.clients)
    assert row.key_bits == 10 * aggregation.key_bits_per_pair
    assert row.key_bits == (0 if mode == "plain" else 10 * context.pad_bits)
    assert row.upload_bytes_per_client == aggregation.rules(config.clients).upload_bytes(5)


@pytest.mark.parametrize("chosen", [{}, {"colluders": 3}, {"survivors": 8}, {"colluders": 2, "survivors": 9}])
def test_shares_hide_from_as_many_colluders_as_in_a_distributed_round(
    settings: Settings, chosen: dict[str, int]
) -> None:
    config = settings(10, mode="lightsecagg", **chosen)
    code = make_plan(config, 53).code
    assert code is not None
    assert (code.colluders, code.survivors) == config.thresholds
    assert code.colluders > 0


# -- drop-outs -----------------------------------------------------------------------------------------


def test_lightsecagg_is_exact_with_drop_outs_in_every_round(settings: Settings, targets: Any) -> None:
    """N = 12, T = 6, U = 10: two may vanish, one before its upload and one before its answer."""
    config = settings(12, mode="lightsecagg", rounds=6, **COMPRESSED)
    result = run_cohort(config, workers=0, task=targets(), drop_outs=2)
    assert [(r.exact, r.dropped) for r in result.rounds] == [(True, 2)] * 6
    everybody = run_cohort(config, workers=0, task=targets())
    assert not np.array_equal(result.parameters, everybody.parameters)


def test_the_drop_outs_follow_from_the_seed(settings: Settings, targets: Any) -> None:
    runs = [
        run_cohort(settings(12, mode="lightsecagg", seed=seed), workers=0, task=targets(), drop_outs=2)
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(runs[0].parameters, runs[1].parameters)
    assert not np.array_equal(runs[0].parameters, runs[2].parameters)


def test_more_drop_outs_than_shares_allow_are_refused(settings: Settings, targets: Any) -> None:
    with pytest.raises(CohortError, match=r"U = 10 survivors; at most 2 may drop out"):
        run_cohort(settings(12, mode="lightsecagg"), workers=0, task=targets(), drop_outs=3)


@pytest.mark.parametrize("mode", ["otp", "expanded"])
def test_pairwise_masks_refuse_drop_outs(settings: Settings, targets: Any, mode: str) -> None:
    with pytest.raises(CohortError, match="use mode lightsecagg"):
        run_cohort(settings(5, mode=mode), workers=0, task=targets(), drop_outs=1)


# -- refusals ------------------------------------------------------------------------------------------


class Untouched:
    """A task that must not be trained."""

    n_parameters = 10

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used although the settings are wrong")


@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        ({"ring_width": 4, "levels": 7}, RingWidthError),
        ({"weights": (1, 1, 1, 1, 9), "ring_width": 7}, RingWidthError),
        ({"mode": "lightsecagg", "colluders": 2, "survivors": 3}, (ShareCodeError, ConfigError)),
        ({"weights": (1, 2)}, (CohortError, ConfigError)),
        ({"rounds": 0}, ConfigError),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(
    settings: Settings, chosen: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run_cohort(settings(5, **chosen), workers=0, task=Untouched())  # type: ignore[arg-type]


def test_an_update_that_is_not_finite_ends_the_run_before_anything_is_masked(
    settings: Settings, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(SimulatedKeySupply, "open_attempt", lambda self, attempt: drawn.append(attempt))
    with pytest.raises(UpdateNotFiniteError, match="client c2, round 1: parameter 3"):
        run_cohort(settings(4, mode="otp"), workers=0, task=targets(poison=(1, 2)))
    assert not drawn


def test_a_test_set_that_cannot_be_read_ends_the_run_before_anything_is_masked(
    settings: Settings, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, drawn = targets(), []
    monkeypatch.setattr(SimulatedKeySupply, "open_attempt", lambda self, attempt: drawn.append(attempt))

    def evaluate(parameters: object) -> None:
        raise DataError("labels are damaged")

    monkeypatch.setattr(task, "evaluate", evaluate)
    with pytest.raises(DataError, match="labels are damaged"):
        run_cohort(settings(4, mode="otp"), workers=0, task=task)
    assert not drawn


def test_a_clip_that_decays_to_nothing_is_refused_before_any_work(settings: Settings) -> None:
    config = settings(5, clip_decay=0.1, rounds=40)
    with pytest.raises(ConfigError, match=r"clip_decay is 0.1: .* in round 31"):
        run_cohort(config, workers=0, task=Untouched())  # type: ignore[arg-type]


# -- planted faults ------------------------------------------------------------------------------------


def test_one_wrong_sign_is_noticed(settings: Settings, targets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "subtract_words", add_words)
    with pytest.raises(InexactSumError, match="round 1"):
        run_cohort(settings(4, mode="otp"), workers=0, task=targets())


def test_a_share_under_another_pad_is_noticed(
    settings: Settings, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keystream = SimulatedKeySupply._keystream

    def swapped(self: SimulatedKeySupply, sender: int, receiver: int, n_bits: int) -> Any:
        words = keystream(self, sender, receiver, n_bits)
        if (sender, receiver) == (0, 1):
            swapped.calls += 1  # type: ignore[attr-defined]
            words[0] ^= np.uint64(swapped.calls % 2)  # type: ignore[attr-defined]
        return words

    swapped.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(SimulatedKeySupply, "_keystream", swapped)
    with pytest.raises((InexactSumError, ValueError)):
        run_cohort(settings(4, mode="lightsecagg", colluders=1, survivors=3), workers=0, task=targets())


@pytest.mark.parametrize("mode", ["otp", "expanded", "lightsecagg"])
def test_a_ledger_that_rewinds_is_noticed(
    settings: Settings, targets: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(CohortFolder, "begin_attempt", lambda self, key_bits: 1)
    with pytest.raises(KeyReuseError, match="attempt 1 follows attempt 1"):
        run_cohort(settings(4, mode=mode), workers=0, task=targets())


# -- progress, stopping, processes ---------------------------------------------------------------------


def test_what_happens_is_reported_in_order(settings: Settings, targets: Any) -> None:
    events: list[CohortEvent] = []
    run_cohort(settings(4, mode="otp", rounds=2), workers=0, task=targets(), report=events.append)
    phases = list(dict.fromkeys((e.round, e.phase) for e in events if isinstance(e, CohortPhase)))
    steps = ("training", "protecting", "aggregating", "evaluating")
    assert phases == [(number, phase) for number in (1, 2) for phase in steps]
    assert [e.round for e in events if isinstance(e, CohortRound)] == [1, 2]
    assert CohortPhase(1, "training", 4, 4) in events


def test_a_run_that_is_stopped_hands_back_its_completed_rounds(settings: Settings, targets: Any) -> None:
    stop = threading.Event()

    def report(event: CohortEvent) -> None:
        if isinstance(event, CohortPhase) and (event.round, event.phase) == (3, "protecting"):
            stop.set()

    result = run_cohort(settings(4, mode="otp"), workers=0, task=targets(), stop=stop, report=report)
    assert result.stopped
    assert [r.round for r in result.rounds] == [1, 2]
    two = run_cohort(settings(4, mode="otp", rounds=2), workers=0, task=targets())
    assert np.array_equal(result.parameters, two.parameters)
    assert not two.stopped


def test_groups_share_the_clients_out_evenly() -> None:
    for n_clients, n_groups in ((200, 2), (7, 3), (5, 5)):
        groups = [members_of(n_clients, index, n_groups) for index in range(n_groups)]
        assert [client for group in groups for client in group] == list(range(n_clients))
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_a_task_that_is_handed_over_cannot_go_to_processes(settings: Settings, targets: Any) -> None:
    with pytest.raises(ValueError, match="workers = 0"):
        run_cohort(settings(4), workers=2, task=targets())


def test_clients_that_may_train_together_are_handed_over_in_batches(settings: Settings, targets: Any) -> None:
    class Together(targets):  # type: ignore[misc]
        clients_together = 3
        batches: list[int] = []  # noqa: RUF012

        def local_train_together(self, parameters: Any, data: Any, seeds: Any) -> Any:
            self.batches.append(len(data))
            return [self.local_train(parameters, d, s) for d, s in zip(data, seeds, strict=True)]

    config, task = settings(8, mode="otp", rounds=1), Together()
    together = run_cohort(config, workers=0, task=task).parameters
    assert task.batches == [3, 3, 2]
    assert np.array_equal(together, run_cohort(config, workers=0, task=targets()).parameters)
