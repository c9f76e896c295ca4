"""Tag bits of messages on their way: spent in the books, kept in memory until the message comes."""

from __future__ import annotations

from orchestrator.keystore.lanes import Range
from orchestrator.secret import SecretBits

SKIPPED_BITS = 16384
"""Most bits of one incoming lane that wait for messages on their way; beyond that they are given up."""


class SkippedBits:
    """Tag bits of messages that were overtaken by a later one, in memory only.

    They are booked as spent already, so no restart brings them back; the message they belong to may still come.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[int, SecretBits]] = []

    def add(self, start: int, bits: SecretBits) -> None:
        self._parts.append((start, bits))
        while sum(len(kept) for _, kept in self._parts) > SKIPPED_BITS:
            self._parts.pop(0)[1].wipe()

    def peek(self, wanted: Range) -> SecretBits | None:
        """A copy of ``wanted``; None if it does not wait here."""
        for start, bits in self._parts:
            if start <= wanted.start and wanted.end <= start + len(bits):
                return bits.take(wanted.start - start, wanted.n_bits)
        return None

    def spend(self, wanted: Range) -> None:
        """Forget ``wanted``."""
        parts, self._parts = self._parts, []
        for start, bits in parts:
            if not (start <= wanted.start and wanted.end <= start + len(bits)):
                self._parts.append((start, bits))
                continue
            first, last = wanted.start - start, wanted.end - start
            for begin, end in ((0, first), (last, len(bits))):
                if end > begin:
                    self._parts.append((start + begin, bits.take(begin, end - begin)))
            bits.wipe()

    def forget(self) -> None:
        for _, bits in self._parts:
            bits.wipe()
        self._parts.clear()
