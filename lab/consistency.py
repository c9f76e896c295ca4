"""What a testbed file must fulfil beyond its types: plausible numbers, known names, sections that fit each other.

:func:`content_mistakes` looks at unvalidated content, so that these mistakes are told beside those of the types;
:func:`mistakes_between` needs a file whose fields are all well-formed.  Nothing of this loads an instrument's driver
or asks an instrument; what a driver knows of its limits is :mod:`lab.checking`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from drivers import catalogue
from drivers.catalogue import AddressKind, Row
from drivers.kinds import PHASE_MODULATOR, PULSE_CARVER, TIME_TAGGER
from drivers.links.addresses import AddressError, host_meaning, serial_meaning, split_address, visa_meaning
from lab.key_delivery import delivery_mistakes
from lab.light_budget import SEPARATION_LIMITS
from lab.needs import mistakes
from lab.quantities import UNITS, Plausible, number
from orchestrator.protocols.catalogue import DEFAULT, objection

if TYPE_CHECKING:
    from drivers.kinds import Kind
    from lab.testbed import InstrumentEntry, Testbed

Mistake = tuple[str, str]
"""Place and message."""

TIMED = (PHASE_MODULATOR, PULSE_CARVER, TIME_TAGGER)
"""Kinds that play or count in time: they have a trigger input and a reference input."""
MOST_BETWEEN_DETECTORS_PS = 1_000_000
"""Both detectors hang on one beam splitter: a microsecond between them would be 200 m of fibre."""


def content_mistakes(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Checks on names that work even where other parts of the file are wrong."""
    protocol = data.get("protocol")
    name = protocol.get("name", DEFAULT) if isinstance(protocol, dict) else DEFAULT
    if isinstance(name, str) and (why := objection(name)):
        yield "protocol.name", why
    for section in ("users", "instruments"):
        entries = data.get(section)
        if not isinstance(entries, list):
            continue
        names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
        for name, count in Counter(name for name in names if isinstance(name, str)).items():
            if count > 1:
                yield section, f"the name {name!r} is used {count} times; names must be unique"
    entries = data.get("instruments")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        model = entry.get("model") if isinstance(entry, dict) else None
        if isinstance(model, str) and (why := unknown_model(model)):
            yield f"instruments[{index}].model", why


def mistakes_between(testbed: Testbed) -> Iterator[Mistake]:
    """Checks between the sections of a file whose fields are all well-formed."""
    yield from _endpoints(testbed)
    yield from _protocol(testbed)
    yield from _users(testbed)
    yield from _detectors(testbed)
    yield from _arms(testbed)
    yield from _ownership(testbed)
    yield from _twice(testbed.instruments)
    yield from _serial_numbers(testbed.instruments)
    yield from _cabling(testbed)
    yield from delivery_mistakes(testbed)
    for role in testbed.keys:
        if role not in testbed.roles():
            yield f"keys.{role}", f"no such role; roles are {', '.join(testbed.roles())}"


def _cabling(testbed: Testbed) -> Iterator[Mistake]:
    """Every instrument that plays or counts in time gets the trigger and the reference; no line leads nowhere."""
    known = {entry.name: entry for entry in testbed.instruments if not unknown_model(entry.model)}
    unknown = {entry.name for entry in testbed.instruments} - known.keys()
    cabling = testbed.cabling
    for place, listed, kinds in (
        ("cabling.trigger_source", (cabling.trigger_source,), (TIME_TAGGER,)),
        ("cabling.trigger_sinks", cabling.trigger_sinks, TIMED),
        ("cabling.reference", cabling.reference, TIMED),
    ):
        for name, count in Counter(listed).items():
            if count > 1:
                yield place, f"names {name!r} {count} times; one cable leads to each"
            if name not in known and name not in unknown:
                yield place, f"names {name!r}, which is no instrument of this file"
            elif name in known and not _offers(known[name], kinds):
                what = " or ".join(kind.name for kind in kinds)
                yield (
                    place,
                    f"names {name}, a {known[name].model}: no {what}, so the line has no connector there",
                )
    for name, entry in known.items():
        if not _offers(entry, TIMED):
            continue
        if name not in cabling.trigger_sinks:
            yield "cabling.trigger_sinks", f"lacks {name}, which would not know when a frame begins"
        if name not in cabling.reference:
            yield (
                "cabling.reference",
                f"lacks {name}: a clock of its own, one millionth off, runs four slots apart within a frame",
            )


def _offers(entry: InstrumentEntry, kinds: tuple[Kind[Any], ...]) -> bool:
    return any(catalogue.row(entry.model).channels(kind) for kind in kinds)


def unknown_model(model: str) -> str:
    """Why ``model`` cannot be had; empty if it can."""
    try:
        catalogue.row(model)
    except catalogue.CatalogueError as error:
        return str(error)
    return ""


def meaning(row: Row, address: str) -> str:
    """What an address of the file means for an instrument of this row; AddressError if it has not the row's form."""
    port = row.ports[0] if row.ports else None
    if row.address is AddressKind.VISA:
        return visa_meaning(address, port)
    if row.address is AddressKind.HOST and port:
        return host_meaning(address, port)
    return serial_meaning(address)


def meant(row: Row, address: str) -> str:
    """:func:`meaning`, or the address as it is where that cannot be told."""
    try:
        return meaning(row, address)
    except AddressError:
        return address


def _endpoints(testbed: Testbed) -> Iterator[Mistake]:
    """Endpoints of ZeroMQ; those of the nodes may be alike, for each is on its user's machine."""
    common = [
        ("hub.control", testbed.hub.control),
        ("hub.bulk", testbed.hub.bulk),
        ("fl.server", testbed.fl.server),
    ]
    taken: dict[str, str] = {}
    for place, endpoint in common:
        if endpoint.startswith("tcp://") and taken.setdefault(endpoint.lower(), place) != place:
            yield place, f"{endpoint} is {taken[endpoint.lower()]} already; each listens at a port of its own"
    own = [(f"users[{index}].delivery", user.delivery) for index, user in enumerate(testbed.users)]
    for place, endpoint in (*common, *own):
        if endpoint == "auto" or endpoint.startswith(("ipc://", "inproc://")):
            continue
        try:
            scheme, _, where = endpoint.rpartition("tcp://")
            if scheme or where == endpoint or split_address(where, 0)[1] == 0:
                raise AddressError(f"{endpoint!r} is no endpoint")
        except AddressError as error:
            yield place, f"write tcp://HOST:PORT, or auto ({error})"


def _protocol(testbed: Testbed) -> Iterator[Mistake]:
    protocol = testbed.protocol
    if protocol.slots_per_frame & (protocol.slots_per_frame - 1):
        yield "protocol.slots_per_frame", f"must be a power of two (got {protocol.slots_per_frame})"
    if protocol.samples_per_slot % 2:
        yield "protocol.samples_per_slot", "must be even: each direction is gated in its own half of the slot"
    slot_ns = 1e9 / protocol.clock_hz
    if protocol.gate_ns > slot_ns:
        unit = Plausible(slot_ns / 1e3, slot_ns).meant(UNITS["ns"], protocol.gate_ns)
        yield "protocol.gate_ns", f"a gate cannot be longer than a slot ({slot_ns:g} ns)" + _also(unit)


def _users(testbed: Testbed) -> Iterator[Mistake]:
    length_km = testbed.ring.length_km
    others = {
        "orchestrator",
        "relay",
        "observer",
        "fl-server",
        *(f"fl-{name}" for name in testbed.user_names()),
    }
    last_km = 0.0
    for index, user in enumerate(testbed.users):
        place = f"users[{index}]"
        if user.name in others or user.name == "server":
            clash = "fl-server" if user.name == "server" else user.name
            yield f"{place}.name", f"a user cannot be called {user.name!r}: {clash!r} is another role's name"
        if not last_km < user.position_km < length_km:
            unit = Plausible(length_km / 1e3, length_km).meant(UNITS["km"], user.position_km)
            yield (
                f"{place}.position_km",
                f"{user.name} at {user.position_km:g} km: stations stand in ring order between "
                f"{last_km:g} km and {length_km:g} km{_also(unit if user.position_km > length_km else '')}",
            )
        last_km = user.position_km
        yield from _separation(testbed, place, user.modulator_delays_ps)
        drive_v = user.rf_gain * user.awg_amplitude_vpp / 2
        if drive_v < user.v_pi_v:
            yield (
                f"{place}.awg_amplitude_vpp",
                f"the drive reaches {drive_v:g} V but a phase of pi needs v_pi_v = {user.v_pi_v:g} V; "
                "raise rf_gain or the amplitude",
            )


def _separation(testbed: Testbed, place: str, delays_ps: tuple[int, int]) -> Iterator[Mistake]:
    """Both directions pass a station far enough apart to modulate one alone."""
    slot_ps = 1e12 / testbed.protocol.clock_hz
    apart = (delays_ps[1] - delays_ps[0]) % slot_ps / slot_ps
    if not SEPARATION_LIMITS[0] <= apart <= SEPARATION_LIMITS[1]:
        yield (
            f"{place}.modulator_delays_ps",
            f"the two directions pass {apart * slot_ps * 1e-3:.2f} ns apart in a slot of {slot_ps * 1e-3:g} ns, and "
            f"{SEPARATION_LIMITS[0] * slot_ps * 1e-3:g} to {SEPARATION_LIMITS[1] * slot_ps * 1e-3:g} ns are needed to modulate one alone; "
            "calibrate, or add up to a metre of fibre on one side of the station",
        )


def _detectors(testbed: Testbed) -> Iterator[Mistake]:
    first, second = testbed.detectors.channels
    if first == second:
        yield "detectors.channels[1]", f"input {second} is that of the other detector too; each has its own"
    first_ps, second_ps = testbed.calibration.detector_delays_ps
    if abs(second_ps - first_ps) > MOST_BETWEEN_DETECTORS_PS:
        yield (
            "calibration.detector_delays_ps",
            f"{first_ps} ps and {second_ps} ps: two detectors behind one beam splitter are less than "
            f"{number(MOST_BETWEEN_DETECTORS_PS)} ps apart; calibrate them, and write both in ps",
        )


def _arms(testbed: Testbed) -> Iterator[Mistake]:
    """A measured arm is somebody's: one offset for every user, or none at all."""
    calibration, users = testbed.calibration, testbed.user_names()
    for name in ("arm_offsets_cw_db", "arm_offsets_ccw_db"):
        if (count := len(getattr(calibration, name))) not in (0, len(users)):
            yield (
                f"calibration.{name}",
                f"{count} values for {len(users)} users; one for each in ring order ({', '.join(users)}), 0 where nobody "
                "has measured it, or leave it out and calibrate arm-loss",
            )


def _also(text: str) -> str:
    return f"; {text}" if text else ""


def _ownership(testbed: Testbed) -> Iterator[Mistake]:
    owners = ("relay", *testbed.user_names())
    for index, entry in enumerate(testbed.instruments):
        if entry.owner not in owners:
            yield f"instruments[{index}].owner", f"{entry.owner!r} is neither the relay nor a user"
    for owner in owners:
        owned = {index: entry for index, entry in enumerate(testbed.instruments) if entry.owner == owner}
        if not any(unknown_model(entry.model) for entry in owned.values()):
            yield from mistakes(owner, owned)


def _twice(entries: tuple[InstrumentEntry, ...]) -> Iterator[Mistake]:
    """Two entries for one instrument: by its address in any spelling, or by model and serial number."""
    places: dict[str, InstrumentEntry] = {}
    numbers: dict[tuple[str, str], InstrumentEntry] = {}
    for index, entry in enumerate(entries):
        if entry.has_address:
            spellings = {entry.address}
            if not unknown_model(entry.model):
                spellings.add(meant(catalogue.row(entry.model), entry.address))
            if twin := next((places[each] for each in spellings if each in places), None):
                as_written = f", written {twin.address}" if twin.address != entry.address else ""
                yield (
                    f"instruments[{index}].address",
                    f"{entry.address} already belongs to {twin.name!r}{as_written}; each instrument stands here once",
                )
            places |= dict.fromkeys(spellings - set(places), entry)
        same = numbers.setdefault((entry.model, entry.serial_number), entry)
        if entry.serial_number and same is not entry:
            yield (
                f"instruments[{index}].serial_number",
                f"{entry.serial_number} already belongs to {same.name!r}, another {entry.model}",
            )


def _serial_numbers(entries: tuple[InstrumentEntry, ...]) -> Iterator[Mistake]:
    """Serial numbers of models that tell none."""
    for index, entry in enumerate(entries):
        if not entry.serial_number or unknown_model(entry.model):
            continue
        if not catalogue.row(entry.model).has_serial_number:
            yield (
                f"instruments[{index}].serial_number",
                f"a {entry.model} tells no serial number, so none can be expected of {entry.name!r}; leave it out, "
                "and give the controller an address that stays",
            )
