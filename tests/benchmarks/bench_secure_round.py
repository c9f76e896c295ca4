"""A secure round beside a plain one, in one run: in Flower and on our own stack, as JSON lines.

python tests/benchmarks/bench_secure_round.py [--clients 20] [--parameters 100000] [--rounds 5]
    [--ways plain otp lightsecagg secagg+] [--images 0] [--engines local ray]

Flower's figures are of rounds without training: processor seconds of all clients and the server (``local``),
or wall seconds in ray with two processes.  Those of our own stack are processor milliseconds of all clients
together.  Quote medians, and ratios within one run.
"""

from __future__ import annotations

import argparse
import os

from measuring import emit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="*", default=["plain", "otp", "secagg+"])
    parser.add_argument(
        "--images", type=int, nargs="*", default=[0, 300], help="per client; 0: a share of MNIST"
    )
    parser.add_argument("--engines", nargs="*", default=["local", "ray"], choices=["local", "ray"])
    arguments = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")

    from secure_round import secure_round_benchmark

    for images in arguments.images:
        figures = secure_round_benchmark(arguments.clients, examples_per_client=images)
        emit("own stack", **figures)
    if not arguments.ways:
        return
    from flower_rounds import flower_benchmark

    size = arguments.clients, arguments.parameters, arguments.rounds
    for engine in arguments.engines:
        for way, entry in flower_benchmark(arguments.ways, *size, engine).items():
            emit(f"Flower, {way}", **entry)


if __name__ == "__main__":
    main()
