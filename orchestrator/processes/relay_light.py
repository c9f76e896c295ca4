"""The light of a relay, lease by lease: key or a calibration, told while it goes on, counted and put on record at its end."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from lab.alarms.book import Observed
from lab.calibration.current import CurrentTestbed
from lab.calibration.steps import Step
from lab.interlock.interlock import Interlock
from lab.readings import known_readings
from lab.station import Station
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import CalibrationProgress, Emit, LightProgress
from orchestrator.events.status import Served, pair_name
from orchestrator.hub.agent import Agent
from orchestrator.light.calibration.parties import RelayParty
from orchestrator.light.launching import RelayInstruments, planned_light
from orchestrator.light.messages import FrameLost, reason_of
from orchestrator.light.relay import Clicks, RelayLight
from orchestrator.processes.calibrating import Calibrating
from orchestrator.processes.following import telling
from orchestrator.processes.interlock_causes import tripped_by_light
from orchestrator.processes.light_told import LightTold
from orchestrator.processes.role_records import keep_testbed, light_served
from orchestrator.records.keeping import Records
from orchestrator.scheduling.lease_party import HeldLease, LightChannels
from orchestrator.wire.messages import KEY, LightStatistics

FRAMES_PER_EVENT = 8


@dataclass
class _Progress:
    """A light phase as its operator sees it: an event every few frames."""

    lease: HeldLease
    slots: int
    """Of a frame."""
    emit: Emit
    lost: int = 0
    why: str = ""
    """The reason of the latest frame that was lost."""

    def frame(self, frame: int, clicks: Clicks | FrameLost) -> None:
        """Frame number ``frame`` of the phase has ended."""
        count = 0
        if isinstance(clicks, FrameLost):
            self.lost, self.why = self.lost + 1, clicks.reason
        else:
            count = clicks[0].size
        if frame % FRAMES_PER_EVENT == FRAMES_PER_EVENT - 1 or frame == self.lease.n_frames - 1:
            pulses, planned = (frame + 1) * self.slots, self.lease.n_frames * self.slots
            self.emit(
                LightProgress(*self.lease.pair, pulses, planned, count, runtime.now(), self.lost, self.why)
            )


class LeasedLight:
    """Runs the light of every lease that the relay holds; one thread, except for :attr:`pair` and :meth:`brought_back`."""

    def __init__(
        self,
        current: CurrentTestbed,
        light: RelayLight,
        owned: RelayInstruments,
        station: Station,
        agent: Agent,
        interlock: Interlock,
        calibrating: Calibrating,
        *,
        emit: Emit,
        records: Records,
    ) -> None:
        """``current``: the testbed as it is calibrated at the moment of asking; ``records`` get every light phase."""
        self._current, self._protocol = current, current().protocol
        self._light, self._owned, self._station = light, owned, station
        self._agent, self._interlock, self._calibrating = agent, interlock, calibrating
        self._emit, self._records = emit, records
        self._served = self._failed = 0
        self._lit_s = 0.0
        self._brought_back: list[Observed] = []
        self.pair: tuple[str, ...] = ()
        """Users of the latest light phase."""

    def brought_back(self) -> list[Observed]:
        """Detectors that latched in the latest light phase in which one did, until there is one without."""
        return list(self._brought_back)

    def run(self, lease: HeldLease) -> LightStatistics:
        """One light phase, counted whichever way it ends."""
        self.pair = lease.pair
        try:
            with tripped_by_light(self._interlock, self._agent, lease.pair, self._light.was_lit):
                statistics = self._key(lease) if lease.purpose == KEY else self._calibration(lease)
        except Exception as error:
            self._failed += 1
            self._records.keep(replace(light_served(lease, "", None), ok=False, reason=reason_of(error)))
            raise
        else:
            self._served, self._lit_s = self._served + 1, self._lit_s + statistics.light_s
            return statistics
        finally:
            self._agent.control_send(Served(self._served, self._failed, self._lit_s))

    def _calibration(self, lease: HeldLease) -> LightStatistics:
        statistics = self._calibrating.relay(lease, self._with_values)
        testbed = keep_testbed(self._records, self._current())
        self._records.keep(light_served(lease, testbed, None, light_s=statistics.light_s))
        return statistics

    def _with_values(self, calibrated: Testbed) -> RelayParty:
        self._light.use(calibrated)
        return RelayParty(calibrated, self._light, self._owned)

    def _key(self, lease: HeldLease) -> LightStatistics:
        started_s = runtime.now()
        calibrated = self._current()
        self._light.use(calibrated)
        slots, clock_hz = self._protocol.slots_per_frame, self._protocol.clock_hz
        told = LightTold(self._agent, lease.pair, lease.n_frames, slots, clock_hz)
        progress = _Progress(lease, slots, self._emit)
        latched: list[Observed] = []

        def on_frame(frame: int, clicks: Clicks | FrameLost) -> None:
            told.frame(frame, clicks)
            progress.frame(frame, clicks)

        def on_latched(text: str) -> None:
            seen = Observed("instrument", at_s=runtime.now(), text=f"{pair_name(lease.pair)}: {text}")
            latched.append(seen)
            self._brought_back = [seen]

        def on_aligning(part: float) -> None:
            self._emit(CalibrationProgress(Step.POLARIZATION, *lease.pair, part, runtime.now()))

        with LightChannels(self._agent, lease, lease.pair) as channels, told:
            frames = self._light.run(
                (channels[0], channels[1]),
                lease.n_frames,
                planned_light(calibrated, *lease.pair),
                on_frame=on_frame,
                on_rest=told.at_rest,
                on_latched=on_latched,
                on_tracked=telling(self._emit, "relay", lease.pair),
                on_aligning=on_aligning,
            )
        if not latched:
            self._brought_back = []
        pulses = lease.n_frames * slots
        statistics = LightStatistics(
            frames=lease.n_frames,
            lost_frames=frames.lost_frames,
            pulses=pulses,
            announced=frames.announced,
            light_s=pulses / clock_hz,
            wall_s=runtime.now() - started_s,
        )
        testbed = keep_testbed(self._records, calibrated)
        record = light_served(lease, testbed, frames, pulses, statistics.light_s, statistics.wall_s)
        self._records.keep(replace(record, readings=known_readings(self._station)))
        return statistics
