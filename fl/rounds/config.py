"""The public settings of one training run, checked in one place by the server and by every client.

The server announces them; a client trusts none of them and runs :func:`check_config` itself before it
trains.  ``run_id`` names the run for ever: round numbers under it only grow, and the nodes release pad
bits for one (run, round) once.

Settings are composed in one place, :meth:`FLConfig.for_task`: what was chosen wins over what suits the
experiment, that over what suits the task with so many users, and that over what stands here; the ring width is
what users, weights and levels need.  Whatever way a value was written, an FLConfig holds it in one form
(:mod:`fl.rounds.settings`), so that equal settings have equal bytes and one hash.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.inspect import FloatType, VarTupleType
from msgspec.structs import force_setattr

from fl.modes.table import DEFAULT_MODE, MODES, Mode, ModeName
from fl.modes.thresholds import ShareCodeError, check_thresholds, choose_thresholds, smallest_modulus
from fl.rounds.arrays import LEFT_OUT, ArrayClip, ArrayClipError, array_clips
from fl.rounds.quantise import (
    LARGEST_CLIP,
    SMALLEST_CLIP,
    Quantiser,
    check_ring_width,
    smallest_ring_width,
)
from fl.rounds.settings import Naming, SettingError, canonical, kinds_of, refusal
from fl.workloads.base import NamesArrays, told_sources
from orchestrator.delivery.consent import DescribedSource
from orchestrator.delivery.ring_width import MAX_RING_WIDTH, MIN_RING_WIDTH
from orchestrator.wire.codec import Message, encode

if TYPE_CHECKING:
    from fl.workloads.base import Learnable

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=61, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
RunId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 40)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e7)]

MAX_CLIENTS = 1000
MAX_ARRAYS = 10_000
SMALLEST_QUORUM = 3
"""Fewest participants: of two, each would learn the other's update from the sum."""


class ConfigError(ValueError):
    """The settings of a run contradict each other."""


class FLConfig(Message, frozen=True):
    """One run of federated training.

    ``clients`` are the user names in the order that fixes shards and signs of the pads.  ``mode`` says
    how uploads are protected (:mod:`fl.modes.table`).  Time limits are in seconds of the
    monotonic clock; waiting for keys or peers does not count towards ``round_timeout_s`` but has its own.

    ``weights`` are public integers, one per client (empty: all 1).  ``colluders`` (T) and ``survivors`` (U)
    are those of ``lightsecagg``; where one is 0 it is chosen to fit the other, the most T or the least U, and
    both from the number of clients where neither is given.  Compression: each round carries a
    share ``keep`` of the parameters, the same for everybody; ``error_feedback`` keeps what was cut or
    rounded away for the next round; the clip is multiplied by ``clip_decay`` after every round.  ``arrays``
    (:mod:`fl.rounds.arrays`) gives every array of the model a clip of its own, or leaves it out; empty: ``clip`` for all.
    ``task_fingerprint`` is that of the server's task: a client with another model, vocabulary or data
    format does not take part (empty: not compared).  ``sources`` are the files that its data come from, by their
    checksums: a client with other files does not take part either.

    ``ring_width`` 0 becomes the smallest ring width at which no sum wraps; ``lightsecagg`` has a field instead,
    so there it is always that one and says nothing.  All weights 1 are written as none.  Raises
    ConfigError for a value of another type; whether settings can work is for :func:`check_config` to say.
    """

    run_id: RunId
    task: Annotated[str, Meta(min_length=1, max_length=64)]
    clients: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_CLIENTS)]
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    seed: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0
    ring_width: Annotated[int, Meta(ge=MIN_RING_WIDTH, le=MAX_RING_WIDTH)] = 0
    levels: Annotated[int, Meta(ge=1, le=1 << 31)] = 127
    clip: Annotated[float, Meta(gt=0)] = 1.0
    mode: ModeName = DEFAULT_MODE
    weights: Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 20)], ...], Meta(max_length=MAX_CLIENTS)] = ()
    colluders: Annotated[int, Meta(ge=0, le=MAX_CLIENTS)] = 0
    survivors: Annotated[int, Meta(ge=0, le=MAX_CLIENTS)] = 0
    keep: Annotated[float, Meta(gt=0, le=1)] = 1.0
    error_feedback: bool = False
    clip_decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    arrays: Annotated[tuple[ArrayClip, ...], Meta(max_length=MAX_ARRAYS)] = ()
    sources: Annotated[tuple[DescribedSource, ...], Meta(max_length=1000)] = ()
    task_fingerprint: Annotated[str, Meta(max_length=64, pattern=r"^[0-9a-f]*$")] = ""
    min_clients: Annotated[int, Meta(ge=0, le=MAX_CLIENTS)] = 0
    heartbeat_s: Annotated[float, Meta(gt=0, le=60)] = 0.5
    client_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    round_timeout_s: Annotated[float, Meta(gt=0, le=1e6)] = 300.0
    wait_timeout_s: Annotated[float, Meta(gt=0, le=1e7)] = 3600.0
    rejoin_grace_s: Seconds = 15.0
    max_aborts_in_a_row: Annotated[int, Meta(ge=1, le=1000)] = 10

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in kinds_of(type(self))}
        for name, value in _settled(values, str).items():
            if value is not values[name]:
                force_setattr(self, name, value)
        if self.weights == (1,) * self.n_clients:
            force_setattr(self, "weights", ())
        if not self.ring_width or (self.mode in MODES and self.protection.thresholds):
            narrowest = smallest_ring_width(self.levels, sum(self.client_weights))
            force_setattr(self, "ring_width", min(max(narrowest, MIN_RING_WIDTH), MAX_RING_WIDTH))

    @classmethod
    def for_task(
        cls,
        task: Learnable,
        users: Sequence[str],
        *,
        run_id: str,
        name: str = "",
        suited: Mapping[str, object] | None = None,
        clips: Mapping[str, float] | None = None,
        named: Naming = str,
        **chosen: Any,
    ) -> FLConfig:
        """The settings of a run of ``task`` by ``users``, composed and checked before anything is started.

        ``chosen`` are fields of this struct; None chooses nothing.  ``suited`` is what suits the experiment,
        ``name`` the task's where it has a longer one.  ``clips`` are clips of arrays by name or pattern, for a task
        that names its arrays (:func:`fl.rounds.arrays.array_clips`).  Raises ConfigError, or another ValueError that says what
        would work, with every setting called as ``named`` has it.
        """
        if strange := [each for each in chosen if each not in kinds_of(cls)]:
            raise ConfigError(
                f"there is no setting {strange[0]!r}; there are {', '.join(sorted(kinds_of(cls)))}"
            )
        fits = task.defaults.suited(len(users))
        settings: dict[str, Any] = {
            "rounds": fits.rounds,
            "clip": fits.clip,
            "levels": fits.levels,
            "keep": fits.keep,
            "error_feedback": fits.error_feedback,
            "clip_decay": fits.clip_decay,
            "task_fingerprint": task.fingerprint,
            "sources": described_sources(task),
            **(suited or {}),
            **{each: value for each, value in chosen.items() if value is not None},
            "run_id": run_id,
            "task": name or task.name,
            "clients": tuple(users),
        }
        settled = _settled(settings, named)
        named_arrays = isinstance(task, NamesArrays) and not settled.get("arrays")
        if settled["clip"] > 0 and (
            clips or named_arrays
        ):  # what is wrong with the clip itself is told below
            settled["arrays"] = _arrays_of(task, settled["clip"], clips, named)
        config = cls(**settled)
        if settings.get("ring_width", 0) not in (0, config.ring_width):
            raise ConfigError(
                f"{named('ring_width')} belongs to modes {_names(thresholds=False)}: {config.mode} has a field, "
                "as large as users, weights and levels need"
            )
        check_config(config, named)
        return config

    @property
    def n_clients(self) -> int:
        return len(self.clients)

    @property
    def title(self) -> str:
        """Such as "4 clients, otp"."""
        return f"{self.n_clients} clients, {self.mode}"

    @property
    def protection(self) -> Mode:
        """What the mode is like: its row of :mod:`fl.modes.table`."""
        return MODES[self.mode]

    def fingerprint(self) -> str:
        """Public text that differs where any setting does."""
        return hashlib.sha256(encode(self)).hexdigest()[:32]

    @property
    def quorum(self) -> int:
        """Fewest participants of a round; ``min_clients``, or three where there are that many.

        With ``lightsecagg`` also as many as its thresholds need.
        """
        fewest = self.min_clients or min(SMALLEST_QUORUM, self.n_clients)
        if not self.protection.thresholds:
            return fewest
        colluders, survivors = self.thresholds
        return max(fewest, survivors, colluders + 2)

    @property
    def thresholds(self) -> tuple[int, int]:
        """(T, U) of ``lightsecagg``, for all clients and for every smaller set of participants alike."""
        return choose_thresholds(self.n_clients, self.colluders, self.survivors)

    @property
    def client_weights(self) -> tuple[int, ...]:
        """The public weights of all clients."""
        return self.weights or (1,) * self.n_clients

    def weights_of(self, participants: Sequence[str]) -> tuple[int, ...]:
        """The public weights of some clients, in their order."""
        weights = dict(zip(self.clients, self.client_weights, strict=True))
        return tuple(weights[name] for name in participants)

    @property
    def quantiser(self) -> Quantiser:
        return Quantiser(self.clip, self.levels)


def check_config(config: FLConfig, named: Naming = str) -> None:
    """Raise a ConfigError (or another ValueError that says what would work) if the run could not work.

    Sums are checked for all clients taking part; a round with fewer then fits as well.  ``named`` says how whoever
    chose a setting calls it.
    """
    _check_ranges(config, named)
    if len(set(config.clients)) != config.n_clients:
        raise ConfigError(f"{named('clients')}: a client is named twice: {', '.join(config.clients)}")
    if config.weights and len(config.weights) != config.n_clients:
        raise ConfigError(
            f"{len(config.weights)} {named('weights')} for {config.n_clients} clients; give each one, or none"
        )
    protection = config.protection
    if protection.cipher and config.n_clients < 2:
        raise ConfigError(
            f"{named('clients')}: pads between clients (mode {config.mode}) need at least two clients"
        )
    if not protection.thresholds and (config.colluders or config.survivors):
        raise ConfigError(
            f"mode {config.mode} has no secret shares: {named('colluders')} (T) and {named('survivors')} (U) "
            f"belong to {_names(thresholds=True)}"
        )
    if config.client_timeout_s < 2 * config.heartbeat_s:
        raise ConfigError(
            f"{named('client_timeout_s')} = {config.client_timeout_s:g} leaves no room for a lost heartbeat: "
            f"use at least {2 * config.heartbeat_s:g} (twice {named('heartbeat_s')})"
        )
    _check_arrays(config, named)
    _check_clip(config, named)
    _check_sums(config, named)
    if protection.cipher and config.quorum < 2:
        raise ConfigError(
            f"{named('min_clients')} = 1: the sum of a round with one participant is its update; use at least 3"
        )
    if config.quorum > config.n_clients:
        raise ConfigError(
            f"a round needs {config.quorum} participants ({named('min_clients')}, and T + 2 where there are shares), "
            f"but there are only {config.n_clients} clients"
        )


def _names(*, thresholds: bool) -> str:
    """The modes with T and U, or those without."""
    return ", ".join(mode.name for mode in MODES.values() if mode.thresholds == thresholds)


def described_sources(task: object) -> tuple[DescribedSource, ...]:
    """What the task says that it learns from, with names in printable ASCII as operators read them."""
    return tuple(
        DescribedSource(each.name.encode("ascii", "backslashreplace").decode()[:200], each.sha256)
        for each in told_sources(task)
    )


def listed(sources: Sequence[DescribedSource]) -> str:
    """The files with their checksums, for people."""
    return (
        ", ".join(f"{each.name} (SHA-256 {each.sha256 or 'not told'})" for each in sources) or "none is named"
    )


def _arrays_of(
    task: Learnable, clip: float, clips: Mapping[str, float] | None, named: Naming
) -> tuple[ArrayClip, ...]:
    if not isinstance(clips, Mapping | None):
        raise ConfigError(f"{named('clips')} is {clips!r}: it must be a table of arrays and their clips")
    for pattern, each in (clips or {}).items():
        try:
            canonical(FloatType(), each)
        except SettingError as error:
            raise ConfigError(f"{named('clips')} of {pattern} {error}") from None
    if not isinstance(task, NamesArrays):
        raise ConfigError(f"{named('clips')}: task {task.name} does not say which arrays its model has")
    try:
        return array_clips(task.array_sizes, clip, clips)
    except ArrayClipError as error:
        raise ConfigError(f"{named('clips')}: {error}") from None


def _check_arrays(config: FLConfig, named: Naming) -> None:
    names = [each.name for each in config.arrays]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{named('arrays')}: array {twice!r} is named twice")
    if names and all(each.clip == LEFT_OUT for each in config.arrays):
        raise ConfigError(f"{named('arrays')}: every array is left out, so there is nothing to sum")


def _settled(settings: Mapping[str, Any], named: Naming) -> dict[str, Any]:
    """Every setting in its canonical form; raises ConfigError naming the one that has none."""
    kinds, found = kinds_of(FLConfig), dict[str, Any]()
    for name, value in settings.items():
        try:
            found[name] = canonical(kinds[name], value)
        except SettingError as error:
            raise ConfigError(f"{_place(name, error.index, settings, named)} {error}") from None
    return found


def _check_ranges(config: FLConfig, named: Naming) -> None:
    settings = msgspec.structs.asdict(config)
    for name, kind in kinds_of(FLConfig).items():
        value = settings[name]
        if text := refusal(kind, value):
            raise ConfigError(f"{named(name)} {text}")
        if isinstance(kind, VarTupleType):
            for index, each in enumerate(value):
                if text := refusal(kind.item_type, each):
                    raise ConfigError(f"{_place(name, index, settings, named)} {text}")


def _place(name: str, index: int | None, settings: Mapping[str, Any], named: Naming) -> str:
    """Which setting that is, and of a list which item of it: the weight of whom."""
    if index is None:
        return named(name)
    clients = settings.get("clients", ())
    if name == "weights" and index < len(clients):
        return f"{named(name)} of {clients[index]}"
    return f"{named(name)}: number {index + 1}"


def _check_clip(config: FLConfig, named: Naming) -> None:
    """The clip is one in every round, the last included."""
    within = f"{SMALLEST_CLIP:g} to {LARGEST_CLIP:g}"
    clips = {named("clip"): config.clip}
    clips |= {f"clip of array {each.name}": each.clip for each in config.arrays if each.clip != LEFT_OUT}
    for place, clip in clips.items():
        if not SMALLEST_CLIP <= clip <= LARGEST_CLIP:
            raise ConfigError(f"{place} is {clip:g}: it must be a number from {within}")
    smallest = min(clips.values())
    if smallest * config.clip_decay ** (config.rounds - 1) >= SMALLEST_CLIP:
        return
    first = 1 + math.floor(math.log(SMALLEST_CLIP / smallest) / math.log(config.clip_decay)) + 1
    least = (SMALLEST_CLIP / smallest) ** (1 / (config.rounds - 1))
    raise ConfigError(
        f"{named('clip_decay')} is {config.clip_decay:g}: with it the clip {smallest:g} of round 1 shrinks to less "
        f"than {SMALLEST_CLIP:g} in round {first}, which no number of a model resolves; use {least:.3g} or more for "
        f"{config.rounds} rounds, or 1 for a clip that stays"
    )


def check_weights(levels: int, weights: Sequence[int]) -> None:
    """Raise ConfigError where the weights themselves would tell one update from another in the sum.

    Servers check this before they start, clients before they take part (simulated ones need not).
    ``w_i q_i + w_j q_j`` stays the same when q_i goes up by ``w_j / g`` and q_j down by ``w_i / g``, with g the
    greatest common divisor; that is what hides each of them behind the other.  The steps must be small
    against the 2 L + 1 values that there are: with L = 31, weights 1, 63, 63^2 and 63^3 write all four
    updates into the sum one beside the other, as digits.
    """
    largest = max(1, levels // 4)
    for one, other in itertools.combinations(sorted(set(weights)), 2):
        step = other // math.gcd(one, other)
        if step > largest:
            raise ConfigError(
                f"with weights {one} and {other} the sum would tell updates apart: at {levels} levels, weights"
                f" without their common divisor are at most {largest}; use smaller, rounder or equal weights"
            )


def _check_sums(config: FLConfig, named: Naming) -> None:
    """No sum wraps, and the thresholds of secret sharing are sound."""
    if not config.protection.thresholds:
        check_ring_width(config.levels, config.client_weights, config.ring_width, named)
        return
    try:
        colluders, survivors = config.thresholds
        check_thresholds(config.n_clients, colluders, survivors)
    except ShareCodeError as error:
        raise ShareCodeError(f"{error} (T: {named('colluders')}, U: {named('survivors')})") from None
    fewest = config.min_clients or min(SMALLEST_QUORUM, config.n_clients)
    if survivors < fewest:
        raise ConfigError(
            f"U = {survivors} survivors ({named('survivors')}) would let the sum tell too much about each: use at "
            f"least {fewest}"
        )
    smallest_modulus(config.levels, sum(config.client_weights))


def other_task(task: str, than: str) -> str:
    """What is wrong when fingerprints of a task differ."""
    return (
        f"another model, vocabulary or data format for task {task} than {than}: install the same qunetlab and "
        "the same model files on both"
    )
