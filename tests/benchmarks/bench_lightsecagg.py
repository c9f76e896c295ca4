"""Figures of the LightSecAgg mathematics as JSON lines, on one core:

python tests/benchmarks/bench_lightsecagg.py [--values 100000] [--clients 4 10 50 200]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import Figure, emit, median_s
from threadpoolctl import threadpool_limits

from fl.modes import shares
from fl.modes.field import Symbols
from fl.modes.shares import ShareCode
from fl.modes.thresholds import default_thresholds, smallest_modulus


def lightsecagg_benchmark(
    n_clients: int = 200, n_values: int = 100_000, repeats: int = 15
) -> dict[str, float]:
    """Medians in milliseconds of processor time, one thread, 8-bit values, default thresholds.

    Processor time is what a free core would need; the wall clock of a busy machine measures its other work.

    ``draw_ms`` (mask and noise, from the system's generator) and ``encode_ms`` (all N shares) are work of every
    client, together ``client_ms``; ``answer_ms`` sums the shares of N clients; ``decode_ms`` is the server's,
    from the answers of the last U clients with the interpolation matrix computed anew, and
    ``decode_checked_ms`` from the answers of all N, of which N-U are checked.  ``upload_symbols_ratio`` is
    what a client sends in a round, in symbols per value: N-1 shares, the update and an answer.
    """
    colluders, survivors = default_thresholds(n_clients)
    code = ShareCode(n_clients, colluders, survivors, n_values, smallest_modulus(127, n_clients))
    with threadpool_limits(1):
        mask, noise = shares.draw_mask(code)
        held = shares.encode(code, mask, noise)
        answers = {j: shares.add_shares(code, [held[j]]) for j in range(n_clients)}
        last = {j: answers[j] for j in range(n_clients - survivors, n_clients)}

        def median_ms(action: Callable[[], object]) -> float:
            return 1e3 * median_s(action, repeats, time.thread_time)

        def decode_anew(known: dict[int, Symbols]) -> Symbols:
            shares._interpolation.cache_clear()
            return shares.decode(code, known)

        if not np.array_equal(decode_anew(last), mask) or not np.array_equal(decode_anew(answers), mask):
            raise AssertionError("the decoded mask is not the one that was encoded")
        draw_ms = median_ms(lambda: shares.draw_mask(code))
        encode_ms = median_ms(lambda: shares.encode(code, mask, noise))
        answer_ms = median_ms(lambda: shares.add_shares(code, held))
        decode_ms = median_ms(lambda: decode_anew(last))
        checked_ms = median_ms(lambda: decode_anew(answers))
    return {
        "draw_ms": draw_ms,
        "encode_ms": encode_ms,
        "client_ms": draw_ms + encode_ms,
        "answer_ms": answer_ms,
        "decode_ms": decode_ms,
        "decode_checked_ms": checked_ms,
        "upload_symbols_ratio": (n_clients * code.symbols_per_share + n_values) / n_values,
        "n_clients": n_clients,
        "n_values": n_values,
        "colluders": colluders,
        "survivors": survivors,
        "modulus": code.modulus,
    }


def secret_sharing() -> dict[str, Figure]:
    """Secret sharing for 200 clients and 1e5 values: a client's shares, and the server's decoding."""
    result = lightsecagg_benchmark()
    common: dict[str, Any] = {
        key: result[key] for key in ("n_clients", "n_values", "colluders", "survivors", "modulus")
    }
    common |= {"unit": "ms", "clock": "processor time of one thread"}
    encode, decode = result["encode_ms"], result["decode_ms"]
    return {
        "lightsecagg_encode_ms": {"value": encode, "with_drawing_ms": result["client_ms"], **common},
        "lightsecagg_decode_ms": {"value": decode, "with_checking_ms": result["decode_checked_ms"], **common},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=100_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 10, 50, 200])
    arguments = parser.parse_args()
    for n_clients in arguments.clients:
        emit("lightsecagg", **lightsecagg_benchmark(n_clients, arguments.values))


if __name__ == "__main__":
    main()
