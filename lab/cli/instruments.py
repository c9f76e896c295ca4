"""``qunetlab instruments``: identify every configured instrument and read its parameters.

A dead instrument does not hide the others; the exit code is 3 when any did not answer, or another answered.  A reading
that is missing - over range, not homed, not measured - is one row of an instrument that was reached.

Connecting brings an instrument to a known state, which would stop a measurement: instruments that another process
of this machine has (:mod:`lab.claims`) are not touched, and shown as in use.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from drivers.catalogue import create_instrument, driver_class
from drivers.links.errors import InstrumentError, LinkError
from drivers.links.limits import limits_of, plain
from drivers.settings import shown
from lab.claims import OwnedError, claiming
from lab.runs.shown import echo
from lab.runs.testbeds.folder import find_testbed
from lab.station import expect
from lab.testbed import InstrumentEntry, load_testbed

DIGITS = 12
Row = dict[str, Any]


def list_instruments(path: Path, owner: str | None, as_json: bool) -> int:
    """Print one row per instrument; 0 when all answered, 3 otherwise."""
    testbed = load_testbed(find_testbed(path))
    entries = [entry for entry in testbed.instruments if owner in (None, entry.owner)]
    if not entries:
        raise ValueError(f"no instrument belongs to {owner!r}")
    for entry in entries:
        driver_class(entry.model)  # imports are not for several threads at once
    with ThreadPoolExecutor(max_workers=8) as pool:
        rows = list(pool.map(_ask, entries))
    if as_json:
        echo(json.dumps({"instruments": rows}))
    else:
        for row in rows:
            echo(_text(row))
    return 0 if all(row["ok"] for row in rows) else 3


def _ask(entry: InstrumentEntry) -> Row:
    row: Row = {
        "name": entry.name,
        "model": entry.model,
        "owner": entry.owner,
        "address": entry.address,
    }
    if not entry.has_address:
        return row | {
            "ok": False,
            "error": "address is 'auto'; write its address, or run `qunetlab simulate`",
        }
    try:
        with (
            claiming([entry], "qunetlab instruments", patience_s=0.0),
            closing(create_instrument(entry.model, entry.name, entry.address, **entry.options)) as instrument,
        ):
            identity = instrument.connect()
            expect(entry, identity)
            row |= {"ok": True, "serial_number": identity.serial_number, "firmware": identity.firmware}
            row["parameters"] = _parameters(instrument)
    except OwnedError as error:
        row |= {"ok": False, "in_use": True, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - told in the row; the other instruments are still asked
        row |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return row


def _parameters(instrument: Any) -> dict[str, Row]:
    """Value, unit and limits of every readable scalar parameter, submodules included.

    Raises the LinkError of a reading after which the instrument does not answer any more.
    """
    found: dict[str, Row] = {}
    for prefix, holder in [("", instrument), *((f"{n}.", m) for n, m in instrument.submodules.items())]:
        for name, parameter in holder.parameters.items():
            if name == "IDN" or not parameter.gettable or getattr(parameter, "setpoints", None):
                continue
            about = {"unit": getattr(parameter, "unit", "") or "", "limits": _limits(parameter)}
            try:
                value = plain(parameter.get())
            except InstrumentError as error:
                if isinstance(error, LinkError):
                    instrument.identify()
                found[prefix + name] = {"value": None, **about, "missing": _reason(error), "shown": "-"}
                continue
            if isinstance(value, bool | int | float | str | list | tuple):
                told = shown(parameter, value)
                found[prefix + name] = {"value": rounded(value), **about, "shown": told}
    return found


def _reason(error: InstrumentError) -> str:
    """Why a reading is missing; instrument, address and what QCoDeS was doing stand in the row already."""
    where = " at ".join(part for part in (error.instrument, error.address) if part)
    return str(error.args[0]).removeprefix(f"{where}: ")


def _limits(parameter: Any) -> list[Any]:
    """Least and greatest value of a parameter that has them."""
    limits = limits_of(parameter.vals)
    return [rounded(limit) for limit in limits] if limits else []


def rounded(value: object) -> object:
    """Numbers to as many digits as instruments have: arithmetic leaves 1550.1200000000001 of 1550.12."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _text(row: Row) -> str:
    head = f"{row['name']:14s} {row['model']:22s} {row['owner']:8s} {row['address']}"
    if not row["ok"]:
        return f"{head}\n    {'IN USE' if 'in_use' in row else 'NOT REACHED'}: {row['error']}"
    lines = [f"{head}  serial {row['serial_number'] or '-'}, firmware {row['firmware'] or '-'}"]
    for name, item in row["parameters"].items():
        limits = item["limits"]
        within = f"   [{limits[0]:g} .. {limits[-1]:g}]" if limits else ""
        missing = f"   {item['missing']}" if "missing" in item else ""
        lines.append(f"    {name:28s} {item['shown']} {item['unit']}{within}{missing}".rstrip())
    return "\n".join(lines)
