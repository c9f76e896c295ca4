"""``qunetlab keycost``: what a model of one's own costs in key, and how long a ring makes it, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fl.modes.table import DEFAULT_MODE, MODES
from lab.cli.options import Json, SourceOption, show
from lab.cli.train_options import like
from lab.runs.testbeds.folder import DEFAULT_TESTBED
from orchestrator.events.status import pair_name


def keycost(
    model: Annotated[
        Path, typer.Argument(metavar="FILE", help="state_dict of a model: .pt, .pth or .safetensors.")
    ],
    clients: Annotated[
        int | None, typer.Option(min=2, help="Number of clients; as many as the testbed has users without.")
    ] = None,
    rounds: Annotated[int, like("rounds")] = 10,
    mode: Annotated[str, like("mode")] = DEFAULT_MODE,
    levels: Annotated[int | None, like("levels")] = None,
    testbed: SourceOption = DEFAULT_TESTBED,
    as_json: Json = False,
) -> None:
    """Key that training your own model would take, for example `qunetlab keycost model.pt --rounds 20`."""
    report = cost_report(model, clients, rounds, mode, levels, testbed or DEFAULT_TESTBED)
    show(report, as_json, as_text(report))


def cost_report(
    path: Path, clients: int | None, rounds: int, mode: str, levels: int | None, source: str
) -> dict[str, Any]:
    """The estimate: nothing of it is in stock, and every pair makes its key at its planned rate, one after the other."""
    from fl.experiments.own_model import read_model, round_cost
    from fl.keys.budget import forecast
    from lab.runs.following.observer import supply_of
    from lab.runs.testbeds.folder import source_path
    from lab.runs.testbeds.ring_size import with_users
    from lab.testbed import parse_testbed, read_testbed

    if mode not in MODES:
        raise ValueError(f"no mode is called {mode!r}; there are {', '.join(MODES)}")
    model, place = read_model(path), source_path(source)
    data = read_testbed(place)
    if clients is not None and clients != len(data["users"]):
        data = with_users(data, clients, place)
    testbed = parse_testbed(data, place)
    cost = round_cost(model, tuple(testbed.user_names()), mode, levels)
    supply = [supply_of(testbed, pair, None, light=True) for pair in testbed.pairs()]
    found = forecast(mode, rounds, cost.key_bits_per_pair, supply)
    one = forecast(mode, 1, cost.key_bits_per_pair, supply)
    return {
        "model": str(path),
        "testbed": testbed.name,
        "clients": len(testbed.users),
        **msgspec.to_builtins(cost),
        "arrays": len(model.summed),
        "arrays_not_summed": [*model.kept],
        "ring_s_per_round": one.ring_s,
        "forecast": msgspec.to_builtins(found),
    }


def as_text(report: dict[str, Any]) -> str:
    """For people, below 80 columns."""
    from fl.keys.budget import counted, duration, quantity

    found = report["forecast"]
    left = report["n_parameters"] - report["n_values"]
    lines = [
        f"{report['model']}: {counted(report['n_parameters'], 'parameter')} in {counted(report['arrays'], 'array')}",
        f"a round    {report['n_values']:,} numbers of {report['value_bits']} bits, {report['upload_bytes']:,} bytes from each "
        f"of {report['clients']} clients" + (f"; {left:,} stay with each client" if left else ""),
        f"key        {quantity(report['key_bits_per_pair'])} per pair and round, {quantity(found['bits_per_round'])} over "
        f"{counted(found['n_pairs'], 'pair')}; {quantity(found['bits_total'])} in {counted(found['rounds'], 'round')}",
    ]
    if not report["key_bits_per_pair"]:
        return "\n".join([*lines[:2], f"key        none: mode {found['mode']} protects nothing"])
    if found["ring_s"] is None:
        return "\n".join([*lines, f"ring       never: {found['text']}"])
    lines.append(
        f"ring       {duration(report['ring_s_per_round'])} of light a round, {duration(found['ring_s'])} for all, as planned "
        f"of {report['testbed']}"
    )
    slowest = max(found["pairs"], key=lambda each: each["ring_s"])
    lines.append(
        f"slowest    {pair_name(slowest['pair'])} at {quantity(slowest['rate_bps'])}/s of light: "
        f"{duration(slowest['ring_s'])} of it"
    )
    return "\n".join(lines)
