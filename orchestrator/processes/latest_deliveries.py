"""What applications of a node were given and refused lately, for an operator who asks: who, when and how many bits.

There may be hundreds in a second, so nothing of it is written down, and what is alike within a second is one row: the same
application, peer, side and outcome.  The last :data:`KEPT` rows are kept in memory; sums since ever are in the store.  A row
holds neither a key nor its id, and no text of a caller: applications are named by what this node serves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from orchestrator import runtime
from orchestrator.events.delivery import DeliveryEvent, KeysDelivered, KeysRefused
from orchestrator.wall_clock import utc_now
from orchestrator.wire.key_control import Delivery

KEPT = 1000


class LatestDeliveries:
    """Told from any thread, asked from any other."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._lock = runtime.lock()
        self._rows: deque[Delivery] = deque(maxlen=KEPT)
        self._second = datetime.min.replace(tzinfo=UTC)
        self._open: dict[tuple[str, ...], Delivery] = {}
        """Rows of this second, in the order of their beginning."""
        self._count = 0

    def tell(self, event: DeliveryEvent) -> None:
        """One more; what is neither a delivery nor a refusal is left out."""
        if isinstance(event, KeysDelivered):
            outcome, peer, keys, bits = "delivered", event.peer, event.keys, event.bits
        elif isinstance(event, KeysRefused):
            outcome, peer, keys, bits = event.reason, "", 0, 0
        else:
            return
        with self._lock:
            self._close()
            key = event.sae, peer, event.side, outcome
            row = self._open.get(key)
            if row is None:
                self._count += 1
                row = Delivery(self._count, self._second, event.sae, peer, event.side, outcome, 0, 0, 0)
            self._open[key] = replace(
                row, requests=row.requests + 1, keys=row.keys + keys, bits=row.bits + bits
            )

    def after(self, number: int, *, whole: bool = False) -> list[Delivery]:
        """The rows behind row ``number``, oldest first; ``whole``: without those that may still grow."""
        with self._lock:
            self._close()
            rows = [*self._rows, *(() if whole else self._open.values())]
        return [row for row in rows if row.number > number]

    def _close(self) -> None:
        """Rows of an earlier second grow no more."""
        second = self._clock().replace(microsecond=0)
        if second != self._second:
            self._rows.extend(self._open.values())
            self._open, self._second = {}, second
