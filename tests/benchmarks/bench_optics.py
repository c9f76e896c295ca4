"""Speed of the light model as JSON, one line per click probability: python tests/benchmarks/bench_optics.py."""

from __future__ import annotations

import json

from sim_backends.optics_bench import optics_pulses_per_s

if __name__ == "__main__":
    for probability, slots in ((1e-1, 1 << 24), (1e-2, 1 << 26), (1e-3, 1 << 28), (1e-4, 1 << 30)):
        print(json.dumps(optics_pulses_per_s(slots, probability)), flush=True)
