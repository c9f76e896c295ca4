"""The samples of a frame: float32, full scale -1 to 1, of a length that its generator takes.  Checked before anything is sent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""1-d float32: one sample per element, full scale -1 to 1."""
MIN_SAMPLES = 2400
"""Shortest waveform that the AWG70000 series plays (qcodes AWG70000A.py)."""
MAX_SAMPLES = 249_999_999
"""Samples of 4 bytes in one IEEE 488.2 block, in which an AWG70000 takes them."""
_CHUNK = 1 << 18


def why_refused(
    samples: Samples, n_samples: int, limits: tuple[int, int] = (MIN_SAMPLES, MAX_SAMPLES)
) -> str:
    """Why these are not the samples of a waveform of ``n_samples``, within a generator's limits; "" if they are."""
    if samples.dtype != np.dtype("<f4") or samples.ndim != 1 or not samples.flags.c_contiguous:
        return "samples must be a contiguous one-dimensional array of little-endian float32"
    if samples.size != n_samples:
        return f"a frame has {n_samples} samples, not {samples.size}"
    if not limits[0] <= n_samples <= limits[1]:
        return f"{n_samples} samples is outside {limits[0]}..{limits[1]} samples"
    return "" if levels_in_range(samples) else "a sample is outside -1..1 or not a number"


def levels_in_range(samples: Samples) -> bool:
    """Whether all samples are numbers in [-1, 1]; NaN is out of range."""
    for start in range(0, samples.size, _CHUNK):
        chunk = samples[start : start + _CHUNK]
        if not (chunk.max() <= 1.0 and chunk.min() >= -1.0):
            return False
    return True
