"""A transcript against the twin: what was sent is sent again, and each answer must have the shape of the recorded one.

Links are opened, and bytes sent, in the order and at the pace of the file; pauses of people are cut short.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from drivers.catalogue import row
from drivers.links.byte_link import ByteLink
from drivers.links.errors import LinkTimeoutError
from drivers.links.link import Direction, Link
from drivers.links.serial_link import SerialLink
from drivers.links.tcp_link import TcpLink
from drivers.links.transcript import HOST, LinkInfo, Passed, Transcript
from drivers.links.websq_json import SEPARATOR
from drivers.links.zmq_reqrep import RequestLink
from lab.runs.first_contact.shapes import apt_messages, differs, shape_of, words
from lab.runs.testbeds.folder import template_path
from lab.testbed import InstrumentEntry, Testbed, load_testbed
from sim_backends.bench import Bench
from sim_backends.bench_addresses import parse_address

BAUDRATE = 115200
"""Of a pseudo-terminal; it has none."""
LONGEST_PAUSE_S = 1.0
REPLY_S = 1.0
"""How long an answer may take beyond the time that it took then, unless told otherwise."""
QUIET_S = 0.01
"""So long a stream of messages without a number is listened to."""


@dataclass(frozen=True)
class OtherAnswer:
    """An answer of the twin that differs: the line of the transcript, what was sent, and both shapes in words."""

    line: int
    sent: str
    recorded: str
    twin: str


@dataclass(frozen=True)
class TwinReport:
    """How many ``answers`` were compared, and those that differ."""

    answers: int
    differences: tuple[OtherAnswer, ...]


def against_twin(transcript: Transcript, *, reply_s: float = REPLY_S) -> TwinReport:
    """Say to a fresh twin what was said to the instrument; an answer may take ``reply_s`` longer than it did then."""
    header = transcript.header
    testbed, entry = alone(header.model)
    with Bench(testbed, only=(entry.name,)) as bench, ExitStack() as stack:
        links = []
        for number, info in enumerate(header.links):
            links.append(_TwinLink(_client(info, number, entry, bench), partly=header.source is not None))
            stack.callback(links[-1].link.close)
        at_s, done = 0.0, time.monotonic()
        for index, passed in enumerate(transcript.entries):
            if isinstance(passed, Passed):
                took_s, at_s = passed.at_s - at_s, passed.at_s
                if passed.direction != "received":
                    time.sleep(max(0.0, done + min(took_s, LONGEST_PAUSE_S) - time.monotonic()))
                links[passed.link].pass_on(transcript.line_of(index), passed, took_s + reply_s)
                done = time.monotonic()
        for each in links:
            each.compare()
        differences = sorted(
            (other for each in links for other in each.differences), key=lambda other: other.line
        )
        return TwinReport(sum(each.answers for each in links), tuple(differences))


def alone(model: str) -> tuple[Testbed, InstrumentEntry]:
    """A testbed with an instrument of ``model``, which gets 10 MHz, and that instrument."""
    testbed = load_testbed(template_path("simulated-four-node"))
    for entry in testbed.instruments:
        if entry.model == model:
            return testbed, entry
    entry = InstrumentEntry(name="twin", model=model, owner="relay")
    cabling = testbed.cabling.model_copy(update={"reference": (*testbed.cabling.reference, entry.name)})
    instruments = (*testbed.instruments, entry)
    return testbed.model_copy(update={"instruments": instruments, "cabling": cabling}), entry


def _client(info: LinkInfo, number: int, entry: InstrumentEntry, bench: Bench) -> Link:
    """A link of ours to the twin that brings up nothing."""
    address = bench.addresses[entry.name]
    place, given = parse_address(address), bench.options.get(entry.name, {}).get(info.option)
    if info.kind == "serial" or place is None:
        return SerialLink(address, baudrate=BAUDRATE, instrument="twin")
    host, port = place.host, place.port or row(entry.model).ports[number]
    if isinstance(given, str):
        host, _, text = given.partition(":")
        port = int(text)
    elif given is not None:
        port = given
    elif number:
        port = row(entry.model).ports[number]
    if info.kind == "zeromq":
        return RequestLink(host, port, instrument="twin")
    return TcpLink(host, port, instrument="twin", talkative=True)


class _TwinLink:
    """One link to the twin, and the exchange that is under way on it."""

    def __init__(self, link: Link, *, partly: bool) -> None:
        self.link = link
        self.answers = 0
        self.differences: list[OtherAnswer] = []
        self._partly = partly
        self._line = 0
        self._sent = self._recorded = self._found = b""
        link.tap = self._tap

    def pass_on(self, line: int, passed: Passed, wait_s: float) -> None:
        """Do with the twin what was done with the instrument; an answer is awaited for ``wait_s``."""
        if passed.direction == "received":
            self._line = self._line or line
            self._recorded += passed.data
            self._hear(wait_s)
            return
        if self._recorded or passed.direction == "opened":
            self.compare()
        if passed.direction == "opened":
            if isinstance(self.link, TcpLink):
                self.link.open()
        else:
            self._line = self._line or line
            self._say(bytes(int(passed.data)) if passed.direction == "block" else passed.data)

    def compare(self) -> None:
        """The exchange is over: hold its answers against each other."""
        self._catch_up()
        if self._recorded or self._found:
            self.answers += 1
            recorded, found = self._recorded, self._found
            if not self._sent:  # said by itself, again and again
                recorded, found = (each[: each.find(b"\n") + 1] for each in (recorded, found))
            shapes = shape_of(recorded, self._sent), shape_of(found, self._sent)
            if differs(*shapes, partly=self._partly):
                sent = self._sent.decode("latin-1").encode("unicode_escape").decode("ascii")[:80]
                self.differences.append(OtherAnswer(self._line, sent, *map(words, shapes)))
        self._sent = self._recorded = self._found = b""
        self._line = 0

    def _say(self, data: bytes) -> None:
        self._sent += data
        if isinstance(self.link, ByteLink):
            if not self.link.is_open:
                self.link.open()
            self.link.write(data)
        elif isinstance(self.link, RequestLink):
            with suppress(LinkTimeoutError):  # silence is an answer too
                self.link.request(data.decode().replace(HOST, self.link.host))

    def _hear(self, wait_s: float) -> None:
        """Listen until as many lines or messages came as were recorded, for ``wait_s`` at most."""
        link = self.link
        if not isinstance(link, ByteLink):
            return
        end = SEPARATOR if SEPARATOR in self._recorded else b"\n"
        deadline = link.now() + wait_s
        with suppress(LinkTimeoutError):
            while apt_messages(self._recorded) and len(self._found) < len(self._recorded):  # no ends of lines
                link.read_some(deadline)
            while self._found.count(end) < self._recorded.count(end):
                link.read_some(deadline)
            while end == SEPARATOR:  # the twin may have other labels
                link.read_some(link.now() + QUIET_S)

    def _catch_up(self) -> None:
        """What the twin has said by now beyond what was recorded."""
        if isinstance(self.link, ByteLink) and self.link.is_open:
            with suppress(LinkTimeoutError):
                while True:
                    self.link.read_some(self.link.now())

    def _tap(self, direction: Direction, data: bytes) -> None:
        if direction == "received":
            self._found += data
