"""Figures of the key store on this machine: python tests/benchmarks/bench_keystore.py [folder]

Latencies are medians; the disk decides them, so name a folder on the disk that will hold the store.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_masking import mask_benchmark

from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits

BLOCK_BYTES = 8 << 20


def median_ms(action: Callable[[int], object], repeats: int) -> float:
    """Median duration of ``action(n)`` in milliseconds."""
    durations = []
    for n in range(repeats):
        begin = time.perf_counter()
        action(n)
        durations.append(time.perf_counter() - begin)
    return float(np.median(durations)) * 1e3


def fsync_ms(folder: Path) -> float:
    """Median duration of writing and syncing 16 KiB, the least a durable step can cost."""
    with open(folder / "probe", "wb") as file:

        def step(_: int) -> None:
            file.write(bytes(16384))
            file.flush()
            os.fsync(file.fileno())

        return median_ms(step, 100)


def measure(folder: Path) -> dict[str, float]:
    """All figures, by name with unit."""
    figures = {"write_and_fsync_16k_ms": fsync_ms(folder)}
    store = KeyStore.create(folder / "bench.db", "alice", Kek(os.urandom(32)))
    secrets = SecretBits.from_bytes(os.urandom(1 << 20)), SecretBits.from_bytes(os.urandom(1 << 20))
    store.install_initial_secret("bob", *secrets, pair_end="first")
    keys = [SecretBits.from_bytes(os.urandom(BLOCK_BYTES)) for _ in range(4)]

    def deposit(n: int) -> None:
        store.deposit_pending("bob", f"block{n}", keys[n], b"")
        store.confirm_deposit("bob", f"block{n}")

    figures["deposit_mb_per_s"] = BLOCK_BYTES / 1e3 / median_ms(deposit, len(keys))
    ranges = {}

    def reserve(n: int) -> None:
        context = n.to_bytes(32, "big")
        ranges[n] = store.propose_reservation("bob", "mask", 15_660, context)
        store.commit_reservation("bob", "mask", ranges[n], context)

    figures["reserve_and_commit_ms"] = median_ms(reserve, 200)
    figures["release_15660_bits_ms"] = median_ms(
        lambda n: store.release("bob", "mask", ranges[n], n.to_bytes(32, "big")), 200
    )
    figures["take_tag_key_ms"] = median_ms(lambda _: store.auth("bob").take_outgoing(256), 500)
    large = 8 * BLOCK_BYTES // 4

    def release_large(n: int) -> float:
        context = (1000 + n).to_bytes(32, "big")
        wanted = store.propose_reservation("bob", "mask", large, context)
        store.commit_reservation("bob", "mask", wanted, context)
        begin = time.perf_counter()
        store.release("bob", "mask", wanted, context)
        return time.perf_counter() - begin

    figures["release_mb_per_s"] = large / 8e6 / float(np.median([release_large(n) for n in range(8)]))
    store.close()
    figures["mask_values_per_s"] = mask_benchmark()["value"]
    return figures


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for name, value in measure(Path(folder)).items():
            print(f"{name:26} {value:14.4g}")


if __name__ == "__main__":
    main()
