"""LightSecAgg: masks whose sum is decoded in one shot from the answers of any U survivors.

The scheme is that of So et al., arXiv:2109.14236 (algorithm 1, equation 5).
Client i protects its d quantised values with a mask ``z_i`` of d symbols of F_p.  The mask, cut into U-T
pieces of ``m = ceil(d / (U-T))`` symbols, and T pieces of noise ``n_i`` are multiplied with a public matrix:

    [S_i1 .. S_iN] = W^T [z_i; n_i],    W[u, j] = a_j^u mod p,    a_j = j = 1 .. N,    u = 0 .. U-1

Share ``S_ij`` goes to client j.  Column by column of the pieces, S_ij is the value at ``a_j`` of a polynomial
of degree below U whose low coefficients are the mask.  So any U clients that each send ``sum_i S_ij`` over
the survivors i determine the polynomial of the sum, hence ``sum_i z_i`` and nothing else about the masks.

*Privacy against T colluders.*  What T clients j_1 .. j_T hold of z_i is ``A^T z_i + B^T n_i``, where B is
the T rows U-T .. U-1 of W in their T columns.  ``det B = prod_t a_{j_t}^(U-T) * Vandermonde(a_{j_1} ..
a_{j_T})`` is not zero because the a_j are distinct and not zero modulo p (p > N).  So ``B^T n_i`` is uniform
and hides z_i completely; fewer clients hold a part of that.  Shares to all others travel under one-time pads.

*Thresholds.*  ``0 <= T <= N-2``, ``T < U <= N`` and ``2 U > N + T``.  The last one is about a server that
names different survivors to different clients.  With T colluders who answer everything it needs U-T honest
answers for each list; there are N-T honest clients, and each answers once (:mod:`fl.modes.answers`), so
two lists can be decoded iff ``2 (U-T) <= N-T``, i.e. ``2 U <= N + T``; their difference would be one update.

*What the thresholds do not stop.*  This is a ramp scheme: between T and U answers say *something*.  After U
answers for one list, the other N-U clients' answers for a second list give N-U linear equations modulo p in
the U-T pieces of one update.  Its values are small integers, so ``2 U - N - T`` of them are guessed column by
column - one or two with the smallest U - and the rest must come out small: for 8-bit values and N = 200,
T = 100, U = 151 that is 65025 guesses and one update left.  Only clients that answer after U of them have
confirmed the same list to each other (:mod:`fl.modes.answers`) rule out a second list altogether.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fl.modes import field
from fl.modes.field import Symbols
from fl.modes.primes import MAX_MODULUS_BITS, is_prime, symbol_bits
from fl.modes.thresholds import ShareCodeError, check_thresholds, smallest_modulus
from orchestrator.randomness import RandomBytes, random_bytes


class DecodeError(ValueError):
    """The answers at hand do not determine the sum of the masks."""


@dataclass(frozen=True)
class ShareCode:
    """The public parameters of one round; raises ShareCodeError, which names what would work.

    ``n_clients`` is N, ``colluders`` T, ``survivors`` U, ``n_values`` d and ``modulus`` p above.
    """

    n_clients: int
    colluders: int
    survivors: int
    n_values: int
    modulus: int

    def __post_init__(self) -> None:
        check_thresholds(self.n_clients, self.colluders, self.survivors)
        if self.n_values < 1:
            raise ShareCodeError(f"at least one value is needed, got {self.n_values}")
        if not is_prime(self.modulus) or self.modulus <= self.n_clients:
            raise ShareCodeError(
                f"p = {self.modulus} is not a prime above N = {self.n_clients} with at most"
                f" {MAX_MODULUS_BITS} bits; smallest_modulus() finds the one to use"
            )

    @property
    def n_pieces(self) -> int:
        """Pieces that carry the mask: U - T."""
        return self.survivors - self.colluders

    @property
    def symbols_per_share(self) -> int:
        """m = ceil(d / (U - T))."""
        return -(-self.n_values // self.n_pieces)

    @property
    def symbol_bits(self) -> int:
        """Bits of a packed symbol: ceil(log2 p)."""
        return symbol_bits(self.modulus)

    @property
    def share_bits(self) -> int:
        """Bits of one packed share, and of the pad it travels under."""
        return self.symbols_per_share * self.symbol_bits


def check_modulus(code: ShareCode, levels: int, weight_sum: int) -> None:
    """Raise ShareCodeError if a sum of ``levels`` levels and these weights could wrap in F_p."""
    if 2 * levels * weight_sum >= code.modulus:
        raise ShareCodeError(
            f"L = {levels} levels with weights that sum to {weight_sum} wrap in F_{code.modulus}:"
            f" 2 L sum(w) + 1 = {2 * levels * weight_sum + 1} sums do not fit;"
            f" use p = {smallest_modulus(levels, weight_sum)}"
        )


# -- the mask of one client ----------------------------------------------------------------------------


def draw_mask(code: ShareCode, random_bytes: RandomBytes = random_bytes) -> tuple[Symbols, Symbols]:
    """A fresh mask of shape (d,) and noise of shape (T, m), exactly uniform if ``random_bytes`` is.

    Both are secret and serve one upload.  From :mod:`orchestrator.randomness` they are as unpredictable as the operating
    system's generator: computational security in that respect.
    """
    noise_size = code.colluders * code.symbols_per_share
    symbols = field.draw_symbols(code.n_values + noise_size, code.modulus, random_bytes)
    return symbols[: code.n_values], symbols[code.n_values :].reshape(code.colluders, code.symbols_per_share)


def encode(code: ShareCode, mask: Symbols, noise: Symbols) -> Symbols:
    """The shares of a mask, shape (N, m): row j is for client j (counted from 0).

    ``mask``: (d,), ``noise``: (T, m).  The last piece of the mask is filled up with zeros.
    """
    _check(code, mask, (code.n_values,), "a mask")
    _check(code, noise, (code.colluders, code.symbols_per_share), "the noise")
    pieces = np.zeros((code.survivors, code.symbols_per_share), np.uint32)
    pieces.reshape(-1)[: code.n_values] = mask
    pieces[code.n_pieces :] = noise
    return field.matmul(_powers(code.n_clients, code.survivors, code.modulus), pieces, code.modulus)


@lru_cache(maxsize=16)
def _powers(n_clients: int, survivors: int, modulus: int) -> Symbols:
    """W^T: ``a_j^u mod p`` with shape (N, U)."""
    points = np.arange(1, n_clients + 1, dtype=np.int64)
    powers = np.empty((n_clients, survivors), np.uint32)
    column = np.ones(n_clients, np.int64)
    for exponent in range(survivors):
        powers[:, exponent] = column
        column = column * points % modulus
    powers.setflags(write=False)
    return powers


def add_shares(code: ShareCode, shares: Iterable[Symbols]) -> Symbols:
    """The answer of one survivor: the sum, shape (m,), of the shares it holds of all survivors."""
    return _sum(code, shares, code.symbols_per_share, "a share").astype(np.uint32)


# -- the sum -------------------------------------------------------------------------------------------


def decode(code: ShareCode, answers: Mapping[int, Symbols]) -> Symbols:
    """The sum of the survivors' masks, shape (d,), from the answers of at least U clients.

    ``answers`` maps client indices (from 0) to answers of shape (m,), all for the same survivors.  Answers
    beyond U must agree with the first U.  Raises DecodeError.
    """
    clients = sorted(answers)
    if len(clients) < code.survivors:
        raise DecodeError(
            f"{len(clients)} answers do not determine the sum of the masks; U = {code.survivors}"
        )
    if clients[0] < 0 or clients[-1] >= code.n_clients:
        raise DecodeError(f"there are clients 0 to {code.n_clients - 1}, got answers of {clients}")
    for client in clients:
        _check(code, answers[client], (code.symbols_per_share,), f"the answer of client {client}")
    used, spare = clients[: code.survivors], clients[code.survivors :]
    rows = code.survivors if spare else code.n_pieces
    known = np.array([answers[client] for client in used], np.uint32)
    pieces = field.matmul(_interpolation(tuple(used), rows, code.modulus), known, code.modulus)
    if spare:
        powers = _powers(code.n_clients, code.survivors, code.modulus)[spare]
        expected = field.matmul(powers, pieces, code.modulus)
        for row, client in enumerate(spare):
            if not np.array_equal(expected[row], answers[client]):
                raise DecodeError(
                    f"the answer of client {client} contradicts those of {code.survivors} others: somebody"
                    " answered for other survivors or with wrong shares; the round cannot be decoded"
                )
    symbols = pieces[: code.n_pieces].reshape(-1)
    if symbols[code.n_values :].any():
        raise DecodeError(
            "the decoded masks do not end in zeros: an answer was wrong, or for other survivors"
        )
    return symbols[: code.n_values]


@lru_cache(maxsize=16)
def _interpolation(clients: tuple[int, ...], rows: int, modulus: int) -> Symbols:
    """The first ``rows`` rows of the inverse of W^T at ``clients``, shape (rows, U); O(U^2) steps.

    Column j holds the low coefficients of the Lagrange polynomial ``l_j(x) = prod_{k != j} (x - a_k) /
    (a_j - a_k)``.  The numerator is ``M(x) / (x - a_j)`` with ``M(x) = prod_k (x - a_k)``, divided from the
    lowest coefficient upwards: ``b_0 = -M_0 / a_j``, ``b_u = (b_{u-1} - M_u) / a_j``.
    """
    points = np.array(clients, np.int64) + 1
    master = np.zeros(points.size + 1, np.int64)
    master[0] = 1
    for point in points:
        master[1:], master[0] = (master[:-1] - point * master[1:]) % modulus, -point * master[0] % modulus
    denominators = np.ones(points.size, np.int64)
    for point in points:
        differences = (points - point) % modulus
        denominators = denominators * np.where(differences == 0, 1, differences) % modulus
    scale = field.inverses(denominators, modulus)
    inverse_points = field.inverses(points, modulus)
    low = np.empty((rows, points.size), np.uint32)
    quotient = np.zeros(points.size, np.int64)
    for row in range(rows):
        quotient = (quotient - master[row]) % modulus * inverse_points % modulus
        low[row] = quotient * scale % modulus
    low.setflags(write=False)
    return low


# -- the update ----------------------------------------------------------------------------------------


def protect(code: ShareCode, values: npt.NDArray[np.int64], mask: Symbols) -> Symbols:
    """The upload of one client, shape (d,): ``values + mask mod p``.

    ``values`` are the weighted quantised values (int64, shape (d,)), each below p/2 in magnitude.  Raises ValueError.
    """
    if values.shape != (code.n_values,) or values.dtype != np.int64:
        raise ValueError(f"values are {code.n_values} int64 numbers, got {values.dtype} of {values.shape}")
    _check(code, mask, (code.n_values,), "a mask")
    if max(int(values.max()), -int(values.min())) > code.modulus // 2:
        raise ValueError(
            f"a weighted value exceeds {code.modulus // 2} in magnitude and wraps in F_{code.modulus}"
        )
    return ((values + mask) % code.modulus).astype(np.uint32)


def read_sum(code: ShareCode, uploads: Iterable[Symbols], mask_sum: Symbols) -> npt.NDArray[np.int64]:
    """The exact signed sum, int64 of shape (d,), of the survivors' values from their uploads and their masks' sum."""
    _check(code, mask_sum, (code.n_values,), "the sum of the masks")
    total = _sum(code, uploads, code.n_values, "an upload")
    total = (total - mask_sum) % code.modulus
    return np.where(total > code.modulus // 2, total - code.modulus, total)


def _sum(code: ShareCode, arrays: Iterable[Symbols], size: int, what: str) -> npt.NDArray[np.int64]:
    """The sum modulo p of at least one array of ``size`` symbols."""
    total = np.zeros(size, np.int64)
    count = 0
    for array in arrays:
        _check(code, array, (size,), what)
        total += array
        count += 1
    if not count:
        raise ValueError("there is nothing to add up")
    total %= code.modulus
    return total


def _check(code: ShareCode, symbols: Symbols, shape: tuple[int, ...], what: str) -> None:
    if symbols.shape != shape:
        raise ValueError(f"{what} has the shape {shape}, got {symbols.shape}")
    field.check_symbols(symbols, code.modulus, what)
