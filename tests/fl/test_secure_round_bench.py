"""The benchmark of a secure round measures what it says, on a small case."""

from __future__ import annotations

from fl.experiments.secure_round_bench import secure_round_benchmark


def test_both_rounds_are_exact_and_the_ratios_follow_from_the_times() -> None:
    found = secure_round_benchmark(n_clients=3, repeats=1, examples_per_client=20)
    assert found["exact"] == 1.0
    assert found["n_parameters"] == 101_770
    secure = found["train_ms"] + found["secure_after_training_ms"]
    plain = found["train_ms"] + found["plain_after_training_ms"]
    assert abs(found["secure_round_overhead_ratio"] - (secure / plain - 1)) < 1e-9
    assert min(found["client_mask_ms"], found["client_pack_ms"]) > 0
