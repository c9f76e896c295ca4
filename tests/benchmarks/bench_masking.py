"""Speed of masking with pads in memory, on one core: python tests/benchmarks/bench_masking.py."""

from __future__ import annotations

import numpy as np
from measuring import Figure, emit, median_s

from orchestrator.bits import packed_size
from orchestrator.delivery.masking import mask


def mask_benchmark(n_values: int = 1_000_000, n_peers: int = 3, ring_width: int = 10) -> dict[str, float]:
    """Time :func:`mask` on one core: ``value`` is masked values per second, the median of 15 runs."""
    rng = np.random.default_rng(1)
    values = rng.integers(-31, 32, n_values)
    pads = [rng.integers(0, 256, packed_size(n_values * ring_width), np.uint8) for _ in range(n_peers)]
    spare = packed_size(n_values * ring_width) * 8 - n_values * ring_width
    for pad in pads:
        pad[-1] >>= spare
    signs = [1 if index % 2 else -1 for index in range(n_peers)]
    seconds = median_s(lambda: mask(values, pads, signs, ring_width, weight=2), 15)
    return {
        "value": n_values / seconds,
        "seconds": seconds,
        "n_values": n_values,
        "n_peers": n_peers,
        "ring_width": ring_width,
    }


def masking() -> dict[str, Figure]:
    """Masking with pads in memory, four clients."""
    return {"mask_values_per_s": {"unit": "values/s", **mask_benchmark()}}


if __name__ == "__main__":
    emit("mask_values_per_s", **mask_benchmark())
