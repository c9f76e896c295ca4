"""The relay's process: serves leases with its light phase, and is trusted with nothing."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from drivers.links.errors import NotReadyError
from lab import needs
from lab.alarms.book import Observed
from lab.calibration.current import CurrentTestbed
from lab.calibration.steps import Step
from lab.interlock.interlock import Interlock
from lab.interlock.watching import watching
from lab.readings import known_readings, known_states
from lab.station import Station
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import CalibrationProgress, Emit, LightProgress, RelayServing
from orchestrator.events.status import Served, pair_name
from orchestrator.hub.agent import AgentEvent, LinkUp
from orchestrator.hub.connect import connect_agent
from orchestrator.light.calibration.parties import RelayParty
from orchestrator.light.launching import RelayInstruments, planned_light
from orchestrator.light.messages import FrameLost, reason_of
from orchestrator.light.relay import Clicks, RelayLight
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.metrics.book import Metrics
from orchestrator.processes.alarm_sources import (
    CALIBRATION_EVERY_S,
    INSTRUMENTS_EVERY_S,
    DetectorRates,
    Polled,
    Source,
    of_calibrations,
    of_instruments,
    of_interlock,
    testbed_dark_cps,
)
from orchestrator.processes.alarm_watch import AlarmWatch
from orchestrator.processes.asked import of_agent
from orchestrator.processes.calibrating import Calibrating
from orchestrator.processes.data_sets import DataSets
from orchestrator.processes.following import telling
from orchestrator.processes.interlock_causes import detector_watch, station_watch, tripped_by_light
from orchestrator.processes.light_told import LightTold
from orchestrator.processes.readings_told import ReadingsTold
from orchestrator.processes.role_records import keep_testbed, light_served
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.scheduling.fencing import EpochFile, Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty, LightChannels
from orchestrator.wire.control_socket import (
    AcknowledgeAlarm,
    ControlSocket,
    Failed,
    Reply,
    Request,
    Revoked,
    ShelveAlarm,
    ShowAlarms,
    ShowRevoked,
)
from orchestrator.wire.messages import KEY, PURPOSES, LeaseOffer, LightStatistics

logger = logging.getLogger(__name__)

FRAMES_PER_EVENT = 8


def run_relay(
    current: CurrentTestbed,
    secrets_dir: Path,
    state_dir: Path,
    station: Station,
    interlock: Interlock,
    stop: runtime.Event,
    *,
    emit: Emit,
    records: Records | None = None,
    data_sets: DataSets | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Serve leases until ``stop``; the caller leaves the instruments safe.

    ``current``: the testbed as it is calibrated at the moment of asking.  ``records`` get every light phase,
    ``data_sets`` calibrations and slow values.
    """
    kept, sets, book = records or Records(None), data_sets or DataSets(), metrics or Metrics("relay")
    testbed = current()
    owned = RelayInstruments.of(station)
    light = RelayLight(testbed, owned, kept=KeptSettings(state_dir))
    unready = interlock.unless_latched(light.set_up)
    agent = connect_agent(testbed, "relay", secrets_dir, book.tell)
    book.ask(of_agent(agent), partial(known_states, station))

    def recover() -> None:
        station.recover()
        light.set_up()

    served = failed = 0
    lit_s = 0.0
    in_light: list[str] = []
    """Users of the latest light phase."""

    def run_light(lease: HeldLease) -> LightStatistics:
        """One light phase, counted whichever way it ends."""
        nonlocal served, failed, lit_s
        in_light[:] = lease.pair
        try:
            with tripped_by_light(interlock, agent, lease.pair, light.was_lit):
                statistics = light_phase(lease) if lease.purpose == KEY else calibration(lease)
        except Exception as error:
            failed += 1
            kept.keep(replace(light_served(lease, "", None), ok=False, reason=reason_of(error)))
            raise
        else:
            served, lit_s = served + 1, lit_s + statistics.light_s
            return statistics
        finally:
            agent.control_send(Served(served, failed, lit_s))

    brought_back: list[Observed] = []
    """Detectors that latched in the latest light phase in which one did, until there is one without."""
    rates = DetectorRates(station.get(needs.DETECTORS).count_rates, testbed_dark_cps(testbed), light.is_lit)
    ages = Polled(of_calibrations(current.book, "relay"), CALIBRATION_EVERY_S, "calibrations")
    slow = Polled(of_instruments(station), INSTRUMENTS_EVERY_S, "instruments")
    sources: list[Source] = [rates, of_interlock(interlock), lambda: list(brought_back), ages, slow, sets]
    alarms = AlarmWatch(agent, "relay", testbed.alarm_table(), sources, emit, state_dir)
    readings = ReadingsTold.of_relay(agent, testbed.alarm_table(), station)
    alarms.when_looked(sets.look, readings.look)

    def calibration(lease: HeldLease) -> LightStatistics:
        statistics = calibrating.relay(lease, with_values)
        kept.keep(light_served(lease, keep_testbed(kept, current()), None, light_s=statistics.light_s))
        return statistics

    def with_values(calibrated: Testbed) -> RelayParty:
        light.use(calibrated)
        return RelayParty(calibrated, light, owned)

    def light_phase(lease: HeldLease) -> LightStatistics:
        started = runtime.now()
        calibrated = current()
        light.use(calibrated)
        slots = testbed.protocol.slots_per_frame

        lost: list[FrameLost] = []
        latched: list[str] = []

        def tell_latched(text: str) -> None:
            latched.append(text)
            brought_back[:] = [
                Observed("instrument", at_s=runtime.now(), text=f"{pair_name(lease.pair)}: {text}")
            ]

        def on_frame(frame: int, clicks: Clicks | FrameLost) -> None:
            told.frame(frame, clicks)
            count = 0
            if isinstance(clicks, FrameLost):
                lost.append(clicks)
            else:
                count = clicks[0].size
            if frame % FRAMES_PER_EVENT == FRAMES_PER_EVENT - 1 or frame == lease.n_frames - 1:
                pulses = (frame + 1) * slots
                planned, at_s = lease.n_frames * slots, runtime.now()
                why = lost[-1].reason if lost else ""
                emit(LightProgress(*lease.pair, pulses, planned, count, at_s, len(lost), why))

        told = LightTold(agent, lease.pair, lease.n_frames, slots, testbed.protocol.clock_hz)
        with LightChannels(agent, lease, lease.pair) as channels, told:
            served_frames = light.run(
                (channels[0], channels[1]),
                lease.n_frames,
                planned_light(calibrated, *lease.pair),
                on_frame=on_frame,
                on_rest=told.at_rest,
                on_latched=tell_latched,
                on_tracked=telling(emit, "relay", lease.pair),
                on_aligning=lambda part: emit(
                    CalibrationProgress(Step.POLARIZATION, *lease.pair, part, runtime.now())
                ),
            )
        if not latched:
            brought_back.clear()
        pulses = lease.n_frames * slots
        statistics = LightStatistics(
            frames=lease.n_frames,
            lost_frames=served_frames.lost_frames,
            pulses=pulses,
            announced=served_frames.announced,
            light_s=pulses / testbed.protocol.clock_hz,
            wall_s=runtime.now() - started,
        )
        record = light_served(
            lease,
            keep_testbed(kept, calibrated),
            served_frames,
            pulses,
            statistics.light_s,
            statistics.wall_s,
        )
        kept.keep(replace(record, readings=known_readings(station)))
        return statistics

    def objection(offer: LeaseOffer) -> str | None:
        if (offer.first, offer.second) not in testbed.pairs():
            return f"({offer.first}, {offer.second}) is no pair of this testbed"
        if offer.n_frames != testbed.frames_per_block():
            return f"a block has {testbed.frames_per_block()} frames here, not {offer.n_frames}"
        return None

    def on_other(event: AgentEvent) -> None:
        if isinstance(event, LinkUp):
            alarms.new_listener()

    calibrating = Calibrating(current, agent, emit, partial(sets.begin, station))
    fence = Fence(EpochFile(state_dir / "fence"))
    party = LeaseParty(
        agent,
        fence,
        objection=objection,
        run_light=run_light,
        recover=recover,
        check=station.check,
        on_other=on_other,
        purposes=PURPOSES,
        permit=interlock.check,
        unready=unready,
        make_safe=station.safe,
    )
    interlock.when_tripped(party.interrupt)

    def darken() -> None:
        """The light phase hangs, and there is no hub."""
        party.interrupt(NotReadyError("no link to the hub, and the light phase did not end by itself"))
        station.safe()

    def control(request: Request) -> Reply:
        match request:
            case ShowRevoked():
                return Revoked([])
            case ShowAlarms() | AcknowledgeAlarm() | ShelveAlarm():
                return alarms.answer(request)
        return Failed(f"the relay serves nobody and answers no {type(request).__name__}")

    alarms.start()
    try:
        emit(RelayServing(instruments={name: each.model for name, each in station.identities.items()}))
        stations = station_watch(agent, lambda: in_light, light.is_lit, darken)
        watches = [detector_watch(testbed, rates.read), stations]
        with ControlSocket(state_dir, control), watching(interlock, watches), ages, slow:
            party.serve(stop)
    finally:
        kept.keep(RoleStopped())
        alarms.close()
        agent.close()
