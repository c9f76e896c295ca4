"""A latched detector is noticed by its silence, brought back by its bias, and told.

A nanowire that absorbed too much light at once stays in its normal state: no click, no dark count, until the bias is taken
off it.  So it is the one that is silent: with the launch opened low, for as long as dark counts were due of it; in a frame,
where hundreds of time stamps are expected and the other detector has them.  Where both are silent in a frame it may just be
dark, and their dark counts decide.

Its bias is taken off and put on again in the dark, once in a light phase: a detector that latches again gets more light
than it bears, and only people can see why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.messages import DetectorsBlinded

if TYPE_CHECKING:
    from drivers.kinds import PhotonDetectors

SURELY = 20
"""Counts that are due of a detector before its silence means something: one in 5e8 says nothing by chance."""
IN_A_FRAME = 100
"""The same for a frame; the light may be a third below its plan."""
LONGEST_S = 2.0
"""How long dark counts are waited for."""
BIAS_OFF_S = 0.1
"""The wire is cold within nanoseconds, its bias network settles in milliseconds."""


class Latching:
    """What is known of the two detectors in one light phase; ``on_latched`` is told of each that was brought back."""

    def __init__(
        self,
        testbed: Testbed,
        detectors: PhotonDetectors,
        *,
        expected_cps: float,
        on_latched: Callable[[str], None] = lambda text: None,
        pause: Callable[[float], None] = runtime.sleep,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        """``expected_cps``: planned counts per second of each detector, with random symbols."""
        protocol, calibration = testbed.protocol, testbed.calibration
        self._bias_ua = list(testbed.detectors.bias_ua)
        self.dark_cps = calibration.dark_count_probability / protocol.gate_ns * 1e9
        """Dark counts per second of each detector, as calibrated."""
        self._in_a_frame = expected_cps * protocol.slots_per_frame / protocol.clock_hz
        self._detectors = detectors
        self._on_latched = on_latched
        self._pause = pause
        self._clock = clock
        self._cycled: set[int] = set()

    def silent(self) -> tuple[int, ...]:
        """The detectors without a count while :data:`SURELY` dark counts were due; none where that takes too long."""
        # A rate is of a whole period that began after the call, which takes up to two.
        long_s = 2 * SURELY / self.dark_cps if self.dark_cps else math.inf
        if long_s > LONGEST_S:
            return ()
        silent, until = {0, 1}, self._clock() + long_s
        while silent and self._clock() < until:
            rates = self._detectors.count_rates()[:2]
            silent = {each for each in silent if not rates[each] > 0}
        return tuple(sorted(silent))

    def silent_in(self, time_stamps: Sequence[int]) -> tuple[int, ...]:
        """The latched detectors in a frame with so many time stamps of each."""
        if self._in_a_frame < IN_A_FRAME:
            return ()
        silent = tuple(each for each, count in enumerate(time_stamps) if not count)
        return self.silent() if len(silent) == len(time_stamps) else silent

    def bring_back(self, silent: Sequence[int], seen: str) -> str:
        """Take the bias off these detectors and put it on again, in the dark; what is told of it.

        Raises DetectorsBlinded for one that was brought back before in this light phase.
        """
        names = " and ".join(f"D{each + 1}" for each in silent)
        if self._cycled & set(silent):
            raise DetectorsBlinded(
                f"{names} latched again after the bias was taken off and put on ({seen}): more light reaches it than it "
                "bears, or it is broken; check the launch attenuation, that both stations of the pair are taken in and "
                "none of them is in bypass, and its bias current"
            )
        self._cycled |= set(silent)
        self._detectors.bias_current_ua(
            [0.0 if each in silent else bias for each, bias in enumerate(self._bias_ua)]
        )
        self._pause(BIAS_OFF_S)
        self._detectors.bias_current_ua(self._bias_ua)
        told = f"{names} latched ({seen}); the bias was taken off and put on with the launch closed"
        self._on_latched(told)
        return told
