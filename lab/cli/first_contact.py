"""``qunetlab instruments record`` and ``replay``: the transcript of a session with an instrument, and what it proves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from drivers.catalogue import row
from drivers.links.transcript import Step, Transcript, TranscriptError, from_text
from lab.claims import claiming
from lab.runs.first_contact.against_driver import DriverReport, against_driver, make_driver
from lab.runs.first_contact.against_twin import TwinReport, against_twin
from lab.runs.first_contact.recording import recorded, run
from lab.runs.first_contact.session import settings, unique_name
from lab.runs.shown import echo
from lab.runs.testbeds.folder import find_testbed
from lab.testbed import InstrumentEntry, UnknownNameError, load_testbed

PROMPT = "> "


def record(
    name: str,
    address: str | None,
    out: Path,
    testbed: Path,
    options: Sequence[str],
    *,
    read_only: bool,
    interactive: bool,
    yes: bool,
) -> int:
    """Record a session with the instrument ``name`` of a testbed file, or with a model at ``address``.

    0 when every question got an answer, 3 when some did not, 1 when it was not agreed to.
    """
    if out.exists():
        raise ValueError(f"{out} is there already; a transcript is never written over")
    with ExitStack() as stack:
        if address is None:
            entry = _entry(find_testbed(testbed), name)
        else:
            entry = InstrumentEntry(
                name="first",
                model=row(name).model,
                owner="relay",
                address=address,
                options=dict(map(_option, options)),
            )
        stack.enter_context(claiming([entry], "qunetlab instruments record"))
        driver = make_driver(entry.model, unique_name(entry.name), entry.address, entry.options)
        stack.callback(driver.close)
        for line in _announced(entry, settings(driver), read_only=read_only, out=out):
            echo(line)
        if not yes and not typer.confirm("Go on?"):
            echo("not agreed; nothing was sent")
            return 1
        with recorded(driver, entry.model, entry.options, out, read_only=read_only) as (recorder, session):
            complete = run(recorder, session, _own_lines(sys.stdin) if interactive else (), tell=echo)
    echo(
        f"{out} holds the session{'' if complete else ', which did not get every answer'}; look at it before you send it"
    )
    return 0 if complete else 3


def _entry(path: Path, name: str) -> InstrumentEntry:
    entries = {entry.name: entry for entry in load_testbed(path).instruments}
    if name not in entries:
        raise UnknownNameError(
            f"no instrument {name!r} in {path}; it has {', '.join(entries)}; for one that is in no file give MODEL ADDRESS"
        )
    if not entries[name].has_address:
        raise ValueError(f"the address of {name} is 'auto'; write its address, or run `qunetlab simulate`")
    return entries[name]


def _option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` with a value as JSON has it, or else a text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"option {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _announced(
    entry: InstrumentEntry, writable: Sequence[str], *, read_only: bool, out: Path
) -> Iterator[str]:
    """What is about to happen, for whoever agrees to it."""
    yield f"A session with {entry.name} ({entry.model}) at {entry.address} is recorded in {out}:"
    if read_only:
        yield "* it is asked who it is, and for every parameter once; nothing is set"
    else:
        yield "* it is asked who it is and brought to its known state: what the driver's connect() sets, is set"
        yield "* every parameter is asked for once"
        names = ", ".join(writable) or "those of its channels"
        yield f"* every setting is written back with the value that was read, a switch only if it is off: {names}"
        yield "* it is made safe: no light, no bias, no output, shutters closed"
    yield "The file holds what passes on the wire, serial numbers too; no host names or addresses, no samples, no key."


def _own_lines(lines: Iterable[str]) -> Iterator[Step]:
    """What somebody types: a line with a ``?``, or behind ``ask``, is a question, any other is a command."""
    echo(
        "your own lines: 'ask TEXT', 'write TEXT', or TEXT alone, a question if it has a '?'; an empty line ends"
    )
    echo(PROMPT)
    for line in lines:
        text = line.strip()
        if not text:
            return
        word, _, rest = text.partition(" ")
        if word in ("ask", "write") and rest:
            yield Step(0.0, "ask" if word == "ask" else "write", rest.strip())
        else:
            yield Step(0.0, "ask" if "?" in text else "write", text)
        echo(PROMPT)


def replay(path: Path, only: str | None, as_json: bool) -> int:
    """Hold a transcript against driver and twin; 0 when both do as it says, 1 when something differs."""
    try:
        transcript = from_text(path.read_text(encoding="utf-8"))
    except (TranscriptError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    model = transcript.header.model
    has_twin = bool(row(model).twin)
    only = only or transcript.only
    driver = against_driver(transcript) if only != "twin" else None
    twin = against_twin(transcript) if only != "driver" and has_twin else None
    if as_json:
        report = {"model": model, "driver": driver and asdict(driver), "twin": twin and asdict(twin)}
        echo(json.dumps(report))
    else:
        for line in _told(transcript, driver, twin):
            echo(line)
    return 1 if (driver and driver.differences) or (twin and twin.differences) else 0


def _told(transcript: Transcript, driver: DriverReport | None, twin: TwinReport | None) -> Iterator[str]:
    header = transcript.header
    who = f"{header.identity.vendor} {header.identity.model}" if header.identity else header.model
    yield f"{who}, {f'from {header.source.repository}' if header.source else f'recorded {header.date}'}"
    if header.ended:
        yield f"the session ended early: {header.ended}"
    if driver is None:
        yield "driver: not asked, or it has no steps in this transcript"
    else:
        yield f"driver: {driver.steps} steps, {len(driver.differences)} differences"
        yield from (f"  {each}" for each in driver.differences)
    if twin is None:
        yield "twin:   not asked, or there is none"
        return
    yield f"twin:   {twin.answers} answers, {len(twin.differences)} differences"
    for each in twin.differences:
        yield f"  line {each.line}: {each.sent or '(unasked)'}"
        yield f"    instrument  {each.recorded}"
        yield f"    twin        {each.twin}"
