"""Model updates as small integers whose sum is exact modulo 2^b.

Secure aggregation adds integers modulo ``2^b``, so every client turns its update ``x`` (float32, one value
per parameter) into integers in ``[-L, L]``:

    q = floor(clip(x, -c, c) * L / c + u),  u uniform on [0, 1),  clamped to [-L, L]

The rounding is unbiased: ``E[q] = clip(x, -c, c) * L / c`` (Alistarh et al., QSGD, arXiv 1610.02132, with
uniform levels).  The clamp only catches float rounding at ``x = +-c``.  The
server reads the sum of ``w_i * q_i`` as a signed number of ``b`` bits; that is the true sum if and only if

    L * sum(w) <= 2^(b-1) - 1

which :func:`check_ring_width` enforces, the one place where it is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.rounds.clipping import Losses
from fl.rounds.settings import Naming
from orchestrator.bits import whole
from orchestrator.delivery.ring_width import MAX_RING_WIDTH, MIN_RING_WIDTH

QuantisedUpdate = npt.NDArray[np.int32]
"""1-d int32, C-contiguous: one integer in ``[-L, L]`` per parameter."""

CLIP_SLACK = 1e-6
"""A float32 that is meant to equal the clip may lie this much (relative) beyond it, and is not cut."""

SMALLEST_CLIP, LARGEST_CLIP = 1e-30, 1e30
"""Within the range of float32, with room for a mean that is scaled up."""


class QuantisationError(ValueError):
    """Base of what makes an update or a setting unfit for exact summation."""


class RingWidthError(QuantisationError):
    """The sum of all updates could wrap modulo 2^b and come back as a different number."""


class UpdateNotFiniteError(QuantisationError):
    """A model update holds NaN or an infinity."""


@dataclass(frozen=True)
class Quantiser:
    """The public rule by which all clients of a run turn floats into integers.

    ``clip`` is in units of the parameters; larger updates are cut to it.  ``levels`` is L above.  An array of clips
    (float64, one per value) gives every value its own.
    """

    clip: float | npt.NDArray[np.float64]
    levels: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", whole(self.levels, "the number of levels"))
        if isinstance(self.clip, np.ndarray) and self.clip.ndim:
            clips = [float(self.clip.min()), float(self.clip.max())]
        else:  # in double precision, whatever the number was written in
            clips = [float(self.clip)]
            object.__setattr__(self, "clip", clips[0])
        for clip in clips:
            if not SMALLEST_CLIP <= clip <= LARGEST_CLIP:
                raise QuantisationError(
                    f"the clip must be a positive number from {SMALLEST_CLIP:g} to {LARGEST_CLIP:g}, got {clip:g}"
                )
        if self.levels < 1:
            raise QuantisationError(f"at least one level is needed, got L = {self.levels}")

    def quantise(
        self, update: npt.NDArray[np.floating], rng: np.random.Generator, *, client: str, round_number: int
    ) -> QuantisedUpdate:
        """``update`` (1-d floats) as int32 values in ``[-levels, levels]``.

        ``client`` and ``round_number`` only serve the error: raises UpdateNotFiniteError at NaN or infinity.
        """
        return self.quantise_counted(update, rng, client=client, round_number=round_number)[0]

    def quantise_counted(
        self, update: npt.NDArray[np.floating], rng: np.random.Generator, *, client: str, round_number: int
    ) -> tuple[QuantisedUpdate, Losses]:
        """:meth:`quantise`, and what clip and rounding took away.

        The values are not cut to the clip before they are rounded: beyond it ``floor(x L / c + u)`` lies beyond L
        as well, where the clamp cuts it.
        """
        check_finite(update, client=client, round_number=round_number)
        scaled = np.multiply(update, self.levels / self.clip, dtype=np.float64)
        clipped = _count_beyond(scaled, self.levels * (1 + CLIP_SLACK))
        scaled += rng.random(update.size)
        np.floor(scaled, out=scaled)
        values = np.clip(scaled, -self.levels, self.levels, out=scaled).astype(np.int32)
        something = int(np.count_nonzero(update))
        vanished = something - int(np.count_nonzero(values))  # zero never becomes anything else
        return values, Losses(clipped / max(1, update.size), vanished / max(1, something))

    def mean(self, total: npt.NDArray[np.int64], weight_sum: int) -> npt.NDArray[np.float32]:
        """The weighted mean update behind the exact sum ``total = sum_i w_i q_i``."""
        if weight_sum < 1:
            raise QuantisationError(f"the weights must sum to at least 1, got {weight_sum}")
        return (total * (self.clip / (self.levels * weight_sum))).astype(np.float32)


def _count_beyond(values: npt.NDArray[np.float64], bound: float) -> int:
    """How many lie outside ``[-bound, bound]``; usually none, which the extremes tell in a fraction of the time."""
    if not values.size or (values.max() <= bound and values.min() >= -bound):
        return 0
    return int(np.count_nonzero(values > bound) + np.count_nonzero(values < -bound))


def check_finite(update: npt.NDArray[np.floating], *, client: str, round_number: int) -> None:
    """Raise UpdateNotFiniteError, naming the client and the first such parameter, at NaN or infinity.

    ``update``: 1-d float32 or float64.
    """
    finite = np.isfinite(update)
    if finite.all():
        return
    index = int(np.argmin(finite))
    raise UpdateNotFiniteError(
        f"client {client}, round {round_number}: parameter {index} of the update is {update[index]}, "
        f"and {int(update.size - finite.sum())} of {update.size} values are not finite; "
        "lower the learning rate or look at the client's data"
    )


def smallest_ring_width(levels: int, weight_sum: int) -> int:
    """The smallest ring width at which ``weight_sum`` updates of ``levels`` levels do not wrap."""
    return (whole(levels, "the number of levels") * whole(weight_sum, "a sum of weights")).bit_length() + 1


def largest_levels(ring_width: int, weight_sum: int) -> int:
    """The most levels that do not wrap in ``ring_width`` bits; 0 if not even ternary updates fit."""
    return ((1 << (whole(ring_width, "a ring width") - 1)) - 1) // whole(weight_sum, "a sum of weights")


def check_ring_width(levels: int, weights: Sequence[int], ring_width: int, named: Naming = str) -> None:
    """Refuse settings under which the sum of the updates could wrap.

    ``weights`` holds one positive integer per client.  Raises RingWidthError, which names what would
    work, and QuantisationError for settings that make no sense.  ``named`` says how whoever chose ``levels``,
    ``weights`` and ``ring_width`` calls them.
    """
    levels, ring_width = whole(levels, "the number of levels"), whole(ring_width, "a ring width")
    weights = [whole(weight, "a weight") for weight in weights]
    if not MIN_RING_WIDTH <= ring_width <= MAX_RING_WIDTH:
        raise QuantisationError(
            f"ring width must be {MIN_RING_WIDTH} to {MAX_RING_WIDTH} bits, got b = {ring_width}"
        )
    if not weights or min(weights) < 1:
        raise QuantisationError(
            f"every client needs a positive integer weight, got {weights or 'no clients'}"
        )
    weight_sum = sum(weights)
    if levels * weight_sum <= 2 ** (ring_width - 1) - 1:
        return
    updates = f"N = {len(weights)} clients (weights sum to {weight_sum}) with L = {levels} levels"
    needed, product = smallest_ring_width(levels, weight_sum), levels * weight_sum
    if needed > MAX_RING_WIDTH:
        raise RingWidthError(
            f"{updates} need a ring width of b = {needed} bits, and there are at most {MAX_RING_WIDTH} bits: use fewer "
            f"{named('levels')} or smaller {named('weights')}; L * sum(w) is {product} and may be "
            f"{2 ** (MAX_RING_WIDTH - 1) - 1}"
        )
    most = largest_levels(ring_width, weight_sum)
    alternative = f"or L = {most} fits b = {ring_width}" if most else f"no L fits b = {ring_width}"
    raise RingWidthError(
        f"{named('ring_width')} {ring_width} is too narrow: {updates} wrap at a ring width of b = {ring_width} bits: "
        f"L * sum(w) = {product} exceeds 2^(b-1) - 1 = {2 ** (ring_width - 1) - 1}; "
        f"use b = {needed} for L = {levels}, {alternative}"
    )


def quantisation_rng(run_seed: int, round_number: int, client_index: int) -> np.random.Generator:
    """The generator of the rounding noise of one client in one round."""
    return np.random.default_rng([run_seed, round_number, client_index, 0x9A])
