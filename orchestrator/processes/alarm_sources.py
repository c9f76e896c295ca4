"""Where the values of alarms come from, at a node and at the relay.

A source gives what it watches each time it is asked, with the moment of each value, and waits for nothing: what has to be
asked of an instrument or read from a disk is read in a thread of its own (:class:`Polled`) and given as it was found.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from drivers.links.errors import InstrumentError, NoReadingError
from lab.alarms.book import Observed
from lab.calibration.book import Book, BookError, now
from lab.calibration.steps import STEPS
from lab.interlock.interlock import Interlock
from lab.light_budget import DARK_W
from lab.station import Station
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.delivery.certificates import CertificateError, read_certificate
from orchestrator.events.status import pair_name
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.lanes import AUTH_ALARM_BITS, AUTH_LANES
from orchestrator.keystore.store import KeyStore
from orchestrator.light.own_station import Direction
from orchestrator.wall_clock import utc_now

if TYPE_CHECKING:
    from drivers.base import LabInstrument
    from drivers.kinds import PowerSensor
    from orchestrator.processes.pair_worker import PairWorker

logger = logging.getLogger(__name__)

Source: TypeAlias = Callable[[], Iterable[Observed]]
HOUR_S = 3600.0
DAY_S = 86400.0
CALIBRATION_EVERY_S = 60.0
CERTIFICATE_EVERY_S = 60.0
INSTRUMENTS_EVERY_S = 10.0
RATES_KEPT = 20
"""Readings of the detectors over which dark counts are averaged: some seconds, a hundred counts and more."""


class Polled:
    """``read`` in a thread of its own every ``every_s``; asked for, it gives what was read last."""

    def __init__(self, read: Source, every_s: float, name: str) -> None:
        self._read = read
        self._every_s = every_s
        self._name = name
        self._latest: tuple[Observed, ...] = ()
        self._stop = runtime.event()

    def __call__(self) -> tuple[Observed, ...]:
        return self._latest

    def __enter__(self) -> Polled:
        runtime.spawn(self._poll, name=self._name)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # one that waits for an instrument is not waited for

    def _poll(self) -> None:
        while not self._stop.is_set():
            try:
                self._latest = tuple(self._read())
            except Exception:
                logger.exception("%s cannot be watched", self._name)
            self._stop.wait(self._every_s)


class Refusals:
    """Messages of each peer that were refused within the last hour, as their authentication failed or they came again."""

    def __init__(self, workers: Mapping[str, PairWorker]) -> None:
        self._workers = workers
        self._counts: dict[str, deque[tuple[float, int]]] = {peer: deque() for peer in workers}

    def __call__(self) -> Iterator[Observed]:
        at_s = runtime.now()
        for peer, counts in self._counts.items():
            reasons = self._workers[peer].rejected
            total = sum(reasons.values())
            if not counts or counts[-1][1] != total:
                counts.append((at_s, total))
            while len(counts) > 1 and counts[1][0] <= at_s - HOUR_S:
                counts.popleft()
            # What was there when the watch began counts as refused then.
            before = counts[0][1] if counts[0][0] <= at_s - HOUR_S else 0
            if total:
                words = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
                yield Observed("tampering", float(total - before), at_s, peer=peer, text=f"in all {words}")


class OldCopies:
    """Stores that a meeting found to be restored from an old copy, until the process is started again."""

    def __init__(self, name: str, workers: Mapping[str, PairWorker]) -> None:
        self._name = name
        self._workers = workers

    def __call__(self) -> Iterator[Observed]:
        for peer, worker in self._workers.items():
            if worker.old_copy:
                whose = self._name if worker.old_copy == "self" else peer
                text = (
                    f"{whose} knew less of the pair's key than had been used; that key was burnt at both ends"
                )
                yield Observed("old-copy", at_s=runtime.now(), peer=peer, text=text)


class BlockErrors:
    """The error rate of the latest block with each peer."""

    def __init__(self) -> None:
        self._latest: dict[str, Observed] = {}

    def note(self, peer: str, qber: float | None) -> None:
        """A block is over; None where nothing was compared."""
        if qber is not None:
            self._latest[peer] = Observed("qber", qber, runtime.now(), peer=peer)

    def __call__(self) -> Iterable[Observed]:
        return list(self._latest.values())


class DarkSensors:
    """What a user's sensors read while the station is bypassed: none of the ring's light, and a zero that holds.

    Read where nothing else happens at the station (:meth:`read`).  Sensors whose floor is above that light say nothing.
    """

    def __init__(self, sensors: Mapping[Direction, PowerSensor], is_in: Callable[[], bool]) -> None:
        self._sensors = sensors
        self._is_in = is_in
        self._latest: tuple[Observed, ...] = ()
        self._due_s = 0.0

    def read(self) -> None:
        """Read both, unless that was done a moment ago or the station is in the ring.  Raises InstrumentError."""
        if self._is_in() or runtime.now() < self._due_s:
            return
        self._due_s = runtime.now() + INSTRUMENTS_EVERY_S
        with suppress(NoReadingError):
            latest = [
                Observed("sensor", sensor.power_w(), runtime.now(), part=direction)
                for direction, sensor in self._sensors.items()
                if sensor.floor_w() < DARK_W
            ]
            if not self._is_in():
                self._latest = tuple(latest)

    def __call__(self) -> tuple[Observed, ...]:
        return self._latest


class DetectorRates:
    """The relay's detectors: whoever reads them leaves the values here, as they take tenths of a second."""

    def __init__(
        self, read: Callable[[], Iterable[float]], dark_cps: float, is_lit: Callable[[], bool]
    ) -> None:
        self._read = read
        self._dark_cps = dark_cps
        self._is_lit = is_lit
        self._latest: tuple[float, ...] = ()
        self._at_s = 0.0
        self._dark: deque[tuple[float, ...]] = deque(maxlen=RATES_KEPT)

    def read(self) -> tuple[float, ...]:
        """Counts per second of both, from a measurement that begins after the call.  Raises InstrumentError."""
        lit = self._is_lit()
        rates = tuple(float(rate) for rate in self._read())[:2]
        self._latest, self._at_s = rates, runtime.now()
        if lit or self._is_lit():
            self._dark.clear()  # light that came or went in the middle is no dark count
        else:
            self._dark.append(rates)
        return rates

    def __call__(self) -> Iterator[Observed]:
        for place, rate in enumerate(self._latest):
            yield Observed("detector-rate", rate, self._at_s, part=f"D{place + 1}")
        dark = list(self._dark)
        if len(dark) == RATES_KEPT and self._dark_cps > 0:
            for place in range(len(dark[0])):
                mean = sum(rates[place] for rates in dark) / len(dark)
                yield Observed("dark-rate", mean / self._dark_cps, self._at_s, part=f"D{place + 1}")


def of_store(store: KeyStore, waits: Callable[[str], object | None]) -> Source:
    """Authentication lanes (I8), pairs that wait for an operator, and the store itself."""

    def look() -> Iterator[Observed]:
        at_s = runtime.now()
        try:
            yield from _of_lanes(store, at_s)
            for peer in store.peers():
                if (why := waits(peer)) is not None:
                    yield Observed("waits-for-operator", at_s=at_s, peer=peer, text=str(why))
            if store.uncut:
                yield Observed("store", at_s=at_s, text=f"destroyed bits are still readable: {store.uncut}")
        except StoreError as error:
            yield Observed("store", at_s=at_s, part="reading", text=f"it cannot be read: {error}")

    return look


def _of_lanes(store: KeyStore, at_s: float) -> Iterator[Observed]:
    """Of every pair: the testbed file says below which number of bits somebody is to know."""
    for peer in store.peers():
        stock = store.stock(peer)
        low = [str(lane) for lane in AUTH_LANES if stock[lane] < AUTH_ALARM_BITS]
        low = low or [str(min(AUTH_LANES, key=stock.__getitem__))]
        text = (
            f"{' and '.join(low)}: make key with {peer}, or renew it with `qunetlab keys reseed "
            f"{pair_name((store.owner, peer))} --new`"
        )
        yield Observed(
            "low-water", float(min(stock[lane] for lane in AUTH_LANES)), at_s, peer=peer, text=text
        )


def of_station(stays_in: Callable[[], str]) -> Source:
    """Why a station could not leave the ring and so stands in the light of every pair; "" where it could."""

    def look() -> Iterator[Observed]:
        if why := stays_in():
            yield Observed("intensity", at_s=runtime.now(), text=why)

    return look


def of_interlock(interlock: Interlock) -> Source:
    """Why it is latched."""

    def look() -> Iterator[Observed]:
        if causes := interlock.causes:
            yield Observed("interlock", at_s=runtime.now(), text="; ".join(map(str, causes)))

    return look


def of_calibrations(read: Callable[[], Book], owner: str) -> Source:
    """How old every calibration of ``owner`` in the book is, in the time that it holds; read from the disk."""

    def look() -> Iterator[Observed]:
        at_s = runtime.now()
        try:
            book = read()
        except (OSError, BookError) as error:
            yield Observed("calibration-age", None, at_s, text=str(error))
            return
        for step, facts in STEPS.items():
            if (found := book.measured(step, owner)) is not None:
                age_h = (now() - found).total_seconds() / 3600
                text = f"{step} is {age_h:.0f} h old and good for {facts.valid_h:g} h"
                yield Observed("calibration-age", age_h / facts.valid_h, at_s, part=str(step), text=text)

    return look


def of_certificate(path: Path) -> Source:
    """For how many days the certificate holds with which a node serves applications; read from the disk."""

    def look() -> Iterator[Observed]:
        at_s = runtime.now()
        try:
            until = read_certificate(path).not_valid_after_utc
        except CertificateError as error:
            yield Observed("certificate", None, at_s, text=str(error))
            return
        left_d = (until - utc_now()).total_seconds() / DAY_S
        yield Observed("certificate", left_d, at_s, text=f"it expires on {until:%Y-%m-%d %H:%M} UTC")

    return look


def of_instruments(station: Station) -> Source:
    """Temperatures, wherever an instrument has one, and what a laser emits against its set point; asked of them."""

    def look() -> Iterator[Observed]:
        for instrument in station.instruments():
            yield from _temperatures(instrument)
            yield from _power(instrument)

    return look


def _temperatures(instrument: LabInstrument) -> Iterator[Observed]:
    for holder in (instrument, *instrument.submodules.values()):
        for name, parameter in holder.parameters.items():
            if parameter.gettable and getattr(parameter, "unit", "") == "degC":
                part = instrument.name if name == "temperature_c" else f"{instrument.name}.{name}"
                value, why = _read(parameter)
                yield Observed("temperature", value, runtime.now(), part=part[:64], text=why)


def _power(instrument: LabInstrument) -> Iterator[Observed]:
    needed = ("emission", "power_mw", "power_readout_mw")
    if not all(name in instrument.parameters for name in needed):
        return
    read = [_read(instrument.parameters[name]) for name in needed]
    (on, _), (wanted_mw, _), (given_mw, _) = read
    if why := "; ".join(why for _, why in read if why):
        yield Observed("laser-power", None, runtime.now(), part=instrument.name, text=why)
    elif on and wanted_mw:
        deviation_db = 10 * math.log10(given_mw / wanted_mw) if given_mw else -math.inf
        yield Observed("laser-power", max(deviation_db, -99.0), runtime.now(), part=instrument.name)


def _read(parameter: Callable[[], object]) -> tuple[float | None, str]:
    try:
        value = parameter()
    except InstrumentError as error:
        return None, str(error)
    return float(value), ""  # type: ignore[arg-type]


def testbed_dark_cps(testbed: Testbed) -> float:
    """Dark counts per second of each detector, as calibrated."""
    return testbed.calibration.dark_count_probability / testbed.protocol.gate_ns * 1e9
