"""Knobs: parameters of instruments by the names that an operator reads, ``voa_alice.attenuation_db`` or ``launch.ch1.attenuation_db``.

Turning one sends what its driver lets through, within the limits of instrument and set-up, and tells what the instrument holds
afterwards.  One that makes or lets through light, holds bias or secrets is safe as long as somebody holds it: then the owner of
the instrument has its interlock and its guard, as its role would (:mod:`lab.runs.sessions`), and letting go makes all of the
owner's instruments safe.  What can do none of that (:attr:`drivers.catalogue.SafeOrder.PASSIVE`: switches, power meters,
polarisation controllers) may be left as it was set; a switch stays where it was moved either way, and what it then lets
through to the detectors is for the relay's interlock to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qcodes.validators import Bool, Ints

from drivers.catalogue import SafeOrder, create_instrument, row
from drivers.links.limits import Words, limits_of, plain
from drivers.settings import shown
from lab.claims import claiming
from lab.runs.sessions import Session, opened_session
from lab.station import expect
from lab.testbed import InstrumentEntry, Testbed, UnknownNameError

SWITCHED = {"on": True, "true": True, "off": False, "false": False}


@dataclass(frozen=True)
class Knob:
    """An instrument of the testbed and one of its parameters."""

    entry: InstrumentEntry
    parameter: str

    def __str__(self) -> str:
        return f"{self.entry.name}.{self.parameter}"


def knob(testbed: Testbed, text: str) -> Knob:
    """The knob that ``text`` names.  Raises ValueError, UnknownNameError with the nearest name."""
    name, dot, parameter = text.partition(".")
    if not (dot and parameter):
        raise ValueError(f"{text!r} is no knob: write INSTRUMENT.PARAMETER, such as voa_alice.attenuation_db")
    entries = {entry.name: entry for entry in testbed.instruments}
    if name not in entries:
        raise UnknownNameError(f"no instrument is called {name!r}{_meant(name, list(entries))}")
    return Knob(entries[name], parameter)


def parameter_of(instrument: Any, name: str) -> Any:
    """The parameter that is set; UnknownNameError with those that can be."""
    return _named(instrument, name, "setting", lambda parameter: parameter.settable)


def readable_of(instrument: Any, name: str) -> Any:
    """The parameter of one value that is read; UnknownNameError with those that can be."""

    def single(parameter: Any) -> bool:
        return parameter.gettable and parameter.name != "IDN" and not getattr(parameter, "setpoints", None)

    return _named(instrument, name, "reading", single)


def _named(instrument: Any, name: str, kind: str, is_one: Callable[[Any], bool]) -> Any:
    found = {
        prefix + each: parameter
        for prefix, holder in (("", instrument), *((f"{n}.", m) for n, m in instrument.submodules.items()))
        for each, parameter in holder.parameters.items()
        if is_one(parameter)
    }
    if name not in found:
        raise UnknownNameError(
            f"{instrument.name} has no {kind} {name!r}{_meant(name, list(found)) or ' (it has none)'}"
        )
    return found[name]


def _meant(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"; is {near[0]} meant?" if near else f"; there are {', '.join(sorted(known))}" if known else ""


def value_of(text: str, parameter: Any) -> object:
    """``text`` as ``parameter`` takes it.  Raises ValueError where it is no number and one is needed."""
    limits = parameter.vals
    if isinstance(limits, Words):
        return text
    if isinstance(limits, Bool):
        if text.lower() not in SWITCHED:
            raise ValueError(f"{text!r} is neither on nor off")
        return SWITCHED[text.lower()]
    try:
        return int(text) if isinstance(limits, Ints) else float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number{within(parameter)}") from error


def within(parameter: Any) -> str:
    """Between which values it is set, in words; empty where its driver gives no limits."""
    unit = getattr(parameter, "unit", "") or ""
    limits = limits_of(parameter.vals)
    return f" [{limits[0]:g} .. {limits[1]:g}{f' {unit}' if unit else ''}]" if limits else ""


@dataclass(frozen=True)
class Turned:
    """A knob, and what its instrument holds after it was turned."""

    knob: str
    value: float | bool | str
    unit: str
    shown: str
    limits: tuple[float, float] | None

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        limits = f" [{self.limits[0]:g} .. {self.limits[1]:g}]" if self.limits else ""
        return f"{self.knob} {self.shown}{unit}, read back{limits}"


def turn(instrument: Any, name: str, text: str) -> Turned:
    """Set it, and read back what the instrument holds.  LimitError outside the limits: nothing was sent."""
    parameter = parameter_of(instrument, name)
    parameter.set(value_of(text, parameter))
    held = plain(parameter.get())
    unit = getattr(parameter, "unit", "") or ""
    return Turned(f"{instrument.name}.{name}", held, unit, shown(parameter, held), limits_of(parameter.vals))


@contextmanager
def held(
    testbed: Testbed, path: Path, wanted: Knob, state: Path | None = None
) -> Iterator[tuple[Any, Session]]:
    """Its instrument, with everything else of its owner, guarded and interlocked; all of it is safe at the end.

    Raises OwnedError while the role or somebody else has them, InterlockedError while the role is latched, StationError.
    """
    with opened_session(testbed, path, [wanted.entry.owner], state) as session:
        session.check()
        station = session.stations[wanted.entry.owner]
        yield next(each for each in station.instruments() if each.name == wanted.entry.name), session


@contextmanager
def alone(wanted: Knob) -> Iterator[Any]:
    """Its instrument and nothing else, left as it is set.

    Raises ValueError for one that must not be left, OwnedError while somebody has it, InstrumentError.
    """
    entry = wanted.entry
    if row(entry.model).safe_order is not SafeOrder.PASSIVE:
        raise ValueError(
            f"{entry.name} ({entry.model}) makes or lets through light, or holds bias or secrets: it is not left as it is set. "
            "Without --keep it is held until Ctrl-C, and then made safe"
        )
    if not entry.has_address:
        raise ValueError(f"the address of {entry.name} is 'auto'; write it, or run `qunetlab simulate`")
    with (
        claiming([entry], "qunetlab set", patience_s=0.0),
        closing(create_instrument(entry.model, entry.name, entry.address, **entry.options)) as instrument,
    ):
        expect(entry, instrument.connect())
        yield instrument
