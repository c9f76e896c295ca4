"""The public settings of a Flower run, and how they become those of every other run of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fl.carriers.flower.handed import task_name
from fl.modes.table import DEFAULT_MODE, MODES
from fl.rounds.config import ConfigError, FLConfig
from fl.workloads.base import TaskDefaults

APP_NAME = re.compile(r"[A-Za-z0-9._-]{1,20}")


@dataclass(frozen=True)
class FlowerTask:
    """Stands for the task of a ClientApp: Flower brings the model, and only the settings are ours.

    It has no fingerprint, as a client has nothing to compare it with.
    """

    name: str
    array_sizes: Mapping[str, int]
    """Name and number of values of every array that is trained, in the model's order."""
    fingerprint = ""
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=10)


@dataclass(frozen=True)
class SecureRun:
    """The public settings of a run; see :class:`fl.rounds.config.FLConfig` for what they mean.

    ``app`` is what the operators call the task (at most 20 characters), ``run_id`` by which name they consent to
    this run; a simulated run is named after Flower's.  ``users`` take part, by default all of the roster.
    ``ring_width`` 0 takes the smallest ring width at which no sum wraps.  ``clips`` are clips of single arrays by name or
    pattern, 0 to leave them out of the sum, as buffers of batch normalisation are (:mod:`fl.rounds.arrays`).  ``weights``
    are public integers per user (default 1).  A round of ``otp`` or ``expanded`` begins when all users are there: the run pauses for up to
    ``pause_s``, and says for whom.  In ``lightsecagg`` it begins after ``meeting_s`` with the users that are
    there, if they are ``quorum``.  A client gives up after ``wait_timeout_s`` of waiting for keys, or for a peer to
    ask for its own, and says what it burnt.  ``answer_timeout_s`` is for what needs neither training nor keys;
    Flower starts a process for it.
    """

    mode: str = DEFAULT_MODE
    app: str = "flower"
    run_id: str = ""
    users: tuple[str, ...] = ()
    levels: int = 127
    clip: float = 1.0
    ring_width: int = 0
    keep: float = 1.0
    clip_decay: float = 1.0
    clips: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    colluders: int = 0
    survivors: int = 0
    quorum: int = 0
    seed: int = 0
    meeting_s: float = 120.0
    pause_s: float = 3600.0
    wait_timeout_s: float = 300.0
    answer_timeout_s: float = 120.0

    @property
    def complete(self) -> bool:
        """Is every round one of all users?"""
        return not MODES[self.mode].drop_outs

    def config(
        self,
        run_id: str,
        users: tuple[str, ...],
        array_sizes: Mapping[str, int] | None = None,
        *,
        rounds: int = 10,
        handed: bytes = b"",
        settings: bytes = b"",
    ) -> FLConfig:
        """The settings as clients check them; raises ConfigError or QuantisationError.

        ``array_sizes`` is that of the model (:func:`fl.carriers.flower.arrays.array_sizes`), ``handed`` and ``settings`` are the digests of :mod:`fl.carriers.flower.handed`.
        """
        users = self.users or users
        if strangers := sorted(set(self.weights) - set(users)):
            raise ConfigError(
                f"weights are given to {', '.join(strangers)}, who takes no part: {', '.join(users)} do"
            )
        if not APP_NAME.fullmatch(self.app):
            raise ConfigError(f"app = {self.app!r}: it is 1 to 20 letters, digits, '.', '-' or '_'")
        return FLConfig.for_task(
            FlowerTask(task_name(self.app, handed, settings), array_sizes or {}),
            users,
            run_id=run_id,
            clips=self.clips,
            named=lambda setting: "quorum" if setting == "min_clients" else setting,
            rounds=rounds,
            seed=self.seed,
            ring_width=self.ring_width,
            levels=self.levels,
            clip=self.clip,
            mode=self.mode,
            weights=tuple(self.weights.get(user, 1) for user in users),
            colluders=self.colluders,
            survivors=self.survivors,
            keep=self.keep,
            clip_decay=self.clip_decay,
            min_clients=self.quorum,
            wait_timeout_s=self.wait_timeout_s,
        )
