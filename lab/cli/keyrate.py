"""``qunetlab keyrate``: the planner's formulas on the command line."""

from __future__ import annotations

import math

from orchestrator.protocols.block_planning import protocol_named
from orchestrator.protocols.epsilons import ParameterError

OPTIONS = {"loss_a_db": "--loss-db-a", "loss_b_db": "--loss-db-b", "n_pulses": "--pulses"}
"""Options that are not called as the argument they set."""


def keyrate_command(
    *,
    protocol: str,
    loss_a_db: float,
    loss_b_db: float,
    mu_a: float | None,
    mu_b: float | None,
    p_x: float | None,
    visibility: float,
    dark_count: float,
    f_ec: float,
    n_pulses: float | None,
    eps_sec: float,
    eps_cor: float,
    phase_uncertainty_rad: float = 0.0,
    intensity_tolerance_db: float = 0.0,
    extinction_db: float | None = None,
    optimize: bool,
) -> dict[str, float | int | None]:
    """The report of ``keyrate``; raises ValueError naming the option that is missing or out of range.

    With ``optimize`` the intensities and p_x are chosen for the best rate, whatever was given.
    """
    chosen = protocol_named(protocol)
    if n_pulses is not None and not (math.isfinite(n_pulses) and n_pulses == int(n_pulses)):
        raise ValueError(f"--pulses must be a whole number of pulses, got {n_pulses:g}")
    settings = {"mu_a": mu_a, "mu_b": mu_b, "p_x": p_x}
    missing = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is None]
    if optimize:
        settings = dict.fromkeys(settings)
    elif missing:
        raise ValueError(f"give {', '.join(missing)}, or --optimize to have them chosen")
    try:
        return chosen.key_rate(
            loss_a_db,
            loss_b_db,
            visibility,
            dark_count,
            f_ec,
            None if n_pulses is None else int(n_pulses),
            eps_sec,
            eps_cor,
            **settings,
            phase_uncertainty_rad=phase_uncertainty_rad,
            intensity_tolerance_db=intensity_tolerance_db,
            extinction_db=extinction_db,
        )
    except ParameterError as error:
        option = OPTIONS.get(error.name, f"--{error.name.replace('_', '-')}")
        raise ValueError(f"{option} {error.text}") from None
