"""What a model of one's own costs in key on a testbed, by its plans: nothing has to run for that."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fl.experiments.own_model import RoundCost, read_model, round_cost
from fl.keys.budget import KeyForecast, forecast
from fl.modes.table import MODES
from lab.runs.following.observer import supply_of
from lab.runs.testbeds.folder import source_path
from lab.runs.testbeds.ring_size import with_users
from lab.testbed import parse_testbed, read_testbed


class KeyCost(RoundCost, frozen=True, kw_only=True):
    """Of a model whose file is ``model``: ``arrays`` of it are summed, ``arrays_not_summed`` stay with each client.

    ``ring_s_per_round`` is seconds of light, None where some pair makes no key.
    """

    model: str
    testbed: str
    clients: int
    arrays: int
    arrays_not_summed: list[str]
    ring_s_per_round: float | None
    forecast: KeyForecast


def key_cost(
    path: Path, clients: int | None, rounds: int, mode: str, levels: int | None, source: str
) -> KeyCost:
    """The estimate: nothing of it is in stock, and every pair makes its key at its planned rate, one after the other.

    Raises ValueError where there is no such mode, OwnModelError or TestbedError where a file cannot be used.
    """
    if mode not in MODES:
        raise ValueError(f"no mode is called {mode!r}; there are {', '.join(MODES)}")
    model, place = read_model(path), source_path(source)
    data = read_testbed(place)
    if clients is not None and clients != len(data["users"]):
        data = with_users(data, clients, place)
    testbed = parse_testbed(data, place)
    cost = round_cost(model, tuple(testbed.user_names()), mode, levels)
    supply = [supply_of(testbed, pair, None, light=True) for pair in testbed.pairs()]
    return KeyCost(
        model=str(path),
        testbed=testbed.name,
        clients=len(testbed.users),
        arrays=len(model.summed),
        arrays_not_summed=[*model.kept],
        ring_s_per_round=forecast(mode, 1, cost.key_bits_per_pair, supply).ring_s,
        forecast=forecast(mode, rounds, cost.key_bits_per_pair, supply),
        **msgspec.structs.asdict(cost),
    )
