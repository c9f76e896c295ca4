"""Numbers over seeds, and the file they are kept in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.experiments.results import (
    CompressionSummary,
    KeyBudget,
    Results,
    ResultsError,
    RoundRow,
    SeedRun,
    compare,
    final_of,
    mean_rounds,
    read_results,
    t_interval,
    write_results,
)
from fl.keys.budget import KeyRecord


def run(seed: int, *accuracies: float, exact: bool | None = True, loss: float = 0.5) -> SeedRun:
    rows = (
        RoundRow(number, accuracy, loss, 100.0, 60, number - 1, exact)
        for number, accuracy in enumerate(accuracies, start=1)
    )
    return SeedRun(seed, tuple(rows))


def test_the_interval_is_students() -> None:
    # Sleep data of Gosset 1908 (difference of two drugs): mean 1.58, s = 1.23, n = 10, t_9 = 2.262.
    gained = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    low, high = t_interval(gained) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.7001, 2.4599), abs=1e-3)


@pytest.mark.parametrize("values", [[], [0.9]])
def test_one_seed_has_no_interval(values: list[float]) -> None:
    assert t_interval(values) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(-1, 1))
def test_an_interval_moves_with_its_values_and_holds_their_mean(values: list[float], shift: float) -> None:
    low, high = t_interval(values) or (0.0, 0.0)
    assert low <= math.fsum(values) / len(values) + 1e-12
    assert high >= math.fsum(values) / len(values) - 1e-12
    moved = t_interval([value + shift for value in values]) or (0.0, 0.0)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


def test_comparisons_pair_the_seeds_and_leave_out_what_has_no_partner() -> None:
    four = [run(1, 0.5, 0.80), run(2, 0.5, 0.70), run(3, 0.5, 0.9)]
    three = [run(2, 0.5, 0.66), run(1, 0.5, 0.74)]
    gain = compare("gain", four, three)
    assert gain is not None
    assert gain.per_seed == pytest.approx((0.06, 0.04))
    assert gain.difference_mean == pytest.approx(0.05)
    assert gain.difference_ci95 == pytest.approx((0.05 - 12.7062 * 0.01, 0.05 + 12.7062 * 0.01), abs=1e-4)
    assert compare("nothing", four, [run(9, 0.1)]) is None


def test_a_mean_curve_is_as_long_as_the_shortest_and_exact_only_if_all_are() -> None:
    rows = mean_rounds([run(1, 0.5, 0.7, 0.9), run(2, 0.7, 0.9)])
    assert [(row.round, row.accuracy) for row in rows] == [(1, pytest.approx(0.6)), (2, pytest.approx(0.8))]
    assert all(row.exact is True for row in rows)
    assert mean_rounds([run(1, 0.5), run(2, 0.7, exact=False)])[0].exact is False
    assert mean_rounds([run(1, 0.5), run(2, 0.7, exact=None)])[0].exact is None
    assert mean_rounds([run(1, 0.5), run(2, 0.7, loss=math.nan)])[0].loss is None


def results() -> Results:
    runs = (run(1, 0.5, 0.8), run(2, 0.6, 0.9))
    return Results(
        task="digits",
        mode="otp",
        split="iid",
        clients=4,
        rounds=mean_rounds(runs),
        final=final_of(runs),
        baselines={},
        compression=CompressionSummary(10, 0.6875, 100, 100, 127),
        key_supply="simulated",
        security="information-theoretic",
        runs=runs,
        key_budget=KeyBudget(None, KeyRecord(120, 0, ())),
    )


def test_the_file_has_the_agreed_keys_and_reads_back(tmp_path: Path) -> None:
    path = write_results(results(), tmp_path)
    data = json.loads(path.read_text())
    agreed = [
        "task",
        "mode",
        "split",
        "clients",
        "rounds",
        "final",
        "baselines",
        "compression",
        "key_supply",
        "security",
    ]
    assert set(agreed) <= set(data)
    assert set(data["rounds"][0]) == {
        "round",
        "accuracy",
        "loss",
        "upload_bytes_per_client",
        "key_bits",
        "dropped",
        "exact",
    }
    assert set(data["final"]) == {"accuracy_mean", "accuracy_ci95", "seeds"}
    low, high = data["final"]["accuracy_ci95"]
    assert data["final"]["accuracy_mean"] == pytest.approx(0.85)
    assert low < data["final"]["accuracy_mean"] < high
    assert data["final"]["seeds"] == 2
    assert {"ring_width", "saving_vs_float32"} <= set(data["compression"])
    assert read_results(tmp_path) == read_results(path) == results()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"task": 3}', b"[" * 5000])
def test_what_is_no_results_file_is_told_in_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ResultsError, match="not the results"):
        read_results(tmp_path)


def test_results_of_another_format_are_told_by_its_number(tmp_path: Path) -> None:
    path = write_results(results(), tmp_path)
    kept = json.loads(path.read_text())
    kept["compression"]["ring_bits"] = kept["compression"].pop("ring_width")
    for told, other in ((1, None), (9, 9)):
        path.write_text(
            json.dumps(
                {**kept, "format": other} if other else {k: v for k, v in kept.items() if k != "format"}
            )
        )
        with pytest.raises(
            ResultsError, match=f"results.json .*: it has format {told}, this version reads 2"
        ):
            read_results(tmp_path)


def test_a_missing_file_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="name the folder of a run"):
        read_results(tmp_path / "nowhere.json")


def test_a_loss_that_is_not_finite_still_makes_valid_json(tmp_path: Path) -> None:
    odd = msgspec.structs.replace(results(), rounds=(RoundRow(1, 0.1, math.inf, 1.0, 0, 0, None),))
    assert json.loads(write_results(odd, tmp_path).read_text())["rounds"][0]["loss"] is None


def test_an_interval_of_accuracies_ends_where_accuracies_do() -> None:
    def run(seed: int, accuracy: float) -> SeedRun:
        return SeedRun(seed, (RoundRow(1, accuracy, 0.1, 1.0, 0, 0, True),))

    final = final_of([run(1, 0.98), run(2, 0.90)])
    assert final.accuracy_ci95 is not None
    assert final.accuracy_ci95 == (pytest.approx(0.94 - 12.7062 * 0.04, abs=1e-3), 1.0)
    assert t_interval([0.98, 0.90]) == pytest.approx((0.4318, 1.4482), abs=1e-3)


def test_a_file_without_rounds_is_no_results(tmp_path: Path) -> None:
    empty = msgspec.structs.replace(results(), rounds=())
    write_results(empty, tmp_path)
    with pytest.raises(ResultsError, match=r"rounds"):
        read_results(tmp_path)
