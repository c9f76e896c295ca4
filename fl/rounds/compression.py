"""Smaller updates that still add up exactly: public coordinates, few levels, and error feedback.

A sum under masks is exact only for a map that is the same for everybody, so the compression is linear and
public.  In round r all participants send the same share ``keep`` of the coordinates: half of them are always
the last parameters of the model, the other half is a window that slides over one shuffled order of all the
rest (:meth:`Compression.coordinates`).  A model that is to be compressed therefore puts last what matters most
in every round: the output layer, biases, weights of strong inputs.  The values sent are quantised to few levels
(:mod:`fl.rounds.quantise`); with N = 200 clients a ring width of b = 11 bits carries 5 levels on either side of zero, so
``keep = 0.29`` costs 3.2 bits per parameter where float32 has 32.  Three levels, -1, 0 and 1, in 9 bits
with ``keep = 0.2`` and ``clip = 0.1`` cost 1.8 bits per parameter, but lost 0.10 to 0.38 points against float32
with two shards a client (MNIST, seeds 1 and 3), where the 3.2 bits lost 0.05 at most.

What the window leaves out is made up for in one of two ways.  *Without memory* the mean of the window is scaled
up by the inverse of its share, so that over a cycle every parameter moves as far as its updates say (unbiased
sparsification, Wangni et al., arXiv 1710.09854); clients keep nothing.  *With error feedback* (Seide et al.,
Interspeech 2014; Karimireddy et al., arXiv 1901.09847, algorithm 2) a client keeps what was cut away, clipped or
rounded as a residual e and sends a part of ``x + e`` the next time:

    sent + e' = x + e            (on every coordinate; ``sent`` is 0 outside the window)

The first is the better one where rounds are few and updates change quickly: an update that waits in a residual
is out of date when it is sent.

A residual is private, like an update.  What has been uploaded in a round that was aborted is never sent
again in another form (sums over different participants would differ by it): :meth:`ErrorFeedback.discard`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fl.rounds.arrays import LEFT_OUT, ArrayClip, ArrayMap, array_map
from fl.rounds.clipping import Losses
from fl.rounds.config import FLConfig
from fl.rounds.quantise import Quantiser, check_finite
from fl.workloads.base import Parameters

Coordinates = npt.NDArray[np.int64]
"""1-d int64: indices into the flat parameters, ascending and distinct."""


class CompressionError(ValueError):
    """A setting of the compression makes no sense, or its steps are taken out of order."""


@dataclass(frozen=True)
class Compression:
    """The public settings: a share ``keep`` of the coordinates, ``levels`` on either side of zero.

    ``clip`` (in units of the parameters) is that of round 1 and is multiplied by ``clip_decay`` after
    every round; where there are ``arrays``, each has its own (:mod:`fl.rounds.arrays`).  ``keep = 1`` without error
    feedback is plain quantisation.
    """

    keep: float = 1.0
    levels: int = 127
    clip: float = 1.0
    clip_decay: float = 1.0
    error_feedback: bool = False
    arrays: tuple[ArrayClip, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "keep",
            "clip",
            "clip_decay",
        ):  # NumPy's narrow numbers would compute in their own precision
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.keep <= 1:
            raise CompressionError(
                f"keep is a share of the parameters, above 0 and at most 1, got {self.keep}"
            )
        if not 0 < self.clip_decay <= 1:
            raise CompressionError(f"clip_decay is above 0 and at most 1, got {self.clip_decay}")
        for clip in (self.clip, *(each.clip for each in self.arrays if each.clip != LEFT_OUT)):
            _ = Quantiser(clip, self.levels)

    @classmethod
    def from_config(cls, config: FLConfig) -> Compression:
        """The compression of a run; raises QuantisationError unless its clips are sound to the last round."""
        compression = cls(
            config.keep, config.levels, config.clip, config.clip_decay, config.error_feedback, config.arrays
        )
        for clip in (config.clip, *(each.clip for each in config.arrays if each.clip != LEFT_OUT)):
            _ = Quantiser(clip * compression.decayed(config.rounds), config.levels)
        return compression

    def decayed(self, round_number: int) -> float:
        """The factor on every clip in a round (counted from 1)."""
        return _power(self.clip_decay, round_number - 1)

    def n_summed(self, n_parameters: int) -> int:
        """Parameters that any round sums: all of them, without the arrays that are left out."""
        return self._map(n_parameters).kept.size if self.arrays else n_parameters

    def left_out(self, n_parameters: int) -> npt.NDArray[np.bool_] | None:
        """Which parameters no round sums: 1-d bool; None where it is none of them."""
        return self._map(n_parameters).left_out if self.arrays else None

    def _map(self, n_parameters: int) -> ArrayMap:
        """Where the arrays lie; their sizes come from the server, so they are checked before anything is made."""
        size = sum(each.size for each in self.arrays)
        if size != n_parameters:
            raise CompressionError(f"the arrays of the run have {size} values, the model has {n_parameters}")
        return array_map(self.arrays)

    def n_values(self, n_parameters: int) -> int:
        """Values that one client sends in a round."""
        summed = self.n_summed(n_parameters)
        return min(summed, max(1, round(self.keep * summed)))

    def coordinates(self, run_seed: int, round_number: int, n_parameters: int) -> Coordinates:
        """The coordinates sent in a round (counted from 1), the same for every participant."""
        size, summed = self.n_values(n_parameters), self.n_summed(n_parameters)
        if size == summed:
            among = np.arange(summed, dtype=np.int64)
        else:
            n_window, n_others = self._window(n_parameters)
            among = _coordinates(run_seed, round_number, n_window, n_others, summed)
        return self._map(n_parameters).kept[among] if self.arrays else among

    def _window(self, n_parameters: int) -> tuple[int, int]:
        """How many values the window has, and over how many parameters it slides."""
        size, summed = self.n_values(n_parameters), self.n_summed(n_parameters)
        always = size // 2 if size < summed else 0
        return size - always, summed - always

    def cycle(self, n_parameters: int) -> int:
        """Rounds within which every coordinate is sent at least once."""
        n_window, n_others = self._window(n_parameters)
        return math.ceil(n_others / n_window)

    def quantiser(self, round_number: int, coordinates: Coordinates | None = None) -> Quantiser:
        """The quantiser of a round (counted from 1), for the values at ``coordinates``.

        Only where arrays have clips of their own does it depend on them.
        """
        if not self.arrays:
            return Quantiser(self.clip * self.decayed(round_number), self.levels)
        if coordinates is None:
            raise CompressionError("arrays have clips of their own: say which coordinates are quantised")
        return Quantiser(array_map(self.arrays).clips[coordinates] * self.decayed(round_number), self.levels)

    def mean(
        self,
        total: npt.NDArray[np.int64],
        weight_sum: int,
        coordinates: Coordinates,
        round_number: int,
        n: int,
    ) -> Parameters:
        """The mean update of ``n`` parameters behind the exact sum ``total`` (int64, shape (n_values,)) of a round."""
        values = self.quantiser(round_number, coordinates).mean(total, weight_sum)
        if not self.error_feedback:
            n_window, n_others = self._window(n)
            values[:n_window] *= n_others / n_window
        return expand(values, coordinates, n)


def _power(base: float, exponent: int) -> float:
    """``base ** exponent`` by squaring: the same bits on every machine, which the C library's pow does not promise."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


@lru_cache(maxsize=4)
def _shuffled(run_seed: int, size: int) -> Coordinates:
    order = np.random.default_rng([run_seed, 0xC0D]).permutation(size).astype(np.int64)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=4)
def _coordinates(
    run_seed: int, round_number: int, n_window: int, n_others: int, n_parameters: int
) -> Coordinates:
    window = ((round_number - 1) * n_window + np.arange(n_window)) % n_others
    sliding = np.sort(_shuffled(run_seed, n_others)[window])
    coordinates = np.concatenate([sliding, np.arange(n_others, n_parameters)])
    coordinates.flags.writeable = False
    return coordinates


def expand(mean: npt.NDArray[np.float32], coordinates: Coordinates, n_parameters: int) -> Parameters:
    """``mean`` (1-d float32) at ``coordinates`` and zero elsewhere: float32 of length ``n_parameters``."""
    full = np.zeros(n_parameters, np.float32)
    full[coordinates] = mean
    return full


@dataclass
class _Pending:
    round_number: int
    coordinates: Coordinates
    residual: Parameters | None


class ErrorFeedback:
    """What one client still owes the model, and how it turns updates into what it sends.

    Every :meth:`compress` is answered by one :meth:`commit` (its round is in the model) or
    :meth:`discard`.  Without error feedback in ``compression`` the residual stays zero.
    """

    def __init__(
        self, compression: Compression, run_seed: int, n_parameters: int, residual: Parameters | None = None
    ) -> None:
        """``residual``: what an interrupted client had kept (float32, 1-d); zero by default."""
        self.compression = compression
        self._run_seed = run_seed
        self._n_parameters = n_parameters
        if residual is not None and residual.shape != (n_parameters,):
            raise CompressionError(f"a residual of {residual.size} values for {n_parameters} parameters")
        self._residual = residual
        self._pending: _Pending | None = None
        self.losses: Losses | None = None
        """What clip and rounding took of the last update; for this client alone (:mod:`fl.rounds.clipping`)."""

    @property
    def residual(self) -> Parameters:
        """What is kept for later rounds: private, never to be logged or sent."""
        return np.zeros(self._n_parameters, np.float32) if self._residual is None else self._residual

    def compress(
        self, update: Parameters, round_number: int, rng: np.random.Generator, *, client: str
    ) -> npt.NDArray[np.int64]:
        """The integers to send for ``update`` in a round: int64 of shape (n_values,).

        Raises UpdateNotFiniteError (naming ``client``), CompressionError if an earlier round is open.
        """
        if self._pending is not None:
            raise CompressionError(f"round {self._pending.round_number} was neither committed nor discarded")
        coordinates = self.compression.coordinates(self._run_seed, round_number, self._n_parameters)
        quantiser = self.compression.quantiser(round_number, coordinates)
        left_out = self.compression.left_out(self._n_parameters)
        if left_out is not None:
            update = np.where(left_out, np.float32(0), update)
        check_finite(update, client=client, round_number=round_number)
        if not self.compression.error_feedback:
            sent = update if coordinates.size == update.size else update[coordinates]
            values, self.losses = quantiser.quantise_counted(
                sent, rng, client=client, round_number=round_number
            )
            self._pending = _Pending(round_number, coordinates, None)
            return values.astype(np.int64)
        owed = update + self.residual
        values, self.losses = quantiser.quantise_counted(
            owed[coordinates], rng, client=client, round_number=round_number
        )
        owed[coordinates] -= quantiser.mean(values.astype(np.int64), 1)
        self._pending = _Pending(round_number, coordinates, owed)
        return values.astype(np.int64)

    def commit(self) -> None:
        """The open round is part of the model: keep what it left over."""
        self._residual = self._open().residual
        self._pending = None

    def discard(self, *, uploaded: bool = True) -> None:
        """The open round gave no sum: forget its update.

        If it was ``uploaded``, the part of the old residual that went with it is forgotten as well.
        """
        pending = self._open()
        if uploaded and self._residual is not None:
            self._residual = self._residual.copy()
            self._residual[pending.coordinates] = 0
        self._pending = None

    def _open(self) -> _Pending:
        if self._pending is None:
            raise CompressionError("no round is open to be committed or discarded")
        return self._pending


def saving_vs_float32(n_values: int, ring_width: int, n_parameters: int) -> float:
    """Share of the upload saved: ``1 - n_values * ring_width / (32 * n_parameters)``, whole bytes counted."""
    return 1 - math.ceil(n_values * ring_width / 8) / (4 * n_parameters)
