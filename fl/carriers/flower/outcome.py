"""The outcome of a round, and the error of a run without any sum."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result

from fl.keys.budget import counted, quantity
from orchestrator.events.learning import Clipping


@dataclass(frozen=True)
class RoundOutcome:
    """The outcome of one round; ``reason`` is empty where its sum moved the model.

    ``dropped`` are participants that are not in the sum.  ``upload_bytes`` is everything that clients gave,
    ``key_bits`` counts every pad once, over all pairs: used, or burnt by an aborted round, as far as the clients
    told; what a client burnt that never answered again is only in its node's ledger.  ``security`` is the
    label of the mode, ``key_supply`` says whether keys came from nodes or were simulated.  ``clipping`` is what
    clip and rounding took, as coarsely as clients tell it (:mod:`fl.rounds.clipping`).  ``leak`` is what the sum of a
    round without some users tells beside the sums with them.
    """

    round: int
    participants: tuple[str, ...]
    dropped: tuple[str, ...]
    reason: str
    upload_bytes: int
    key_bits: int
    security: str
    key_supply: str
    duration_s: float
    clipping: Clipping | None = None
    leak: str = ""

    @property
    def cost(self) -> str:
        """What the round took, in words."""
        pairs = len(self.participants) * (len(self.participants) - 1) // 2
        burnt = "burnt" if self.reason else "used"
        key = f"{quantity(self.key_bits)} of key ({self.key_supply}) {burnt}, {counted(pairs, 'pair')}"
        return f"{key}; {self.upload_bytes:,} bytes from {counted(len(self.participants), 'client')}"

    @property
    def metrics(self) -> MetricRecord:
        """The numbers of it, for Flower's history."""
        lost = self.clipping
        shares = {} if lost is None else {"qkd-clipped": lost.clipped, "qkd-vanished": lost.vanished}
        return MetricRecord(
            {
                **shares,
                "qkd-round": self.round,
                "qkd-aborted": int(bool(self.reason)),
                "qkd-participants": len(self.participants),
                "qkd-dropped": len(self.dropped),
                "qkd-upload-bytes": self.upload_bytes,
                "qkd-key-bits": self.key_bits,
            }
        )


class NoRoundCompletedError(RuntimeError):
    """A run in which no round moved the model; ``result`` holds the initial model and what became of the rounds."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result
