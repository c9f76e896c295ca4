"""The light of a pair in a notebook: planned light in the ring, and what turning anything in it does.

One user's modulator turns her pulses by 0 and pi in turn, slot by slot, and everything else rests.  Equal phases belong to
D1 and opposite ones to D2; what comes out wrong over all that comes is an error ratio as in basis Y of a block, and
``(right - wrong) / (right + wrong)`` the visibility of the interference.  Dark counts and back-scatter count as they do in
a block: less light, more errors.

These phases are known to everybody.  They are for looking at a ring, and never make key.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from qcodes.instrument import InstrumentBase
from qcodes.parameters import Parameter

from drivers.kinds import PhaseModulator
from drivers.links.errors import InstrumentError
from lab import needs
from lab.runs.sessions import Session, sensors_watched
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.status import RELAY
from orchestrator.light.clicks import BOTH, D1_ONLY, D2_ONLY, tags_to_clicks
from orchestrator.light.launching import Launching, RelayInstruments, planned_light
from orchestrator.light.own_station import OWN_DIRECTION, OwnStation, StationInstruments
from orchestrator.light.recording import PS_PER_S, frame_record_ps, recorded
from orchestrator.light.timing import FrameTiming, frame_timing

logger = logging.getLogger(__name__)

SLOTS = 1 << 20
"""Of a frame: ten milliseconds of light."""
PATIENCE_S = 10.0


@dataclass(frozen=True, repr=False)
class Seen:
    """Clicks of one frame in the gates; ``right`` and ``wrong`` for the phase that each slot had."""

    d1: int
    d2: int
    right: int
    wrong: int
    light_s: float

    @property
    def visibility(self) -> float:
        """Of the interference, nothing taken off; NaN without clicks."""
        return (self.right - self.wrong) / (self.right + self.wrong) if self.right + self.wrong else math.nan

    @property
    def error_ratio(self) -> float:
        """Wrong clicks over all; NaN without clicks."""
        return self.wrong / (self.right + self.wrong) if self.right + self.wrong else math.nan

    def __repr__(self) -> str:
        return (
            f"D1 {self.d1 / self.light_s:.4g}/s, D2 {self.d2 / self.light_s:.4g}/s, visibility {self.visibility:.4f}, "
            f"errors {100 * self.error_ratio:.2f} % of {self.right + self.wrong}"
        )


class Interference(InstrumentBase):
    """What D1 and D2 see; each parameter is of a frame of its own, :meth:`look` gives all of one."""

    def __init__(
        self, testbed: Testbed, user: str, modulator: PhaseModulator, relay: RelayInstruments
    ) -> None:
        """``user``, the first of the pair, turns its phases with ``modulator``."""
        super().__init__("light")
        self._testbed, self._modulator, self._tagger = testbed, modulator, relay.tagger
        timing = frame_timing(testbed, user, OWN_DIRECTION[0])
        protocol = testbed.protocol
        modulator.configure(
            protocol.clock_hz * protocol.samples_per_slot,
            testbed.user(user).awg_amplitude_vpp,
            timing.fine_delay_ps,
        )
        self._frame = _half_turns(testbed, user, timing)
        modulator.prepare(self._frame.size)
        self._light_s = SLOTS / protocol.clock_hz
        self._add(
            "d1_cps",
            "Counts of D1 in the gates, per second of light",
            "1/s",
            lambda seen: seen.d1 / seen.light_s,
        )
        self._add(
            "d2_cps",
            "Counts of D2 in the gates, per second of light",
            "1/s",
            lambda seen: seen.d2 / seen.light_s,
        )
        self._add("visibility", "Visibility of the interference", "", lambda seen: seen.visibility)
        self._add("error_ratio", "Wrong clicks over all", "", lambda seen: seen.error_ratio)

    def _add(self, name: str, label: str, unit: str, of: Callable[[Seen], float]) -> None:
        self.add_parameter(
            name,
            Parameter,
            label=label,
            unit=unit,
            get_cmd=lambda: of(self.look()),
            set_cmd=False,
            snapshot_get=False,
        )

    def look(self) -> Seen:
        """Play one frame and count.  NotReadyError where it was not played, or not recorded in time."""
        protocol, tagger = self._testbed.protocol, self._tagger
        self._modulator.upload(0, self._frame)
        self._modulator.arm(0)
        tagger.restart_streams()
        times = recorded(
            tagger,
            self._testbed.detectors.channels,
            frame_record_ps(self._testbed, SLOTS),
            timeout_s=PATIENCE_S,
            pause=runtime.sleep,
            clock=runtime.now,
        )
        self._modulator.extra_trigger_seen()
        slots, outcomes = tags_to_clicks(
            times,
            self._testbed.calibration.detector_delays_ps,
            slot_ps=PS_PER_S / protocol.clock_hz,
            gate_ps=protocol.gate_ns * 1000,
            slots_per_frame=SLOTS,
        )
        single = outcomes != BOTH
        right = np.count_nonzero(single & ((outcomes == D1_ONLY) == (slots % 2 == 0)))
        return Seen(
            d1=int(np.count_nonzero(outcomes != D2_ONLY)),
            d2=int(np.count_nonzero(outcomes != D1_ONLY)),
            right=int(right),
            wrong=int(np.count_nonzero(single) - right),
            light_s=self._light_s,
        )


def _half_turns(testbed: Testbed, name: str, timing: FrameTiming) -> npt.NDArray[np.float32]:
    """A frame of phases 0 and pi in turn, both less the loop's own; float32 of shape (samples,)."""
    user, samples = testbed.user(name), testbed.protocol.samples_per_slot
    full_scale_rad = math.pi * user.rf_gain * user.awg_amplitude_vpp / 2 / user.v_pi_v
    phases = np.array([0.0, math.pi]) - testbed.loop_phase_rad(name)
    frame = np.zeros(timing.lead_samples + SLOTS * samples, np.float32)
    levels = np.remainder(phases + math.pi / 2, 2 * math.pi) - math.pi / 2
    frame[timing.lead_samples :: samples] = np.resize(np.clip(levels / full_scale_rad, -1, 1), SLOTS)
    return frame


@contextmanager
def lit_ring(session: Session, pair: tuple[str, str]) -> Iterator[Interference]:
    """The planned light of a pair in the ring, and what it does; ``session``: of the relay, of the first user and of whoever
    else is here, whose interlocks look at the sensors meanwhile.

    Users of the pair that are not here have taken their stations in themselves; the launch is closed at the end, and those
    that are here leave the ring.
    """
    testbed, stations = session.testbed, session.stations
    relay = RelayInstruments.of(stations[RELAY])
    launching = Launching(testbed, relay)
    launching.set_up()
    own = {
        user: OwnStation(testbed, user, StationInstruments.of(stations[user]))
        for user in testbed.user_names()
        if user in stations
    }
    for user, station in own.items():
        station.set_up()
        if user in pair:
            station.take_in()
    with sensors_watched(session, {user: partial(getattr, each, "is_in") for user, each in own.items()}):
        try:
            launching.open(planned_light(testbed, *pair))
            yield Interference(testbed, pair[0], stations[pair[0]].get(needs.MODULATOR), relay)
        finally:
            launching.close()
            for user in set(pair) & set(own):
                _leave(own[user])


def _leave(station: OwnStation) -> None:
    """Dark, and out of the ring now that the launch is closed; one that cannot stays in, behind its attenuator."""
    try:
        station.darken()
        station.bypass_if_dark()
    except InstrumentError as error:
        logger.warning("a station stays in the ring: %s", error)
