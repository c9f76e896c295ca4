"""Records of the relay alone: tags of both detectors while nobody modulates anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lab.calibration.gates import GateCounts, gate_counts
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.recording import PS_PER_S, Times, recorded

if TYPE_CHECKING:
    from drivers.kinds import TimeTagger

RECORD_S = 0.05
"""As long as a frame of key; a record's tags are read before the next one."""


class Exposures:
    """Plays records and sorts their tags; whoever uses it has seen to the light."""

    def __init__(
        self,
        testbed: Testbed,
        tagger: TimeTagger,
        *,
        gates_ps: tuple[float, float] | None = None,
        timeout_s: float = 10.0,
        pause: Callable[[float], None] = runtime.sleep,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        """``gates_ps``: where the gates stand, if not where they are calibrated to."""
        self._gates_ps = gates_ps or testbed.calibration.detector_delays_ps
        self._testbed = testbed
        self._tagger = tagger
        self._timeout_s, self._pause, self._clock = timeout_s, pause, clock

    def tags(self, duration_s: float = RECORD_S) -> Times:
        """The tags of one record.  NotReadyError where it does not end in time."""
        return recorded(
            self._tagger,
            self._testbed.detectors.channels,
            round(duration_s * PS_PER_S),
            timeout_s=self._timeout_s,
            pause=self._pause,
            clock=self._clock,
        )

    def joined(self, records: int) -> Times:
        """The tags of so many records, one after the other."""
        first, second = zip(*(self.tags() for _ in range(records)), strict=True)
        return np.concatenate(first), np.concatenate(second)

    def gated(
        self,
        *,
        clicks: float,
        longest_s: float,
        part: Callable[[float], None] = lambda done: None,
        delays_ps: tuple[float, float] | None = None,
    ) -> GateCounts:
        """Records until about so many clicks fell into gates, or so much light passed.

        ``delays_ps``: of other gates.
        """
        protocol = self._testbed.protocol
        delays_ps = delays_ps or self._gates_ps
        slot_ns = 1e9 / protocol.clock_hz
        slots = int((RECORD_S * PS_PER_S - max(delays_ps)) / (slot_ns * 1e3))
        total: GateCounts | None = None
        while True:
            counted = gate_counts(
                self.tags(),
                delays_ps,
                slots=slots,
                gate_ns=protocol.gate_ns,
                slot_ns=slot_ns,
                ratio=self._testbed.calibration.detector_ratio,
            )
            total = counted if total is None else total + counted
            spent_s = total.slots / protocol.clock_hz
            done = max(total.inside.sum() / clicks, spent_s / longest_s)
            part(min(float(done), 1.0))
            if done >= 1:
                return total
