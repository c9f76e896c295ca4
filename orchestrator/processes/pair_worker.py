"""One node's conversations with one peer, one at a time, in an order that both ends share.

Tagged messages spend the pair's authentication lanes in order, and comparing the two key stores only makes
sense while nothing else moves in them.  So everything two nodes do end to end - comparing stores, blocks,
reservations - is a *job*, and a pair runs one job at a time::

    first                                second
      Greeting on topic pair/<line>  ->                       a fresh line at every meeting
      <-> settle_generation                                   begin a generation that both ends hold
      <-> reconcile_pending, on pair/<line>/meeting           settle what an interruption left over
                                  <- Have(job)                the second says what it is ready for
      Start(job, n)                  ->                       the first picks a job that both have
      <-> the job itself, on topic pair/<line>/<n>

Line messages are not authenticated: a forged one can delay or fail a job and nothing else, because every job
authenticates what it agrees on.  After a job fails half-way the line is dropped and the two meet again.

A line on which the first hears nothing although something waits is given up for a fresh one after :data:`SILENT_S`.

**Bad lines.**  A job that was submitted with ``again`` may be repeated: when it breaks it goes back to the waiting
ones, and when it is done here the peer may still have to hear of it, so it is answered once more with ``again``.
The first waits ever longer between two lines until a job is completed, at most :data:`LONGEST_WAIT_S`.  Meetings
and retries spend no lane bits but for what changed in between; and below :data:`LOW_WATER_BITS` of a lane no meeting
begins by itself, :attr:`PairWorker.hold` says why, and an operator lets it go on with :meth:`PairWorker.go_on`.
A new secret that waits is tried all the same, since beginning with it needs no lane bits.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from orchestrator import runtime
from orchestrator.events.status import pair_name
from orchestrator.hub.agent import Agent
from orchestrator.keystore.lanes import AUTH_LANES, LOW_WATER_BITS, PairEnd
from orchestrator.keystore.reconcile import reconcile_pending
from orchestrator.keystore.reseed import settle_generation
from orchestrator.keystore.store import KeyStore
from orchestrator.log_context import also_about, now_about
from orchestrator.processes.pair_lines import (
    CONVERSATION_ERRORS,
    DONE_KEPT,
    GO_ON_BITS,
    IN_STEP_ERRORS,
    LINE_PREFIX,
    LONGEST_WAIT_S,
    POLL_S,
    RETRY_ERRORS,
    SILENT_S,
    Again,
    BackOff,
    Greeting,
    Have,
    Job,
    JobExpiredError,
    Line,
    LineMessage,
    LowWater,
    Start,
)
from orchestrator.randomness import random_hex
from orchestrator.wire.channel import Channel, ChannelTimeoutError
from orchestrator.wire.codec import WireError, decode, encode

logger = logging.getLogger(__name__)

T = TypeVar("T")
MEETING_TIMEOUT_S = 4.0
OFFERS_KEPT = 64
"""Lines the peer offered that were not looked at yet; only the newest counts."""


class PairWorker:
    """Runs the jobs of one pair in a thread of its own."""

    def __init__(
        self,
        agent: Agent,
        store: KeyStore,
        peer: str,
        *,
        clock: Callable[[], float] = runtime.now,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """``clock`` and ``pause`` (seconds) exist for simulations of long times; the default is real time."""
        self.peer = peer
        self._agent = agent
        self._store = store
        self._pair_end: PairEnd = store.pair_end(peer)
        self._lock = runtime.lock()
        self._jobs: dict[str, Job] = {}
        self._done: OrderedDict[str, Callable[[Channel, PairEnd], object]] = OrderedDict()
        self._clock = clock
        self._back_off = BackOff()
        self._failures = 0
        self._hold: LowWater | None = None
        self._lowest = LOW_WATER_BITS
        self._offered: runtime.Queue[str] = runtime.queue()
        self._stop = runtime.event()
        self._pause = pause or self._stop.wait
        self._again = runtime.event()
        self._line: Line | None = None
        self.old_copy: str = ""
        """Whose store a meeting found to be an old copy since this process began: ``self`` or ``peer``; empty: nobody's."""

    def start(self) -> None:
        """Start meeting the peer."""
        self._thread = runtime.spawn(self._work, name=f"pair-{self.peer}")

    def close(self) -> None:
        """Stop after the job in work; jobs that wait fail with JobExpiredError."""
        self._stop.set()
        self._thread.join(timeout=10)
        with self._lock:
            waiting, self._jobs = list(self._jobs.values()), {}
        for job in waiting:
            job.future.set_exception(JobExpiredError("this node is stopping"))

    @property
    def waiting(self) -> int:
        """Jobs that have not started."""
        with self._lock:
            return len(self._jobs)

    @property
    def hold(self) -> LowWater | None:
        """Why no meeting begins by itself; None where nothing stands in the way."""
        return self._hold

    @property
    def failures(self) -> int:
        """Lines that were dropped since a job was last completed."""
        return self._failures

    @property
    def rejected(self) -> dict[str, int]:
        """Messages of the peer that were refused, by reason, since this process started."""
        return dict(self._store.letters(self.peer).rejected)

    def go_on(self) -> None:
        """An operator lets the pair meet although a lane is low; for :data:`GO_ON_BITS` more of it."""
        low = self._low_lane()
        if low is not None:
            self._lowest = max(0, low.bits - GO_ON_BITS)
            logger.warning("an operator lets the pair with %s go on: %s", self.peer, low)

    def _low_lane(self) -> LowWater | None:
        stock = self._store.stock(self.peer)
        lane = min(AUTH_LANES, key=lambda name: stock[name])
        return LowWater(self.peer, str(lane), stock[lane]) if stock[lane] < LOW_WATER_BITS else None

    def _held(self) -> bool:
        """Whether the next meeting has to wait for an operator."""
        low = self._low_lane()
        if low is None:
            self._lowest = LOW_WATER_BITS
        stands = low if low is not None and low.bits < self._lowest else None
        if stands is not None and self._hold is None:
            logger.error("%s", stands)
        self._hold = stands
        return stands is not None

    def offered(self, topic: str) -> None:
        """The agent saw a message on a topic of this peer that nobody opened yet."""
        is_line = topic.startswith(LINE_PREFIX) and topic.count("/") == 1
        if self._pair_end == "second" and is_line and self._offered.qsize() < OFFERS_KEPT:
            self._offered.put(topic)

    def meet_again(self) -> None:
        """Meet again between two jobs, because a new secret of the pair is there."""
        self._again.set()

    def submit(
        self,
        name: str,
        conversation: Callable[[Channel, PairEnd], T],
        patience_s: float,
        again: Callable[[Channel, PairEnd], object] | None = None,
    ) -> runtime.Future[T]:
        """Run ``conversation`` once the peer has a job of the same ``name``.

        The future fails with JobExpiredError if that does not happen within ``patience_s``, and with
        whatever the conversation raises.  A name is used by one job at a time (ValueError otherwise).

        A job with ``again`` is repeated after a failure of the line or of the peer until its patience is over, and
        answered with ``again`` when only the peer still needs it.
        """
        job = Job(name, conversation, self._clock() + patience_s, again)
        with self._lock:
            if name in self._jobs:
                raise ValueError(f"a job {name!r} with {self.peer} is waiting already")
            self._jobs[name] = job
        return job.future  # type: ignore[return-value]

    # -- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        now_about(pair=pair_name(self._store.ends(self.peer)))
        while not self._stop.is_set():
            self._expire()
            if self._pair_end == "first" and self._again.is_set():
                self._again.clear()
                self._drop_line()
            try:
                if self._line is None and not self._meet():
                    continue
                self._serve_line()
            except CONVERSATION_ERRORS as error:
                logger.info("line with %s dropped: %s", self.peer, error)
                self._wait_after_failure()
            except Exception:
                logger.exception("line with %s failed", self.peer)
                self._wait_after_failure()
        self._drop_line()

    def _wait_after_failure(self) -> None:
        self._drop_line()
        self._failures += 1
        wait_s, self._back_off = self._back_off.wait_s, self._back_off.failed()
        self._pause(wait_s if self._pair_end == "first" else POLL_S)

    def _meet(self) -> bool:
        """Open a fresh line and compare the stores; False when the peer is not there yet, or an operator is asked."""
        held = self._held()
        if held and not self._store.generations.kept(self.peer):
            self._pause(POLL_S)
            return False
        if self._pair_end == "first":
            if self.peer not in self._agent.peers:
                self._stop.wait(POLL_S)
                return False
            topic = LINE_PREFIX + random_hex(12)
            self._line = Line(topic, self._agent.channel(self.peer, topic))
            self._line.channel.send(encode(Greeting()))
        else:
            latest = self._newest_offer(wait_s=POLL_S)
            if latest is None:
                return False
            self._line = Line(latest, self._agent.channel(self.peer, latest))
            if not isinstance(self._read(self._line, MEETING_TIMEOUT_S), Greeting):
                raise WireError("a line must begin with a greeting")
        begun = settle_generation(
            self._store, self._line.channel, self._pair_end, self.peer, timeout_s=MEETING_TIMEOUT_S
        )
        if begun is not None:
            logger.info("generation %d with %s was begun", begun, self.peer)
            self._held()
        elif held:  # the peer has not taken its half of the new secret yet
            self._drop_line()
            self._pause(LONGEST_WAIT_S)
            return False
        topic = f"{self._line.name}/meeting"
        try:
            with self._store.letters(self.peer).meeting:
                settled = reconcile_pending(
                    self._store,
                    self._agent.channel(self.peer, topic),
                    self._pair_end,
                    self.peer,
                    timeout_s=MEETING_TIMEOUT_S,
                )
        finally:
            self._agent.close_channel(self.peer, topic)
        if settled.rolled_back or settled.burnt_bits:
            logger.warning(
                "meeting %s: %d bits burnt, restored from an old copy: %s",
                self.peer,
                settled.burnt_bits,
                settled.rolled_back or "nobody",
            )
        self.old_copy = settled.rolled_back or self.old_copy
        self._line.heard_s = self._clock()
        logger.info("met %s", self.peer)
        return True

    def _newest_offer(self, wait_s: float) -> str | None:
        try:
            topic = self._offered.get(timeout=wait_s) if wait_s else self._offered.get_nowait()
        except runtime.Empty:
            return None
        while not self._offered.empty():
            self._agent.close_channel(self.peer, topic)
            topic = self._offered.get()
        return topic

    def _serve_line(self) -> None:
        """One step on the line: tell, listen, run a job that both have."""
        line = self._line
        assert line is not None
        if self._pair_end == "second":
            if not self._offered.empty():
                raise WireError("the peer opened a new line")
            if self._again.is_set():
                self._again.clear()
                line.channel.send(encode(Again()))
            for name in [name for name in self._names() if name not in line.told]:
                line.channel.send(encode(Have(name)))
                line.told.add(name)
            for name in [name for name in self._done if name not in line.told_done]:
                line.channel.send(encode(Have(name, done=True)))
                line.told_done.add(name)
        try:
            message = self._read(line, POLL_S)
            line.heard_s = self._clock()
        except ChannelTimeoutError:
            message = None
        if isinstance(message, Have):
            line.heard(message)
        elif isinstance(message, Start) and self._pair_end == "second":
            self._run(line, message.job, message.n)
        elif isinstance(message, Again) and self._pair_end == "first":
            self._again.set()
        elif message is not None:
            raise WireError(f"unexpected {type(message).__name__} on the line")
        if self._pair_end == "first":
            for name in self._ready(line):
                line.peer_has.discard(name)
                number = line.jobs_started
                line.jobs_started += 1
                line.channel.send(encode(Start(name, number)))
                self._run(line, name, number)
                line.heard_s = self._clock()
            if self._clock() - line.heard_s > SILENT_S and self._wants_the_peer():
                self._again.set()  # the peer may have left this line, and its hanging up was withheld

    def _run(self, line: Line, name: str, number: int) -> None:
        with self._lock:
            job = self._jobs.pop(name, None)
            done = self._done.get(name)
        line.told.discard(name)
        if job is None and done is not None:
            job = Job(name, done, self._clock(), None)
        started = runtime.now()
        topic = f"{line.name}/{number}"
        channel = self._agent.channel(self.peer, topic)
        try:
            if job is None:
                raise ChannelTimeoutError(f"job {name!r} was given up here before it started")
            try:
                result = job.conversation(channel, self._pair_end)
            except IN_STEP_ERRORS as error:
                job.future.set_exception(error)
                return
            except RETRY_ERRORS as error:
                self._try_again(job, error)
                raise
            except BaseException as error:
                job.future.set_exception(error)
                raise
            job.future.set_result(result)
            self._completed(job)
            line.told_done.add(name)
        finally:
            with also_about(job.about if job else {}):
                logger.info("%s with %s: %.2f s", name[:40], self.peer, runtime.now() - started)
            self._agent.close_channel(self.peer, topic)

    def _try_again(self, job: Job, error: Exception) -> None:
        """Put a job that may be repeated back in its place; any other has failed."""
        with self._lock:
            if job.again is not None and self._clock() < job.expires_s and job.name not in self._jobs:
                self._jobs = {job.name: job, **self._jobs}
                return
        job.future.set_exception(error)

    def _completed(self, job: Job) -> None:
        self._back_off, self._failures = BackOff(), 0
        if job.again is not None:
            self._done[job.name] = job.again
            if len(self._done) > DONE_KEPT:
                self._done.popitem(last=False)

    def _read(self, line: Line, timeout_s: float) -> LineMessage:
        message: LineMessage = decode(line.channel.recv(timeout_s), LineMessage)
        return message

    def _ready(self, line: Line) -> list[str]:
        """Jobs that one end waits for and the other can run, oldest first."""
        waiting = self._names()
        ready = [name for name in waiting if name in line.peer_has or name in line.peer_did]
        return ready + [name for name in self._done if name in line.peer_has and name not in waiting]

    def _wants_the_peer(self) -> bool:
        """Whether something waits, and a line that is given up for it may be followed by another."""
        waits = self._names() or self._store.generations.kept(self.peer)
        return bool(waits) and self._low_lane() is None

    def _names(self) -> list[str]:
        """Waiting jobs, oldest first."""
        with self._lock:
            return list(self._jobs)

    def _expire(self) -> None:
        now = self._clock()
        with self._lock:
            late = [job for job in self._jobs.values() if job.expires_s <= now]
            for job in late:
                del self._jobs[job.name]
        for job in late:
            job.future.set_exception(JobExpiredError(f"{self.peer} was not ready for {job.name} in time"))

    def _drop_line(self) -> None:
        if self._line is not None:
            self._agent.close_channel(self.peer, self._line.name)
            self._line = None
