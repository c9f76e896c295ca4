"""The whole road with real processes: fresh symbols, drivers, sockets, simulated light, tags, announcements, CURVE
and the hub, sifting and post-processing.

python tests/benchmarks/bench_link.py

One pair makes blocks back to back on a ring that is as it was ordered; gain and QBER of the very pulses counted are
checked against the formulas.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measuring import Figure, emit

from lab.runs.keygen import make_blocks
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervised import Run, supervised_run
from lab.runs.testbeds.folder import source_path
from lab.testbed import parse_testbed, read_testbed, write_testbed
from orchestrator.events.status import BlockReport
from orchestrator.protocols.block_planning import plan_for
from sim_backends.survey import surveyed

LINK_BLOCKS = 4
LINK_PAIR = ("alice", "dave")
LINK_CHANGES: dict[str, dict[str, Any]] = {
    "protocol": {
        "p_x": 115 / 128,
        "mu": 0.00158,
        "pulses_per_block": 200_000_000,
        "monitoring": "calibrated",
    },
    "simulation": {"spread": 0.0, "relay_loss_db": 3.6},
}
"""Arms of alice and dave lose 5.0 dB each, so that mu = 0.00158 gives a gain of 1e-3; sensors do not see so little."""

SIGMAS = 5.0


def link_testbed(folder: Path) -> Path:
    """The bundled testbed with the changes, calibrated without a fault."""
    template = source_path("simulated-four-node")
    data = read_testbed(template)
    data |= {section: data[section] | keys for section, keys in LINK_CHANGES.items()}
    path = folder / "link.toml"
    write_testbed(surveyed(data, parse_testbed(data, path)), path)
    return path


def link() -> dict[str, Figure]:
    """One pair, blocks back to back, real processes, simulated instruments."""
    compile_all()
    with TemporaryDirectory() as folder, supervised_run(str(link_testbed(Path(folder))), {}) as run:
        run.start_ring()
        blocks = make_blocks(run, LINK_PAIR, LINK_BLOCKS + 1, lambda name, event: None)
        return {"link_pulses_per_s": link_figure(run, blocks)}


def link_figure(run: Run, blocks: list[BlockReport]) -> Figure:
    """Throughput between the ends of the first and the last block, with the physics of those pulses."""
    plan = plan_for(run.testbed, *LINK_PAIR)
    counted = blocks[1:]
    begun, ended = (each.started_s + each.processing_s for each in (blocks[0], counted[-1]))
    seconds = ended - begun
    pulses = sum(block.pulses for block in counted)
    sifted = sum(block.sifted_bits for block in counted)
    announced = sum(block.announced for block in counted)
    errors = sum(round((block.qber or 0.0) * block.sifted_bits) for block in counted)
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
        "blocks_stored": sum(block.stored for block in counted),
        "checks_passed": abs(gain_sigma) <= SIGMAS and abs(qber_sigma) <= SIGMAS and sifted > 0,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


if __name__ == "__main__":
    for name, figure in link().items():
        emit(name, **figure)
