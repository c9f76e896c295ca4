"""``qunetlab instruments``: identify every configured instrument and read its parameters.

Instruments are asked one by one and a dead one does not hide the others; the exit code is 3 when any did
not answer.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from drivers.catalogue import driver_class, open_instrument
from drivers.links.limits import plain
from lab.runs.shown import echo
from lab.runs.testbeds.folder import find_testbed
from lab.testbed import AUTO, InstrumentEntry, load_testbed

DIGITS = 12


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


def _ask(entry: InstrumentEntry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": entry.name,
        "model": entry.model,
        "owner": entry.owner,
        "address": entry.address,
    }
    if entry.address == AUTO:
        return row | {
            "ok": False,
            "error": "address is 'auto'; write its address, or run `qunetlab simulate`",
        }
    try:
        with closing(open_instrument(entry.model, entry.name, entry.address, **entry.options)) as instrument:
            identity = instrument.identify()
            row |= {"ok": True, "serial_number": identity.serial_number, "firmware": identity.firmware}
            row["parameters"] = _parameters(instrument)
    except Exception as error:  # noqa: BLE001 - told in the row; the other instruments are still asked
        row |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return row


def _parameters(instrument: Any) -> dict[str, dict[str, Any]]:
    """Value, unit and limits of every readable scalar parameter, submodules included."""
    found = {}
    for prefix, holder in [("", instrument), *((f"{n}.", m) for n, m in instrument.submodules.items())]:
        for name, parameter in holder.parameters.items():
            if name == "IDN" or not parameter.gettable:
                continue
            value = plain(parameter.get())
            if isinstance(value, bool | int | float | str | list | tuple):
                limits = getattr(parameter.vals, "valid_values", None) or ()
                found[prefix + name] = {
                    "value": rounded(value),
                    "unit": getattr(parameter, "unit", "") or "",
                    "limits": [
                        rounded(limit)
                        for limit in map(plain, limits)
                        if isinstance(limit, int | float) and not isinstance(limit, bool)
                    ],
                }
    return found


def rounded(value: object) -> object:
    """Numbers to as many digits as instruments have: arithmetic leaves 1550.1200000000001 of 1550.12."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _text(row: dict[str, Any]) -> str:
    head = f"{row['name']:14s} {row['model']:22s} {row['owner']:8s} {row['address']}"
    if not row["ok"]:
        return f"{head}\n    NOT REACHED: {row['error']}"
    lines = [f"{head}  serial {row['serial_number']}, firmware {row['firmware']}"]
    for name, item in row["parameters"].items():
        limits = item["limits"]
        within = f"   [{limits[0]:g} .. {limits[-1]:g}]" if len(limits) >= 2 else ""
        lines.append(f"    {name:28s} {item['value']} {item['unit']}{within}")
    return "\n".join(lines)
