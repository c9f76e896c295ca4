"""The base of all links: one conversation with one instrument, whose state is known or doubted, never guessed.

**Exchanges.**  ``with link.exchange():`` is one question with its whole answer, parsing included.  From its first byte
until it ends well the link is *suspect*: whatever breaks in - a stop button, a time-out, garbage, a parser's
ValueError - leaves it so, and the next exchange begins on a fresh line, so that no reply ever answers another
question.  Only a refusal (InstrumentRefusedError) is a complete answer.  Exchanges do not nest.

**Restarts.**  After a time-out, an end of the stream, bytes that make no sense, or a reconnect that a library made by
itself, the instrument may have restarted with other settings.  Then the driver's ``bring_up`` runs on the fresh line
before anything else is sent.  A link that was never opened is opened by its first use; one that :meth:`Link.close`
closed stays closed until :meth:`Link.open`.

**Interruptions.**  Whose turn it is, is known without anything that a stop button could leave wrong
(:mod:`drivers.links.turns`).

**Urgency.**  ``with link.urgent():`` is for the safe state.  It waits for nobody: a thread that waits for a reply gives
up with PreemptedError within :data:`SLICE_S`, one that does not is cut off after :data:`GRACE_S`, and a transaction
begun earlier sends nothing more.  The line is fresh, the instrument is not brought up first, and a link that was not
open is opened for the purpose.

**Waiting** for an instrument to finish holds nothing: :meth:`Link.wait_until` asks again and again in exchanges of its
own.

The manner of telling closed, broken and busy apart is that of anyio; making sure by identity after trouble, ophyd's.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal, TypeVar

from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    PreemptedError,
)
from drivers.links.turns import Hold, Turns

log = logging.getLogger(__name__)

SLICE_S = 0.05
"""A thread that waits for a reply looks this often whether somebody urgent wants the link."""
GRACE_S = 0.2
"""How long somebody urgent waits for the holder of the link before cutting it off."""
HASTE_S = 0.4
"""What opening a line or a reply may take when an instrument is made safe, until the last attempt."""
KNOCKS = 15
KNOCK_S = 0.02
"""How often, and at what distance, an instrument that refuses the line is tried by somebody urgent."""
WAIT_S = 600.0
"""How long the link is waited for: longer than any instrument takes for one answer."""
PROGRESS_S = 10.0
"""A wait that lasts says so this often."""

NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xff]")
"""Bytes of no text, in ASCII or Latin-1 (0xFF is a letter there, and what a dead line gives)."""

_Error = TypeVar("_Error", bound=InstrumentError)
Direction = Literal["opened", "sent", "block", "received"]
Tap = Callable[[Direction, bytes], None]
"""Sees what passes: the bytes sent and received; of a block of samples only its length, in digits."""


class Link(ABC):
    """``timeout_s`` bounds a reply unless the caller knows better; ``clock`` serves deadlines.

    ``bring_up`` is the driver's: called with a usable line whenever the instrument may have restarted, and when the
    link is opened.
    """

    def __init__(
        self,
        address: str,
        *,
        instrument: str,
        timeout_s: float,
        bring_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.bring_up = bring_up
        self.tap: Tap | None = None
        self.renewed = 0
        """How many fresh lines there have been."""
        self.instrument = instrument
        self._clock = clock
        self._turns = Turns()
        self._wanted: bool | None = None  # None: never opened
        self._sound = False
        self._brought_up = False
        self._bringing_up: int | None = None  # the thread that does
        self._hasty = False

    # What a kind of link is made of

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the line is open on our side."""

    @abstractmethod
    def _open(self, timeout_s: float) -> None:
        """Open the line; LinkBrokenError or LinkTimeoutError when that fails."""

    @abstractmethod
    def _close(self) -> None:
        """Close the line if it is open; may be called from another thread than the one that uses it."""

    def _freshen(self, timeout_s: float) -> None:
        """Make sure that nothing said so far is ever read: by default on a new connection."""
        self._close()
        self._open(timeout_s)

    def _trouble(self) -> str:
        """Why the open line cannot be used as it is, seen without asking; "" when nothing is wrong."""
        return ""

    def prepare(self) -> None:  # noqa: B027 - most kinds need nothing
        """Load what opening takes, so that it is quick; nothing is opened."""

    # Opening and closing

    def open(self) -> None:
        """Open the link afresh and bring the instrument up; closed again when that fails."""
        with self.transaction():
            self._forget()
            self._wanted = True
            try:
                self._renew()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the link; closing twice does no harm."""
        with self.transaction():
            self._wanted = False
            self._forget()

    def _forget(self) -> None:
        self._sound = self._brought_up = False
        self._close()

    # Exchanges

    def transaction(self) -> AbstractContextManager[None]:
        """Hold the link for several exchanges that belong together; PreemptedError once somebody urgent came."""
        return _Transaction(self, Hold(1))

    def exchange(self) -> AbstractContextManager[None]:
        """Hold the link for one question and its answer, on a line where nothing else is under way."""
        return _Exchange(self, Hold(1))

    def _begin(self, hold: Hold) -> None:
        if why := self._turns.take(hold, WAIT_S):
            raise self._preempted() if why == "cut" else self._held_up("uses the link")
        if self._turns.depth == 1 and self._bringing_up == threading.get_ident():
            self._bringing_up = None  # a bring-up that was broken off
        self._check_turn()

    def _held_up(self, what: str) -> NotReadyError:
        return self.error(
            NotReadyError,
            f"another thread {what} and does not end; end it, or disconnect and connect again; nothing was sent",
        )

    def _judge(self, error: BaseException | None) -> None:
        """What the end of an exchange tells of the line: sound only after a whole answer."""
        if error is None or isinstance(error, InstrumentRefusedError):
            self._sound = self._turns.has_turn
        elif isinstance(error, LinkTimeoutError | MalformedReplyError):
            self._brought_up = False
        elif isinstance(error, LinkBrokenError | LinkClosedError) and self._turns.has_turn:
            self._forget()

    def _make_ready(self) -> None:
        urgent = self._turns.is_urgent
        if self._wanted is False and not urgent:
            raise self.error(LinkClosedError, "the link is closed; call connect() first")
        if self._sound and self.is_open:
            self._sound = False  # whoever breaks in while the line is looked at has taken something from it
            if trouble := self._look():
                log.warning("%s at %s: %s", self.instrument, self.address, trouble)
                self._forget()
            else:
                self._sound = True
        if urgent or self._bringing_up == threading.get_ident():
            self._make_line()
            return
        self._wanted = True
        if not (self._sound and self._brought_up and self.is_open):
            self._renew()

    def _look(self) -> str:
        try:
            return self._trouble()
        except LinkError as error:  # nobody asked yet, so it is nobody's error
            return f"what came unasked is lost ({error})"

    def _make_line(self) -> None:
        """An open line on which nothing is under way."""
        timeout_s = self.limit_s(self.timeout_s)
        if not self.is_open:
            self._brought_up = False
            self._open(timeout_s)
        elif not self._sound:
            self._freshen(timeout_s)
        else:
            return
        self.renewed += 1
        self._sound = True
        self._seen("opened", b"")

    def _renew(self) -> None:
        """A sound line, and the instrument brought up unless it cannot have restarted."""
        self._make_line()
        if self._brought_up:
            return
        if self.bring_up is not None:
            self._bringing_up = threading.get_ident()
            try:
                self.bring_up()
            finally:
                if self._bringing_up == threading.get_ident():
                    self._bringing_up = None
            if self._sound and (trouble := self._look()):
                self._forget()
                raise self.error(LinkBrokenError, f"{trouble} while it was set up")
            log.info("%s at %s: set up", self.instrument, self.address)
        self._brought_up = self._sound

    # Urgency

    def urgent(self) -> AbstractContextManager[None]:
        """Hold the link before everybody else but others as urgent, with a usable line; see the module."""
        return _Urgent(self, Hold(1))

    def urgently(self, action: Callable[[], None]) -> None:
        """Do ``action`` before everybody else: hastily, and after a LinkError once more on a fresh line with all time.

        An instrument that cannot be reached may be so for a moment only, and is tried :data:`KNOCKS` times.
        """
        with self.urgent():
            for knock in range(KNOCKS):
                self._hasty = True
                try:
                    action()
                    return
                except LinkError as error:
                    if not knock:
                        log.warning("%s; trying again", error)
                    if not isinstance(error, LinkBrokenError):
                        break
                finally:
                    self._hasty = False
                time.sleep(KNOCK_S)
            action()

    def _seize(self, hold: Hold) -> None:
        """Hold the link: handed over by its holder, or taken away from one that does not answer."""
        if self._turns.come_urgently(hold, WAIT_S):
            raise self._held_up("makes the instrument safe")
        if not self._turns.take_urgently(hold, GRACE_S):
            return
        log.warning("%s at %s: the link is taken from a thread that holds it", self.instrument, self.address)
        self._forget()
        if self._turns.take_urgently(hold, GRACE_S):
            self._turns.cut(hold)
            self._forget()

    def _check_turn(self) -> None:
        if not self._turns.has_turn:
            raise self._preempted()

    def _preempted(self, what: str = "") -> PreemptedError:
        return self.error(PreemptedError, f"{what}given up, because the instrument was made safe meanwhile")

    # Waiting

    @property
    def urgencies(self) -> int:
        """How often somebody made the instrument safe, as this thread's transaction knows; read it inside, at its end."""
        return self._turns.my_epoch

    def wait_until(
        self,
        done: Callable[[], bool],
        timeout_s: float,
        what: str,
        *,
        since: int | None = None,
        poll_s: float = 5e-3,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask ``done`` until it says so, holding nothing in between; ``what`` is being done, for messages.

        ``since`` is :attr:`urgencies` of the moment when it was begun, by default of this one.

        Raises NotReadyError after ``timeout_s``, PreemptedError when the instrument was made safe meanwhile.
        """
        begun, epoch = self._clock(), self._turns.epoch if since is None else since
        told = begun
        while not done():
            if self._turns.epoch != epoch:
                raise self._preempted(f"{what}: ")
            now = self._clock()
            if now >= begun + timeout_s:
                raise self.error(NotReadyError, f"{what}: not done after {timeout_s:.1f} s")
            if now >= told + PROGRESS_S:
                told = now
                self._tell_progress(what, now - begun, timeout_s)
            pause(poll_s)

    def _tell_progress(self, what: str, waited_s: float, timeout_s: float) -> None:
        log.info(
            "%s at %s: %s: %.0f of at most %.0f s", self.instrument, self.address, what, waited_s, timeout_s
        )

    # Help for kinds of links and drivers

    def limit_s(self, timeout_s: float) -> float:
        """``timeout_s``, or less in haste."""
        return min(timeout_s, HASTE_S) if self._hasty and self._turns.is_urgent else timeout_s

    def deadline(self, timeout_s: float | None = None) -> float:
        """When a reply is late that may take ``timeout_s``, by default the link's."""
        return self._clock() + self.limit_s(self.timeout_s if timeout_s is None else timeout_s)

    def slices(self, deadline: float) -> Iterator[float]:
        """Waiting times until ``deadline``, of at most :data:`SLICE_S` and at least one, each while it is our turn."""
        begun = told = self._clock()
        while True:
            self._check_turn()
            now = self._clock()
            if now >= told + PROGRESS_S:
                told = now
                self._tell_progress("a reply", now - begun, deadline - begun)
            left_s = deadline - now
            yield max(min(left_s, SLICE_S), 0.0)
            if left_s <= 0:
                return

    def now(self) -> float:
        """This link's clock, for deadlines."""
        return self._clock()

    def one_line(self, text: str) -> str:
        """``text`` as somebody wrote it, when it is one line of ASCII: anything else would be several questions, or none.

        Raises LimitError otherwise.
        """
        if not text.strip() or not text.isascii() or not text.strip().isprintable():
            raise self.error(
                LimitError, f"{text[:40]!r} is not one line of printable ASCII; nothing was sent"
            )
        return text

    def error(self, kind: type[_Error], text: str) -> _Error:
        """An error of ``kind`` that names the instrument and this link's address."""
        return kind(text, instrument=self.instrument, address=self.address)

    def _seen(self, direction: Direction, data: bytes) -> None:
        if self.tap is not None:
            self.tap(direction, data)


class _Transaction(AbstractContextManager[None]):
    """A ``with`` that holds a link.

    What can be broken off gives the turn back twice; nothing comes between the last store of ``__enter__`` and the block.
    """

    def __init__(self, link: Link, hold: Hold) -> None:
        self.link, self.hold = link, hold

    def __enter__(self) -> None:
        try:
            self._begin()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._settle(error)
        finally:
            self._end()

    def _begin(self) -> None:
        self.link._begin(self.hold)

    def _settle(self, error: BaseException | None) -> None:
        """What there is to do at the end before the turn is given back."""

    def _end(self) -> None:
        try:
            self.link._turns.give_back(self.hold)
        except BaseException:
            self.link._turns.give_back(self.hold)
            raise


class _Exchange(_Transaction):
    def _begin(self) -> None:
        super()._begin()
        self.link._make_ready()
        self.link._sound = False

    def _settle(self, error: BaseException | None) -> None:
        self.link._judge(error)


class _Urgent(_Transaction):
    def _begin(self) -> None:
        self.wanted = self.link._wanted
        self.link._seize(self.hold)

    def _settle(self, error: BaseException | None) -> None:
        if not self.wanted:
            self.link._forget()
