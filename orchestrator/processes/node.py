"""One user's node: takes its part in leases, makes keys with every peer, keeps them, serves its own client.

Threads: the control loop, one light phase at a time, one worker per peer for everything said end to end,
and the delivery service of the user's own federated-learning client.  The node is the only process that
ever holds the user's keys, besides that client's trust domain.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from msgspec.structs import replace

from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import Emit, PeerLedger
from orchestrator.events.status import BlockReport, Epsilons, LaneStock, Stock, pair_name
from orchestrator.hub.agent import Agent, AgentEvent, LinkUp, TopicWaiting
from orchestrator.keystore.agreement import deposit_block, reserve
from orchestrator.keystore.lanes import AUTH_ALARM_BITS, AUTH_LANES, Lane, PairEnd, Range
from orchestrator.keystore.store import KeyStore
from orchestrator.light.leaving import leave_within
from orchestrator.light.messages import LOST
from orchestrator.light.own_station import OWN_DIRECTION
from orchestrator.light.user import UserLight
from orchestrator.postprocessing.block import BlockResult, run_block
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.processes.alarm_sources import (
    BlockErrors,
    OldCopies,
    Refusals,
    Source,
    of_station,
    of_store,
)
from orchestrator.processes.alarm_watch import AlarmWatch
from orchestrator.processes.following import Following, telling
from orchestrator.processes.node_applications import NodeApplications
from orchestrator.processes.node_blocks import (
    Block,
    auth_heads,
    auth_passed,
    block_lit,
    cause_of,
    reported,
)
from orchestrator.processes.pair_lines import LowWater
from orchestrator.processes.pair_worker import PairWorker
from orchestrator.processes.role_records import Readings, keep_testbed
from orchestrator.protocols.block_planning import plan_for
from orchestrator.records.keeping import Records
from orchestrator.scheduling.fencing import Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty, LightChannels
from orchestrator.wire.channel import Channel
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
        applications: NodeApplications | None = None,
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
        self._applications = applications
        own: list[Source] = [
            of_store(store, self.waits_why),
            of_station(lambda: light.stays_in()),
            Refusals(self.workers),
            OldCopies(name, self.workers),
            self._errors,
        ]
        self.alarms = AlarmWatch(agent, name, testbed.alarm_table(), [*own, *sources], emit, state_dir)
        self._wanted: dict[str, int] = {}
        self._told_demand: dict[str, int] = {}
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
        if self._applications is not None:
            self._applications.start(self.report_stock)
        try:
            self._party.serve(stop)
        finally:
            self._stopping = True
            if self._light.stays_in():  # an end in light is no fault: the alarm is over once it is out
                leave_within(self._light, ASIDE_PATIENCE_S)
                self.alarms.look()
            self.alarms.close()
            if self._applications is not None:
                self._applications.close()
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
            self._wanted[peer] = bits
            self._tell_demand(peer)

    def _tell_demand(self, peer: str, *, again: bool = True) -> None:
        """What the client and the applications want with ``peer``; unless ``again``, only if it is something new."""
        for_applications = self._applications.wanted(peer) if self._applications is not None else 0
        bits = max(self._wanted.get(peer, 0), for_applications)
        if again or bits != self._told_demand.get(peer, 0):
            self._told_demand[peer] = bits
            self._agent.control_send(Demand(*self.pair_with(peer), bits))

    def report_stock(self) -> None:
        """Tell how many bits are free with each peer in each lane; the scheduler goes by the mask lane."""
        stock = [
            LaneStock(peer, lane, bits, AUTH_ALARM_BITS if lane in AUTH_LANES else 0)
            for peer in self.peers
            for lane, bits in self._store.stock(peer).items()
        ]
        self._agent.control_send(Stock(stock))
        for peer in self.peers:
            self._tell_demand(peer, again=False)

    def epsilons(self, peer: str) -> Epsilons:
        """What may have gone wrong with ``peer``, added up over its blocks and tags."""
        return Epsilons(peer, **asdict(self._store.epsilons(peer)))

    def books(self) -> Iterator[PeerLedger | Epsilons]:
        """Ledger and epsilons of every peer, as they stand."""
        for peer in self.peers:
            ledger = {f"{name}_bits": bits for name, bits in asdict(self._store.ledger(peer)).items()}
            yield PeerLedger(peer, **ledger)
            yield self.epsilons(peer)

    def _on_event(self, event: AgentEvent) -> None:
        if isinstance(event, TopicWaiting) and event.peer in self.workers:
            if self._applications is None or not self._applications.offered(event.peer, event.topic):
                self.workers[event.peer].offered(event.topic)
        elif isinstance(event, LinkUp):
            self.alarms.new_listener()
            self.report_stock()
            self._agent.control_send(ReportedBefore(list(self._told), tuple(self._in_work)))
            for peer in {*self._wanted, *self._told_demand}:
                self._tell_demand(peer)

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
                with block.about():
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

        with block.about():
            future = self.workers[peer].submit(block.name, conversation, BLOCK_PATIENCE_S)
        future.add_done_callback(lambda done: self._ended(block, done))

    def _ended(self, block: Block, done: runtime.Future[BlockResult]) -> None:
        with block.about():
            self._report(block, done)

    def _report(self, block: Block, done: runtime.Future[BlockResult]) -> None:
        block.clicks.wipe()  # a job that never started has not done so
        error = done.exception()
        report = replace(block.report, processing_s=runtime.now() - block.report.started_s)
        if error is None:
            report = reported(report, done.result(), block.clicks.outcome.size)
        else:
            steps = error.steps if isinstance(error, BlockAborted) else ()
            report = replace(report, reason=str(error)[:REASON_LIMIT], cause=cause_of(error), calibrate=steps)
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
