"""The orchestrator's side of the fence: its own epoch, and what it does about a party that objects to it.

See :mod:`orchestrator.scheduling.fencing` for the rules.  A party that knows a newer epoch is right: ours is raised just
above, by at most one step for each refused offer and within our reach.  A party that is more than one step behind
is led up by :class:`~orchestrator.wire.messages.EpochStep`.  An epoch is on disk before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator import runtime
from orchestrator.scheduling.fencing import AHEAD, EPOCH_STEP, REACH, EpochFile, Reach
from orchestrator.scheduling.leases import Order
from orchestrator.wire.messages import EpochStep

logger = logging.getLogger(__name__)


class OwnEpoch:
    """Takes the next epoch when it is made; raises EpochError or OSError if that cannot be stored."""

    def __init__(self, file: EpochFile, clock: Callable[[], float] = runtime.now) -> None:
        self._file = file
        self.reach = Reach(clock, extra=AHEAD)
        self.epoch = file.advance()

    def refused(self, role: str, newest: int) -> list[Order] | None:
        """``role`` refused an offer in our epoch, the newest it knows being ``newest``.

        Returns what is to be sent before the next offer, or None where nothing can be put right.
        """
        if newest < self.epoch - EPOCH_STEP:
            last = min(self.epoch, newest + REACH)
            return [(role, EpochStep(epoch)) for epoch in range(newest + EPOCH_STEP, last, EPOCH_STEP)]
        return [] if newest >= self.epoch and self._raise(newest) else None

    def _raise(self, newest: int) -> bool:
        """Go on above ``newest``, or a step towards it; False if the epoch stays as it was."""
        before = self.epoch
        if not self.reach.take(min(newest + 1 - before, EPOCH_STEP)):
            return False
        try:
            self.epoch = self._file.raise_above(newest)
        except OSError as error:
            logger.warning("a party knows epoch %d, and ours cannot be raised: %s", newest, error)
            return False
        logger.warning("a party knows epoch %d, ours was %d: going on with %d", newest, before, self.epoch)
        return self.epoch > before
