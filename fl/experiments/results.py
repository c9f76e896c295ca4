"""``results.json``: what a training run came to, over all seeds, with the numbers a reader needs to judge it.

One file per run.  ``rounds`` and ``final`` describe the run that was asked for; everything it is compared
with stands under ``baselines`` in the same form.  Accuracies and losses of ``rounds`` are means over the
seeds, whose own curves stand under ``runs``.  Intervals are 95 % t-intervals of the mean over seeds
(W. S. Gosset, Biometrika 6, 1 (1908)); comparisons are *paired*: both arms of a seed share data, shards and
first model, so the interval is that of the per-seed differences.  One seed has no interval, and none is made
up for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from fl.experiments.options import TrainOptions
from fl.experiments.ring_run import RingRun
from fl.keys.budget import KeyForecast, KeyRecord
from fl.modes.table import Security
from fl.rounds.clipping import worst
from fl.rounds.config import FLConfig
from fl.workloads.data import DataSource
from orchestrator.durable import read_kept, write_kept
from orchestrator.events.learning import Clipping

RESULTS_FILE = "results.json"
FORMAT = 2
CONFIDENCE = 0.95

KeySupply: TypeAlias = Literal["live", "store", "simulated"]
"""Keys made on the ring during the run, taken from key stores filled before, or made up by a generator."""
Kind: TypeAlias = Literal["federated", "float32", "centralised", "oracle"]

Interval: TypeAlias = tuple[float, float]


class ResultsError(Exception):
    """A results file that cannot be read."""


class RoundRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One round.  ``key_bits`` over all pairs; ``exact`` None where nobody could check the sum.

    ``clipping`` is what clip and rounding took (:mod:`fl.rounds.clipping`), None where nobody counted it.
    """

    round: int
    accuracy: float
    loss: float | None
    upload_bytes_per_client: float
    key_bits: int
    dropped: int
    exact: bool | None
    clipping: Clipping | None = None


Rounds: TypeAlias = Annotated[tuple[RoundRow, ...], msgspec.Meta(min_length=1)]
"""At least one round: a run without any has no results."""


class RoundTimes(msgspec.Struct, frozen=True):
    """Seconds a round spent in each of its phases.

    ``work_s`` is a round whose phases run at clients elsewhere and are not told apart; ``wait_s`` is waiting
    for keys.
    """

    train_s: float = 0.0
    protect_s: float = 0.0
    aggregate_s: float = 0.0
    evaluate_s: float = 0.0
    work_s: float = 0.0
    wait_s: float = 0.0


class AbortedRow(msgspec.Struct, frozen=True):
    """A round that gave no sum: its updates are discarded.

    Between nodes its number is not used again; a simulated round that was interrupted is tried again.
    """

    round: int
    reason: str
    key_bits_burnt: int


class SeedRun(msgspec.Struct, frozen=True):
    """One arm with one seed."""

    seed: int
    rounds: Rounds
    times: tuple[RoundTimes, ...] = ()
    aborted: tuple[AbortedRow, ...] = ()
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return self.rounds[-1].accuracy


class Final(msgspec.Struct, frozen=True):
    """After the last round: mean over ``seeds`` seeds and its interval [low, high], None for one seed."""

    accuracy_mean: float
    accuracy_ci95: Interval | None
    seeds: int


class Arm(msgspec.Struct, frozen=True):
    """One of the things compared: ``rounds`` is the mean over ``runs``."""

    title: str
    kind: Kind
    task: str
    clients: int
    mode: str
    security: Security
    final: Final
    rounds: Rounds
    runs: tuple[SeedRun, ...]


class Comparison(msgspec.Struct, frozen=True):
    """Accuracy of one arm minus that of another, paired by seed; in shares, not percent."""

    title: str
    difference_mean: float
    difference_ci95: Interval | None
    per_seed: tuple[float, ...]


class CompressionSummary(msgspec.Struct, frozen=True):
    """What an update costs on the wire.

    ``ring_width`` is the width of one packed value; ``saving_vs_float32`` compares the whole upload of a
    client with its parameters as float32.
    """

    ring_width: int
    saving_vs_float32: float
    n_parameters: int
    values_per_round: int
    levels: int
    keep: float = 1.0
    error_feedback: bool = False
    upload_bytes_per_client: float = 0.0
    float32_bytes: int = 0


class KeyBudget(msgspec.Struct, frozen=True):
    """What was foreseen and what was used."""

    forecast: KeyForecast | None = None
    record: KeyRecord | None = None


class StallPart(msgspec.Struct, frozen=True):
    """What of a stall is due to ``names``: the two users of a pair, or one client or instrument."""

    names: tuple[str, ...]
    seconds: float


class Stall(msgspec.Struct, frozen=True):
    """Time during which training stood still for one reason.

    ``parts`` break it down; several can be the reason at once, so these may add up to more than ``seconds``.
    """

    cause: str
    seconds: float
    parts: tuple[StallPart, ...] = ()


class Configuration(msgspec.Struct, frozen=True):
    """What was asked for, and what it came to: the settings of the first seed of the run."""

    options: TrainOptions
    federated: FLConfig
    workers: int = 1


class Results(msgspec.Struct, frozen=True):
    """The whole file.  ``complete`` is False while rounds, seeds or baselines are missing.

    ``warnings`` say what has probably spoilt the run; whoever shows results shows them first.  ``ring`` is what a ring did that
    made key meanwhile, as far as its records are here.
    """

    task: str
    mode: str
    split: str
    clients: int
    rounds: Rounds
    final: Final
    baselines: dict[str, Arm]
    compression: CompressionSummary
    key_supply: KeySupply
    security: Security
    model: str = ""
    title: str = ""
    quick: bool = False
    complete: bool = True
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    runs: tuple[SeedRun, ...] = ()
    comparisons: dict[str, Comparison] = {}
    configuration: Configuration | None = None
    key_budget: KeyBudget = KeyBudget()
    stalls: tuple[Stall, ...] = ()
    testbed: str = ""
    ring: RingRun | None = None
    data: tuple[DataSource, ...] = ()
    versions: dict[str, str] = {}
    started_at: str = ""
    wall_s: float = 0.0
    format: int = FORMAT


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; raises ValueError for no values."""
    if not values:
        raise ValueError("there is no mean of no values")
    return math.fsum(values) / len(values)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Student's interval of the mean, mean -+ t_{n-1} s / sqrt(n); None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    n, middle = len(values), mean(values)
    deviation = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * deviation / math.sqrt(n)
    return middle - half, middle + half


def final_of(runs: Sequence[SeedRun]) -> Final:
    """Accuracy after the last round over the seeds.

    The interval ends where accuracies do, at 0 and 1; that takes nothing from its coverage.
    """
    accuracies = [run.accuracy for run in runs]
    interval = t_interval(accuracies)
    if interval is not None:
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return Final(mean(accuracies), interval, len(accuracies))


def compare(title: str, first: Sequence[SeedRun], second: Sequence[SeedRun]) -> Comparison | None:
    """``first`` minus ``second`` over the seeds that both have; None if there is none."""
    other = {run.seed: run.accuracy for run in second}
    differences = tuple(run.accuracy - other[run.seed] for run in first if run.seed in other)
    if not differences:
        return None
    return Comparison(title, mean(differences), t_interval(differences), differences)


def mean_rounds(runs: Sequence[SeedRun]) -> tuple[RoundRow, ...]:
    """The mean curve: as many rounds as every run has.

    ``exact`` is True only if every run's sum was; ``dropped``, ``key_bits`` and ``clipping`` are the most of any run.
    """
    return tuple(_mean_row(rows) for rows in zip(*(run.rounds for run in runs), strict=False))


def all_exact(rows: Sequence[RoundRow]) -> bool | None:
    """Whether every sum was the plain one; None if none was wrong, and some were not compared."""
    checks = {row.exact for row in rows}
    return False if False in checks else None if None in checks else True


def _mean_row(rows: Sequence[RoundRow]) -> RoundRow:
    losses = [row.loss for row in rows if row.loss is not None and math.isfinite(row.loss)]
    return RoundRow(
        round=rows[0].round,
        accuracy=mean([row.accuracy for row in rows]),
        loss=mean(losses) if len(losses) == len(rows) else None,
        upload_bytes_per_client=mean([row.upload_bytes_per_client for row in rows]),
        key_bits=max(row.key_bits for row in rows),
        dropped=max(row.dropped for row in rows),
        exact=all_exact(rows),
        clipping=worst(row.clipping for row in rows),
    )


def write_results(results: Results, folder: Path) -> Path:
    """``results.json`` in ``folder``, replaced in one step."""
    path = folder / RESULTS_FILE
    write_kept(path, results)
    return path


def read_results(path: Path) -> Results:
    """The results in a file or a run's folder; raises ResultsError."""
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        return read_kept(path, Results, FORMAT)
    except OSError as error:
        raise ResultsError(
            f"cannot read {path}: {error.strerror}; name the folder of a run, or its {RESULTS_FILE}"
        ) from error
    except ValueError as error:
        raise ResultsError(
            f"{path} is not the results of a training run that this version reads: {error}"
        ) from error
