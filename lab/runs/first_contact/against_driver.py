"""A transcript against the driver: the instrument's part is played from the file, the driver does the steps again.

The driver must send what was sent, in the order of each link, and make of the answers what it made of them.  The first
difference of a link ends the replay, because nothing that follows has a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from drivers.base import LabInstrument
from drivers.catalogue import AddressKind, create_instrument, driver_class, row
from drivers.links.transcript import Header, LinkInfo, Outcome, Passed, Transcript
from lab.runs.first_contact.recording import redactor_for
from lab.runs.first_contact.session import Session, unique_name, what
from sim_backends.scripted import PEERS, Difference, InterbusManner, Manner, Peer, ScpiManner, Script


@dataclass(frozen=True)
class DriverReport:
    """How many ``steps`` were done again, and what differed, in words with the line of the transcript."""

    steps: int
    differences: tuple[str, ...]


def against_driver(transcript: Transcript) -> DriverReport | None:
    """Do the steps again; None for a transcript without any."""
    steps = list(transcript.steps())
    if not steps:
        return None
    header = transcript.header
    done, differences = 0, []
    with _peers(transcript) as peers:
        address, options = _places(header, peers)
        driver = make_driver(header.model, unique_name("replay"), address, options)
        with closing(driver):
            _require_all_links(driver, header)
            driver.leave_on()  # there is nothing that could be on
            session = Session(driver, read_only=steps[0][0].do != "connect")
            for step, then in steps:
                outcome = session.perform(step)
                done += 1
                if any(peer.script.difference for peer in peers):
                    break
                if then is not None and (text := _otherwise(outcome, then)):
                    differences.append(f"{what(step)}: {text}")
        scripts = [peer.script for peer in peers]
        found = [each for script in scripts if (each := script.difference)] or [
            each for script in scripts if (each := script.unfinished())
        ]
    return DriverReport(done, (*(_told(transcript, each) for each in found), *differences))


def make_driver(model: str, name: str, address: str, options: Mapping[str, Any]) -> LabInstrument:
    """The driver, not connected; ValueError for options that it does not have."""
    try:
        return create_instrument(model, name, address, **options)
    except TypeError as error:
        raise ValueError(f"the driver of {model} does not take these options: {error}") from error


def _require_all_links(driver: LabInstrument, header: Header) -> None:
    """ValueError when the driver has a link that the transcript has not: it would lead to a real instrument."""
    missing = driver.every_link().keys() - {info.option for info in header.links}
    if missing:
        raise ValueError(
            f"the transcript lacks the link of the driver's {', '.join(sorted(missing)) or 'address'}"
        )


@contextmanager
def _peers(transcript: Transcript) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        peers = []
        for number, info in enumerate(transcript.header.links):
            peer = PEERS[info.kind](_script(transcript, number, info))
            stack.callback(peer.close)
            peers.append(peer)
        yield peers


def _script(transcript: Transcript, number: int, info: LinkInfo) -> Script:
    passed = [
        (index, entry)
        for index, entry in enumerate(transcript.entries)
        if isinstance(entry, Passed) and entry.link == number
    ]
    return Script(
        number,
        passed,
        redactor_for(()),
        manner=_manner(transcript.header, info),
        by_connection=info.kind in ("visa", "tcp"),
    )


def _manner(header: Header, info: LinkInfo) -> Manner:
    if driver_class(header.model).FRAMING == "interbus":  # a source address that changes
        return InterbusManner()
    return ScpiManner() if header.source is not None and info.kind in ("visa", "zeromq") else Manner()


def _places(header: Header, peers: list[Peer]) -> tuple[str, dict[str, Any]]:
    """The address and the options with which a driver finds the peers."""
    options, address = dict(header.options), ""
    for info, peer in zip(header.links, peers, strict=True):
        if info.option.endswith("_port"):
            options[info.option] = int(peer.address.rpartition(":")[2])
        elif info.option:
            options[info.option] = peer.address
        else:
            visa = row(header.model).address is AddressKind.VISA
            address = f"TCPIP::{peer.address.replace(':', '::')}::SOCKET" if visa else peer.address
    return address, options


def _otherwise(outcome: Outcome, then: Outcome) -> str:
    """How ``outcome`` differs from what it was ``then``, in words; "" when it does not."""
    alike = (outcome.failed, outcome.kind) == (then.failed, then.kind)
    if alike and (then.kind or outcome.gave == then.gave):
        return ""
    return f"{_result(outcome)}, then it {_result(then)}"


def _result(outcome: Outcome) -> str:
    if outcome.failed:
        return f"raised {outcome.failed}"
    return f"gave some {outcome.kind}" if outcome.kind else f"gave {outcome.gave!r}"


def _told(transcript: Transcript, difference: Difference) -> str:
    line = "the end" if difference.entry is None else f"line {transcript.line_of(difference.entry)}"
    option = transcript.header.links[difference.link].option
    where = f"{line} ({option})" if option else line
    return f"{where}: sent {difference.sent}, then it was {difference.expected}"
