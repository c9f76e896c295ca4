"""The recorder of a session: listens on every link of a driver and keeps a transcript that is whole after each step."""

from __future__ import annotations

import getpass
import importlib.metadata
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from drivers.base import LabInstrument
from drivers.links.addresses import host_of
from drivers.links.link import Direction, Link
from drivers.links.scpi_visa import ScpiLink
from drivers.links.serial_link import SerialLink
from drivers.links.transcript import (
    VERSION,
    Entry,
    Header,
    LinkInfo,
    LinkKind,
    Outcome,
    Passed,
    Recorded,
    Redactor,
    Step,
    to_text,
    without_blocks,
)
from drivers.links.zmq_reqrep import RequestLink
from lab.runs.first_contact.session import Session, what
from lab.runs.made_safe import sentence
from orchestrator.durable import replace_file
from orchestrator.events.process import MadeSafe

logger = logging.getLogger(__name__)

SHORT_NAME = 4
"""Shorter names of machines are words of other meanings too."""
KINDS: tuple[tuple[type[Link], LinkKind], ...] = (
    (ScpiLink, "visa"),
    (SerialLink, "serial"),
    (RequestLink, "zeromq"),
    (Link, "tcp"),
)
STREAMS = ("tcp", "serial")
"""Kinds of links without messages."""


def kind_of(link: Link) -> LinkKind:
    """The kind of a link."""
    return next(name for kind, name in KINDS if isinstance(link, kind))


def redactor_for(addresses: Iterable[str]) -> Redactor:
    """Takes out the hosts of ``addresses``, the paths of serial ports, and the names of this machine and its user."""
    names = {str(Path.home()), "localhost"}
    if len(machine := socket.gethostname()) >= SHORT_NAME:
        names.add(machine)
    with suppress(OSError, KeyError):  # a user without a name
        names.add(str(Path("/home") / getpass.getuser()))
    for address in addresses:
        names.update((host_of(address), address if "/" in address else ""))
    return Redactor(names - {"", "/"})


class Recorder:
    """Keeps what passes on the links of ``driver`` of ``model``; ``options`` are those that it was made with.

    Links are tapped until :meth:`close`.  ``keep`` gets the whole content of the file after each step.
    """

    def __init__(
        self,
        driver: LabInstrument,
        model: str,
        options: Mapping[str, Any],
        keep: Callable[[str], object],
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = driver.every_link()
        self._driver = driver
        self._keep = keep
        self._clock = clock
        self._begun = clock()
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._redactor = redactor_for(link.address for link in self._links.values())
        self._ended = ""
        self._header = Header(
            transcript=VERSION,
            model=model,
            driver=f"{type(driver).__module__}:{type(driver).__qualname__}",
            qunetlab=importlib.metadata.version("qunetlab"),
            date=datetime.now(UTC).date().isoformat(),
            links=tuple(LinkInfo(option, kind_of(link)) for option, link in self._links.items()),
            options={
                name: self._cleaned(value) for name, value in options.items() if name not in self._links
            },
            read_only=read_only,
        )
        for number, link in enumerate(self._links.values()):
            link.tap = self._tap(number, kind_of(link))

    def close(self) -> None:
        """Listen no more."""
        for link in self._links.values():
            link.tap = None

    def perform(self, session: Session, step: Step) -> Outcome:
        """Do ``step``, keep it with its outcome, and save; what breaks in is kept too, and raised."""
        clean = self._redactor.text
        self._add(Step(self._now(), step.do, clean(step.name), self._cleaned(step.value)))
        try:
            outcome = session.perform(step)
        except BaseException as error:
            self._add(Outcome(self._now(), failed=type(error).__name__))
            self._ended = clean(f"{type(error).__name__} in {what(step)}")
            self.save()
            raise
        self._add(Outcome(self._now(), self._cleaned(outcome.gave), outcome.kind, outcome.failed))
        self.save()
        return outcome

    def end(self, why: str) -> None:
        """The session ends early."""
        self._ended = self._redactor.text(why)
        self.save()

    def save(self) -> None:
        """Have the file written as it is so far."""
        found = self._driver.identity
        identity = (
            Recorded(
                *map(self._redactor.text, (found.vendor, found.model, found.serial_number, found.firmware))
            )
            if found
            else None
        )
        with self._lock:
            header = msgspec.structs.replace(self._header, identity=identity, ended=self._ended)
            self._keep(to_text(header, map(self._redacted, self._entries)))

    def _redacted(self, entry: Entry) -> Entry:
        if isinstance(entry, Passed) and entry.direction != "block":
            return msgspec.structs.replace(entry, data=self._redactor.clean(entry.data))
        return entry

    def _tap(self, link: int, kind: LinkKind) -> Callable[[Direction, bytes], None]:
        def tap(direction: Direction, data: bytes) -> None:
            whole = kind in ("visa", "zeromq") and direction != "block"
            for is_block, part in without_blocks(data) if whole else [(False, data)]:
                self._add(Passed(self._now(), link, "block" if is_block else direction, part))

        return tap

    def _add(self, entry: Entry) -> None:
        """Keep an entry; what a stream delivers in pieces is one, so that no name is hidden in two of them."""
        with self._lock:
            match self._entries[-1:], entry:
                case [Passed(direction="received") as before], Passed(direction="received") if (
                    before.link == entry.link and self._header.links[entry.link].kind in STREAMS
                ):
                    self._entries[-1] = msgspec.structs.replace(before, data=before.data + entry.data)
                case _:
                    self._entries.append(entry)

    def _now(self) -> float:
        return self._clock() - self._begun

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._cleaned(each) for each in value]
        return self._redactor.text(value) if isinstance(value, str) else value


@contextmanager
def recorded(
    driver: LabInstrument, model: str, options: Mapping[str, Any], out: Path, *, read_only: bool
) -> Iterator[tuple[Recorder, Session]]:
    """A recorder that keeps its transcript in the file ``out``, and the session; the driver's links end with it."""
    session = Session(driver, read_only=read_only)
    recorder = Recorder(
        driver, model, options, lambda text: replace_file(out, text.encode("utf-8")), read_only=read_only
    )
    recorder.save()
    try:
        yield recorder, session
    finally:
        recorder.close()
        driver.close()


LOST = ("LinkBrokenError", "LinkTimeoutError", "LinkClosedError", "MalformedReplyError")
MAX_LOST = 3
"""A session ends early after so many steps in a row that got no answer, or none that makes sense."""


def run(
    recorder: Recorder,
    session: Session,
    more: Iterable[Step] = (),
    tell: Callable[[str], object] = logger.warning,
) -> bool:
    """Record a whole session, with the steps ``more`` before its end; whether every step got an answer, a refusal or not.

    An instrument that was identified is made safe at the end, whatever happened, unless the session only reads.
    ``tell`` gets a line for each step that failed.
    """
    lost = in_a_row = 0
    safe, interrupted = True, False
    try:
        for step in chain(session.plan(), more):
            failed = recorder.perform(session, step).failed
            if failed:
                tell(f"{what(step)}: {failed}: {session.reason}")
            in_a_row = in_a_row + 1 if failed in LOST else 0
            lost += failed in LOST
            if in_a_row == MAX_LOST or (failed and step.do in ("connect", "identify")):
                recorder.end(f"{failed} in {what(step)}")
                return False
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not session.read_only and session.driver.identity is not None:
            failed = recorder.perform(session, Step(0.0, "safe_state")).failed
            safe = not failed
            if failed:
                tell(f"it could not be made safe: {failed}: {session.reason}")
            elif interrupted:
                tell(sentence({"": MadeSafe((session.driver.name.rpartition("_")[0],))}))
    return safe and not lost
