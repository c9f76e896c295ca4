"""A testbed file held against the drivers of its instruments, before anything is connected.

A driver opens nothing in its constructor, so each is made as its role would make it, asked for its limits, and closed.
What is told, each with its place in the file: addresses of another form than the model has, options that the driver
does not take or not of this type, physical values outside the limits of the parameter that will be set to them, trigger
inputs that would not see the edge of their source, sensors with which a station could not leave the ring, and what is
believed of the light without a reason.
So a limit is declared once, in the driver, and the options of a set-up (``max_power_mw``) narrow it here too.

Drivers load QCoDeS: only commands that start or check a whole testbed and roles that own instruments import this.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from qcodes.parameters import ParameterBase

from drivers.base import LabInstrument
from drivers.catalogue import CatalogueError, create_instrument, driver_class, row
from drivers.kinds import TIME_TAGGER
from drivers.links.addresses import AddressError
from drivers.links.limits import limits_of
from drivers.options import no_such, option_types, wrong_type
from lab.consistency import Mistake, meaning, unknown_model
from lab.light_budget import DARK_W
from lab.light_of import pair_light
from lab.needs import (
    ATTENUATOR,
    CARVER,
    CARVER_BIAS,
    DETECTORS,
    LASER,
    LAUNCH,
    LAUNCH_SECOND,
    MODULATOR,
    SENSOR_CCW,
    SENSOR_CW,
    TAGGER,
    Need,
    candidates,
)
from lab.quantities import UNITS, Plausible, items, number, unit_of
from lab.testbed import InstrumentEntry, Testbed, TestbedError, examine, read_testbed

SENSORS = (SENSOR_CW, SENSOR_CCW)

OPTION_RANGES = {
    "db_per_s": Plausible(1e-3, 1e5),
    "db": Plausible(1e-4, 120),
    "mv": Plausible(1, 5000),
    "mw": Plausible(0.02, 1000),
    "nm": Plausible(350, 2500),
    "ps": Plausible(1, 1e12),
    "s": Plausible(1e-4, 900),
    "ua": Plausible(0.5, 200),
}
"""What a driver's option may plausibly be, by the unit that its name ends in, longer ends first."""


def checked_testbed(path: Path, owners: Collection[str] | None = None) -> Testbed:
    """The testbed of a file, held against the drivers of all its instruments or those of some ``owners``.

    Raises TestbedError with every mistake, and FileNotFoundError as it comes.
    """
    data = read_testbed(path)
    testbed, found = examine(data, path)
    problems = dict(found)
    entries = testbed.instruments if testbed else _well_formed(data)
    with ExitStack() as stack:
        made: dict[str, LabInstrument] = {}
        for index, entry in enumerate(entries):
            if entry is None or unknown_model(entry.model) or (owners and entry.owner not in owners):
                continue
            place = f"instruments[{index}]"
            wrong = [*_address(place, entry), *_options(place, entry)] or _create(place, entry, made, stack)
            found += [each for each in wrong if each[0] not in problems]
        values = value_mistakes(testbed, made) if testbed else {}
        found += [*_light(testbed), *_sensors(testbed), *_trigger_levels(testbed, made)] if testbed else []
    found = [(place, "; ".join((why, *filter(None, [values.pop(place, "")])))) for place, why in found]
    found += values.items()
    if testbed is None or found:
        raise TestbedError(path, found)
    return testbed


def _well_formed(data: Mapping[str, Any]) -> list[InstrumentEntry | None]:
    """The instruments of a file whose other parts are wrong, by index; None for those that are wrong themselves."""
    found: list[InstrumentEntry | None] = []
    entries = data.get("instruments")
    for entry in entries if isinstance(entries, list) else []:
        try:
            found.append(InstrumentEntry.model_validate_json(json.dumps(entry, default=str), strict=True))
        except ValidationError:
            found.append(None)
    return found


def _create(
    place: str, entry: InstrumentEntry, made: dict[str, LabInstrument], stack: ExitStack
) -> list[Mistake]:
    """Add the driver of an entry to ``made``, closed with ``stack``; what it objects to.

    It is made under another name than the one under which it may be in use in this process.
    """
    name = f"check_{entry.name}_{len(made)}"
    try:
        instrument = create_instrument(entry.model, name, entry.address, **entry.options)
    except CatalogueError as error:
        return [(f"{place}.model", str(error))]
    except Exception as error:  # noqa: BLE001 - whatever a driver's constructor objects to is a mistake of the file
        said = str(error).removeprefix(f"{name} at {entry.address}: ")
        return [(f"{place}.options", f"{entry.model} refuses them: {said or type(error).__name__}")]
    stack.callback(instrument.close)
    made[entry.name] = instrument
    return []


def _address(place: str, entry: InstrumentEntry) -> Iterator[Mistake]:
    if entry.has_address:
        try:
            meaning(row(entry.model), entry.address)
        except AddressError as error:
            yield f"{place}.address", f"{entry.model}: {error}"


# Options


def _options(place: str, entry: InstrumentEntry) -> Iterator[Mistake]:
    try:
        known = option_types(driver_class(entry.model))
    except CatalogueError as error:
        yield f"{place}.model", str(error)
        return
    for name, value in entry.options.items():
        here = f"{place}.options.{name}"
        if name not in known:
            yield here, f"{entry.model} has {no_such(name, known)}"
            continue
        if why := wrong_type(value, known[name]):
            yield here, why
            continue
        for at, each in items(here, value):
            if isinstance(each, int | float) and (why := _out_of_range(name, each)):
                yield at, why


def _out_of_range(name: str, value: float) -> str:
    if name.endswith("_port") and not 0 < value < 65536:
        return f"{value} is no port, which is a number from 1 to 65535"
    if unit_of(name) is UNITS["s"] and (value < 0 or (value == 0 and name.endswith("timeout_s"))):
        return f"{number(value)} s is no time to wait; write one above zero"
    plausible = next((each for end, each in OPTION_RANGES.items() if name.endswith(f"_{end}")), None)
    return plausible.objection(name, value) if plausible else ""


# Light and lines


def _light(testbed: Testbed) -> Iterator[Mistake]:
    """What cannot be believed of the relay's light, with its figure for one pair; it is alike for all."""
    without = [user for user in testbed.user_names() if not _has_counter(testbed.owned_by(user))]
    if testbed.protocol.light == "gated" and without:
        yield (
            "protocol.light",
            "gated light is what each user's own time-resolving counter sees in the own window, and there is no "
            f"{TIME_TAGGER.name} of {', '.join(without)}; write assumed",
        )
    if testbed.protocol.light == "counted":
        first, second = testbed.pairs()[0]
        rho_a, rho_b = pair_light(testbed, first, second).other_light
        yield (
            "protocol.light",
            f"counted by its average power, the other direction's light ({rho_a:.1f} and {rho_b:.1f} times brighter than "
            f"the own light of {first} and {second}) leaves no key for any pair, and an average bounds nothing: a k-th of "
            "the slots may be k times brighter; write assumed, or gated with a counter at every user",
        )


def _has_counter(entries: tuple[InstrumentEntry, ...]) -> bool:
    return any(not unknown_model(entry.model) and row(entry.model).channels(TIME_TAGGER) for entry in entries)


def _sensors(testbed: Testbed) -> Iterator[Mistake]:
    """Sensors that do not tell the light of a block from none: their station would never step aside by itself."""
    for index, entry in enumerate(testbed.instruments):
        if entry.owner not in testbed.user_names() or unknown_model(entry.model):
            continue
        servers = testbed.servers(entry.owner)
        serving = [each.name for each in SENSORS if servers[each.name].instrument == entry.name]
        floor_w = row(entry.model).floor_w(entry.options)
        if serving and (floor_w is None or floor_w >= DARK_W):
            least = "an unknown power (option floor_w)" if floor_w is None else f"{floor_w * 1e12:.3g} pW"
            yield (
                f"instruments[{index}]",
                f"{entry.name} serves {entry.owner} as {' and '.join(serving)}, and the least that a {entry.model} tells from "
                f"none is {least}: below {DARK_W * 1e12:.3g} pW is dark, so after a fault the station could not know when to "
                "leave the ring and would stand in the light of every pair; take sensors that see less, such as a Keysight 8163B "
                "with 81634B heads",
            )


def _trigger_levels(testbed: Testbed, made: Mapping[str, LabInstrument]) -> Iterator[Mistake]:
    """Inputs that would not see the edge of the trigger's source, as far as both drivers declare what they do."""
    cabling = testbed.cabling
    edge: tuple[float, float] | None = getattr(made.get(cabling.trigger_source), "trigger_edge_v", None)
    if edge is None:
        return
    blind = []
    for name in cabling.trigger_sinks:
        threshold: tuple[float, bool] | None = getattr(made.get(name), "trigger_threshold", None)
        if threshold is None:
            continue
        level_v, rising = threshold
        low_v, high_v = edge if rising else edge[::-1]
        if not low_v < level_v < high_v:
            blind.append(
                f"{name} waits for an edge {'upward' if rising else 'downward'} through {level_v:g} V"
            )
    if blind:
        yield (
            "cabling.trigger_sinks",
            f"{'; '.join(blind)}, and the edge of {cabling.trigger_source} goes from {edge[0]:g} to {edge[1]:g} V; "
            "set the trigger options of one to those of the other",
        )


# Values


DECLARED = {"threshold_limits_v": "V", "frame_limits_samples": "samples"}
"""Limits that a kind declares of what is no parameter, with their units."""


@dataclass(frozen=True)
class Use:
    """A value of the file, and the parameter or the declared limits that it must fit; ``how`` it comes about.

    ``part``: the attribute of what serves that has the parameter, and may be None; empty for what serves itself.
    """

    need: Need[Any]
    parameter: str
    place: str
    value: float
    how: str = ""
    part: str = ""


def value_mistakes(testbed: Testbed, made: Mapping[str, LabInstrument]) -> dict[str, str]:
    """By place: values outside the limits of the parameters of ``made`` instruments, by name, that they go to."""
    limited: dict[Mistake, list[str]] = {}
    for role in ("relay", *testbed.user_names()):
        if any(unknown_model(entry.model) for entry in testbed.owned_by(role)):
            continue
        for use in _uses(testbed, role):
            found = candidates(use.need, testbed.owned_by(role))
            if len(found) != 1 or found[0].instrument not in made:
                continue
            instrument: Any = made[found[0].instrument]
            served = getattr(instrument, found[0].channel) if found[0].channel else instrument
            served = getattr(served, use.part, None) if use.part else served
            if why := _objection(served, use):
                setting = _narrowing(type(instrument), use.parameter)
                limited.setdefault((use.place, why), []).append(f"{found[0]}{setting}")
    by_place: dict[str, list[str]] = {}
    for (place, why), names in limited.items():
        by_place.setdefault(place, []).append(f"{why}, the limits of {', '.join(names)}")
    return {place: "; ".join(texts) for place, texts in by_place.items()}


def _narrowing(driver: type[LabInstrument], parameter: str) -> str:
    """The option that sets a parameter's limits, by its name: it has the parameter's unit."""
    named = [
        each
        for each in option_types(driver)
        if unit_of(each).label and unit_of(each) is unit_of(parameter) and ("max" in each or "limits" in each)
    ]
    return f" (set by its option {named[0]})" if len(named) == 1 else ""


def _uses(testbed: Testbed, role: str) -> Iterator[Use]:
    ring, detectors, protocol = testbed.ring, testbed.detectors, testbed.protocol
    wavelength = ("wavelength_nm", "ring.wavelength_nm", ring.wavelength_nm)
    if role == "relay":
        yield Use(LASER, "power_mw", "ring.laser_power_mw", ring.laser_power_mw)
        yield Use(LASER, *wavelength)
        yield Use(LAUNCH, *wavelength)
        yield Use(LAUNCH_SECOND, *wavelength)
        carver = testbed.carver
        yield Use(CARVER, "amplitude_vpp", "carver.awg_amplitude_vpp", carver.awg_amplitude_vpp)
        yield Use(CARVER, "sample_rate_hz", "carver.pulse_ns", 1e9 / carver.pulse_ns, "one sample a pulse: ")
        inside_db = ("attenuation_db", "carver.attenuation_db", carver.attenuation_db)
        yield Use(CARVER_BIAS, *inside_db, part="attenuator")
        for index in (0, 1):
            yield Use(DETECTORS, "bias_current_ua", f"detectors.bias_ua[{index}]", detectors.bias_ua[index])
            yield Use(
                DETECTORS, "trigger_level_mv", f"detectors.trigger_mv[{index}]", detectors.trigger_mv[index]
            )
            yield Use(TAGGER, "inputs", f"detectors.channels[{index}]", detectors.channels[index])
        yield Use(TAGGER, "threshold_limits_v", "detectors.threshold_v", detectors.threshold_v)
        return
    user = testbed.user_names().index(role)
    rate_hz = protocol.clock_hz * protocol.samples_per_slot
    how = f"{number(protocol.clock_hz)} Hz with {protocol.samples_per_slot} samples per slot: "
    lead = int(max(ps for each in testbed.users for ps in each.modulator_delays_ps) * 1e-12 * rate_hz)
    samples = lead + protocol.slots_per_frame * protocol.samples_per_slot
    yield Use(
        MODULATOR,
        "frame_limits_samples",
        "protocol.slots_per_frame",
        samples,
        f"a frame, of which {lead} samples wait for the light: ",
    )
    yield Use(MODULATOR, "sample_rate_hz", "protocol.clock_hz", rate_hz, how)
    yield Use(
        MODULATOR, "amplitude_vpp", f"users[{user}].awg_amplitude_vpp", testbed.users[user].awg_amplitude_vpp
    )
    yield Use(ATTENUATOR, *wavelength)
    yield Use(SENSOR_CW, *wavelength)
    yield Use(SENSOR_CCW, *wavelength)


def _objection(served: Any, use: Use) -> str:
    """Why what serves cannot be set so; empty if it can, or does not say."""
    if served is None:
        return ""
    if use.parameter in DECLARED:
        limits = getattr(served, use.parameter, None)
        return _outside(use, limits, DECLARED[use.parameter]) if limits else ""
    if use.parameter == "inputs":
        inputs = getattr(served, "inputs", (use.value,))
        return (
            ""
            if use.value in inputs
            else f"there is no input {use.value}, only {', '.join(map(str, inputs))}"
        )
    parameter = served.parameters.get(use.parameter)
    if not isinstance(parameter, ParameterBase):
        return ""
    unit = str(getattr(parameter, "unit", ""))
    if (limits := limits_of(parameter.vals)) is not None:
        return _outside(use, limits, unit)
    try:
        parameter.validate([use.value] if use.need is DETECTORS else use.value)
    except (ValueError, TypeError) as error:
        return f"{use.how}{error.args[0] if error.args else error}"
    return ""


def _outside(use: Use, limits: tuple[float, float], unit: str) -> str:
    low, high = limits
    if low <= use.value <= high:
        return ""
    return f"{use.how}{number(use.value)} {unit} is outside {number(low)} to {number(high)} {unit}"
