"""The relay's process: serves leases with its light phase, and is trusted with nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from drivers.links.errors import NotReadyError
from lab import needs
from lab.calibration.current import CurrentTestbed
from lab.interlock.interlock import Interlock
from lab.interlock.watching import watching
from lab.readings import known_states
from lab.station import Station
from orchestrator import runtime
from orchestrator.events.process import Emit, RelayServing
from orchestrator.hub.agent import AgentEvent, LinkUp
from orchestrator.hub.connect import connect_agent
from orchestrator.light.launching import RelayInstruments
from orchestrator.light.relay import RelayLight
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
from orchestrator.processes.interlock_causes import detector_watch, station_watch
from orchestrator.processes.readings_told import ReadingsTold
from orchestrator.processes.relay_light import LeasedLight
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.scheduling.fencing import EpochFile, Fence
from orchestrator.scheduling.lease_party import LeaseParty
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
from orchestrator.wire.messages import PURPOSES, LeaseOffer


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

    calibrating = Calibrating(current, agent, emit, partial(sets.begin, station))
    leased = LeasedLight(
        current, light, owned, station, agent, interlock, calibrating, emit=emit, records=kept
    )
    rates = DetectorRates(station.get(needs.DETECTORS).count_rates, testbed_dark_cps(testbed), light.is_lit)
    ages = Polled(of_calibrations(current.book, "relay"), CALIBRATION_EVERY_S, "calibrations")
    slow = Polled(of_instruments(station), INSTRUMENTS_EVERY_S, "instruments")
    sources: list[Source] = [rates, of_interlock(interlock), leased.brought_back, ages, slow, sets]
    alarms = AlarmWatch(agent, "relay", testbed.alarm_table(), sources, emit, state_dir)
    readings = ReadingsTold.of_relay(agent, testbed.alarm_table(), station)
    alarms.when_looked(sets.look, readings.look)

    def objection(offer: LeaseOffer) -> str | None:
        if (offer.first, offer.second) not in testbed.pairs():
            return f"({offer.first}, {offer.second}) is no pair of this testbed"
        if offer.n_frames != testbed.frames_per_block():
            return f"a block has {testbed.frames_per_block()} frames here, not {offer.n_frames}"
        return None

    def on_other(event: AgentEvent) -> None:
        if isinstance(event, LinkUp):
            alarms.new_listener()

    fence = Fence(EpochFile(state_dir / "fence"))
    party = LeaseParty(
        agent,
        fence,
        objection=objection,
        run_light=leased.run,
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
        stations = station_watch(agent, lambda: leased.pair, light.is_lit, darken)
        watches = [detector_watch(testbed, rates.read), stations]
        with ControlSocket(state_dir, control), watching(interlock, watches), ages, slow:
            party.serve(stop)
    finally:
        kept.keep(RoleStopped())
        alarms.close()
        agent.close()
