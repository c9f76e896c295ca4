"""One user's node: takes its part in leases, makes keys with every peer, keeps them, serves its own client.

Threads: the control loop, one light phase at a time, one worker per peer for everything said end to end,
and the delivery service of the user's own federated-learning client.  The node is the only process that
ever holds the user's keys, besides that client's trust domain.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from msgspec.structs import replace

from lab import needs
from lab.calibration.current import CurrentTestbed
from lab.interlock.interlock import Interlock
from lab.interlock.watching import watching
from lab.readings import known_readings
from lab.station import Station
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import Emit, NodeServing, PeerLedger
from orchestrator.events.status import BlockReport, Epsilons, LaneStock, Stock, pair_name
from orchestrator.hub.agent import Agent, AgentEvent, LinkUp, TopicWaiting
from orchestrator.hub.connect import connect_agent
from orchestrator.keystore.agreement import deposit_block, reserve
from orchestrator.keystore.lanes import AUTH_ALARM_BITS, AUTH_LANES, Lane, PairEnd, Range
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.light.calibration.parties import UserParty
from orchestrator.light.leaving import leave_within
from orchestrator.light.messages import LOST
from orchestrator.light.own_station import OWN_DIRECTION, OwnStation, StationInstruments
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.light.user import UserLight
from orchestrator.postprocessing.block import BlockResult, run_block
from orchestrator.postprocessing.cascade import compile_kernels
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.processes.alarm_sources import (
    CALIBRATION_EVERY_S,
    INSTRUMENTS_EVERY_S,
    BlockErrors,
    DarkSensors,
    Polled,
    Refusals,
    Source,
    of_calibrations,
    of_instruments,
    of_interlock,
    of_station,
    of_store,
)
from orchestrator.processes.alarm_watch import AlarmWatch
from orchestrator.processes.calibrating import Calibrating
from orchestrator.processes.data_sets import DataSets
from orchestrator.processes.following import Following, telling
from orchestrator.processes.interlock_causes import sensor_watch
from orchestrator.processes.node_blocks import (
    Block,
    auth_heads,
    auth_passed,
    block_lit,
    reported,
)
from orchestrator.processes.node_control import NODE_ERRORS, NodeControl
from orchestrator.processes.node_store import open_node_store
from orchestrator.processes.pair_lines import LowWater
from orchestrator.processes.pair_worker import PairWorker
from orchestrator.processes.readings_told import ReadingsTold
from orchestrator.processes.role_records import Readings, keep_testbed, lane_books
from orchestrator.protocols.block_planning import plan_for
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.scheduling.fencing import EpochFile, Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty, LightChannels
from orchestrator.wire.channel import Channel
from orchestrator.wire.control_socket import ControlSocket
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.messages import (
    KEY,
    PURPOSES,
    Demand,
    LeaseOffer,
    LightStatistics,
    ReportedBefore,
)

logger = logging.getLogger(__name__)

RESERVE_PATIENCE_S = 120.0
BLOCK_PATIENCE_S = 60.0
MESSAGE_TIMEOUT_S = 20.0
REPLY_TIMEOUT_S = 5.0
"""For an answer that takes no computing; asking again costs nothing."""
WAITING_LIMIT = 3
ASIDE_PATIENCE_S = 3.0
REPORTS_KEPT = 16
"""Blocks of which the hub is told again when it comes back."""


class Node:
    """The running node of one user."""

    def __init__(
        self,
        testbed: Testbed,
        name: str,
        light: UserLight,
        store: KeyStore,
        agent: Agent,
        fence: Fence,
        emit: Emit,
        *,
        recover: Callable[[], None] = lambda: None,
        check: Callable[[], None] | None = None,
        current: Callable[[], Testbed] | None = None,
        calibrating: Callable[[HeldLease], LightStatistics] | None = None,
        permit: Callable[[], None] = lambda: None,
        unready: Exception | None = None,
        make_safe: Callable[[], Mapping[str, Exception]] = dict,
        sources: Sequence[Source] = (),
        state_dir: Path | None = None,
        records: Records | None = None,
        readings: Readings = tuple,
    ) -> None:
        """``current``: the testbed as it is calibrated at the moment of asking, ``testbed`` for good without it;
        ``calibrating`` takes this node's part in a calibration, in which no key is made.

        ``recover`` and what follows it are about the instruments; see LeaseParty.  ``sources`` give what else is watched
        for alarms, and ``state_dir`` is where those are kept that outlast a restart.
        ``records`` get every block, with the ``readings`` of the instruments.
        """
        self._records, self._readings = records or Records(None), readings
        self.testbed = testbed
        self._current = current or (lambda: testbed)
        self._calibrating = calibrating
        self.name = name
        self._light = light
        self._store = store
        self._agent, self._emit = agent, emit
        self.peers = tuple(user for user in testbed.user_names() if user != name)
        self.workers = {peer: PairWorker(agent, store, peer) for peer in self.peers}
        self._stopping = False
        self._errors = BlockErrors()
        self._following = Following(name, emit)
        own: list[Source] = [
            of_store(store, self.waits_why),
            of_station(lambda: light.stays_in()),
            Refusals(self.workers),
            self._errors,
        ]
        self.alarms = AlarmWatch(agent, name, testbed.alarm_table(), [*own, *sources], emit, state_dir)
        self._wanted: dict[tuple[str, str], int] = {}
        self._told: deque[BlockReport] = deque(maxlen=REPORTS_KEPT)
        self._in_work: set[tuple[int, int]] = set()
        self._party = LeaseParty(
            agent,
            fence,
            objection=self._objection,
            run_light=self._run_light,
            recover=recover,
            check=check,
            on_other=self._on_event,
            purposes=PURPOSES if calibrating else (KEY,),
            permit=permit,
            unready=unready,
            make_safe=make_safe,
        )
        self.interrupt = self._party.interrupt

    def serve(self, stop: runtime.Event) -> None:
        """Run until ``stop``."""
        for worker in self.workers.values():
            worker.start()
        self.report_stock()
        self.alarms.start()
        try:
            self._party.serve(stop)
        finally:
            self._stopping = True
            if self._light.stays_in():  # an end in light is no fault: the alarm is over once it is out
                leave_within(self._light, ASIDE_PATIENCE_S)
                self.alarms.look()
            self.alarms.close()
            for worker in self.workers.values():
                worker.close()

    def pair_with(self, peer: str) -> tuple[str, str]:
        """(first, second) of the pair with ``peer``."""
        names = self.testbed.user_names()
        first, second = sorted((self.name, peer), key=names.index)
        return first, second

    def reserve(self, peer: str, n_bits: int, context_digest: bytes) -> Range:
        """Agree with ``peer`` on mask bits for one context; both ends' clients must ask for the same.

        Raises KeyStoreError, ChannelError, or JobExpiredError when the peer's client does not ask in time.
        """

        def conversation(channel: Channel, pair_end: PairEnd, *, again: bool = False) -> Range:
            return reserve(
                self._store,
                channel,
                pair_end,
                peer,
                Lane.MASK,
                n_bits,
                context_digest,
                timeout_s=REPLY_TIMEOUT_S,
                again=again,
            )

        job, repeat = f"reserve/{context_digest.hex()}", functools.partial(conversation, again=True)
        try:
            return self.workers[peer].submit(job, conversation, RESERVE_PATIENCE_S, repeat).result()
        finally:
            self.report_stock()

    def waits_why(self, peer: str) -> LowWater | None:
        """Why meetings with ``peer`` wait for an operator; None where they do not, or it left the testbed."""
        return self.workers[peer].hold if peer in self.workers else None

    def demand(self, wanted: dict[str, int]) -> None:
        """Pass the client's wishes (bits per peer still to be made) on to the scheduler.

        They are repeated at every new link to the hub: an orchestrator that was killed may have lost them.
        """
        for peer, bits in wanted.items():
            pair = self.pair_with(peer)
            self._wanted[pair] = bits
            self._agent.control_send(Demand(*pair, bits))

    def report_stock(self) -> None:
        """Tell how many bits are free with each peer in each lane; the scheduler goes by the mask lane."""
        stock = [
            LaneStock(peer, lane, bits, AUTH_ALARM_BITS if lane in AUTH_LANES else 0)
            for peer in self.peers
            for lane, bits in self._store.stock(peer).items()
        ]
        self._agent.control_send(Stock(stock))

    def epsilons(self, peer: str) -> Epsilons:
        """What may have gone wrong with ``peer``, added up over its blocks and tags."""
        return Epsilons(peer, **asdict(self._store.epsilons(peer)))

    def emit_books(self) -> None:
        """Print ledger and epsilons of every peer, as they stand."""
        for peer in self.peers:
            ledger = {f"{name}_bits": bits for name, bits in asdict(self._store.ledger(peer)).items()}
            self._emit(PeerLedger(peer, **ledger))
            self._emit(self.epsilons(peer))

    def _on_event(self, event: AgentEvent) -> None:
        if isinstance(event, TopicWaiting) and event.peer in self.workers:
            self.workers[event.peer].offered(event.topic)
        elif isinstance(event, LinkUp):
            self.alarms.new_listener()
            self.report_stock()
            self._agent.control_send(ReportedBefore(list(self._told), tuple(self._in_work)))
            for pair, bits in list(self._wanted.items()):
                self._agent.control_send(Demand(*pair, bits))

    def _objection(self, offer: LeaseOffer) -> str | None:
        pair = (offer.first, offer.second)
        if pair not in self.testbed.pairs() or self.name not in pair:
            return f"({offer.first}, {offer.second}) is no pair of {self.name}"
        if offer.n_frames != self.testbed.frames_per_block():
            return f"a block has {self.testbed.frames_per_block()} frames here, not {offer.n_frames}"
        if offer.purpose != KEY:
            return None
        peer = offer.second if self.name == offer.first else offer.first
        if self.workers[peer].waiting >= WAITING_LIMIT:
            return f"jobs with {peer} are still waiting"
        if offer.purpose == KEY and plan_for(self._current(), *pair).expected_bits == 0:
            return "no setting gives key for this pair: too much loss, or too few pulses per block"
        return None

    def _calibrate_again(self) -> None:
        """Take up what was calibrated since the last light phase."""
        if (calibrated := self._current()) is not self.testbed:
            self.testbed = calibrated
            self._light.use(calibrated)

    def _run_light(self, lease: HeldLease) -> LightStatistics:
        if lease.purpose != KEY:
            assert self._calibrating is not None
            return self._calibrating(lease)
        self._in_work.add(lease.token)  # until its report, or until it fails
        try:
            return self._light_phase(lease)
        except BaseException:
            self._in_work.discard(lease.token)
            raise

    def _light_phase(self, lease: HeldLease) -> LightStatistics:
        is_first = lease.first == self.name
        self._calibrate_again()
        plan = plan_for(self.testbed, lease.first, lease.second)
        followed = self._following.block(self.testbed, lease.pair)
        started = runtime.now()
        lost_reasons: list[str] = []
        with LightChannels(self._agent, lease, ("relay",)) as (channel,):
            clicks, announcements = self._light.run(
                channel,
                symbols=plan.symbols,
                mu=plan.mu_a if is_first else plan.mu_b,
                direction=OWN_DIRECTION[0 if is_first else 1],
                n_frames=lease.n_frames,
                correction_rad=followed.played_rad,
                on_look=followed.look(plan) if is_first else None,
                pair=lease.pair,
                on_lost=lost_reasons.append,
                on_tracked=telling(self._emit, self.name, lease.pair),
            )
        report = BlockReport(
            lease.epoch,
            lease.number,
            *lease.pair,
            stored=False,
            light=plan.light,
            monitoring=plan.monitoring,
            pulses=plan.n_pulses,
            lost_reason="".join(lost_reasons)[:REASON_LIMIT],
            announced=int(clicks.outcome.size),
            light_s=plan.n_pulses / self.testbed.protocol.clock_hz,
            light_wall_s=runtime.now() - started,
            started_s=started,
        )
        name, testbed = f"block/{lease.epoch}/{lease.number}", keep_testbed(self._records, self.testbed)
        lit = block_lit(self.name, report, name, plan, testbed, announcements, self._readings())
        self._submit(Block(report, lit.peer, plan, clicks, announcements, lit, followed))
        return LightStatistics(
            frames=lease.n_frames,
            lost_frames=announcements.count(LOST),
            pulses=report.pulses,
            announced=report.announced,
            light_s=report.light_s,
            wall_s=report.light_wall_s,
        )

    def _submit(self, block: Block) -> None:
        peer = block.peer

        def conversation(channel: Channel, pair_end: PairEnd) -> BlockResult:
            before = auth_heads(self._store, peer)
            try:
                return talk(channel, pair_end)
            finally:
                block.notes.auth = auth_passed(self._store, peer, before)

        def talk(channel: Channel, pair_end: PairEnd) -> BlockResult:
            result = block.notes.result = run_block(
                pair_end=pair_end,
                channel=channel,
                clicks=block.clicks,
                announcement_transcript=block.announcements,
                plan=block.plan,
                session=(block.report.epoch, block.report.lease_number),
                pair=block.report.pair,
                auth=self._store.auth(peer),
                timeout_s=MESSAGE_TIMEOUT_S,
                on_told=block.on_told,
            )
            if result.key is not None:
                assert result.epsilons is not None
                self._store.book_block(peer, sec=result.epsilons.sec, cor=result.epsilons.cor)
                named = (peer, block.name, result.key)
                try:
                    deposit_block(self._store, channel, pair_end, *named, timeout_s=MESSAGE_TIMEOUT_S)
                finally:
                    result.key.wipe()
            return result

        future = self.workers[peer].submit(block.name, conversation, BLOCK_PATIENCE_S)
        future.add_done_callback(lambda done: self._report(block, done))

    def _report(self, block: Block, done: runtime.Future[BlockResult]) -> None:
        block.clicks.wipe()  # a job that never started has not done so
        error = done.exception()
        report = replace(block.report, processing_s=runtime.now() - block.report.started_s)
        if error is None:
            report = reported(report, done.result(), block.clicks.outcome.size)
        else:
            steps = error.steps if isinstance(error, BlockAborted) else ()
            report = replace(report, reason=str(error)[:REASON_LIMIT], calibrate=steps)
        report = block.followed.judged(report)
        if not report.stored:
            report = replace(report, interrupted=self._stopping)
            logger.warning("%s of %s gave no key: %s", block.name, pair_name(report.pair), report.reason)
        self._records.keep(block.notes.ended(block.lit, report, self._store))
        self._told.append(report)
        self._in_work.discard((report.epoch, report.lease_number))
        self._errors.note(block.peer, report.qber)
        self._agent.control_send(report)
        self._emit(report)
        self.report_stock()
        self._agent.control_send(self.epsilons(block.peer))


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
) -> None:
    """Run the node until ``stop``; the caller leaves the instruments safe.

    ``current``: the testbed as it is calibrated at the moment of asking.  ``records`` get blocks and what left the store.
    """
    from orchestrator.delivery.service import DeliveryService
    from orchestrator.wire.curve import load_keys
    from orchestrator.wire.revoked import RevokedKeys

    kept, sets = records or Records(None), data_sets or DataSets()
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
    with ages, slow, open_node_store(testbed, name, secrets_dir, state_dir, kek) as store:
        agent = connect_agent(testbed, name, secrets_dir)
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
            sources=[of_interlock(interlock), dark, ages, slow, sets],
            state_dir=state_dir,
            records=kept,
            readings=lambda: known_readings(station),
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
            emit(NodeServing(delivery=service.endpoint))
            control = NodeControl(testbed, store, node.workers, service.gate, node.alarms)
            watches = [sensor_watch(testbed, name, owned.sensors, light.is_in_ring)]
            with ControlSocket(state_dir, control, NODE_ERRORS), watching(interlock, watches):
                node.serve(stop)
        finally:
            service.close()
            node.emit_books()
            kept.keep(RoleStopped(lanes=lane_books(store)))
            agent.close()
