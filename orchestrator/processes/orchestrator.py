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
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from orchestrator.durable import replace_file
from orchestrator.hub.hub import Hub, HubEvent, HubLimits, PeerDown, PeerMessage, PeerUp
from orchestrator.protocols.block_planning import plan_for
from orchestrator.scheduling.fencing import AHEAD, EPOCH_STEP, REACH, EpochFile, Reach
from orchestrator.scheduling.leases import RELAY, LeaseDesk, Order, Outcome
from orchestrator.scheduling.ring_schedule import RingSchedule
from orchestrator.scheduling.scheduler import Pair, Policy
from orchestrator.wire.control_socket import ControlSocket
from orchestrator.wire.curve import CurveKeys, load_keys
from orchestrator.wire.gate_control import CONTROL_ERRORS, answer_about_gate
from orchestrator.wire.messages import (
    BlockReport,
    Demand,
    EpochStep,
    Fields,
    FromPeer,
    LeaseAbort,
    LeaseAccept,
    LeaseDone,
    LeaseRefuse,
    Refused,
    Stock,
    Subscribe,
    Telemetry,
    TelemetryItem,
)
from orchestrator.wire.revoked import RevokedKeys

if TYPE_CHECKING:
    from lab.testbed import Testbed

logger = logging.getLogger(__name__)

ROLE = "orchestrator"
FL_SERVER = "fl-server"
KINDS_SHOWN = 1000
"""Latest telemetry kept for those who subscribe later, counted in (role, kind)."""


@dataclass(frozen=True)
class OrchestratorConfig:
    """What the testbed file and the command line decide.  Times in seconds."""

    users: tuple[str, ...]
    rates_bps: Mapping[Pair, float]
    n_frames: int
    light_limit_s: float
    block_bits: Mapping[Pair, int] = field(default_factory=dict)
    control_endpoint: str = "auto"
    bulk_endpoint: str = "auto"
    offer_timeout_s: float = 5.0
    drain_s: float = 15.0
    step_s: float = 0.05
    save_every_s: float = 10.0
    limits: HubLimits = field(default_factory=HubLimits)
    policy: Policy = field(default_factory=Policy)


class Orchestrator:
    """Hub, leases, schedule and telemetry.  ``allowed`` maps public keys to role names."""

    def __init__(
        self,
        config: OrchestratorConfig,
        keys: CurveKeys,
        allowed: Mapping[str, str],
        state_dir: Path,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock = clock
        self._saved = state_dir / "schedule"
        self._epochs = EpochFile(state_dir / "epoch")
        self._reach = Reach(clock, extra=AHEAD)
        self._put_right: set[Pair] = set()
        self.epoch = self._epochs.advance()
        self.hub = Hub(
            context,
            keys,
            allowed,
            config.control_endpoint,
            config.bulk_endpoint,
            epoch=self.epoch,
            limits=config.limits,
            clock=clock,
            revoked=RevokedKeys(state_dir),
        )
        now_s = clock()
        self.desk = LeaseDesk(self.epoch, offer_timeout_s=config.offer_timeout_s, drain_s=config.drain_s)
        self.schedule = RingSchedule(
            config.rates_bps, config.users, now_s, config.policy, block_bits=config.block_bits
        )
        self._present: set[str] = set()
        self._subscribers: dict[str, int] = {}
        self._latest: dict[tuple[str, str], Fields] = {}
        self._told: dict[Pair, str] = {}
        self._overloads = 0
        self._next_save_s = now_s + config.save_every_s
        if self._saved.exists() and not self.schedule.restore(self._saved.read_bytes(), now_s):
            logger.warning("%s is not usable, rates and demands start afresh", self._saved)

    def serve(self, stop: threading.Event) -> None:
        """Run from the started hub until ``stop``; then end the lease in being and save the schedule."""
        try:
            while not stop.is_set():
                event = self.hub.recv(self._config.step_s)
                while event is not None:
                    self._handle(event)
                    event = self.hub.recv(0.0)
                self._step()
        finally:
            self._send(self.desk.abort("the orchestrator stops", self._clock()))
            self._save()

    # -- events --------------------------------------------------------------------------------------

    def _handle(self, event: HubEvent) -> None:
        now_s = self._clock()
        match event:
            case PeerUp(role):
                self._present.add(role)
                self.schedule.user_present(role, True, now_s)
                if role == RELAY:
                    self.schedule.relay_present()
                self._show_peers()
            case PeerDown(role):
                self._present.discard(role)
                self._subscribers.pop(role, None)
                self.schedule.user_present(role, False, now_s)
                self._send(self.desk.peer_down(role, now_s))
                self._show_peers()
            case PeerMessage(role, message):
                self._on_message(role, message, now_s)

    def _on_message(self, role: str, message: FromPeer, now_s: float) -> None:
        match message:
            case LeaseAccept() | LeaseRefuse() | LeaseDone() | LeaseAbort():
                if isinstance(message, LeaseRefuse):
                    self._settle_epochs(role, message)
                self._send(self.desk.heard(role, message, now_s))
            case BlockReport() if role in (message.first, message.second):
                if self.schedule.block_reported(message, now_s):
                    self._show_block(message)
            case Stock() if role in self._config.users:
                self.schedule.stock(role, message, now_s)
                self._show_pairs()
            case Demand() if role in (FL_SERVER, message.first, message.second):
                if self.schedule.demand(role, message, now_s):
                    self._show_pairs()
                else:
                    self._refuse(role, f"{message.first}-{message.second} is no pair of this testbed")
            case Telemetry():
                self._show(role, message.kind, message.data)
            case Subscribe():
                self._subscribe(role)
            case _:
                self._refuse(role, f"{role} may not send this {type(message).__name__}")

    def _settle_epochs(self, role: str, refusal: LeaseRefuse) -> None:
        """A party of the offer in being objects to its token: come up to it, or lead it up to us."""
        lease, newest = self.desk.lease, refusal.newest_epoch
        if newest is None or lease is None or role not in lease.parties:
            return
        if (refusal.epoch, refusal.slot) != (lease.epoch, lease.slot):
            return
        if newest < lease.epoch - EPOCH_STEP:
            self._lead_up(role, newest, lease.epoch)
        elif newest < lease.epoch or not self._raise_epoch(newest):
            return  # nothing that we could put right
        self._put_right.add(lease.pair)

    def _lead_up(self, role: str, newest: int, ours: int) -> None:
        """The steps that take a party from ``newest`` to within one step of our epoch, as many as it can take."""
        last = min(ours, newest + REACH)
        for epoch in range(newest + EPOCH_STEP, last, EPOCH_STEP):
            self.hub.send(role, EpochStep(epoch))

    def _raise_epoch(self, newest: int) -> bool:
        """Go on above ``newest``, or a step towards it; False if the epoch stays as it was."""
        before = self.epoch
        if not self._reach.take(min(newest + 1 - before, EPOCH_STEP)):
            return False
        try:
            self.epoch = self.hub.epoch = self._epochs.raise_above(newest)
        except OSError as error:
            logger.warning("a party knows epoch %d, and ours cannot be raised: %s", newest, error)
            return False
        self.desk.raise_epoch(self.epoch)
        logger.warning("a party knows epoch %d, ours was %d: going on with %d", newest, before, self.epoch)
        return self.epoch > before

    def _refuse(self, role: str, detail: str) -> None:
        self.hub.send(role, Refused("not-allowed", detail))

    def _step(self) -> None:
        now_s = self._clock()
        self._send(self.desk.time(now_s))
        for outcome in self.desk.take_outcomes():
            self.schedule.lease_over(outcome, now_s)
            if outcome.lease.pair in self._put_right:
                self.schedule.again_at_once(outcome.lease.pair)
                self._put_right.clear()
            self._show_outcome(outcome)
        if self.desk.lease is None and RELAY in self._present:
            pair = self.schedule.next_pair(now_s)
            if pair is not None:
                config = self._config
                self._send(self.desk.offer(pair, config.n_frames, config.light_limit_s, now_s))
        self._show_hub()
        if now_s >= self._next_save_s:
            self._save()

    def _send(self, orders: list[Order]) -> None:
        for role, message in orders:
            self.hub.send(role, message)

    # -- what observers see --------------------------------------------------------------------------

    def _subscribe(self, role: str) -> None:
        self._subscribers[role] = 0
        for (source, kind), data in list(self._latest.items()):
            self._push(role, source, kind, data)

    def _show(self, source: str, kind: str, data: Fields) -> None:
        if (source, kind) in self._latest or len(self._latest) < KINDS_SHOWN:
            self._latest[source, kind] = data
        for role in self._subscribers:
            self._push(role, source, kind, data)

    def _push(self, role: str, source: str, kind: str, data: Fields) -> None:
        seq = self._subscribers[role]
        self._subscribers[role] = seq + 1
        self.hub.send(role, TelemetryItem(source, kind, seq, data))

    def _show_peers(self) -> None:
        self._show(ROLE, "peers", {"present": [*sorted(self._present)]})

    def _show_hub(self) -> None:
        """What the hub refused because too many bytes were waiting."""
        overloads = self.hub.counters.overloads
        if overloads != self._overloads:
            if not self._overloads:
                logger.warning("the hub refuses messages: more is said to it than it may hold")
            self._overloads = overloads
            self._show(ROLE, "hub", {"overloads": overloads})

    def _show_outcome(self, outcome: Outcome) -> None:
        lease = outcome.lease
        told = self._told.get(lease.pair) == outcome.reason
        self._told[lease.pair] = outcome.reason
        if not outcome.ok and not told:
            logger.warning(
                "lease %d/%d of %s: %s", lease.epoch, lease.slot, "-".join(lease.pair), outcome.reason
            )
        data: Fields = {
            "slot": lease.slot,
            "first": lease.first,
            "second": lease.second,
            "ok": outcome.ok,
            "refused": outcome.refused,
            "reason": outcome.reason,
            "ring_s": outcome.ring_s,
        }
        self._show(ROLE, "lease", data)

    def _show_block(self, report: BlockReport) -> None:
        data: Fields = {
            "slot": report.slot,
            "first": report.first,
            "second": report.second,
            "ok": report.ok,
            "reason": report.reason,
            "pulses": report.pulses,
            "sifted_bits": report.sifted_bits,
            "secret_bits": report.secret_bits,
            "qber": report.qber,
            "f_ec": report.f_ec,
        }
        self._show(ROLE, f"block-{report.first}-{report.second}"[:64], data)

    def _show_pairs(self) -> None:
        for pair in self.schedule.state.pairs:
            data: Fields = {
                "first": pair.first,
                "second": pair.second,
                "stock_bits": pair.stock_bits,
                "demand_bits": pair.demand_bits,
                "rate_bps": pair.rate_bps,
                "available": pair.available,
            }
            kind = f"pair-{pair.first}-{pair.second}"[:64]
            if self._latest.get((ROLE, kind)) != data:
                self._show(ROLE, kind, data)

    def _save(self) -> None:
        """Keep the schedule; a crash in the middle leaves the older copy."""
        self._next_save_s = self._clock() + self._config.save_every_s
        try:
            replace_file(self._saved, self.schedule.dump(self._clock()))
        except OSError as error:
            logger.warning("cannot save the schedule to %s: %s", self._saved, error.strerror)


def config_of(testbed: Testbed) -> OrchestratorConfig:
    """What a testbed file says to the orchestrator."""
    light_s = testbed.frames_per_block() * testbed.protocol.slots_per_frame / testbed.protocol.clock_hz
    block_bits = {pair: plan_for(testbed, *pair).expected_bits for pair in testbed.pairs()}
    return OrchestratorConfig(
        users=testbed.user_names(),
        rates_bps={pair: bits / light_s for pair, bits in block_bits.items()},
        block_bits=block_bits,
        policy=Policy(
            rounds_ahead=1
        ),  # a demand says how much stock is wanted; how far ahead is its sender's choice
        n_frames=testbed.frames_per_block(),
        # Loading fresh waveforms takes far longer than the light itself; this only catches what hangs.
        light_limit_s=60.0 + 50.0 * light_s,
        control_endpoint=testbed.hub.control,
        bulk_endpoint=testbed.hub.bulk,
    )


def run_orchestrator(
    testbed: Testbed,
    secrets_dir: Path,
    state_dir: Path,
    stop: threading.Event,
    ready: Callable[[dict[str, Any]], None],
) -> None:
    """Serve until ``stop``; ``ready`` gets the epoch and the endpoints that were really bound.

    Raises KeyFileError, EpochError, RevokedError, ControlError or OSError when it cannot start.
    """
    keys = load_keys(secrets_dir)
    if testbed.keys.get(ROLE, keys.public) != keys.public:
        raise ValueError(f"the key in {secrets_dir} is not the orchestrator's key of the testbed file")
    allowed = {public: role for role, public in testbed.keys.items() if role != ROLE}
    with ExitStack() as stack:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.term)
        orchestrator = Orchestrator(config_of(testbed), keys, allowed, state_dir, context=context)
        hub = stack.enter_context(orchestrator.hub)
        stack.enter_context(
            ControlSocket(state_dir, lambda request: answer_about_gate(hub.gate, request), CONTROL_ERRORS)
        )
        ready({"control": hub.control_endpoint, "bulk": hub.bulk_endpoint, "epoch": orchestrator.epoch})
        orchestrator.serve(stop)
