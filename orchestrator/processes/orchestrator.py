"""The orchestrator: hub, scheduler and ring leases in one process that is trusted with nothing but time.

It carries opaque messages between nodes, decides which pair the ring serves, and shows what is going on.
It never sees key bits, and whatever it does wrong costs time or key, not secrecy.  Everything it decides
follows from messages and one monotonic clock, in one loop; the hub's sockets live in their own thread, so
heartbeats do not wait for decisions.

A start takes the next epoch, on disk before the first socket opens.  Rates and demands are kept in the state
folder as well; losing them costs efficiency only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lab.calibration.steps import Step
from orchestrator import runtime
from orchestrator.durable import replace_file
from orchestrator.events.common import Unknown
from orchestrator.events.process import Emit
from orchestrator.events.status import (
    FL_SERVER,
    OBSERVER,
    RELAY,
    BlockReport,
    HubItem,
    HubStatus,
    LeaseStatus,
    PairStatus,
    PeerItem,
    PeerStatus,
    Ready,
    RingStatus,
    Stock,
    pair_name,
)
from orchestrator.hub.events import HubEvent, PeerDown, PeerMessage, PeerRefused, PeerUp
from orchestrator.hub.hub import Hub
from orchestrator.keystore.errors import StoreError
from orchestrator.log_context import about
from orchestrator.processes.orchestrator_config import OrchestratorConfig
from orchestrator.processes.queue_desk import QueueDesk
from orchestrator.processes.role_records import lease_ended
from orchestrator.processes.status_board import StatusBoard
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.scheduling.entries import QueueError
from orchestrator.scheduling.epochs import OwnEpoch
from orchestrator.scheduling.fencing import EpochFile
from orchestrator.scheduling.leases import Order, Outcome, Phase, RingLeases
from orchestrator.scheduling.missing import Missing
from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore
from orchestrator.scheduling.ring_queue import RingQueue, wall_clock
from orchestrator.scheduling.ring_schedule import RingSchedule
from orchestrator.scheduling.scheduler import Pair
from orchestrator.scheduling.suspending import Suspensions
from orchestrator.scheduling.turns import Turns
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.links import Transport
from orchestrator.wire.messages import (
    CALIBRATIONS,
    KEY,
    Demand,
    FromHub,
    FromPeer,
    LeaseAbort,
    LeaseAccept,
    LeaseDone,
    LeaseRefuse,
    Refused,
    ReportedBefore,
    Rest,
    Subscribe,
)
from orchestrator.wire.revoked import RevokedKeys

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

PULSE_S = 1.0
"""How often observers hear of the ring though nothing changed, so that they notice an orchestrator that hangs."""
CALIBRATION_LIMIT_S = 1800.0
"""A step waits for sweeps and settling of its own; this only catches what hangs."""
GRANTING = (Phase.OFFERED, Phase.GRANTED)
NOT_SEEN = "not seen since the orchestrator started"


class Orchestrator:
    """Hub, leases, schedule and telemetry.  ``allowed`` maps public keys to role names."""

    def __init__(
        self,
        config: OrchestratorConfig,
        keys: CurveKeys,
        allowed: Mapping[str, str],
        state_dir: Path,
        *,
        transport: Transport,
        clock: Callable[[], float] = runtime.now,
        wall: Callable[[], float] = wall_clock,
        emit: Emit = lambda event: None,
        records: Records | None = None,
        watch: Callable[[HubItem], None] = lambda item: None,
    ) -> None:
        """``records`` get every lease that was granted, ``watch`` all that is shown.

        Raises EpochError, StoreError or OSError where epoch or queue cannot be had.
        """
        self._config = config
        self._emit = emit
        self._records = records or Records(None)
        self._clock = clock
        self._saved = state_dir / "schedule"
        self._epochs = OwnEpoch(EpochFile(state_dir / "epoch"), clock)
        self._put_right: set[Pair] = set()
        self.epoch = self._epochs.epoch
        self.hub = Hub(
            transport,
            keys,
            allowed,
            config.control_endpoint,
            config.bulk_endpoint,
            epoch=self.epoch,
            limits=config.limits,
            clock=clock,
            revoked=RevokedKeys(state_dir),
            agreed=config.agreed,
        )
        now_s = clock()
        self.leases = RingLeases(self.epoch, offer_timeout_s=config.offer_timeout_s, drain_s=config.drain_s)
        self.schedule = RingSchedule(
            config.rates_bps, config.users, now_s, config.policy, block_bits=config.block_bits
        )
        self._store = QueueStore(state_dir / QUEUE_FILE)
        self.queue = RingQueue(self._store, config.rates_bps, tuple(Step), clock=clock, wall=wall)
        self.suspensions = Suspensions(
            self.queue, self._store, tuple(CALIBRATIONS.values()), clock=clock, wall=wall
        )
        self._turns = Turns(self.queue, self.schedule, self.suspensions.why)
        self.desk = QueueDesk(
            self.queue, self._turns, self.schedule, self.suspensions, self._why_unavailable, clock
        )
        self._missing = Missing(self.queue, self._why_unavailable, clock)
        self._rests = self.queue.resting
        self._peers = {role: PeerStatus(role, False, reason=NOT_SEEN) for role in (RELAY, *config.users)}
        self._board = StatusBoard(config.users, self._tell_observer, watch)
        self._told: dict[Pair, str] = {}
        self._overloads = 0
        self._ring: tuple[object, ...] = ()
        self._ring_since_s = self._next_pulse_s = now_s
        self._next_save_s = now_s + config.save_every_s
        if self._saved.exists() and not self.schedule.restore(self._saved.read_bytes(), now_s):
            logger.warning("%s is not usable, rates and demands start afresh", self._saved)
        for status in self._peers.values():
            self._board.show(status, now_s)
        self._show_ring(now_s)

    def serve(self, stop: runtime.Event) -> None:
        """Run from the started hub until ``stop``; then end the lease in being and save the schedule."""
        try:
            while not stop.is_set():
                event = self.hub.recv(self._config.step_s)
                while event is not None:
                    self._handle(event)
                    event = self.hub.recv(0.0)
                self._step()
        finally:
            now_s = self._clock()
            self._send(self.leases.stop("the orchestrator stops", now_s))
            self._take_outcomes(now_s)
            self._save()
            self._store.close()
            self._records.keep(RoleStopped())

    # -- events --------------------------------------------------------------------------------------

    def _handle(self, event: HubEvent) -> None:
        now_s = self._clock()
        match event:
            case PeerUp(role):
                if role != OBSERVER:
                    self._party(PeerStatus(role, True), now_s)
                    if role in (RELAY, *self._config.users):
                        self.hub.send(role, Rest(bool(self._rests), self._rests))
            case PeerDown(role, reason, session):
                if role == OBSERVER:
                    self._board.unsubscribe(session)
                else:
                    self._party(PeerStatus(role, False, reason=reason), now_s)
                    self._send(self.leases.peer_down(role, now_s))
            case PeerRefused(role, reason):
                self._board.refused(role, reason)
                kept_out = PeerStatus(role, False, reason=f"refused: {reason}"[:REASON_LIMIT])
                if role in self._peers and not self._peers[role].present and kept_out != self._peers[role]:
                    self._party(kept_out, now_s)
            case PeerMessage(role, message, session):
                self._on_message(role, message, session, now_s)

    def _party(self, status: PeerStatus, now_s: float) -> None:
        """A peer came, went, or told whether it is ready."""
        self._peers[status.peer] = status
        self.schedule.party_able(status.peer, status.present and status.ready, now_s)
        self._board.show(status, now_s)
        self._emit(status)

    def _on_message(
        self, role: str, message: FromPeer | PeerItem | Unknown, session: int, now_s: float
    ) -> None:
        match message:
            case LeaseAccept() | LeaseRefuse() | LeaseDone() | LeaseAbort():
                if isinstance(message, LeaseRefuse):
                    self._settle_epochs(role, message)
                elif isinstance(message, LeaseDone) and not message.ok and role != RELAY:
                    self.queue.ended_before(role, (message.epoch, message.number), message.reason)
                self._heard(role, message, now_s)
            case Demand() if role in (FL_SERVER, message.first, message.second):
                if not self.schedule.demand(role, message, now_s):
                    self._refuse(role, f"{message.first}-{message.second} is no pair of this testbed")
            case ReportedBefore(blocks, in_work) if role in self._config.users:
                for block in blocks:
                    if role in block.pair:
                        self.queue.block_reported(block)
                self.queue.has_no_others(role, in_work)
            case Subscribe() if role == OBSERVER:
                self._board.subscribe(session, now_s)
            case Unknown():
                if self._board.unknown(role, message, now_s):
                    logger.warning("%s: %s", message.told_by(role), message.reason)
            case _ if isinstance(message, PeerItem):
                reason = self._board.heard(role, message, now_s)
                if reason:
                    self._refuse(role, reason, session)
                else:
                    self._take_in(role, message, now_s)
            case _:
                reason = f"{role} may not say {type(message).__name__}"
                self._board.refused(role, reason)
                self._refuse(role, reason, session)

    def _heard(
        self, role: str, message: LeaseAccept | LeaseRefuse | LeaseDone | LeaseAbort, now_s: float
    ) -> None:
        """A word about the lease in being; one of the queue is written down before it is lit."""
        before, held = self.leases.phase, self.leases.lease
        if (
            isinstance(message, LeaseDone)
            and held is not None
            and held.purpose == KEY
            and held.is_ended_by(role, message)
        ):
            self.suspensions.refused(held.pair, message.reason, message.calibrate)
        orders = self.leases.heard(role, message, now_s)
        lease = self.leases.lease
        if lease is not None and lease.entry is not None and (before, self.leases.phase) == GRANTING:
            try:
                self.queue.lit(lease)
            except (StoreError, QueueError) as error:
                with about(pair=pair_name(lease.pair), session=f"{lease.epoch}/{lease.number}"):
                    logger.warning("lease %d/%d is not lit: %s", lease.epoch, lease.number, error)
                orders = self.leases.abort(str(error), now_s)
        self._send(orders)

    def _take_in(self, role: str, item: PeerItem, now_s: float) -> None:
        """What the scheduler makes of an item that its role may say."""
        match item:
            case BlockReport():
                self.schedule.block_reported(item, now_s)
                self.queue.block_reported(item)
                if item.counts(role):
                    self._judge(item)
            case Stock():
                self.schedule.stock(role, item, now_s)
            case Ready() if self._peers[role].present:
                self._party(PeerStatus(role, True, item.ready, item.reason, item.instruments), now_s)
            case _:
                pass  # to be shown, and nothing else

    def _judge(self, report: BlockReport) -> None:
        """Whether the pair of a block may go on as it is calibrated."""
        if report.calibrate:
            self.suspensions.refused(report.pair, report.reason, report.calibrate)
        elif report.stored:
            self.suspensions.made_key(report.pair)

    def _settle_epochs(self, role: str, refusal: LeaseRefuse) -> None:
        """A party of the offer in being objects to its token: come up to it, or lead it up to us."""
        lease, newest = self.leases.lease, refusal.newest_epoch
        if newest is None or lease is None or role not in lease.parties:
            return
        if (refusal.epoch, refusal.number) != (lease.epoch, lease.number):
            return
        orders = self._epochs.refused(role, newest)
        if orders is None:
            return
        self._send(orders)
        self.epoch = self.hub.epoch = self._epochs.epoch
        self.leases.raise_epoch(self.epoch)
        self._put_right.add(lease.pair)

    def _refuse(self, role: str, detail: str, session: int = 0) -> None:
        self.hub.send(role, Refused("not-allowed", detail), session)

    def _step(self) -> None:
        now_s = self._clock()
        self._send(self.leases.time(now_s))
        self._take_outcomes(now_s)
        self.desk.serve()
        self.queue.time(now_s)
        self._missing.look()
        self.suspensions.time()
        self._offer(now_s)
        self._show_pairs(now_s)
        self._show_ring(now_s)
        self._show_hub(now_s)
        self._board.show(self.desk.status(), now_s)
        self._board.show_refusals(now_s)
        if now_s >= self._next_save_s:
            self._save()

    def _take_outcomes(self, now_s: float) -> None:
        """What leases that are over came to."""
        for outcome in self.leases.take_outcomes():
            self.schedule.lease_over(outcome, now_s)
            self.queue.lease_over(outcome)
            self._turns.lease_over(outcome)
            self._missing.lease_over(outcome)
            if outcome.lease.pair in self._put_right:
                self.schedule.again_at_once(outcome.lease.pair)
                self._put_right.clear()
            if not outcome.refused:
                self._records.keep(lease_ended(outcome))
            self._show_outcome(outcome, now_s)

    def _offer(self, now_s: float) -> None:
        """What the queue decides about the ring: end a lease, rest, or offer the free ring to somebody."""
        lease = self.leases.lease
        if lease is not None:
            if lease.entry in self.queue.to_abort:
                self._send(self.leases.abort(self.queue.to_abort[lease.entry], now_s))
            self.queue.to_abort.clear()
            return
        self.queue.ring_is_free()
        self._rest(self.queue.resting)
        if self._rests:
            return
        following = self._turns.next(now_s)
        if following is not None:
            config = self._config
            limit_s = config.light_limit_s if following.purpose == KEY else CALIBRATION_LIMIT_S
            self._send(
                self.leases.offer(
                    following.pair,
                    config.n_frames,
                    limit_s,
                    now_s,
                    purpose=following.purpose,
                    entry=following.entry,
                )
            )

    def _rest(self, why: str) -> None:
        """Tell the parties of leases to make their instruments safe, or that they may be lit again."""
        if why != self._rests:
            self._rests = why
            logger.info("the ring rests: %s", why) if why else logger.info("the ring is at work again")
            for role in (RELAY, *self._config.users):
                self.hub.send(role, Rest(bool(why), why))

    def _send(self, orders: list[Order]) -> None:
        for role, message in orders:
            self.hub.send(role, message)

    # -- what observers see --------------------------------------------------------------------------

    def _tell_observer(self, session: int, message: FromHub) -> None:
        self.hub.send(OBSERVER, message, session)

    def _show_ring(self, now_s: float) -> None:
        lease = self.leases.lease
        ring = (self.leases.phase, lease and lease.number)
        if ring != self._ring:
            self._ring, self._ring_since_s = ring, now_s
        elif now_s < self._next_pulse_s:
            return
        self._next_pulse_s = now_s + PULSE_S
        first, second = lease.pair if lease else (None, None)
        for_s = now_s - self._ring_since_s
        status = RingStatus(self.leases.phase.value, for_s, first, second, lease.number if lease else 0)
        self._board.show(status, now_s, pulse=True)

    def _show_hub(self, now_s: float) -> None:
        """What the hub refused, and whom it cut off, because too many bytes were waiting."""
        overloads = self.hub.counters.overloads + self.hub.gate.floods
        if overloads != self._overloads:
            if not self._overloads:
                logger.warning("the hub refuses messages: more is said to it than it may hold")
            self._overloads = overloads
            self._board.show(HubStatus(overloads), now_s)

    def _show_outcome(self, outcome: Outcome, now_s: float) -> None:
        lease = outcome.lease
        told = self._told.get(lease.pair) == outcome.reason
        self._told[lease.pair] = outcome.reason
        if not outcome.ok and not told:
            with about(pair=pair_name(lease.pair), session=f"{lease.epoch}/{lease.number}"):
                logger.warning(
                    "lease %d/%d of %s: %s", lease.epoch, lease.number, pair_name(lease.pair), outcome.reason
                )
        why = outcome.reason[:REASON_LIMIT]
        named = lease.epoch, lease.number, *lease.pair
        status = LeaseStatus(*named, outcome.ok, outcome.refused, why, outcome.ring_s)
        self._board.show(status, now_s)
        if outcome.ok or not told:
            self._emit(status)

    def _show_pairs(self, now_s: float) -> None:
        for pair in self.schedule.state.pairs:
            fault = self.schedule.fault(pair.pair)
            status = PairStatus(
                pair.first,
                pair.second,
                pair.stock_bits,
                pair.demand_bits,
                self.schedule.in_work_bits(pair.pair),
                pair.rate_bps,
                pair.measured,
                self.schedule.available(pair.pair) and not self.suspensions.why(pair.pair),
                self._why_unavailable(pair.pair) or self.suspensions.why(pair.pair),
                fault.count if fault else 0,
                max(0.0, now_s - fault.since_s) if fault else 0.0,
                fault.reason[:REASON_LIMIT] if fault else "",
                *self._config.trusted.get(pair.pair, (None, None)),
            )
            self._board.show(status, now_s)

    def _why_unavailable(self, pair: Pair) -> str:
        """Empty while relay and both nodes are there and ready."""
        parties = [self._peers[role] for role in (RELAY, *pair)]
        reasons = [f"{each.peer} is gone" for each in parties if not each.present]
        reasons += [
            f"{each.peer} is not ready: {each.reason}" for each in parties if each.present and not each.ready
        ]
        return "; ".join(reasons)[:REASON_LIMIT]

    def _save(self) -> None:
        """Keep the schedule; a crash in the middle leaves the older copy."""
        self._next_save_s = self._clock() + self._config.save_every_s
        try:
            replace_file(self._saved, self.schedule.dump(self._clock()))
        except OSError as error:
            logger.warning("cannot save the schedule to %s: %s", self._saved, error.strerror)
