"""Figures of federated learning as JSON lines: python tests/benchmarks/bench_fl.py [--seeds 5] [--mnist FOLDER]

``accuracy`` compares a quantised run (masking changes nothing in the sum) with float32 training of the same
seeds; ``round`` times whole rounds - server and four clients as threads of this process, CURVE, masking with
pads from memory, no training to speak of - and ``kernels`` the parts.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import emit, median_s

from fl.experiments.reference import train_reference
from fl.modes.otp import sum_of
from fl.rounds.quantise import Quantiser, check_ring_width, smallest_ring_width
from fl.workloads import load_task
from fl.workloads.base import Task
from orchestrator.bits import packed_size
from orchestrator.delivery.masking import pack_values

NAMES = ("alice", "bob", "charlie", "dora")


def accuracy(task: Task, seeds: int, rounds: int = 10) -> None:
    """Quantised against float32, over seeds."""
    quantiser = Quantiser(task.defaults.clip, task.defaults.levels)
    check_ring_width(quantiser.levels, [1] * len(NAMES), 10)
    gaps = []
    for seed in range(seeds):
        begin = time.perf_counter()
        plain = train_reference(task, len(NAMES), rounds, seed).accuracy
        middle = time.perf_counter()
        quantised = train_reference(task, len(NAMES), rounds, seed, quantiser=quantiser).accuracy
        gaps.append(quantised - plain)
        emit(
            "accuracy",
            task=task.name,
            seed=seed,
            float32=round(plain, 4),
            quantised=round(quantised, 4),
            float32_s=round(middle - begin, 2),
            quantised_s=round(time.perf_counter() - middle, 2),
        )
    d = task.n_parameters
    emit(
        "accuracy-summary",
        task=task.name,
        seeds=seeds,
        rounds=rounds,
        parameters=d,
        clip=quantiser.clip,
        levels=quantiser.levels,
        ring_width=10,
        worst_gap_points=round(100 * max(map(abs, gaps)), 3),
        upload_bytes_per_client_and_round=packed_size(10 * d),
        float32_bytes=4 * d,
        key_bits_per_pair_and_round=10 * d,
        key_bits_per_round=6 * 10 * d,
    )


def kernels() -> None:
    """Quantising and adding up, per size and number of clients."""
    rng = np.random.default_rng(0)
    for n_values, n_clients in ((1_810, 4), (101_770, 4), (101_770, 50), (101_770, 200)):
        bits = smallest_ring_width(127, n_clients)
        update = rng.normal(0, 0.3, n_values).astype(np.float32)
        quantiser = Quantiser(1.0, 127)
        q = quantiser.quantise(update, rng, client="bench", round_number=1).astype(np.int64)
        uploads = [pack_values(q, bits)] * n_clients
        emit(
            "kernels",
            n_values=n_values,
            n_clients=n_clients,
            ring_width=bits,
            quantise_ms=1e3
            * median_s(
                lambda update=update, quantiser=quantiser: quantiser.quantise(
                    update, rng, client="bench", round_number=1
                )
            ),
            total_ms=1e3
            * median_s(
                lambda uploads=uploads, n=n_values, b=bits: sum_of(uploads, n, b)  # type: ignore[misc]
            ),
        )


def whole_rounds(n_parameters: int, rounds: int) -> None:
    """Rounds per second of the protocol itself."""
    place = Path(__file__).parent.parent / "fl" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fl_world", place)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        world = module.World(Path(folder), NAMES)
        world.settings(rounds=rounds, heartbeat_s=0.5, client_timeout_s=10.0)
        world.server_task = module.VectorTask(n_parameters)
        world.tasks = {name: module.VectorTask(n_parameters) for name in NAMES}
        world.start_all()
        records = world.finish()
        world.close()
    durations = [record.duration_s for record in records[1:]]
    emit(
        "round",
        n_parameters=n_parameters,
        clients=len(NAMES),
        rounds=rounds,
        median_round_s=float(np.median(durations)),
        upload_bytes=records[0].upload_bytes,
        key_bits_used=records[0].key_bits_used,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--mnist", type=Path, default=None, help="folder with the four IDX files")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    kernels()
    for size in (1_810, 101_770):
        whole_rounds(size, rounds=20)
    accuracy(load_task("digits"), options.seeds)
    if options.mnist is not None:
        accuracy(load_task("mnist", options.mnist), options.seeds)
