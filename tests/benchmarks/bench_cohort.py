"""Figures of cohorts as JSON lines: python tests/benchmarks/bench_cohort.py [--accuracy SPLIT ...] [--seeds 1]

Without options: the time of a round of 200 MNIST clients in every mode, and the key that ``lightsecagg`` needs
beside pairwise pads for the same values.  ``--accuracy iid two-shard`` trains 40 rounds per seed, compressed
under one-time pads and in float32 (about two minutes per seed and split on two cores).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import msgspec
from measuring import Figure, emit

from fl.carriers.in_process.plan import make_plan
from fl.carriers.in_process.results import CohortResult
from fl.carriers.in_process.run import run_cohort
from fl.modes.table import ModeName
from fl.rounds.compression import saving_vs_float32
from fl.rounds.config import FLConfig
from fl.workloads import load_task, open_task

CLIENTS = 200
WARM_UP_ROUNDS = 1
"""In the first round the processes start and load their clients' data."""


def cohort_config(task: str, n_clients: int, rounds: int, mode: ModeName, seed: int = 0) -> FLConfig:
    """A cohort of ``task`` with the settings that suit so many clients, in the narrowest ring."""
    clients = tuple(f"c{index}" for index in range(n_clients))
    return FLConfig.for_task(
        open_task(task), clients, run_id=f"cohort-{seed}", name=task, rounds=rounds, seed=seed, mode=mode
    )


def mnist_round_benchmark(
    rounds: int = 5,
    workers: int = 2,
    mode: ModeName = "otp",
    n_clients: int = 200,
    drop_outs: int = 0,
    data_folder: Path | None = None,
) -> dict[str, object]:
    """Rounds of ``mnist:mlp`` with compression, keys, exact sum and evaluation.

    ``value`` is the median of the wall seconds of a round; the phases are medians as well.
    """
    config = cohort_config("mnist:mlp@iid", n_clients, WARM_UP_ROUNDS + rounds, mode)
    result = run_cohort(config, data_folder=data_folder, workers=workers, drop_outs=drop_outs)
    return {
        "value": round(_median(result, "duration_s"), 3),
        "phases_s": {
            phase: round(_median(result, f"{phase}_s"), 3)
            for phase in ("train", "protect", "aggregate", "evaluate")
        },
        "clients": n_clients,
        "rounds": rounds,
        "workers": workers,
        "mode": mode,
        "drop_outs": drop_outs,
        "exact": all(record.exact for record in result.rounds),
        "upload_bytes_per_client": result.rounds[-1].upload_bytes_per_client,
        "key_bits_per_round": result.rounds[-1].key_bits,
    }


def _median(result: CohortResult, figure: str) -> float:
    return statistics.median(float(getattr(record, figure)) for record in result.rounds[WARM_UP_ROUNDS:])


def mnist_round() -> dict[str, Figure]:
    """A round of 200 MNIST clients with compression, masks, exact sum and evaluation; needs the data."""
    result = mnist_round_benchmark()
    return {"mnist_round_200_s": {"unit": "s", **result, "checks_passed": result["exact"]}}


def rounds() -> None:
    """Seconds per round."""
    for mode, drop_outs in (
        ("otp", 0),
        ("expanded", 0),
        ("lightsecagg", 0),
        ("lightsecagg", 49),
        ("plain", 0),
    ):
        emit("round", **mnist_round_benchmark(mode=mode, drop_outs=drop_outs))  # type: ignore[arg-type]


def keys(task: str = "mnist:mlp@iid") -> None:
    """Key of all pairs and round, pads against shares, at the compression's and at full dimension."""
    d = load_task(task).n_parameters
    for keep in (cohort_config(task, CLIENTS, 1, "otp").keep, 1.0):
        spent = {}
        for mode in ("otp", "lightsecagg"):
            config = cohort_config(task, CLIENTS, 1, mode)  # type: ignore[arg-type]
            config = msgspec.structs.replace(config, keep=keep)
            plan = make_plan(config, d)
            spent[mode] = plan.n_pairs * plan.key_bits_per_pair
        emit("key", keep=keep, **spent, ratio=spent["otp"] / spent["lightsecagg"])


def accuracy(split: str, seeds: int) -> None:
    """Compressed under one-time pads against float32."""
    task = f"mnist:mlp@{split}"
    d = load_task(task).n_parameters
    finals: dict[str, list[float]] = {"compressed": [], "float32": []}
    for seed in range(1, seeds + 1):
        config = cohort_config(task, CLIENTS, 40, "otp", seed)
        for name in finals:
            result = run_cohort(config, float32=name == "float32")
            last = result.rounds[-1]
            finals[name].append(last.accuracy)
            emit(
                "accuracy",
                split=split,
                seed=seed,
                run=name,
                accuracy=last.accuracy,
                by_round=[round(r.accuracy, 4) for r in result.rounds],
                upload_bytes_per_client=last.upload_bytes_per_client,
                exact=all(r.exact for r in result.rounds),
                median_round_s=round(statistics.median(r.duration_s for r in result.rounds), 3),
            )
    config = cohort_config(task, CLIENTS, 40, "otp")
    values = make_plan(config, d).n_values
    emit(
        "accuracy-summary",
        split=split,
        seeds=seeds,
        saving_vs_float32=round(saving_vs_float32(values, config.ring_width, d), 4),
        compression=dataclasses.asdict(load_task(task).defaults.suited(CLIENTS)),
        **{name: round(statistics.mean(accuracies), 4) for name, accuracies in finals.items()},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--accuracy", nargs="*", default=[], metavar="SPLIT")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    for chosen in options.accuracy:
        accuracy(chosen, options.seeds)
    if not options.accuracy:
        keys()
        rounds()
