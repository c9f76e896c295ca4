"""A model as named arrays, laid one after the other in the flat parameters, each with a clip of its own.

One clip for a whole model is a compromise between arrays whose updates differ by orders of magnitude, and buffers
do not fit under any: the running mean and variance of batch normalisation move by whole units, and a counter of
batches is no parameter at all.  A run may therefore say, publicly and for every array, at which value its updates
are clipped, or that they are left out of the sum.  Sums stay exact, since every client scales the same coordinate by
the same factor.

Arrays left out keep the value that the server has; what a client's own training makes of them stays with the client
(local batch normalisation: Li et al., FedBN, arXiv 2102.07623).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

BUFFERS = ("*running_mean", "*running_var", "*num_batches_tracked")
"""Names that frameworks give to buffers of batch normalisation: left out unless they are given a clip."""

LEFT_OUT = 0.0


class ArrayClip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``size`` values of the flat parameters, after those of the array before; ``clip`` 0 leaves them out."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    size: Annotated[int, Meta(ge=1, le=1 << 40)]
    clip: Annotated[float, Meta(ge=0.0)]


class ArrayClipError(ValueError):
    """Clips for arrays that a model does not have, or that leave nothing to be summed."""


def array_clips(
    sizes: Mapping[str, int], clip: float, clips: Mapping[str, float] | None = None
) -> tuple[ArrayClip, ...]:
    """The clips of a model with arrays of these ``sizes``, in this order; empty where all have the one ``clip``.

    ``clips`` gives the clip of every array whose name is, or fits, a pattern (``"bn1.*"``); of several the last one
    counts, and 0 leaves an array out.  :data:`BUFFERS` are left out unless a pattern speaks of them.  Raises
    ArrayClipError for a pattern that fits no array, and where nothing is left.
    """
    chosen = dict.fromkeys(BUFFERS, LEFT_OUT) | dict(clips or {})
    for pattern in clips or {}:
        if not any(fnmatchcase(name, pattern) for name in sizes):
            raise ArrayClipError(f"no array of the model is called {pattern!r}; there are {_some(sizes)}")
    found = tuple(ArrayClip(name, size, _clip_of(name, clip, chosen)) for name, size in sizes.items())
    if found and all(each.clip == LEFT_OUT for each in found):
        raise ArrayClipError("every array of the model is left out: there is nothing to sum")
    return () if all(each.clip == clip for each in found) else found


def _clip_of(name: str, clip: float, chosen: Mapping[str, float]) -> float:
    fits = [each for pattern, each in chosen.items() if fnmatchcase(name, pattern)]
    return float(fits[-1] if fits else clip)


def _some(names: Mapping[str, int]) -> str:
    shown = ", ".join(list(names)[:8])
    return f"{shown}, ..." if len(names) > 8 else shown


class ArrayMap:
    """The clips of some arrays, spread over the flat parameters.

    ``kept`` (int64): the indices of what is summed, ascending.  ``left_out`` (bool, one per parameter): which are
    in no sum.  ``clips`` (float64, one per parameter): 0 for those.
    """

    def __init__(self, arrays: tuple[ArrayClip, ...]) -> None:
        sizes = [each.size for each in arrays]
        self.n_parameters = sum(sizes)
        self.clips: npt.NDArray[np.float64] = np.repeat([each.clip for each in arrays], sizes)
        self.kept: npt.NDArray[np.int64] = np.flatnonzero(self.clips).astype(np.int64)
        self.left_out: npt.NDArray[np.bool_] = np.equal(self.clips, LEFT_OUT)
        for array in (self.clips, self.kept, self.left_out):
            array.flags.writeable = False


@lru_cache(maxsize=8)
def array_map(arrays: tuple[ArrayClip, ...]) -> ArrayMap:
    """The map of these arrays; made once for all rounds."""
    return ArrayMap(arrays)
