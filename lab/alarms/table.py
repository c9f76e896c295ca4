"""The alarms that there are: what is watched, the limits where the testbed file gives none, and what an operator does.

A row without limits is a state: it is wrong or it is not.  The testbed file may set any limit of a row that has some
(``[alarms.NAME]``).  Values come from :mod:`orchestrator.processes.alarm_sources`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lab.alarms.limits import Limits, Severity
from orchestrator.events.status import AlarmName


@dataclass(frozen=True)
class AlarmRow:
    """One kind of alarm.

    ``what`` is the quantity in words and ``unit`` its unit.  ``latching``: one that is over stands until somebody has
    acknowledged it.  ``severity`` is that of a state, a row without ``limits``.
    """

    what: str
    what_to_do: str
    unit: str = ""
    limits: Limits | None = None
    latching: bool = False
    severity: Severity = "minor"


TABLE: dict[AlarmName, AlarmRow] = {
    "interlock": AlarmRow(
        "the interlock is latched",
        "remove the cause, then `qunetlab acknowledge`",
        severity="major",
    ),
    "laser-power": AlarmRow(
        "what the laser emits against its set point",
        "look at the laser's status; clean or reconnect its output; calibrate the intensity again",
        unit="dB",
        limits=Limits(low_major=-1.0, low_minor=-0.2, high_minor=0.2, high_major=1.0, stale_s=60.0),
    ),
    "temperature": AlarmRow(
        "temperature",
        "look at fans, filters and the room's air",
        unit="degC",
        limits=Limits(
            low_major=5.0, low_minor=10.0, high_minor=45.0, high_major=55.0, drift=8.0, stale_s=120.0
        ),
    ),
    "detector-rate": AlarmRow(
        "counts of a detector",
        "look at the launch attenuation, stations in bypass and stray light; above the major limit the interlock trips",
        unit="1/s",
        limits=Limits(high_minor=3e6, high_major=1e7),
        latching=True,
    ),
    "dark-rate": AlarmRow(
        "dark counts of a detector over the calibrated ones",
        "look for stray light and at bias current and temperature; calibrate the detectors again",
        limits=Limits(low_minor=0.1, high_minor=4.0, high_major=40.0),
    ),
    "sensor": AlarmRow(
        "light on a sensor while the station is bypassed",
        "look for light from elsewhere and at the switch; zero the sensor in the dark",
        unit="W",
        limits=Limits(high_minor=0.3e-12, high_major=10e-12),
    ),
    "qber": AlarmRow(
        "errors of the latest block",
        "calibrate delays, phase and visibility; above the major limit no key is made: suspect the line",
        limits=Limits(high_minor=0.02, high_major=0.06),
        latching=True,
    ),
    "low-water": AlarmRow(
        "bits of an authentication lane",
        "make key with the peer, or renew it with `qunetlab keys reseed PAIR --new`",
        unit="bit",
        limits=Limits(low_minor=16383.0),
    ),
    "waits-for-operator": AlarmRow(
        "meetings wait",
        "find out what spends the bits, then `qunetlab keys reseed` or `qunetlab keys meet`",
        severity="major",
    ),
    "tampering": AlarmRow(
        "messages of a peer that were refused within the hour",
        "somebody changes or repeats what is said between the two: look at the network; no key is at risk, time is",
        unit="1/h",
        limits=Limits(high_minor=3.0, high_major=30.0),
        latching=True,
    ),
    "calibration-age": AlarmRow(
        "age of a calibration over how long it holds",
        "`qunetlab calibrate`",
        limits=Limits(high_minor=1.0, high_major=4.0),
    ),
    "certificate": AlarmRow(
        "days for which the certificate holds that applications are served with",
        "`qunetlab sae renew USER --kme` where certificates are approved, then `sae install` here",
        unit="d",
        limits=Limits(low_minor=30.0, low_major=7.0),
    ),
    "instrument": AlarmRow("an instrument needs a look", "look at the instrument named, and at its log"),
    "store": AlarmRow(
        "the key store needs a look", "make room on its disk and look at its permissions", severity="major"
    ),
    "old-copy": AlarmRow(
        "a key store is an old copy",
        "find out who put it back, and see that nobody does: were both ends old, key would be used twice and nobody would know",
        severity="major",
        latching=True,
    ),
    "data-sets": AlarmRow(
        "data sets and slow values wait to be written",
        "make room on the disk named, or let the role write there; nothing is lost for a day, and it goes on by itself",
    ),
    "intensity": AlarmRow(
        "a station stays in the light of every pair",
        "find who keeps the launch open, or what else shines; look at the switch",
        severity="major",
    ),
}


def table_with(
    changed: Mapping[AlarmName, Mapping[str, float | None]], detector_cps: float, qber_limit: float
) -> dict[AlarmName, AlarmRow]:
    """The table with these limits in the place of its own; the interlock's and the protocol's are major ones.

    Raises ValueError for limits that do not fit together, naming the alarm.
    """
    table = dict(TABLE)
    for name, limits in (
        ("detector-rate", Limits(high_minor=0.3 * detector_cps, high_major=detector_cps)),
        ("qber", Limits(high_minor=min(0.02, qber_limit), high_major=qber_limit)),
    ):
        table[name] = replace(table[name], limits=limits)  # type: ignore[index]
    for row_name, row in TABLE.items():
        if row_name not in changed:
            continue
        if row.limits is None:
            raise ValueError(f"alarms.{row_name} is a state and has no limits")
        given = {key: value for key, value in changed[row_name].items() if value is not None}
        try:
            table[row_name] = replace(
                table[row_name], limits=replace(table[row_name].limits or Limits(), **given)
            )
        except ValueError as error:
            raise ValueError(f"alarms.{row_name}: {error}") from None
    return table
