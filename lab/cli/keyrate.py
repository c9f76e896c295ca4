"""``qunetlab keyrate``: the planner's formulas on the command line, for two losses or for a pair of a testbed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lab.light_of import pair_light
from lab.runs.testbeds.folder import source_path
from lab.runs.testbeds.machine import pair_named
from lab.testbed import Testbed, load_testbed
from orchestrator.events.status import pair_name
from orchestrator.protocols.block_planning import protocol_named
from orchestrator.protocols.epsilons import ParameterError

OPTIONS = {"loss_a_db": "--loss-db-a", "loss_b_db": "--loss-db-b", "n_pulses": "--pulses"}
"""Options that are not called as the argument they set."""


def keyrate_command(
    *,
    protocol: str,
    loss_a_db: float | None,
    loss_b_db: float | None,
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
    """The report of ``keyrate`` for two losses; raises ValueError naming the option that is missing or out of range.

    With ``optimize`` the intensities and p_x are chosen for the best rate, whatever was given.
    """
    chosen = protocol_named(protocol)
    if loss_a_db is None or loss_b_db is None:
        raise ValueError("give --loss-db-a and --loss-db-b, or --testbed and --pair")
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


def pair_report(source: str, named: str | None) -> dict[str, Any]:
    """What a pair of a testbed is planned to make, and what its ring must be set to and will show.

    Of the sensors, that of the user's own direction and the other.  Raises ValueError for a pair that does not exist,
    or that cannot make key, with every reason.
    """
    testbed = load_testbed(source_path(source))
    if named is None:
        raise ValueError(f"say which pair, with --pair: one of {', '.join(map(pair_name, testbed.pairs()))}")
    pair = pair_named(testbed, named)
    protocol = protocol_named(testbed.protocol.name)
    if reasons := protocol.refusals(testbed, *pair):
        raise ValueError(f"{pair_name(pair)} cannot make key: {'; '.join(reasons)}")
    plan, light = protocol.plan(testbed, *pair), pair_light(testbed, *pair)
    budget = light.budget(plan.mu_a)
    per_light_second = plan.key_rate_per_pulse * testbed.protocol.clock_hz
    return {
        "pair": pair_name(pair),
        "light": plan.light,
        "monitoring": plan.monitoring,
        **plan.figures(),
        "tolerance_db": dict(zip(pair, plan.tolerance_db, strict=True)),
        "launch_attenuation_db": budget.launch_attenuation_db,
        "attenuation_db": {user: testbed.user(user).attenuation_db for user in pair},
        "sensor_w": {
            user: {"own": sensor.own_w, "other": sensor.other_w}
            for user, sensor in zip(pair, budget.sensors, strict=True)
        },
        "backscatter_per_gate": budget.backscatter_per_gate,
        "detector_rate_cps": budget.detector_rate_cps,
        "key_bits_per_light_second": per_light_second,
        "key_bits_per_bench_second": per_light_second * light.ring.duty,
    }


def pair_checked(testbed: Testbed, pair: tuple[str, str]) -> tuple[dict[str, Any], str]:
    """What a check tells of a pair: its losses, what it would be set to, and what is in the way of its key."""
    protocol, light = protocol_named(testbed.protocol.name), pair_light(testbed, *pair)
    (loss_a_db, loss_b_db), refusals = light.arms_db, protocol.refusals(testbed, *pair)
    answer = {"pair": list(pair), "loss_a_db": loss_a_db, "loss_b_db": loss_b_db, "refusals": refusals}
    told = f"{pair_name(pair)}: {loss_a_db:.2f} + {loss_b_db:.2f} dB"
    if not refusals:
        plan = protocol.plan(testbed, *pair)
        budget = light.budget(plan.mu_a)
        own_pw = " and ".join(f"{sensor.own_w * 1e12:.3g}" for sensor in budget.sensors)
        told += f"; launch {budget.launch_attenuation_db:.1f} dB, own light {own_pw} pW at the sensors"
        answer["launch_attenuation_db"] = budget.launch_attenuation_db
    return answer, told


UNITS = {
    "gain": "clicks per slot",
    "key_rate_per_pulse": "bits",
    "key_bits": "bits per block",
    "mu_a": "photons per slot",
    "mu_b": "photons per slot",
    "tolerance_db": "dB",
    "launch_attenuation_db": "dB",
    "attenuation_db": "dB",
    "sensor_w": "W",
    "backscatter_per_gate": "counts per gate and detector",
    "detector_rate_cps": "counts per second and detector",
    "key_bits_per_light_second": "bits per second of light",
    "key_bits_per_bench_second": "bits per second on a bench",
}


def as_table(report: Mapping[str, Any]) -> str:
    """A report for people, as wide as the terminal: figures with their units, those of a user beside each other."""
    from lab.runs.following.terminal import columns
    from lab.runs.following.view import table

    return "\n".join(table(("figure", "value", "unit"), list(_rows(report)), columns(100)))


def _rows(report: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, str, str]]:
    for key, value in report.items():
        label = f"{name} {key}".strip()
        if isinstance(value, dict):
            yield from _rows(value, label)
            continue
        shown = "-" if value is None else format(value, ".7g") if isinstance(value, float) else str(value)
        yield label, shown, UNITS.get(label.split()[0], "")
