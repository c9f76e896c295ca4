"""How long the steps of a LightSecAgg round take on one core of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fl.modes import shares
from fl.modes.shares import ShareCode


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
    colluders, survivors = shares.default_thresholds(n_clients)
    code = ShareCode(n_clients, colluders, survivors, n_values, shares.smallest_modulus(127, n_clients))
    with threadpool_limits(1):
        mask, noise = shares.draw_mask(code)
        held = shares.encode(code, mask, noise)
        answers = {j: shares.add_shares(code, [held[j]]) for j in range(n_clients)}
        last = {j: answers[j] for j in range(n_clients - survivors, n_clients)}

        def decode_anew(known: dict[int, shares.Symbols]) -> shares.Symbols:
            shares.forget_interpolations()
            return shares.decode(code, known)

        if not np.array_equal(decode_anew(last), mask) or not np.array_equal(decode_anew(answers), mask):
            raise AssertionError("the decoded mask is not the one that was encoded")
        draw_ms = _median_ms(lambda: shares.draw_mask(code), repeats)
        encode_ms = _median_ms(lambda: shares.encode(code, mask, noise), repeats)
        answer_ms = _median_ms(lambda: shares.add_shares(code, held), repeats)
        decode_ms = _median_ms(lambda: decode_anew(last), repeats)
        checked_ms = _median_ms(lambda: decode_anew(answers), repeats)
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


def _median_ms(action: Callable[[], object], repeats: int) -> float:
    """The median duration after one warm-up."""
    action()
    durations = []
    for _ in range(repeats):
        begin = time.thread_time()
        action()
        durations.append(time.thread_time() - begin)
    return float(np.median(durations)) * 1e3
