"""What secure aggregation adds to a round of training, on our own stack and one core of this machine.

The same cohort (:mod:`fl.carriers.in_process`) trains the MNIST perceptron (101 770 parameters) twice per repetition, in
mode ``plain`` and in mode ``otp``, one after the other; training, protection and summation are timed apart.
Times are processor seconds, which a busy machine does not lengthen by waiting; the wall clock is reported
beside them.  The images are random numbers of the right shape: speed does not depend on what they show.

Keys are simulated, so making, storing and agreeing on them is not in these figures; what a client of a real
network does with pads that its node has released is measured apart (``client_*``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from measuring import Figure, median_s

from fl.carriers.in_process.results import CohortEvent, CohortPhase, CohortRound
from fl.carriers.in_process.run import run_cohort
from fl.modes.table import ModeName
from fl.rounds.config import FLConfig
from fl.rounds.quantise import quantisation_rng
from fl.workloads.base import Evaluation, Examples, Parameters
from fl.workloads.mnist.data import PIXELS
from fl.workloads.mnist.task import MnistTask
from orchestrator.bits import packed_size
from orchestrator.delivery.masking import mask

MNIST_TRAINING_IMAGES = 60_000
TARGET_RATIO = 0.10


class RandomImages(MnistTask):
    """The MNIST perceptron on random images; nothing is downloaded and nothing evaluated."""

    def __init__(self, examples_per_client: int) -> None:
        super().__init__(model="mlp")
        self._examples_per_client = examples_per_client
        self._drawn: dict[int, Examples] = {}

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        if client_index not in self._drawn:
            self._drawn[client_index] = self._draw(client_index, seed)
        return self._drawn[client_index]

    def _draw(self, client_index: int, seed: int) -> Examples:
        rng = np.random.default_rng([seed, client_index])
        images = rng.normal(size=(self._examples_per_client, PIXELS * PIXELS)).astype(np.float32)
        return Examples(images, rng.integers(0, 10, self._examples_per_client))

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return Evaluation(0.0, 0.0)


@dataclass
class _PhaseTimer:
    """Processor and wall seconds of every phase of one round, from the cohort's events."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    exact: bool = True
    _phase: str = ""
    _began: tuple[float, float] = (0.0, 0.0)

    def __call__(self, event: CohortEvent) -> None:
        now = time.process_time(), time.perf_counter()
        if self._phase:
            self.cpu[self._phase] = self.cpu.get(self._phase, 0.0) + now[0] - self._began[0]
            self.wall[self._phase] = self.wall.get(self._phase, 0.0) + now[1] - self._began[1]
        self._phase = event.phase if isinstance(event, CohortPhase) else ""
        self._began = now
        if isinstance(event, CohortRound):
            self.exact &= event.exact


def _settings(mode: ModeName, n_clients: int, task: RandomImages) -> FLConfig:
    """One round of whole updates, as few clients send them, however many there are."""
    clients = tuple(f"client-{index}" for index in range(n_clients))
    whole = {"levels": 127, "clip": 1.0, "keep": 1.0, "clip_decay": 1.0, "error_feedback": False}
    return FLConfig.for_task(task, clients, run_id="secure-round-bench", suited=whole, rounds=1, mode=mode)


def _round(mode: ModeName, n_clients: int, task: RandomImages) -> _PhaseTimer:
    timer = _PhaseTimer()
    run_cohort(_settings(mode, n_clients, task), workers=0, task=task, report=timer)
    return timer


def secure_round_benchmark(
    n_clients: int = 20, repeats: int = 3, examples_per_client: int = 0
) -> dict[str, float]:
    """Medians over ``repeats`` pairs of rounds, in milliseconds of processor time of all clients together.

    ``secure_round_overhead_ratio`` = (round in mode otp) / (round in mode plain) - 1 with local training (one
    epoch over ``examples_per_client`` images in batches of ten; 0: an even share of MNIST);
    ``..._without_training`` leaves training and quantisation out of both.  Its target is at most 0.10.
    ``client_overhead_ratio`` is what masking with N-1 pads at hand adds to one client's training and packing.
    """
    examples = examples_per_client or MNIST_TRAINING_IMAGES // n_clients
    task = RandomImages(examples)
    _round("otp", n_clients, RandomImages(10))  # compiles what is compiled on first use
    rounds = [(_round("plain", n_clients, task), _round("otp", n_clients, task)) for _ in range(repeats)]
    plain, secure = [pair[0] for pair in rounds], [pair[1] for pair in rounds]
    train = _median(plain + secure, "training")
    after_plain = _median(plain, "protecting") + _median(plain, "aggregating")
    after_secure = _median(secure, "protecting") + _median(secure, "aggregating")
    client = _client_seconds(n_clients, task, repeats)
    return {
        "secure_round_overhead_ratio": (train + after_secure) / (train + after_plain) - 1,
        "secure_round_overhead_ratio_without_training": after_secure / after_plain - 1,
        "target_ratio": TARGET_RATIO,
        "client_overhead_ratio": (client[1] - client[0]) / (train / n_clients + client[0]),
        "train_ms": 1000 * train,
        "plain_after_training_ms": 1000 * after_plain,
        "secure_after_training_ms": 1000 * after_secure,
        "plain_round_wall_ms": 1000 * median(map(_wall_s, plain)),
        "secure_round_wall_ms": 1000 * median(map(_wall_s, secure)),
        "client_pack_ms": 1000 * client[0],
        "client_mask_ms": 1000 * client[1],
        "exact": float(all(one.exact for one in plain + secure)),
        "n_clients": n_clients,
        "n_parameters": task.n_parameters,
        "examples_per_client": examples,
        "repeats": repeats,
    }


def _median(timers: Sequence[_PhaseTimer], phase: str) -> float:
    return median(timer.cpu.get(phase, 0.0) for timer in timers)


def _wall_s(timer: _PhaseTimer) -> float:
    return sum(timer.wall.get(phase, 0.0) for phase in ("training", "protecting", "aggregating"))


def _client_seconds(n_clients: int, task: RandomImages, repeats: int) -> tuple[float, float]:
    """(packing alone, packing and N-1 pads) of one client, medians in processor seconds."""
    config, n_values = _settings("otp", n_clients, task), task.n_parameters
    bits = config.ring_width
    update = np.random.default_rng(1).normal(0, 0.1, n_values).astype(np.float32)
    rng = quantisation_rng(0, 1, 0)
    values = config.quantiser.quantise(update, rng, client="client-0", round_number=1).astype(np.int64)
    pads = [
        np.random.default_rng(peer).integers(0, 256, packed_size(n_values * bits), np.uint8)
        for peer in range(n_clients - 1)
    ]
    for pad in pads:
        pad[-1] &= 0xFF >> (-n_values * bits % 8)

    def seconds(count: int) -> float:
        return median_s(lambda: mask(values, pads[:count], [1] * count, bits), repeats, time.process_time)

    return seconds(0), seconds(n_clients - 1)


def secure_round() -> dict[str, Figure]:
    """What one-time pads add to a round of training, in processor time."""
    result = dict(secure_round_benchmark())
    ratio, exact = result.pop("secure_round_overhead_ratio"), bool(result.pop("exact"))
    return {
        "secure_round_overhead_ratio": {
            "value": ratio,
            "unit": "of a plain round",
            **result,
            "exact": exact,
            "checks_passed": exact,
        }
    }
