"""A testbed for another number of users, made out of a template: pure, from file content to file content.

The first user of the template is the pattern: every user gets its electronics and a copy of its instruments,
stations stand evenly spread along the fibre, give or take the half metre that keeps the two directions apart, and
trigger and reference reach every copy of what they reached before.  The ring is ordered anew, so that its calibrated values
are those of a survey.  What
follows from the number of users - losses of every pair, roles, keys, ports - is derived elsewhere from the file.
A ring that is too long for its light is refused: every station that a pulse passes costs ``bypass_loss_db``,
so from some number of users on, neighbours at the ends of the ring would never make a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.light_of import pair_light
from lab.testbed import AUTO, Testbed, parse_testbed
from sim_backends.optics_parts import PS_PER_KM

FEWEST_USERS, MOST_USERS = 2, 64
UNKNOWN_DELAYS_PS = (1_000_000, 1_005_000)
"""Until the survey."""
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")
"""The names of the literature; later users are numbered."""


class RingSizeError(ValueError):
    """A ring cannot have so many users."""


def with_users(data: dict[str, Any], count: int, template: Path) -> dict[str, Any]:
    """The content of the valid testbed file ``template`` for ``count`` users.

    Raises RingSizeError for a number that makes no ring, for a ring on which some pair would make no key, and for
    a template with addresses of real instruments: those of further users are not known.
    """
    if not FEWEST_USERS <= count <= MOST_USERS:
        raise RingSizeError(
            f"--users {count}: a ring has {FEWEST_USERS} to {MOST_USERS} users; each of them needs a key with every "
            "other, made in turn on the one ring"
        )
    if count == len(data["users"]):
        return data
    if real := [each["name"] for each in data["instruments"] if each.get("address", AUTO) != AUTO]:
        raise RingSizeError(
            f"--users {count}: {template} says where instruments are ({', '.join(real[:3])}{', ...' * (len(real) > 3)}) "
            "and cannot say it for other users; add or remove users in a copy of that file"
        )
    from sim_backends.survey import surveyed  # brings the light model's compiler

    if "simulation" not in data:
        raise RingSizeError(
            f"--users {count}: {template} describes no simulated ring, and a real one has the users it has"
        )
    resized = _resized(data, count)
    resized = surveyed(resized, parse_testbed(resized, template))
    testbed = parse_testbed(resized, template)
    for first, second in pairs_without_key(testbed, pairwise(testbed.user_names())):
        loss_a_db, loss_b_db = pair_light(testbed, first, second).arms_db
        raise RingSizeError(
            f"--users {count}: {first} and {second} would make no key, since their light loses {loss_a_db:.1f} dB "
            f"and {loss_b_db:.1f} dB on the way past the other stations ({testbed.ring.bypass_loss_db:g} dB "
            f"each); use fewer users, or a template with less loss"
        )
    return resized


def pairs_without_key(testbed: Testbed, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of ``pairs`` whose plan promises no key; neighbours have the longest way, so they are the first."""
    from orchestrator.protocols.block_planning import plan_for

    return [pair for pair in pairs if plan_for(testbed, *pair).key_rate_per_pulse <= 0]


def check_every_pair_makes_key(testbed: Testbed) -> None:
    """Raise RingSizeError, before any process starts, where some pair would be waited for for ever."""
    if keyless := pairs_without_key(testbed, testbed.pairs()):
        told = ", ".join(f"{first} and {second}" for first, second in keyless[:3])
        raise RingSizeError(
            f"testbed {testbed.name!r}: {told}{', ...' * (len(keyless) > 3)} would make no key: their light loses too "
            "much on the way past the other stations (`qunetlab check` shows how much); use fewer users"
        )


def user_names(count: int) -> list[str]:
    """Names of so many users."""
    return [NAMES[index] if index < len(NAMES) else f"user-{index + 1}" for index in range(count)]


def _resized(data: dict[str, Any], count: int) -> dict[str, Any]:
    names, pattern = user_names(count), data["users"][0]
    step_km = data["ring"]["length_km"] / (2 * count)
    own = [each for each in data["instruments"] if each["owner"] == pattern["name"]]
    users = {each["name"] for each in data["users"]}
    stations = [_trimmed_km(step_km * (2 * index + 1), data) for index in range(count)]
    built = data["simulation"]["stations"][0]
    return {
        **data,
        "name": f"ring-of-{count}",
        "description": f"{count} users on a ring of {data['ring']['length_km']:g} km, out of {data['name']}",
        "users": [
            {**pattern, "name": name, "position_km": at_km, "modulator_delays_ps": list(UNKNOWN_DELAYS_PS)}
            for name, at_km in zip(names, stations, strict=True)
        ],
        "simulation": {
            **data["simulation"],
            "stations": [
                {**built, "name": name, "position_km": at_km}
                for name, at_km in zip(names, stations, strict=True)
            ],
        },
        "instruments": [each for each in data["instruments"] if each["owner"] not in users]
        + [
            {**each, "name": _of_user(each["name"], pattern["name"], name), "owner": name}
            for name in names
            for each in own
        ],
        "cabling": {
            **data["cabling"],
            **{line: _copied(data, line, names) for line in ("trigger_sinks", "reference")},
        },
        "keys": {},
    }


def _copied(data: dict[str, Any], line: str, names: list[str]) -> list[str]:
    """Whom a line reaches: what it reached of no user, and every copy of what it reached of the pattern."""
    pattern = data["users"][0]["name"]
    users = {each["name"] for each in data["users"]}
    owners = {each["name"]: each["owner"] for each in data["instruments"]}
    reached = data["cabling"][line]
    return [each for each in reached if owners[each] not in users] + [
        _of_user(each, pattern, name) for name in names for each in reached if owners[each] == pattern
    ]


def _trimmed_km(at_km: float, data: dict[str, Any]) -> float:
    """A place within half a metre at which the two directions pass half a slot apart."""
    slot_km = 1e9 / data["protocol"]["clock_hz"] * 1e3 / PS_PER_KM
    behind_km: float = (data["simulation"]["length_km"] - 2 * at_km) % slot_km - slot_km / 2
    return round(at_km + behind_km / 2, 9)


def _of_user(instrument: str, pattern: str, user: str) -> str:
    """The name of the copy for ``user`` of an instrument of the user ``pattern``: ``awg_alice``, ``awg_bob``."""
    kind = instrument.removesuffix(f"_{pattern.replace('-', '_')}")
    return f"{kind}_{user.replace('-', '_')}"
