"""Speed of post-processing on one core as JSON lines: python tests/benchmarks/bench_postprocessing.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypedDict

import numpy as np
from measuring import Figure, emit
from rehearsal import honest_sides, rehearse

from orchestrator.bits import pack
from orchestrator.postprocessing import cascade
from orchestrator.postprocessing.amplification import amplify, draw_seed
from orchestrator.postprocessing.messages import ParityReply
from orchestrator.protocols.four_phase.planner import block_plan

QBERS = (0.01, 0.02, 0.03, 0.05)
RECONCILE_BITS = 1 << 21
AMPLIFY_BITS = 4_000_000


class ReconciliationFigures(TypedDict):
    """One measured reconciliation; ``f`` is parity bits over ``n h(qber)`` for the errors really there.

    ``mbit_per_s`` is for both sides one after the other on one core, ``*_mbit_per_s`` for each side alone,
    in processor time of this thread, so that other work on the machine does not count.
    """

    n_bits: int
    qber: float
    f: float
    rounds: int
    parity_bits: int
    equal: bool
    mbit_per_s: float
    reference_mbit_per_s: float
    corrector_mbit_per_s: float


def reconcile_benchmark(
    qber: float, n_bits: int, *, seed: int = 1, clock: Callable[[], float] = time.thread_time
) -> ReconciliationFigures:
    """Reconcile ``n_bits`` random bits with independent errors of rate ``qber``, both sides in this thread."""
    cascade.compile_kernels()
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, n_bits, dtype=np.uint8)
    errors = (rng.random(n_bits) < qber).astype(np.uint8)
    seeds = rng.bytes(cascade.SEED_BYTES * cascade.n_frames(n_bits))
    ours, theirs = pack(bits), pack(bits ^ errors)
    begin = clock()
    reference = cascade.CascadeReference(ours, n_bits, qber, seeds, limit_bits=8 * n_bits)
    middle = clock()
    corrector = cascade.CascadeCorrector(theirs, n_bits, qber, seeds)
    reference_s, corrector_s = middle - begin, clock() - middle
    reply: ParityReply | None = None
    while True:
        begin = clock()
        request = corrector.next_request(reply)
        middle = clock()
        corrector_s += middle - begin
        if request is None:
            break
        reply = reference.answer(request)
        reference_s += clock() - middle
    rate = float(errors.mean())
    entropy = -rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate) if 0 < rate < 1 else 0.0
    return ReconciliationFigures(
        n_bits=n_bits,
        qber=rate,
        f=reference.parity_bits / (n_bits * entropy) if entropy else math.inf,
        rounds=corrector.rounds,
        parity_bits=reference.parity_bits,
        equal=bool(np.array_equal(corrector.corrected(), ours)),
        mbit_per_s=n_bits / (reference_s + corrector_s) / 1e6,
        reference_mbit_per_s=n_bits / reference_s / 1e6,
        corrector_mbit_per_s=n_bits / corrector_s / 1e6,
    )


class AmplificationFigures(TypedDict):
    """Speed of one amplification, per input bit."""

    n_bits: int
    key_bits: int
    seconds: float
    mbit_per_s: float


def amplify_benchmark(
    n_bits: int,
    key_bits: int | None = None,
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.thread_time,
) -> AmplificationFigures:
    """Best of ``repeats`` amplifications of ``n_bits`` random bits to ``key_bits`` (a quarter when None).

    Seconds are processor time of this thread, so that other work on the machine does not count.
    """
    m = n_bits // 4 if key_bits is None else key_bits
    rng = np.random.default_rng(1)
    bits = pack(rng.integers(0, 2, n_bits, dtype=np.uint8))
    seed = draw_seed(n_bits, m, rng.bytes)
    best = float("inf")
    for _ in range(repeats):
        begin = clock()
        amplify(bits, n_bits, m, seed)
        best = min(best, clock() - begin)
    return AmplificationFigures(n_bits=n_bits, key_bits=m, seconds=best, mbit_per_s=n_bits / best / 1e6)


def reconciliation() -> dict[str, Figure]:
    """Cascade at several error rates; the slowest and the least efficient are the figures."""
    results = {f"{qber:g}": reconcile_benchmark(qber, RECONCILE_BITS) for qber in QBERS}
    speed = {qber: result["mbit_per_s"] for qber, result in results.items()}
    efficiency = {qber: result["f"] for qber, result in results.items()}
    return {
        "reconcile_mbit_per_s": {
            "value": min(speed.values()),
            "unit": "Mbit/s",
            "by_qber": speed,
            "rounds": {qber: result["rounds"] for qber, result in results.items()},
            "bits": RECONCILE_BITS,
        },
        "reconcile_f": {
            "value": max(efficiency.values()),
            "unit": "1",
            "by_qber": efficiency,
            "bits": RECONCILE_BITS,
        },
    }


def amplification() -> dict[str, Figure]:
    """Privacy amplification of one large block, on one core."""
    speed = amplify_benchmark(AMPLIFY_BITS)["mbit_per_s"]
    return {"amplify_mbit_per_s": {"value": speed, "unit": "Mbit/s", "bits": AMPLIFY_BITS}}


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
        "sifted_bits": result.n_key,
        "secret_bits": result.secret_bits,
        "f_ec": result.f_ec,
        "rounds": result.rounds,
        "seconds": seconds,
        "mbit_per_s": result.n_key / seconds / 1e6,
    }


if __name__ == "__main__":
    cascade.compile_kernels()
    for n_bits in (10_000, 100_000, 2**23):
        for qber in QBERS:
            emit("cascade", **reconcile_benchmark(qber, n_bits))
    for n_bits in (10**5, 10**6, 10**7, 10**8):
        emit("amplification", **amplify_benchmark(n_bits))
    for n_pulses, loss_db in ((10**8, 12.0), (10**9, 12.0), (10**10, 18.6)):
        emit("block", **whole_block(n_pulses, loss_db))
