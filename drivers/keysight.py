"""What Keysight's optical instruments share: boxes of slots (816x mainframes, N77xx) that speak one dialect of SCPI.

Each slot that holds something is a channel with settings of its own that must be so, and a channel whose settings are
not so is refused alone.  What takes time - a filter that moves, a sensor that takes its zero - is waited for by
``*OPC?``, which answers 0 until it is done (Keysight N77xx Series Programming Guide N7744-90C; polled so in SweepMe
``src/Logger-Keysight_816xx/main.py``), and nothing is held meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from drivers.base import LabChannel
from drivers.scpi import ScpiInstrument
from drivers.scpi_state import KnownState, Required

POSSIBLE_M = (1e-7, 1e-5)
"""A wavelength outside is not in metres."""
_POLL_S = 5e-3


class SlotChannel(LabChannel):
    """What is in ``slot``; ``state`` is what must be so there."""

    parent: KeysightOptical

    def __init__(self, parent: KeysightOptical, name: str, slot: int, required: Sequence[Required]) -> None:
        super().__init__(parent, name)
        self.slot = slot
        self.state = KnownState(parent.link, required)

    def know_state(self) -> None:
        """Put what must be so."""
        self.state.hold()

    def restore_passive(self) -> None:
        """Bring back what was last set or read and can hurt nobody."""


class KeysightOptical(ScpiInstrument):
    """A box with :class:`SlotChannel` submodules.  ``pause`` and ``clock`` are for tests."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        timeout_s: float = 2.0,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, timeout_s=timeout_s, clock=clock, **kwargs)
        self._pause = pause
        self.slot_channels: list[SlotChannel] = []

    def add_slot(self, channel: SlotChannel) -> None:
        """Make ``channel`` a submodule under its own name."""
        self.slot_channels.append(channel)
        self.add_submodule(channel.short_name, channel)

    def know_state(self) -> None:
        """Old errors; then channel by channel."""
        super().know_state()
        for channel in self.slot_channels:
            channel.know_state()

    def restore_passive(self) -> None:
        """Channel by channel."""
        for channel in self.slot_channels:
            channel.restore_passive()

    def wait_complete(self, timeout_s: float, what: str, since: int, reply_s: float | None = None) -> None:
        """Wait until ``*OPC?`` answers 1, each answer for ``reply_s`` at most; NotReadyError after ``timeout_s``."""
        self.link.wait_until(
            lambda: self.link.query_bool("*OPC?", timeout_s=reply_s),
            timeout_s,
            what,
            since=since,
            poll_s=_POLL_S,
            pause=self._pause,
        )
