"""Figures of the LightSecAgg mathematics as JSON lines, on one core:

python tests/benchmarks/bench_lightsecagg.py [--values 100000] [--clients 4 10 50 200]
"""

from __future__ import annotations

import argparse
import json

from fl.modes.share_bench import lightsecagg_benchmark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=100_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 10, 50, 200])
    arguments = parser.parse_args()
    for n_clients in arguments.clients:
        report = lightsecagg_benchmark(n_clients, arguments.values)
        print(json.dumps({"what": "lightsecagg", **report}), flush=True)


if __name__ == "__main__":
    main()
