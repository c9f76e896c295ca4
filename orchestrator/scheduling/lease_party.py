"""One party of ring leases (the relay or a node): answers offers, runs the light phase, reports its end.

The control loop stays free: light phases run in a thread of their own, so heartbeats and aborts are served
while pulses fly.  An offer with a token that is not newer than every one seen is refused (see
:class:`orchestrator.scheduling.fencing.Fence`), whoever sends it.

After an instrument failed nothing is known about its settings.  The party then says that it is not ready,
refuses offers and tries to reconnect and set up its instruments, with back-off, until that succeeds.  While no
light is on it asks its instruments every few seconds whether they are there: a dead one is told before the next
lease needs it.

The orchestrator may have the party rest: its instruments are made safe and stay so until it says otherwise, for a queue
that is held or a bench that somebody works at.  A lease has a purpose, and one that the party does not know is refused.

Somebody else may make the instruments safe as well, the role's interlock: it says so with :meth:`LeaseParty.interrupt`,
and ``permit`` says for how long nothing may be set up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from drivers.links.errors import InstrumentError, InterlockedError
from lab.calibration.steps import Step
from lab.station import StationError
from orchestrator import runtime
from orchestrator.events.status import Ready, pair_name
from orchestrator.hub.agent import Agent, AgentEvent, LinkDown, LinkUp
from orchestrator.light.messages import LightAborted, aborting, light_topic
from orchestrator.log_context import about
from orchestrator.scheduling.fencing import Fence
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import (
    KEY,
    EpochStep,
    LeaseAbort,
    LeaseAccept,
    LeaseDone,
    LeaseGrant,
    LeaseOffer,
    LeaseRefuse,
    LightStatistics,
    Rest,
)

logger = logging.getLogger(__name__)

RECOVERY_WAIT_S = 0.5
RECOVERY_WAIT_MAX_S = 1.0
CHECK_EVERY_S = 2.0


class AtRestError(InterlockedError):
    """Nothing may be enabled: the orchestrator has the party rest."""


class SupersededError(Exception):
    """Another process with this role's key took its place at the hub."""


@dataclass
class HeldLease:
    """A lease that this party accepted."""

    epoch: int
    number: int
    first: str
    second: str
    n_frames: int
    purpose: str = KEY
    aborted: str = ""
    _cleanup: list[Callable[[], None]] = field(default_factory=list)
    _lock: runtime.Lock = field(default_factory=runtime.lock)

    @property
    def token(self) -> tuple[int, int]:
        """The fencing token."""
        return self.epoch, self.number

    @property
    def pair(self) -> tuple[str, str]:
        """(first, second)."""
        return self.first, self.second

    def about(self) -> AbstractContextManager[None]:
        """Lines of the log are about this lease."""
        return about(pair=pair_name(self.pair), session=f"{self.epoch}/{self.number}")

    def on_abort(self, action: Callable[[], None]) -> None:
        """Have ``action`` called when the lease is aborted from outside (at once if it was already)."""
        with self._lock:
            if not self.aborted:
                self._cleanup.append(action)
                return
        action()

    def abort(self, reason: str) -> None:
        """End the lease from outside."""
        with self._lock:
            if self.aborted:
                return
            self.aborted = reason or "aborted"
            actions, self._cleanup = self._cleanup, []
        for action in actions:
            action()


class LeaseParty:
    """Serves the control messages about leases for one role."""

    def __init__(
        self,
        agent: Agent,
        fence: Fence,
        *,
        objection: Callable[[LeaseOffer], str | None],
        run_light: Callable[[HeldLease], LightStatistics],
        recover: Callable[[], None] = lambda: None,
        check: Callable[[], None] | None = None,
        on_other: Callable[[AgentEvent], None] = lambda event: None,
        permit: Callable[[], None] = lambda: None,
        unready: Exception | None = None,
        make_safe: Callable[[], Mapping[str, Exception]] = dict,
        purposes: Collection[str] = (KEY,),
    ) -> None:
        """``objection`` says why an offer cannot be taken (None: it can); ``run_light`` runs one light
        phase to its end and raises LightAborted, ChannelError or InstrumentError; ``recover`` makes the
        instruments ready again after an InstrumentError and raises StationError or InstrumentError as long
        as that fails; ``check`` asks idle instruments whether they are there and raises the same; ``on_other`` gets every event of the agent that is not about leases; ``permit`` raises
        InterlockedError while nothing may be enabled; ``unready`` is why the instruments are not set up yet;
        ``make_safe`` brings them into their safe states and returns what failed; ``purposes`` are those of the leases
        that ``run_light`` knows."""
        self._agent = agent
        self._objection = objection
        self._run_light = run_light
        self._recover = recover
        self._check = check
        self._on_other = on_other
        self._permit = permit
        self._make_safe = make_safe
        self._purposes = purposes
        self._at_rest = ""
        self._lying_down: runtime.Thread | None = None
        self._fence = fence
        self._offered: HeldLease | None = None
        self._active: HeldLease | None = None
        self._thread: runtime.Thread | None = None
        self._broken = ""
        self._failed: tuple[str, ...] = ()
        self._turn = runtime.lock()
        """Held while light begins or instruments are found to be broken, so that never both happen."""
        self._repairing = False
        self._interruptions = 0
        if unready is not None:
            self._broken, self._failed = _told(unready)
        self._stopping = runtime.event()

    def serve(self, stop: runtime.Event) -> None:
        """Handle control messages until ``stop``; then abort what runs and wait for it.

        Raises SupersededError when another process has taken this role's place.
        """
        if self._check is not None:
            runtime.spawn(self._watch_idle, name="idle-check")
        if self._broken:
            runtime.spawn(self._make_ready, name="set-up")
        try:
            while not stop.is_set():
                message = self._agent.control_recv(0.2)
                if isinstance(message, LeaseOffer):
                    self._offer(message)
                elif isinstance(message, EpochStep):
                    self._step(message)
                elif isinstance(message, LeaseGrant):
                    self._grant(message)
                elif isinstance(message, LeaseAbort):
                    self._abort(message)
                elif isinstance(message, Rest):
                    self._rest(message)
                elif message is not None:
                    if isinstance(message, LinkDown) and self._active is not None:
                        self._active.abort(f"no link to the hub: {message.reason}")
                    if isinstance(message, LinkUp):
                        self._say_ready()
                    self._on_other(message)
                    if isinstance(message, LinkDown) and message.state is LinkState.SUPERSEDED:
                        raise SupersededError(
                            f"another process runs as {self._agent.role!r} with the same key and has taken "
                            "over; this one ends. Run each role once."
                        )
        finally:
            self._stopping.set()
            if self._active is not None:
                self._active.abort("this process is stopping")
            if self._thread is not None:
                self._thread.join(timeout=20)

    def interrupt(self, error: Exception) -> None:
        """Somebody made the instruments safe because of ``error``: end the lease, and set them up anew when permitted."""
        with self._turn:
            self._interruptions += 1
            self._break(error)
            active = self._active
        if active is None:
            runtime.spawn(self._make_ready, name="set-up")
        else:
            active.abort(str(error))

    def _offer(self, offer: LeaseOffer) -> None:
        reason: str | None = self._broken or self._forbidden()
        is_unknown = offer.purpose not in self._purposes
        if is_unknown:
            known = ", ".join(self._purposes)
            reason = f"{self._agent.role} takes no part in leases for {offer.purpose!r}, only for {known}"
        reason = reason or ("busy with another lease" if self._is_busy else self._objection(offer))
        newest_epoch = None
        if reason is None:
            reason = self._pass_fence(offer)
            newest_epoch = self._fence.newest[0] if reason else None
        if reason:
            self._agent.control_send(
                LeaseRefuse(offer.epoch, offer.number, reason[:REASON_LIMIT], newest_epoch, is_unknown)
            )
            return
        self._offered = HeldLease(
            offer.epoch, offer.number, offer.first, offer.second, offer.n_frames, offer.purpose
        )
        self._agent.control_send(LeaseAccept(offer.epoch, offer.number))

    def _rest(self, rest: Rest) -> None:
        """Make the instruments safe and leave them so; or let them be set up anew."""
        before, self._at_rest = self._at_rest, rest.reason or "the ring rests" if rest.on else ""
        if self._at_rest and not before:
            self.interrupt(AtRestError(self._at_rest))
            self._lying_down = runtime.spawn(self._lie_down, name="rest")

    def _lie_down(self) -> None:
        if failures := self._make_safe():
            self._break(StationError(self._agent.role, "making safe", dict(failures)))

    def _check_permit(self) -> None:
        """Raises InterlockedError while nothing may be enabled."""
        if self._at_rest or (self._lying_down is not None and self._lying_down.is_alive()):
            raise AtRestError(self._at_rest or "instruments are being made safe")
        self._permit()

    def _pass_fence(self, offer: LeaseOffer) -> str:
        """Why the offer's token is not let through; empty if it is, and then it is stored."""
        try:
            passed = self._fence.accept(offer.epoch, offer.number)
        except OSError as error:
            return f"the epoch cannot be stored: {error}"
        return "" if passed else self._fence.objection

    def _step(self, step: EpochStep) -> None:
        try:
            if not self._fence.step(step.epoch):
                logger.warning(
                    "no step to epoch %d: %s", step.epoch, self._fence.objection or "it is not newer"
                )
        except OSError as error:
            logger.warning("no step to epoch %d, it cannot be stored: %s", step.epoch, error)

    def _grant(self, grant: LeaseGrant) -> None:
        lease = self._offered
        if lease is None or lease.token != (grant.epoch, grant.number):
            with about(session=f"{grant.epoch}/{grant.number}"):
                logger.warning(
                    "a grant for lease %d/%d that was not accepted here", grant.epoch, grant.number
                )
            return
        with self._turn:
            self._offered = None
            if reason := self._broken or self._forbidden():
                self._end_early(lease, reason)
                return
            self._active = lease
            self._thread = runtime.spawn(self._run, lease, name="light")

    def _abort(self, message: LeaseAbort) -> None:
        token = (message.epoch, message.number)
        if self._offered is not None and self._offered.token == token:
            self._offered = None
        if self._active is not None and self._active.token == token:
            self._active.abort(message.reason)

    def _run(self, lease: HeldLease) -> None:
        try:
            with lease.about():
                self._light_phase(lease)
        finally:
            with self._turn:
                self._active = None
        if self._broken:
            self._make_ready()

    def _light_phase(self, lease: HeldLease) -> None:
        started = runtime.now()
        try:
            statistics = self._run_light(lease)
        except (LightAborted, ChannelError) as error:
            steps = error.steps if isinstance(error, LightAborted) and not lease.aborted else ()
            self._end_early(lease, lease.aborted or f"{type(error).__name__}: {error}", steps)
        except InstrumentError as error:
            self._break(error)
            self._end_early(lease, self._forbidden() or self._broken)
        except Exception as error:
            logger.exception("light phase %d/%d failed", lease.epoch, lease.number)
            self._break(error)
            self._agent.control_send(LeaseDone(lease.epoch, lease.number, False, self._broken))
        else:
            logger.info("light phase %d/%d: %.2f s", lease.epoch, lease.number, runtime.now() - started)
            self._agent.control_send(LeaseDone(lease.epoch, lease.number, True, "", statistics))

    def _end_early(self, lease: HeldLease, reason: str, steps: tuple[Step, ...] = ()) -> None:
        with lease.about():
            logger.warning("light phase %d/%d ended early: %s", lease.epoch, lease.number, reason)
        done = LeaseDone(lease.epoch, lease.number, False, reason[:REASON_LIMIT], calibrate=steps)
        self._agent.control_send(done)

    def _forbidden(self) -> str:
        """Why nothing may be enabled, "" where it may."""
        try:
            self._check_permit()
        except InterlockedError as error:
            return str(error)
        return ""

    def _make_ready(self) -> None:
        """Reconnect and set up the instruments until that works; offers are refused meanwhile.  One thread does it."""
        with self._turn:
            if self._repairing:
                return
            self._repairing = True
        wait_s, told = RECOVERY_WAIT_S, ""
        while not self._stopping.is_set():
            before = self._interruptions
            try:
                self._check_permit()
                self._recover()
            except Exception as error:
                self._break(error)
                if self._broken != told:
                    expected = isinstance(error, StationError | InstrumentError)
                    logger.warning("%s\n  trying again until it works", error, exc_info=not expected)
                told = self._broken
                self._stopping.wait(wait_s)
                wait_s = min(2 * wait_s, RECOVERY_WAIT_MAX_S)
                continue
            with self._turn:
                if self._interruptions == before:
                    self._broken, self._failed, self._repairing = "", (), False
                    break
        if not self._stopping.is_set():
            logger.info("instruments are ready again")
            self._say_ready()

    def _break(self, error: Exception) -> None:
        """Nothing is known about the instruments from here on; say so, and which ones failed."""
        before = self._broken, self._failed
        self._broken, self._failed = _told(error)
        if (self._broken, self._failed) != before:
            self._say_ready()

    def _say_ready(self) -> None:
        self._agent.control_send(Ready(not self._broken, self._broken[:REASON_LIMIT], self._failed))

    def _watch_idle(self) -> None:
        """Ask the instruments every few seconds while no light is on; repair what does not answer."""
        assert self._check is not None
        while not self._stopping.wait(CHECK_EVERY_S):
            if self._is_occupied():
                continue
            try:
                self._check()
            except Exception as error:  # noqa: BLE001 - whatever it is, the instruments cannot be trusted
                with self._turn:
                    if self._is_occupied():
                        continue  # a lease began meanwhile, and finds out by itself
                    self._break(error)
                logger.warning("an idle instrument does not answer: %s", error)
                self._make_ready()

    def _is_occupied(self) -> bool:
        return bool(self._broken) or self._is_busy

    @property
    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


def _told(error: Exception) -> tuple[str, tuple[str, ...]]:
    """What is broken in one line, and the instruments that failed."""
    if isinstance(error, StationError):
        return error.brief, tuple(error.failures)
    if isinstance(error, InterlockedError):
        return str(error), ()
    if isinstance(error, InstrumentError):
        return f"{type(error).__name__}: {error}", (error.instrument,) if error.instrument else ()
    return "internal error, see the log", ()


class LightChannels:
    """The light-phase channels of one lease to ``peers``, closed on leaving or when the lease is aborted."""

    def __init__(self, agent: Agent, lease: HeldLease, peers: tuple[str, ...]) -> None:
        self._agent = agent
        self._topic = light_topic(*lease.token)
        self._peers = peers
        self.channels: tuple[Channel, ...] = tuple(agent.channel(peer, self._topic) for peer in peers)
        lease.on_abort(self.close)

    def close(self) -> None:
        """Close every channel; waiting receivers raise ChannelClosedError."""
        for peer in self._peers:
            self._agent.close_channel(peer, self._topic)

    def __enter__(self) -> tuple[Channel, ...]:
        return self.channels

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            for channel in self.channels:
                try:
                    channel.send(aborting(error))
                except ChannelError:
                    logger.debug("the other side of the light phase is gone already")
        self.close()
