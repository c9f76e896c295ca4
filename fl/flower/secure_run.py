"""The public settings of a Flower run, and how they become those of every other run of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fl.config import FLConfig, Mode
from fl.tasks.base import TaskDefaults


class FlowerTask:
    """Whatever the ClientApp trains: Flower brings the model, so only its settings are ours."""

    name = "flower"
    fingerprint = ""
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=10)

    def __init__(self, array_sizes: Mapping[str, int]) -> None:
        """``array_sizes``: name and number of values of every array that is trained, in the model's order."""
        self.array_sizes = array_sizes


@dataclass(frozen=True)
class SecureRun:
    """The public settings of a run; see :class:`fl.config.FLConfig` for what they mean.

    ``ring_bits`` 0 takes the narrowest ring that cannot wrap.  ``clips`` are clips of single arrays by name or
    pattern, 0 to leave them out of the sum, as buffers of batch normalisation are (:mod:`fl.arrays`).  ``weights`` are public integers per user
    (default 1).  After ``meeting_s`` a round begins with the users that are there, if they are ``quorum``.
    A client gives up after ``wait_timeout_s`` of waiting for keys, or for a peer to ask for its own, and says
    what it burnt.  ``answer_timeout_s`` is for what needs neither training nor keys; Flower starts a process for it.
    """

    mode: Mode = "otp"
    levels: int = 127
    clip: float = 1.0
    ring_bits: int = 0
    keep: float = 1.0
    clip_decay: float = 1.0
    clips: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    colluders: int = 0
    survivors: int = 0
    quorum: int = 0
    seed: int = 0
    meeting_s: float = 120.0
    wait_timeout_s: float = 300.0
    answer_timeout_s: float = 120.0

    def config(
        self, run_id: str, users: tuple[str, ...], array_sizes: Mapping[str, int] | None = None
    ) -> FLConfig:
        """The settings as clients check them; raises ConfigError or QuantisationError.

        ``array_sizes`` is that of the model (:func:`fl.flower.arrays.array_sizes`).
        """
        return FLConfig.for_task(
            FlowerTask(array_sizes or {}),
            users,
            run_id=run_id,
            clips=self.clips,
            named=lambda setting: "quorum" if setting == "min_clients" else setting,
            seed=self.seed,
            ring_bits=self.ring_bits,
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
