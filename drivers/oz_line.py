"""Questions to an OZ Optics instrument on its serial line, whose replies carry no mark of which question they answer.

After any trouble, and when something came that nobody asked for, the line *gets in step*: it asks the *marker*, a question
whose answer no other question has, skips replies until that comes, and waits for what may be later still.  What somebody else
left unended on the line makes one command with the marker, which is refused: then it is asked once more.  A unit whose motor runs answers when it has
arrived, so getting in step may have to wait for a move that somebody gave up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

from drivers.links.errors import (
    InstrumentRefusedError,
    LinkTimeoutError,
    MalformedReplyError,
    WrongInstrumentError,
)
from drivers.links.serial_link import SerialLink
from drivers.oz_replies import Reply, ReplyError, ReplyReader

logger = logging.getLogger(__name__)

T = TypeVar("T")


class OzLine:
    """The questions and answers over ``link``.

    ``is_marked`` knows the answer to ``marker``, ``typical`` says in words what it looks like; commands end in ``end``.
    """

    def __init__(
        self,
        link: SerialLink,
        *,
        model: str,
        marker: str,
        is_marked: Callable[[Reply], bool],
        typical: str,
        end: bytes,
    ) -> None:
        self._link = link
        self._model = model
        self._marker = marker
        self._is_marked = is_marked
        self._typical = typical
        self._end = end
        self._in_step_with = -1  # the line on which the last reply was read
        self._rests_at = -math.inf  # when a motor that was sent somewhere has surely arrived

    def ask(self, command: str, read: Callable[[Reply], T], wait_s: float | None = None) -> T:
        """Send ``command`` and ``read`` its reply, which may take ``wait_s``.

        Raises InstrumentRefusedError on an error line, MalformedReplyError when ``read`` raises ReplyError.
        """
        link = self._link
        wait_s = link.timeout_s if wait_s is None else wait_s
        with link.exchange():
            reply = self._get_in_step()
            if reply is None or command != self._marker:
                self._write(command, wait_s)
                try:
                    reply = self._next_reply(link.now() + wait_s, command)
                except LinkTimeoutError as error:
                    raise link.error(
                        LinkTimeoutError, f"{command!r} was not done within {wait_s:g} s"
                    ) from error
                self._answered()
            if reply.refusal:
                raise link.error(InstrumentRefusedError, f"{command!r} was refused: {reply.refusal}")
            try:
                return read(reply)
            except ReplyError as error:
                raise link.error(MalformedReplyError, str(error)) from error

    def send(self, command: str, wait_s: float) -> None:
        """Send ``command``, which may take ``wait_s``, and leave its reply for later."""
        with self._link.exchange():
            self._write(command, wait_s)

    def may_move_for(self, wait_s: float) -> None:
        """Somebody else may have sent the motor away a moment ago."""
        self._rests_at = max(self._rests_at, self._link.now() + wait_s)

    def _write(self, command: str, wait_s: float) -> None:
        self._in_step_with = -1
        self._rests_at = max(self._rests_at, self._link.now()) + wait_s
        self._link.write(command.encode("ascii") + self._end)

    def _answered(self) -> None:
        self._in_step_with = self._link.renewed
        self._rests_at = -math.inf

    def _get_in_step(self) -> Reply | None:
        """Skip replies to what was asked before; returns the marker's answer if it had to be asked for."""
        link = self._link
        if self._in_step_with == link.renewed and not self._unasked():
            return None
        give_up = max(self._rests_at, link.now() + link.timeout_s)
        while True:
            link.write(self._marker.encode("ascii") + self._end)
            skipped: list[Reply] = []
            try:
                found = self._skip_to_marked(min(link.now() + link.timeout_s, give_up), skipped)
                break
            except LinkTimeoutError as error:  # lost, or the motor still runs: ask again
                if link.now() >= give_up:
                    raise (self._other_instrument(skipped[-1]) if skipped else error) from error
                logger.info(
                    "%s at %s: no answer yet; the motor may be under way", link.instrument, link.address
                )
        link.throw_away_late()
        self._answered()
        return found

    def _other_instrument(self, reply: Reply) -> Exception:
        said = reply.refusal or list(reply.lines[:3])
        return self._link.error(
            WrongInstrumentError,
            f"{self._marker} is answered without {self._typical} ({said}); this is no {self._model}, correct the address or "
            "the model",
        )

    def _unasked(self) -> bytes:
        """What came since the last reply, apart from the empty line that ends it: nothing, unless it came twice."""
        link = self._link
        try:
            unasked = link.read_some(link.now()).strip()
        except LinkTimeoutError:
            return b""
        if unasked:
            logger.warning("%s at %s: %d bytes came unasked", link.instrument, link.address, len(unasked))
        return unasked

    def _skip_to_marked(self, deadline: float, skipped: list[Reply]) -> Reply:
        while True:
            reply = self._next_reply(deadline, self._marker)
            if self._is_marked(reply):
                return reply
            if reply.refusal and not any(each.refusal for each in skipped):
                self._link.write(self._marker.encode("ascii") + self._end)
            skipped.append(reply)

    def _next_reply(self, deadline: float, command: str) -> Reply:
        """The next reply; the answer to a marker that was asked for more than once is passed over."""
        reader = ReplyReader(command)
        while True:
            try:
                reply = reader.feed(self._link.read_line(deadline))
            except ReplyError as error:
                raise self._link.error(MalformedReplyError, str(error)) from error
            if reply is not None and (command == self._marker or not self._is_marked(reply)):
                return reply
