"""How many bytes others may make a process hold: one budget object, and the queue that is paid from it.

Limits that count messages are no limits: what a peer sends may be a byte or a mebibyte, and a small frame can
decode into something far larger.  Everything that waits here because of somebody else is therefore paid for
in bytes, under the name of the one who caused it, and what does not fit is refused there and then.  The
refusals are counted, so that whoever shows the process's health can show them.

Charges are upper bounds of memory, not lengths on the wire (:func:`waiting_cost`, :func:`decoded_cost`).
"""

from __future__ import annotations

from typing import Generic, TypeVar

from orchestrator import runtime

T = TypeVar("T")

ITEM_BYTES = 512
"""What anything that waits costs beyond its length: objects, queue entries, names."""
DECODED_FACTOR = 32
"""Memory of a decoded message per byte of its frame, at worst: a string of two characters in a list takes 3
bytes on the wire and 59 in memory."""


def waiting_cost(length: int) -> int:
    """Charge for ``length`` bytes that wait as they came."""
    return length + ITEM_BYTES


def decoded_cost(length: int) -> int:
    """Charge for a frame of ``length`` bytes that waits decoded."""
    return DECODED_FACTOR * length + ITEM_BYTES


def messages_within(n_bytes: int, largest: int, *, least: int, most: int) -> int:
    """A queue length for a socket, which counts messages: as many of ``largest`` bytes as ``n_bytes`` hold."""
    return max(least, min(most, n_bytes // largest))


class ByteBudget:
    """At most ``total`` bytes at a time, and at most ``each`` of one holder.  Thread-safe."""

    def __init__(self, total: int, each: int | None = None) -> None:
        self.total = total
        self.each = total if each is None else each
        self._lock = runtime.lock()
        self._held: dict[str, int] = {}
        self._sum = 0
        self.refused = 0
        """How often something did not fit."""

    def take(self, holder: str, n_bytes: int) -> bool:
        """Charge ``n_bytes`` to ``holder``; False, with nothing charged, if they do not fit."""
        with self._lock:
            mine = self._held.get(holder, 0)
            if mine + n_bytes > self.each or self._sum + n_bytes > self.total:
                self.refused += 1
                return False
            self._held[holder] = mine + n_bytes
            self._sum += n_bytes
            return True

    def give_back(self, holder: str, n_bytes: int) -> None:
        """``n_bytes`` of ``holder`` wait no more."""
        with self._lock:
            left = self._held.get(holder, 0) - n_bytes
            if left < 0:
                raise ValueError(f"{holder} gives back {n_bytes} bytes, {-left} more than it holds")
            if left:
                self._held[holder] = left
            else:
                self._held.pop(holder, None)
            self._sum -= n_bytes

    def held(self, holder: str | None = None) -> int:
        """Bytes charged at the moment, to ``holder`` or to everybody."""
        with self._lock:
            return self._sum if holder is None else self._held.get(holder, 0)


class BudgetedQueue(Generic[T]):
    """A queue between threads whose waiting items are paid from ``budget``."""

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self._items: runtime.Queue[tuple[T, str, int]] = runtime.queue()

    def offer(self, item: T, holder: str, n_bytes: int) -> bool:
        """Queue what costs ``n_bytes`` and was caused by ``holder``; False if it does not fit."""
        if not self.budget.take(holder, n_bytes):
            return False
        self._items.put((item, holder, n_bytes))
        return True

    def put(self, item: T) -> None:
        """Queue something that must not be lost and whose number is bounded by other means; it costs nothing."""
        self._items.put((item, "", 0))

    def get(self, timeout_s: float) -> T:
        """The oldest item; raises runtime.Empty if there is none within ``timeout_s``."""
        item, holder, n_bytes = self._items.get(timeout=max(0.0, timeout_s))
        if n_bytes:
            self.budget.give_back(holder, n_bytes)
        return item

    def qsize(self) -> int:
        """Items that wait."""
        return self._items.qsize()
