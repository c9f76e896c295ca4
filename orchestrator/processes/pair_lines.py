"""The line between the workers of a pair: its messages, the jobs spoken of, and how long to wait after failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec

from orchestrator import runtime
from orchestrator.keystore.errors import (
    AgreementError,
    AlreadyReleasedError,
    KeyStoreError,
    LaneShortError,
    ReservationError,
)
from orchestrator.keystore.lanes import PairEnd
from orchestrator.log_context import known
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import Message, WireError

JobName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=150)]
Conversation: TypeAlias = Callable[[Channel, PairEnd], object]

LINE_PREFIX = "pair/"
POLL_S = 0.02
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 4.0
"""After a hub that lost messages is well again, a pair works within this time and one meeting."""
SILENT_S = 5.0
"""How long the first waits on a line for a word of the second before it opens a fresh one; meetings cost no key."""
GO_ON_BITS = 1024
"""How far a lane may fall further each time an operator lets the pair go on."""
DONE_KEPT = 64
"""Jobs that are answered again, per peer; the oldest are forgotten."""
NAMES_KEPT = 1024
"""Jobs that one line may speak of."""


class Greeting(Message, frozen=True):
    """First message of a line."""


class Have(Message, frozen=True):
    """Second to first: ready to run ``job``; ``done``: only if the first still needs it."""

    job: JobName
    done: bool = False


class Start(Message, frozen=True):
    """First to second: run ``job`` as number ``n`` of this line."""

    job: JobName
    n: Annotated[int, msgspec.Meta(ge=0, lt=2**40)]


class Again(Message, frozen=True):
    """Second to first: open a fresh line when no job runs; only the first knows when that is."""


LineMessage: TypeAlias = Greeting | Have | Start | Again

CONVERSATION_ERRORS = (BlockAborted, KeyStoreError, ChannelError, WireError)


IN_STEP_ERRORS = (LaneShortError, ReservationError, AlreadyReleasedError)
"""Failures that both ends know of and that left nothing behind: the line goes on."""
RETRY_ERRORS = (AgreementError, ChannelError, WireError)
"""Failures of the line or of the peer, after which a job that allows it is tried again."""


class JobExpiredError(Exception):
    """The peer never became ready for this job."""


class Job:
    """A conversation that waits for its turn, and how it is answered again once it is done."""

    def __init__(
        self,
        name: str,
        conversation: Conversation,
        expires_s: float,
        again: Conversation | None,
    ) -> None:
        self.name = name
        self.conversation = conversation
        self.expires_s = expires_s
        self.again = again
        self.about = known()
        """What whoever wants it was about, for the log."""
        self.future: runtime.Future[object] = runtime.future()


class Line:
    """One connection of the two workers, and what they told each other on it."""

    def __init__(self, name: str, channel: Channel) -> None:
        self.name = name
        self.channel = channel
        self.heard_s = 0.0
        """When the peer last met us, spoke, or ran a job on it."""
        self.jobs_started = 0
        self.peer_has: set[str] = set()
        self.peer_did: set[str] = set()
        self.told: set[str] = set()
        self.told_done: set[str] = set()

    def heard(self, message: Have) -> None:
        """The second is ready; raises WireError for more jobs than a line may speak of."""
        names = self.peer_did if message.done else self.peer_has
        names.add(message.job)
        if len(names) > NAMES_KEPT:
            raise WireError(f"more than {NAMES_KEPT} jobs are named on one line")


@dataclass(frozen=True)
class LowWater:
    """Why a pair waits for an operator: an authentication lane is nearly used up."""

    peer: str
    lane: str
    bits: int

    def __str__(self) -> str:
        return (
            f"{self.bits} bits are left of lane {self.lane} with {self.peer}; meetings wait: find out what spends"
            " them, give the pair a new secret (qunetlab keys reseed), or let it go on"
        )


@dataclass(frozen=True)
class BackOff:
    """How long to wait before the next line: twice as long after every failure, up to a limit."""

    wait_s: float = FIRST_WAIT_S

    def failed(self) -> BackOff:
        return BackOff(min(2 * self.wait_s, LONGEST_WAIT_S))
