"""``qunetlab keycost``: what a model of one's own costs in key, and how long a ring makes it, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fl.modes.table import DEFAULT_MODE
from lab.cli.options import Json, SourceOption, show
from lab.cli.train_options import like
from lab.runs.testbeds.folder import DEFAULT_TESTBED
from orchestrator.events.status import pair_name

if TYPE_CHECKING:
    from lab.runs.key_cost import KeyCost


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
    from lab.runs.key_cost import key_cost

    cost = key_cost(model, clients, rounds, mode, levels, testbed or DEFAULT_TESTBED)
    show(msgspec.to_builtins(cost), as_json, as_text(cost))


def as_text(cost: KeyCost) -> str:
    """For people, below 80 columns."""
    from fl.keys.budget import counted, duration, quantity

    found = cost.forecast
    left = cost.n_parameters - cost.n_values
    lines = [
        f"{cost.model}: {counted(cost.n_parameters, 'parameter')} in {counted(cost.arrays, 'array')}",
        f"a round    {cost.n_values:,} numbers of {cost.value_bits} bits, {cost.upload_bytes:,} bytes from each "
        f"of {cost.clients} clients" + (f"; {left:,} stay with each client" if left else ""),
        f"key        {quantity(cost.key_bits_per_pair)} per pair and round, {quantity(found.bits_per_round)} over "
        f"{counted(found.n_pairs, 'pair')}; {quantity(found.bits_total)} in {counted(found.rounds, 'round')}",
    ]
    if not cost.key_bits_per_pair:
        return "\n".join([*lines[:2], f"key        none: mode {found.mode} protects nothing"])
    if found.ring_s is None or cost.ring_s_per_round is None:
        return "\n".join([*lines, f"ring       never: {found.text}"])
    lines.append(
        f"ring       {duration(cost.ring_s_per_round)} of light a round, {duration(found.ring_s)} for all, as planned "
        f"of {cost.testbed}"
    )
    slowest = max(found.pairs, key=lambda each: each.ring_s or 0.0)
    lines.append(
        f"slowest    {pair_name(slowest.pair)} at {quantity(slowest.rate_bps)}/s of light: "
        f"{duration(slowest.ring_s or 0.0)} of it"
    )
    return "\n".join(lines)
