"""The figures that ``qunetlab bench`` reports, each with the function beside this file that measures it.

A function may measure several figures at once; it returns ``{name: {"value", "unit", ...}}`` with the conditions that
hold for them.  Medians and ratios between runs on the same machine are what to quote.
"""

from __future__ import annotations

from importlib import import_module

from measuring import Figure

ROWS = {
    "optics_pulses_per_s": "bench_optics:optics",
    "link_pulses_per_s": "bench_link:link",
    "reconcile_mbit_per_s": "bench_postprocessing:reconciliation",
    "reconcile_f": "bench_postprocessing:reconciliation",
    "amplify_mbit_per_s": "bench_postprocessing:amplification",
    "mask_values_per_s": "bench_masking:masking",
    "lightsecagg_encode_ms": "bench_lightsecagg:secret_sharing",
    "lightsecagg_decode_ms": "bench_lightsecagg:secret_sharing",
    "mnist_round_200_s": "bench_cohort:mnist_round",
    "secure_round_overhead_ratio": "secure_round:secure_round",
    "quantum_state_speedup": "bench_circuits:quantum_states",
    "scheduler_over_bound": "bench_scheduler:scheduling",
    "dashboard_share": "bench_dashboard:dashboard",
    "metrics_share": "bench_metrics:scraping",
    "enc_keys_per_s": "bench_key_delivery:key_delivery",
    "dec_keys_per_s": "bench_key_delivery:key_delivery",
}


def measure(name: str) -> dict[str, Figure]:
    """The figure called ``name``, with those that are measured along with it."""
    module, _, function = ROWS[name].partition(":")
    figures: dict[str, Figure] = getattr(import_module(module), function)()
    return figures
