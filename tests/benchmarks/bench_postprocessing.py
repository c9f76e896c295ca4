"""Speed of post-processing on one core as JSON lines: python tests/benchmarks/bench_postprocessing.py."""

from __future__ import annotations

import json
import time

from orchestrator.postprocessing.amplification import amplify_benchmark
from orchestrator.postprocessing.cascade import compile_kernels, reconcile_benchmark
from orchestrator.postprocessing.rehearsal import honest_sides, rehearse
from orchestrator.protocols.planner import block_plan


def whole_block(n_pulses: int, loss_db: float) -> dict[str, float]:
    """One block with both users in this process, in bits of sifted key per second."""
    plan = block_plan(
        loss_db / 2, loss_db / 2, n_pulses=n_pulses, visibility=0.99, dark_count=1e-7, f_ec=1.05
    )
    sides = honest_sides(plan, 1)
    begin = time.perf_counter()
    rehearse(sides)
    seconds = time.perf_counter() - begin
    result = sides["first"].result
    return {
        "loss_db": loss_db,
        "n_pulses": n_pulses,
        "sifted_bits": result.n_x,
        "secret_bits": result.secret_bits,
        "f_ec": result.f_ec,
        "rounds": result.rounds,
        "seconds": seconds,
        "mbit_per_s": result.n_x / seconds / 1e6,
    }


if __name__ == "__main__":
    compile_kernels()
    for n_bits in (10_000, 100_000, 2**23):
        for qber in (0.01, 0.02, 0.03, 0.05):
            print(json.dumps({"what": "cascade", **reconcile_benchmark(qber, n_bits)}), flush=True)
    for n_bits in (10**5, 10**6, 10**7, 10**8):
        print(json.dumps({"what": "amplification", **amplify_benchmark(n_bits)}), flush=True)
    for n_pulses, loss_db in ((10**8, 12.0), (10**9, 12.0), (10**10, 18.6)):
        print(json.dumps({"what": "block", **whole_block(n_pulses, loss_db)}), flush=True)
