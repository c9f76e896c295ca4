"""Looking for instruments: who answers on VISA, on serial ports and at hosts, and which model of the catalogue it is.

A look is polite.  It asks who is there and nothing else, so that no setting changes: a link without the driver's
``bring_up``, one identity question, closed again.  What another process has claimed (:mod:`lab.claims`) is not asked, a
serial port that another program has is not opened.  Every question has the time limit of its link; hosts are asked
only at ports that accept a connection.

SCPI instruments all take ``*IDN?``, so one question finds the model; the others are asked by each driver that speaks
over such a line, until one knows the answer.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count

import pyvisa

from drivers import catalogue
from drivers.base import Identity
from drivers.catalogue import AddressKind, Row, create_instrument, driver_class
from drivers.links import serial_ports
from drivers.links.addresses import HISLIP_PORT, VXI11_PORT, host_of
from drivers.links.errors import InstrumentError, LinkBrokenError, LinkTimeoutError
from drivers.links.scpi_visa import ScpiLink, resource_manager
from lab.claims import OwnedError, claiming
from lab.consistency import meant
from lab.testbed import InstrumentEntry

logger = logging.getLogger(__name__)

ANSWER_S = 1.0
"""How long one question may take."""
_numbers = count(1)


@dataclass(frozen=True)
class Place:
    """Where to look: an address, the rows of the catalogue that may be there, and what is known of it beforehand."""

    address: str
    rows: tuple[Row, ...]
    about: str = ""


@dataclass(frozen=True)
class Found:
    """What a look found: ``model`` is that of the catalogue, ``name`` that of the testbed file; empty where unknown."""

    address: str
    identity: Identity | None
    model: str = ""
    name: str = ""
    note: str = ""


def scan(entries: Iterable[InstrumentEntry], hosts: Iterable[str]) -> list[Found]:
    """Look at every VISA resource and serial port of this machine, at the hosts and at those of a testbed's entries."""
    rows = [catalogue.row(model) for model in catalogue.models()]
    for row in rows:
        driver_class(row.model)  # imports are not for several threads at once
    known = {
        meant(catalogue.row(entry.model), entry.address): entry for entry in entries if entry.has_address
    }
    told = [Place(entry.address, _alike(catalogue.row(entry.model), rows)) for entry in known.values()]
    named = [*hosts, *(host for place in told if (host := host_of(place.address)))]
    places = [*told, *_visa_places(rows), *_serial_places(rows), *_host_places(dict.fromkeys(named), rows)]
    unique = {meant(place.rows[0], place.address): place for place in reversed(places) if place.rows}
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(_look, unique.values())
    return sorted(
        (
            replace(each, name=known[there].name if there in known else "")
            for there, each in zip(unique, found, strict=True)
        ),
        key=lambda each: each.address,
    )


def _alike(row: Row, rows: list[Row]) -> tuple[Row, ...]:
    """The rows whose instruments may stand where one of ``row`` is expected, that one first."""
    return row, *(each for each in rows if each.address is row.address and each is not row)


# Where to look


def _visa_places(rows: list[Row]) -> Iterator[Place]:
    """USB, GPIB and discovered network resources; serial ports have places of their own."""
    scpi = tuple(row for row in rows if row.address is AddressKind.VISA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about discovery that needs further packages
        try:
            resources = resource_manager().list_resources("?*::INSTR")
        except (OSError, ValueError, pyvisa.errors.Error) as error:
            logger.warning("VISA resources of this machine cannot be listed: %s", error)
            return
    for resource in resources:
        if not resource.startswith("ASRL"):
            yield Place(resource, scpi)


def _serial_places(rows: list[Row]) -> Iterator[Place]:
    serial = tuple(row for row in rows if row.address is AddressKind.SERIAL)
    for port in serial_ports.present():
        path = port.lasting_name if port.lasting_name.startswith("/") else port.device
        yield Place(path, serial, str(port))


def _host_places(hosts: Iterable[str], rows: list[Row]) -> Iterator[Place]:
    """The ports of the catalogue at each host, those that accept a connection."""
    wanted: list[tuple[str, int, Place]] = []
    scpi = tuple(row for row in rows if row.address is AddressKind.VISA)
    for host in hosts:
        for row in rows:
            if row.address is AddressKind.HOST:
                wanted.append((host, row.ports[0], Place(host, (row,))))
            elif row.address is AddressKind.VISA:
                address = f"TCPIP::{host}::{row.ports[0]}::SOCKET"
                wanted.append((host, row.ports[0], Place(address, _alike(row, rows))))
        wanted.append((host, VXI11_PORT, Place(f"TCPIP::{host}::inst0::INSTR", scpi)))
        wanted.append((host, HISLIP_PORT, Place(f"TCPIP::{host}::hislip0::INSTR", scpi)))
    with ThreadPoolExecutor(max_workers=32) as pool:
        accepts = pool.map(lambda each: _accepts(each[0], each[1]), wanted)
    yield from (place for (_, _, place), listens in zip(wanted, accepts, strict=True) if listens)


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            return True
    except OSError:
        return False


# Looking


def _look(place: Place) -> Found:
    if who := _holders(place):
        return Found(place.address, None, note=f"not asked: {who} has it; {place.about}".removesuffix("; "))
    there = InstrumentEntry(name="it", model=place.rows[0].model, owner="relay", address=place.address)
    try:
        with claiming([there], "qunetlab instruments scan", patience_s=0.0):
            found = (
                _look_scpi(place) if place.rows[0].address is AddressKind.VISA else _look_by_drivers(place)
            )
    except OwnedError as error:
        return Found(place.address, None, note=f"not asked: {error}")
    return found if found.identity or not place.about else replace(found, note=f"{found.note}; {place.about}")


def _holders(place: Place) -> str:
    """Who has a serial port; the far end of a pty always has it, and is the instrument."""
    if place.rows[0].address is not AddressKind.SERIAL or os.path.realpath(place.address).startswith(
        "/dev/pts/"
    ):
        return ""
    return " and ".join(serial_ports.holders(place.address))


def _look_scpi(place: Place) -> Found:
    link = ScpiLink("scan", place.address, timeout_s=ANSWER_S)
    try:
        identity = link.identify()
    except InstrumentError as error:
        return Found(place.address, None, note=_said(error))
    finally:
        link.close()
    models = [
        row.model for row in place.rows if identity.model in getattr(driver_class(row.model), "MODELS", ())
    ]
    note = "" if models else "no driver in the catalogue"
    return Found(place.address, identity, models[0] if models else "", note=note)


def _look_by_drivers(place: Place) -> Found:
    """The first driver whose question is answered; what was answered instead where there is none.

    A later driver asks twice: the question of an earlier one, in another protocol, may have spoilt the first reply.
    """
    notes = [f"no answer to the questions of {', '.join(row.model for row in place.rows)}"]
    for row in (place.rows[0], *(each for other in place.rows[1:] for each in (other, other))):
        try:
            return Found(place.address, _identity(row, place.address), row.model)
        except LinkTimeoutError:
            continue
        except InstrumentError as error:
            notes.append(_said(error))
            if isinstance(error, LinkBrokenError):
                break
    return Found(place.address, None, note=notes[-1])


def _identity(row: Row, address: str) -> Identity:
    """Ask with the row's driver, without its setting anything up."""
    name = f"scan_{os.getpid()}_{next(_numbers)}"
    with closing(create_instrument(row.model, name, address)) as instrument:
        for link in instrument.links:
            link.bring_up = None
            link.timeout_s = min(link.timeout_s, ANSWER_S)
        return instrument.identify()


def _said(error: InstrumentError) -> str:
    where = " at ".join(part for part in (error.instrument, error.address) if part)
    return str(error).removeprefix(f"{where}: ")
