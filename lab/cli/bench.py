"""``qunetlab bench``: the figures of speed, each measured here and now on this machine.

Every benchmark prints as ``{name: {"value", "unit", ...}}`` with the conditions it holds for; medians and
ratios between runs on the same machine are what to quote.  ``link_pulses_per_s`` is the whole road with
real processes: fresh symbols, drivers, sockets, simulated light, tags, announcements, CURVE and the hub,
sifting and post-processing; gain and QBER of the very pulses counted are checked against the formulas.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fl.workloads.mnist.data import DataError
from lab.cli.errors import explain
from lab.runs.shown import echo
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervisor import Event

if TYPE_CHECKING:
    from lab.runs.supervising.supervised import Run

QBERS = (0.01, 0.02, 0.03, 0.05)
RECONCILE_BITS = 1 << 21
AMPLIFY_BITS = 4_000_000
LINK_BLOCKS = 4
LINK_PAIR = ("alice", "dave")
LINK_CHANGES: dict[str, dict[str, Any]] = {
    "protocol": {"p_x": 115 / 128, "mu": 0.00158, "pulses_per_block": 200_000_000},
    "ring": {"relay_loss_db": 3.6},
}
"""Arms of alice and dave lose 5.0 dB each, so that mu = 0.00158 gives a gain of 1e-3."""

SIGMAS = 5.0

Figure = Mapping[str, Any]


def run_benchmarks(only: list[str], as_json: bool) -> int:
    """Run the benchmarks named (all without names) and print their figures.

    Returns 1 if a check failed, or a benchmark other than for lack of data: the others are still reported.
    """
    unknown = [name for name in only if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    figures: dict[str, Figure] = {}
    failed = False
    for name in only or BENCHMARKS:
        if name in figures:
            continue
        echo(f"measuring {name} ...", err=True)
        try:
            measured = BENCHMARKS[name]()
        except Exception as error:
            if only:
                raise
            echo(f"{name} is left out: {explain(error)[1]}", err=True)
            failed |= not isinstance(error, DataError)
            continue
        found = {key: value for key, value in measured.items() if key == name or not only}
        figures |= found
        if not as_json:
            echo("\n".join(_line(key, figure) for key, figure in found.items()))
    if as_json:
        echo(json.dumps(figures))
    passed = all(figure.get("checks_passed", True) for figure in figures.values())
    return 0 if passed and not failed else 1


def _line(name: str, figure: Figure) -> str:
    details = ", ".join(
        f"{key} {_short(value)}" for key, value in figure.items() if key not in ("value", "unit")
    )
    return f"{name:24s} {figure['value']:.4g} {figure['unit']}   ({details})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_short(item)}" for key, item in value.items())
    return str(value)


def bench_optics() -> dict[str, Figure]:
    """The ring model alone, on one core."""
    from sim_backends.optics_bench import optics_pulses_per_s

    return {"optics_pulses_per_s": optics_pulses_per_s()}


def bench_reconcile() -> dict[str, Figure]:
    """Cascade at several error rates; the slowest and the least efficient are the figures."""
    from orchestrator.postprocessing.cascade import reconcile_benchmark

    results = {f"{qber:g}": reconcile_benchmark(qber, RECONCILE_BITS) for qber in QBERS}
    speed = {qber: result["mbit_per_s"] for qber, result in results.items()}
    efficiency = {qber: result["f"] for qber, result in results.items()}
    common = {"bits": RECONCILE_BITS}
    return {
        "reconcile_mbit_per_s": {
            "value": min(speed.values()),
            "unit": "Mbit/s",
            "by_qber": speed,
            "rounds": {qber: result["rounds"] for qber, result in results.items()},
            **common,
        },
        "reconcile_f": {"value": max(efficiency.values()), "unit": "1", "by_qber": efficiency, **common},
    }


def bench_amplify() -> dict[str, Figure]:
    """Privacy amplification of one large block, on one core."""
    from orchestrator.postprocessing.amplification import amplify_benchmark

    result = amplify_benchmark(AMPLIFY_BITS)
    return {"amplify_mbit_per_s": {"value": result["mbit_per_s"], "unit": "Mbit/s", "bits": AMPLIFY_BITS}}


def bench_mask() -> dict[str, Figure]:
    """Masking with pads in memory, four clients."""
    from orchestrator.delivery.masking import mask_benchmark

    return {"mask_values_per_s": {"unit": "values/s", **mask_benchmark()}}


def bench_link() -> dict[str, Figure]:
    """One pair, blocks back to back, real processes, simulated instruments."""
    from lab.cli.keygen import make_blocks
    from lab.runs.supervising.supervised import supervised_run

    compile_all()
    with supervised_run("simulated-four-node", LINK_CHANGES) as run:
        run.start_ring()
        blocks = make_blocks(run, LINK_PAIR, LINK_BLOCKS + 1, lambda name, event: None)
        return {"link_pulses_per_s": link_figure(run, blocks)}


def link_figure(run: Run, blocks: list[Event]) -> Figure:
    """Throughput between the ends of the first and the last block, with the physics of those pulses."""
    from orchestrator.protocols.block_planning import plan_for

    plan = plan_for(run.testbed, *LINK_PAIR)
    counted = blocks[1:]
    seconds = counted[-1]["finished_s"] - blocks[0]["finished_s"]
    pulses = sum(block["pulses"] for block in counted)
    sifted = sum(block["sifted_bits"] for block in counted)
    announced = sum(block["announced"] for block in counted)
    errors = sum(round(block["qber"] * block["sifted_bits"]) for block in counted)
    gain_x = sifted / (pulses * plan.p_x**2)
    gain_sigma = (sifted - pulses * plan.p_x**2 * plan.gain) / math.sqrt(pulses * plan.p_x**2 * plan.gain)
    qber_sigma = (errors - sifted * plan.qber) / math.sqrt(sifted * plan.qber * (1 - plan.qber))
    return {
        "value": pulses / seconds,
        "unit": "pulses/s",
        "samples_per_slot": run.testbed.protocol.samples_per_slot,
        "slots_per_frame": run.testbed.protocol.slots_per_frame,
        "p_x": plan.p_x,
        "pulses": pulses,
        "seconds": seconds,
        "announced_per_pulse": announced / pulses,
        "gain": gain_x,
        "gain_expected": plan.gain,
        "gain_sigma": gain_sigma,
        "qber": errors / sifted,
        "qber_expected": plan.qber,
        "qber_sigma": qber_sigma,
        "blocks_stored": sum(bool(block["stored"]) for block in counted),
        "checks_passed": abs(gain_sigma) <= SIGMAS and abs(qber_sigma) <= SIGMAS and sifted > 0,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def bench_lightsecagg() -> dict[str, Figure]:
    """Secret sharing for 200 clients and 1e5 values: a client's shares, and the server's decoding."""
    from fl.modes.share_bench import lightsecagg_benchmark

    result = lightsecagg_benchmark()
    common: dict[str, Any] = {
        key: result[key] for key in ("n_clients", "n_values", "colluders", "survivors", "modulus")
    }
    common["clock"] = "processor time of one thread"
    return {
        "lightsecagg_encode_ms": {
            "value": result["encode_ms"],
            "unit": "ms",
            "with_drawing_ms": result["client_ms"],
            **common,
        },
        "lightsecagg_decode_ms": {
            "value": result["decode_ms"],
            "unit": "ms",
            "with_checking_ms": result["decode_checked_ms"],
            **common,
        },
    }


def bench_mnist_round() -> dict[str, Figure]:
    """A round of 200 MNIST clients with compression, masks, exact sum and evaluation; needs the data."""
    from fl.carriers.in_process.benchmark import mnist_round_benchmark

    result = mnist_round_benchmark()
    return {"mnist_round_200_s": {"unit": "s", **result, "checks_passed": result["exact"]}}


def bench_secure_round() -> dict[str, Figure]:
    """What one-time pads add to a round of training, in processor time."""
    from fl.experiments.secure_round_bench import secure_round_benchmark

    result = dict(secure_round_benchmark())
    ratio, exact = result.pop("secure_round_overhead_ratio"), bool(result.pop("exact"))
    return {
        "secure_round_overhead_ratio": {
            "value": ratio,
            "unit": "of a plain round",
            **result,
            "exact": exact,
            "checks_passed": exact,
        }
    }


def bench_quantum_states() -> dict[str, Figure]:
    """A training step of the quantum-state network, against PennyLane's own simulator."""
    from fl.workloads.quantum_states.benchmark import quantum_state_benchmark

    return {"quantum_state_speedup": {"unit": "times faster", **quantum_state_benchmark()}}


BENCHMARKS: dict[str, Callable[[], dict[str, Figure]]] = {
    "optics_pulses_per_s": bench_optics,
    "link_pulses_per_s": bench_link,
    "reconcile_mbit_per_s": bench_reconcile,
    "reconcile_f": bench_reconcile,
    "amplify_mbit_per_s": bench_amplify,
    "mask_values_per_s": bench_mask,
    "lightsecagg_encode_ms": bench_lightsecagg,
    "lightsecagg_decode_ms": bench_lightsecagg,
    "mnist_round_200_s": bench_mnist_round,
    "secure_round_overhead_ratio": bench_secure_round,
    "quantum_state_speedup": bench_quantum_states,
}
