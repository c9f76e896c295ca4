"""The part that a role takes in a lease for a calibration: it finds what is its own, and keeps it.

What is found is printed by its owner and goes into the owner's book; the orchestrator hears whether the lease came to its
end.  No key is made in such a lease: what a light phase of a calibration gives is no block, and nobody here submits one.
"""

from __future__ import annotations

from collections.abc import Callable

from lab.calibration.current import CurrentTestbed
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Finding
from lab.calibration.steps import STEPS as STEP_FACTS
from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import Calibrated, CalibrationProgress, Emit
from orchestrator.events.status import RELAY
from orchestrator.hub.agent import Agent
from orchestrator.light.calibration.parties import RelayParty, UserParty
from orchestrator.light.messages import LightAborted
from orchestrator.scheduling.lease_party import HeldLease, LightChannels
from orchestrator.wire.channel import Channel
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.messages import CALIBRATIONS, LightStatistics

TELL_EVERY_S = 2.0


class Calibrating:
    """What relay and nodes do alike around their part."""

    def __init__(
        self,
        current: CurrentTestbed,
        agent: Agent,
        emit: Emit,
        begin: Callable[[], Callable[[Finding], None]],
    ) -> None:
        """``begin`` is called when a calibration begins, and what it gives with the finding once that is kept."""
        self._current, self._agent, self._emit, self._begin = current, agent, emit, begin

    def relay(self, lease: HeldLease, party: Callable[[Testbed], RelayParty]) -> LightStatistics:
        """The relay's part; LightAborted where it is refused."""
        with LightChannels(self._agent, lease, lease.pair) as (first, second):
            return self._take_part(
                lease,
                RELAY,
                lambda step, part: party(self._current()).calibrate(step, lease.pair, (first, second), part),
            )

    def user(self, lease: HeldLease, name: str, party: Callable[[Testbed], UserParty]) -> LightStatistics:
        """A user's part; LightAborted where it is refused."""

        def calibrate(step: Step, part: Callable[[float], None], channel: Channel) -> Finding | None:
            return party(self._current()).calibrate(step, lease.pair, channel, part)

        with LightChannels(self._agent, lease, (RELAY,)) as (channel,):
            return self._take_part(lease, name, lambda step, part: calibrate(step, part, channel))

    def _take_part(
        self,
        lease: HeldLease,
        name: str,
        calibrate: Callable[[Step, Callable[[float], None]], Finding | None],
    ) -> LightStatistics:
        step, started = CALIBRATIONS[lease.purpose], runtime.now()
        told_s = started

        def part(done: float) -> None:
            nonlocal told_s
            at_s = runtime.now()
            if at_s - told_s >= TELL_EVERY_S:
                told_s = at_s
                self._emit(CalibrationProgress(step, *lease.pair, done, at_s))

        found = self._begin()
        try:
            if (STEP_FACTS[step].owner == RELAY) == (name == RELAY):
                self._current.check_keeping()
            finding = calibrate(step, part)
            if finding is not None:
                self._current.keep(finding)
                found(finding)
        except CalibrationRefusedError as error:
            self._emit(Calibrated(step, name, refused=str(error)[:REASON_LIMIT]))
            raise LightAborted(f"{step} of {name} is refused: {error}") from error
        light_s = 0.0
        if finding is not None:
            light_s = finding.light_s
            self._emit(Calibrated(step, name, found=tuple(finding.values)))
        wall_s = runtime.now() - started
        return LightStatistics(frames=0, lost_frames=0, pulses=0, announced=0, light_s=light_s, wall_s=wall_s)
