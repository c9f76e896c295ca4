"""The process of a node: its instruments, its store, its links and its services, joined and parted in order."""

from __future__ import annotations

import functools
from pathlib import Path

from lab import needs
from lab.calibration.current import CurrentTestbed
from lab.interlock.interlock import Interlock
from lab.interlock.watching import watching
from lab.readings import known_readings, known_states
from lab.station import Station
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.delivery.certificates import CERTIFICATE_FILE
from orchestrator.events.delivery import DeliveryEvent
from orchestrator.events.process import Emit, NodeServing
from orchestrator.hub.connect import connect_agent
from orchestrator.keystore.sealing import Kek
from orchestrator.light.calibration.parties import UserParty
from orchestrator.light.own_station import OwnStation, StationInstruments
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.light.user import UserLight
from orchestrator.metrics.book import Metrics
from orchestrator.postprocessing.cascade import compile_kernels
from orchestrator.processes.alarm_sources import (
    CALIBRATION_EVERY_S,
    CERTIFICATE_EVERY_S,
    INSTRUMENTS_EVERY_S,
    DarkSensors,
    Polled,
    of_calibrations,
    of_certificate,
    of_instruments,
    of_interlock,
)
from orchestrator.processes.asked import of_agent, of_delivery
from orchestrator.processes.calibrating import Calibrating
from orchestrator.processes.data_sets import DataSets
from orchestrator.processes.interlock_causes import sensor_watch
from orchestrator.processes.latest_deliveries import LatestDeliveries
from orchestrator.processes.node import Node
from orchestrator.processes.node_applications import NodeApplications
from orchestrator.processes.node_control import NODE_ERRORS, NodeControl
from orchestrator.processes.node_https import serving
from orchestrator.processes.node_store import open_node_store
from orchestrator.processes.readings_told import ReadingsTold
from orchestrator.processes.role_records import lane_books
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.scheduling.fencing import EpochFile, Fence
from orchestrator.wire.control_socket import ControlSocket


def run_node(
    current: CurrentTestbed,
    name: str,
    secrets_dir: Path,
    state_dir: Path,
    station: Station,
    interlock: Interlock,
    stop: runtime.Event,
    *,
    emit: Emit,
    kek: Kek | None = None,
    records: Records | None = None,
    data_sets: DataSets | None = None,
    metrics: Metrics | None = None,
    moved: bool = False,
) -> None:
    """Run the node until ``stop``; the caller leaves the instruments safe.

    ``current``: the testbed as it is calibrated at the moment of asking.  ``records`` get blocks and what left the store.
    ``moved``: the store was used elsewhere, and is gone there.
    """
    from orchestrator.delivery.service import DeliveryService
    from orchestrator.wire.curve import load_keys
    from orchestrator.wire.revoked import RevokedKeys

    kept, sets, book = records or Records(None), data_sets or DataSets(), metrics or Metrics(name)
    testbed = current()
    owned = StationInstruments.of(station)
    light = UserLight(testbed, name, station.get(needs.MODULATOR), owned, kept=KeptSettings(state_dir))
    unready = interlock.unless_latched(light.set_up)
    compile_kernels()

    def recover() -> None:
        station.recover()
        light.set_up()

    def party(calibrated: Testbed) -> UserParty:
        light.use(calibrated)
        own = OwnStation(calibrated, name, owned)
        return UserParty(calibrated, name, light, own, current.book())

    dark = DarkSensors(owned.sensors, light.is_in_ring)

    def check() -> None:
        station.check()
        light.step_aside_if_dark()
        dark.read()

    ages = Polled(of_calibrations(current.book, name), CALIBRATION_EVERY_S, "calibrations")
    slow = Polled(of_instruments(station), INSTRUMENTS_EVERY_S, "instruments")
    papers = Polled(
        of_certificate(secrets_dir / CERTIFICATE_FILE) if testbed.applications_of(name) else tuple,
        CERTIFICATE_EVERY_S,
        "certificate",
    )
    with (
        ages,
        slow,
        papers,
        open_node_store(testbed, name, secrets_dir, state_dir, kek, moved=moved) as store,
    ):
        agent = connect_agent(testbed, name, secrets_dir, book.tell)
        deliveries = LatestDeliveries()

        def delivered(event: DeliveryEvent) -> None:
            book.tell(event)
            deliveries.tell(event)

        applications = NodeApplications(testbed, name, store, agent, tell=delivered)
        calibrating = Calibrating(current, agent, emit, functools.partial(sets.begin, station))
        node = Node(
            testbed,
            name,
            light,
            store,
            agent,
            Fence(EpochFile(state_dir / "fence")),
            emit,
            recover=recover,
            check=check,
            current=current,
            calibrating=lambda lease: calibrating.user(lease, name, party),
            permit=interlock.check,
            unready=unready,
            make_safe=station.safe,
            sources=[of_interlock(interlock), dark, ages, slow, papers, sets],
            state_dir=state_dir,
            records=kept,
            readings=lambda: known_readings(station),
            applications=applications,
        )
        interlock.when_tripped(node.interrupt)
        node.alarms.when_looked(sets.look, ReadingsTold.of_user(agent, testbed.alarm_table()).look)
        service = DeliveryService(
            store,
            node.peers,
            node.reserve,
            keys=load_keys(secrets_dir),
            client_key=testbed.public_key(f"fl-{name}"),
            client_role=f"fl-{name}",
            endpoint=testbed.user(name).delivery,
            demand=node.demand,
            revoked=RevokedKeys(state_dir),
            records=kept,
        )
        try:
            service.start()
            states = functools.partial(known_states, station)
            book.ask(of_agent(agent), of_delivery(service.gate, node.workers), node.books, states)
            control = NodeControl(testbed, store, node.workers, service.gate, node.alarms, deliveries)
            watches = [sensor_watch(testbed, name, owned.sensors, light.is_in_ring)]
            with (
                serving(testbed, name, applications.desk, secrets_dir, book.tell) as etsi014,
                ControlSocket(state_dir, control, NODE_ERRORS),
                watching(interlock, watches),
            ):
                emit(NodeServing(delivery=service.endpoint, etsi014=etsi014))
                node.serve(stop)
        finally:
            service.close()
            for each in node.books():
                emit(each)
            kept.keep(RoleStopped(lanes=lane_books(store)))
            agent.close()
