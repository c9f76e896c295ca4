"""How long a round of two hundred MNIST clients takes on this machine, from training to evaluation."""

from __future__ import annotations

import statistics
from pathlib import Path

from fl.carriers.in_process.results import CohortResult
from fl.carriers.in_process.run import run_cohort
from fl.rounds.config import FLConfig, Mode
from fl.workloads import open_task

WARM_UP_ROUNDS = 1
"""In the first round the processes start and load their clients' data."""


def cohort_config(task: str, n_clients: int, rounds: int, mode: Mode, seed: int = 0) -> FLConfig:
    """A cohort of ``task`` with the settings that suit so many clients, in the narrowest ring."""
    clients = tuple(f"c{index}" for index in range(n_clients))
    return FLConfig.for_task(
        open_task(task), clients, run_id=f"cohort-{seed}", name=task, rounds=rounds, seed=seed, mode=mode
    )


def mnist_round_benchmark(
    rounds: int = 5,
    workers: int = 2,
    mode: Mode = "otp",
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
