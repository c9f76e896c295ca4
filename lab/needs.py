"""What a role needs of its instruments, and which instrument serves each need.

A need is a place in the set-up - the laser, the launch attenuator - and the kind of instrument that can take it.
Where exactly one channel of a role's instruments offers the kind, it serves without a word.  Where several do, the
testbed file says which: ``serves = { launch = "ch1" }`` at an instrument gives the channel by need, and
``serves = { laser = "" }`` stands for an instrument as a whole.  The others of that kind are opened and made safe
with the rest, and left dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from drivers import catalogue, kinds
from drivers.kinds import Kind

if TYPE_CHECKING:
    from lab.testbed import InstrumentEntry

T = TypeVar("T")


@dataclass(frozen=True)
class Need(Generic[T]):
    """One place in the set-up of a role."""

    name: str
    kind: Kind[T]


@dataclass(frozen=True)
class Server:
    """Who takes a place: an instrument and its channel, empty for the instrument as a whole."""

    instrument: str
    channel: str

    def __str__(self) -> str:
        return f"{self.instrument}.{self.channel}" if self.channel else self.instrument


LASER = Need("laser", kinds.LASER)
LAUNCH = Need("launch", kinds.ATTENUATOR)
LAUNCH_SECOND = Need("launch_second", kinds.ATTENUATOR)
"""In series with the first: one ends at 45 dB, and the light of single photons is further down."""
CARVER = Need("carver", kinds.PULSE_CARVER)
CARVER_BIAS = Need("carver_bias", kinds.BIAS_CONTROLLER)
DETECTORS = Need("detectors", kinds.PHOTON_DETECTORS)
TAGGER = Need("tagger", kinds.TIME_TAGGER)
RELAY: tuple[Need[Any], ...] = (LASER, LAUNCH, LAUNCH_SECOND, CARVER, CARVER_BIAS, DETECTORS, TAGGER)

MODULATOR = Need("modulator", kinds.PHASE_MODULATOR)
ATTENUATOR = Need("attenuator", kinds.ATTENUATOR)
SWITCH = Need("switch", kinds.OPTICAL_SWITCH)
SENSOR_CW = Need("sensor_cw", kinds.POWER_SENSOR)
SENSOR_CCW = Need("sensor_ccw", kinds.POWER_SENSOR)
"""Each sees one direction, ahead of the attenuator for it."""
USER: tuple[Need[Any], ...] = (SWITCH, MODULATOR, ATTENUATOR, SENSOR_CW, SENSOR_CCW)

POLARIZATION = Need("polarization", kinds.POLARIZATION_CONTROLLER)
"""In front of the next polariser; without one the polarisation is set by hand."""
OPTIONAL: tuple[Need[Any], ...] = (POLARIZATION,)
"""Of the relay and of a user, beside those they cannot do without."""


def needs_of(role: str) -> tuple[Need[Any], ...]:
    """The needs of the relay or of a user, those that it can do without last."""
    return (*(RELAY if role == "relay" else USER), *OPTIONAL)


def servers(role: str, entries: Sequence[InstrumentEntry]) -> dict[str, Server]:
    """Who serves each need of a role, by its name; ``entries`` are the role's, of a file without mistakes.

    A need of :data:`OPTIONAL` that nobody serves is not there.
    """
    found = {need.name: candidates(need, entries) for need in needs_of(role)}
    optional = {need.name for need in OPTIONAL}
    return {name: each[0] for name, each in found.items() if each or name not in optional}


def mistakes(role: str, entries: Mapping[int, InstrumentEntry]) -> Iterator[tuple[str, str]]:
    """What is wrong with a role's instruments, each with its place; ``entries`` by their index in the file.

    Every model must be one of the catalogue.
    """
    needs = {need.name: need for need in needs_of(role)}
    for index, entry in entries.items():
        row = catalogue.row(entry.model)
        taken: dict[tuple[str, str], str] = {}
        for name, channel in entry.serves.items():
            place = f"instruments[{index}].serves"
            if name not in needs:
                yield place, f"{role} has no need of a {name!r}; its needs are {', '.join(needs)}"
                continue
            kind = needs[name].kind
            offered = row.channels(kind)
            if not offered:
                yield (
                    place,
                    f"{entry.name} is to serve {role} as its {name}, which takes a {kind.name}; "
                    f"model {entry.model} offers {row.kind_names()} only",
                )
            elif channel not in offered:
                shown = ", ".join(map(repr, offered))
                yield place, f"{entry.model} offers {kind.name} on {shown}, not on {channel!r}"
            elif (other := taken.setdefault((channel, kind.name), name)) != name:
                yield (
                    place,
                    f"{Server(entry.name, channel)} cannot serve as {other} and {name}; each takes one {kind.name}",
                )
    for need in needs.values():
        yield from _unserved(role, need, list(entries.values()))


def _unserved(role: str, need: Need[Any], entries: Sequence[InstrumentEntry]) -> Iterator[tuple[str, str]]:
    found = candidates(need, entries)
    if len(found) == 1:
        return
    told = any(need.name in entry.serves for entry in entries)
    if not found and need in OPTIONAL:
        return
    what = f"{role} needs one {need.kind.name} as its {need.name}"
    if not found and not told:
        having = ", ".join(
            f"{entry.name} ({entry.model}: {catalogue.row(entry.model).kind_names()})" for entry in entries
        )
        yield "instruments", f"{what}; none of its instruments offers that kind: {having or 'it has none'}"
    elif found:
        says = (
            "each says that it serves" if told else f"say which: serves = {{ {need.name} = CHANNEL }} there"
        )
        yield "instruments", f"{what}, found {', '.join(map(str, found))}; {says}"


def candidates(need: Need[Any], entries: Sequence[InstrumentEntry]) -> list[Server]:
    """Whom the file names for a need, or else every channel that offers its kind."""
    offered = [
        (entry, channel) for entry in entries for channel in catalogue.row(entry.model).channels(need.kind)
    ]
    if any(need.name in entry.serves for entry in entries):
        offered = [(entry, channel) for entry, channel in offered if entry.serves.get(need.name) == channel]
    return [Server(entry.name, channel) for entry, channel in offered]
