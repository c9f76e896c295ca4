"""A pair on a simulated ring whose fibre turns polarisation, with controllers behind some of its places."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from driven_ring import TEMPLATE, ring_content

from lab.testbed import parse_testbed
from sim_backends.survey import surveyed

EPC, MPC = "oz-epc-400", "thorlabs-mpc320"


def turning_content(
    controlled: Collection[str],
    slots_per_frame: int,
    *,
    ring_seed: int = 1,
    model: str = EPC,
    **simulation: Any,
) -> dict[str, Any]:
    """The bundled ring made anew, its fibre behind the ``controlled`` places as it lies, calibrated but for polarisation."""
    data = ring_content(slots_per_frame, ring_seed=ring_seed)
    for owner in controlled:
        data["instruments"].append(
            {"name": f"polarization_{owner}", "model": model, "owner": owner, "address": "auto"}
        )
    data["simulation"].update(simulation)
    return surveyed(data, parse_testbed(data, TEMPLATE))
