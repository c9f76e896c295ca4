"""The benchmarks measure what they say, on small cases."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import rows
from bench_cohort import mnist_round_benchmark
from bench_lightsecagg import lightsecagg_benchmark
from bench_masking import mask_benchmark
from bench_metrics import scraping
from bench_postprocessing import amplify_benchmark
from bench_scheduler import ALLOWED, scheduling
from secure_round import secure_round_benchmark

from fl.workloads.mnist.sources import DATA

HAS_FILES = DATA.usual_folder.is_dir()


def test_benchmark_reports_what_it_did() -> None:
    figures = amplify_benchmark(80_000, repeats=1)
    assert figures["key_bits"] == 20_000
    assert figures["mbit_per_s"] == pytest.approx(80_000 / figures["seconds"] / 1e6)


def test_the_benchmark_reports_a_rate() -> None:
    report = mask_benchmark(n_values=10_000)
    assert report["value"] == pytest.approx(10_000 / report["seconds"])


def test_the_benchmark_measures_every_step() -> None:
    report = lightsecagg_benchmark(n_clients=10, n_values=1000, repeats=2)
    assert min(report[key] for key in ("draw_ms", "encode_ms", "answer_ms", "decode_ms")) > 0
    assert report["client_ms"] == pytest.approx(report["draw_ms"] + report["encode_ms"])
    assert report["upload_symbols_ratio"] == pytest.approx((9 * 334 + 1000 + 334) / 1000)
    assert (report["colluders"], report["survivors"], report["modulus"]) == (5, 8, 2551)


@pytest.mark.long
@pytest.mark.skipif(not HAS_FILES, reason="MNIST is not fetched: qunetlab data fetch mnist")
def test_the_benchmark_times_exact_rounds() -> None:
    figures = mnist_round_benchmark(rounds=1, workers=0, n_clients=50)
    assert figures["exact"] is True
    assert float(figures["value"]) > 0.05  # type: ignore[arg-type]
    assert figures["key_bits_per_round"] == 50 * 49 // 2 * 29513 * 9


def test_both_rounds_are_exact_and_the_ratios_follow_from_the_times() -> None:
    found = secure_round_benchmark(n_clients=3, repeats=1, examples_per_client=20)
    assert found["exact"] == 1.0
    assert found["n_parameters"] == 101_770
    secure = found["train_ms"] + found["secure_after_training_ms"]
    plain = found["train_ms"] + found["plain_after_training_ms"]
    assert abs(found["secure_round_overhead_ratio"] - (secure / plain - 1)) < 1e-9
    assert min(found["client_mask_ms"], found["client_pack_ms"]) > 0


def test_the_scheduler_is_held_against_its_bound_and_the_table_shows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figure = scheduling(mixes=3)["scheduler_over_bound"]
    assert figure["checks_passed"] is True
    assert 1.0 <= figure["ours_mean"] <= figure["value"] <= ALLOWED
    assert figure["value"] < min(figure["round-robin_mean"], figure["first_come_mean"])
    assert "all      3" in capsys.readouterr().err


def test_reading_metrics_every_second_takes_less_than_a_hundredth_of_a_core() -> None:
    figure = scraping(readings=30)["metrics_share"]
    assert 0 < figure["value"] < 0.01
    assert figure["samples"] > 100


def test_every_row_names_a_function_that_is_there() -> None:
    for module, _, function in (place.partition(":") for place in rows.ROWS.values()):
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, module
