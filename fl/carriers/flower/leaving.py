"""What may leave a client in the clear, beside its protected update: a few coarse numbers, and our own words.

The server is not trusted, and an app's reply may hold anything: arrays, lists, bytes, names of records and
keys, texts of errors.  None of it passes.  What the server gets is made here from nothing:

* metrics that the client's user named and that stand in :data:`METRICS`, single finite numbers on a coarse grid: a
  share (accuracy and its like) in steps of 1/20, a count as the power of two below it.  A loss is not among them:
  over few examples it tells a membership test what it needs (Yeom et al., CSF 2018);
* the reason why nothing is given, in the words of an exception that is made of nothing but what the server
  knows; the text of any other exception stays in the client's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from flwr.app import RecordDict
from msgspec import Meta

from fl.carriers.flower.arrays import ModelShapeError
from fl.carriers.flower.held import HeldError
from fl.carriers.flower.identity import IdentityError
from fl.rounds.telling import told_reason
from orchestrator.wire.codec import Message, WireError, decode

SHARE_STEPS = 20
LARGEST_COUNT = 1 << 40

Coarse: TypeAlias = Callable[[float], float | None]

_log = logging.getLogger(__name__)


class MetricNameError(ValueError):
    """A metric that a user named as public and that no client may tell."""


class AppFailedError(Exception):
    """The app failed or returned no trained model; the text of its error stays on the node."""


class StateError(Exception):
    """The node's memory of used round numbers is damaged."""


def coarse_share(value: float) -> float | None:
    """A share of 0 to 1 in steps of 1/20; None for anything else."""
    return round(value * SHARE_STEPS) / SHARE_STEPS if 0 <= value <= 1 else None


def coarse_count(value: float) -> float | None:
    """The power of two that is not above a whole number (0 for 0); None for anything else."""
    if not 0 <= value <= LARGEST_COUNT or value != int(value):
        return None
    return float(1 << int(value).bit_length() - 1) if value else 0.0


METRICS: dict[str, Coarse] = {
    "num-examples": coarse_count,
    "accuracy": coarse_share,
    "balanced-accuracy": coarse_share,
    "precision": coarse_share,
    "recall": coarse_share,
    "f1": coarse_share,
    "auc": coarse_share,
}
"""The metrics that a user may make public, and on which grid each of them leaves."""


class Told(Message, frozen=True):
    """Metrics in the clear, as they travel beside an answer, under its proof."""

    metrics: Annotated[dict[str, float], Meta(max_length=len(METRICS))]


def chosen_metrics(names: str) -> frozenset[str]:
    """The metrics that a user's list (``"num-examples,accuracy"``) makes public; raises MetricNameError."""
    chosen = frozenset(filter(None, (name.strip() for name in names.split(","))))
    if strange := sorted(chosen - METRICS.keys()):
        raise MetricNameError(
            f"public-metrics names {', '.join(strange)}: what may leave a node in the clear is "
            f"{', '.join(METRICS)}, each on a coarse grid; a client's loss never is"
        )
    return chosen


def told_of(content: RecordDict, public: frozenset[str]) -> Told:
    """The metrics of an app's reply that may be told; a name that occurs twice is left out."""
    found: dict[str, list[Any]] = {}
    for record in content.metric_records.values():
        for key in public & record.keys():
            found.setdefault(key, []).append(record[key])
    told = {key: _coarse(key, values[0]) for key, values in found.items() if len(values) == 1}
    for key in sorted(key for key in found if told.get(key) is None):
        _log.warning("metric %s is not told: it is no single number, or outside its range", key)
    return Told({key: value for key, value in sorted(told.items()) if value is not None})


def read_told(data: bytes) -> Mapping[str, float]:
    """The metrics beside an answer; raises WireError where they are not as :func:`told_of` makes them."""
    metrics = decode(data, Told).metrics if data else {}
    for key, value in metrics.items():
        if _coarse(key, value) != value:
            raise WireError("the metrics beside the answer are not those that a client may tell")
    return metrics


def _coarse(key: str, value: Any) -> float | None:
    """``value`` on the grid of its metric, or None where it is no single number within its range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or key not in METRICS:
        return None
    return METRICS[key](value) if abs(value) <= LARGEST_COUNT else None  # which NaN and infinities are not


def mean_metrics(told: Mapping[str, Mapping[str, float]], weights: Mapping[str, int]) -> dict[str, float]:
    """Means of what users told, by the public weights of those who told it."""
    names = sorted({key for metrics in told.values() for key in metrics})
    means = {}
    for key in names:
        users = [user for user in weights if key in told.get(user, {})]
        if users:
            total = sum(weights[user] * told[user][key] for user in users)
            means[key] = total / sum(weights[user] for user in users)
    return means


OUR_WORDS = (IdentityError, HeldError, StateError, AppFailedError, ModelShapeError)
"""Exceptions whose texts consist of announcements and public settings only."""

APP_FAILED = (
    "the app failed, or returned no model like the one it was given; the log of the client's node says why"
)
NODE_FAILED = "a fault on the client's side; the log of its node says which"


def reason_of(error: Exception) -> str:
    """What the server is told of ``error``."""
    told = str(error) if isinstance(error, OUR_WORDS) else told_reason(error)
    return NODE_FAILED if told is None else told
