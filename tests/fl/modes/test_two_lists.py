"""A server that announces different survivors to different clients, and what it gets for it.

It is played with everything such a server has: T clients that answer every list and show their shares, and
honest clients that each keep an :class:`AnswerBook`.  It names all clients to some and all but a victim to
the others, wants to subtract the two sums of masks, and with it unmask the victim's upload.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from fl.modes import shares
from fl.modes.answers import AnswerBook, AnswerRefusedError
from fl.modes.field import Symbols, pack_symbols, unpack_symbols
from fl.modes.shares import DecodeError, ShareCode, add_shares, decode, draw_mask, encode, protect
from fl.modes.thresholds import (
    ShareCodeError,
    check_thresholds,
    default_thresholds,
    smallest_modulus,
)
from orchestrator import durable
from orchestrator.bits import PackedBits

Matrix = npt.NDArray[np.int64]
Clients = tuple[int, ...]
BROKEN = [(4, 2, 1), (10, 6, 3), (10, 7, 4)]
"""(N, U, T) that two lists break."""

ACCEPTED = [
    (n, u, t)
    for n, t, u in itertools.product(range(2, 9), range(7), range(1, 9))
    if t <= n - 2 and t < u <= n and 2 * u > n + t
]


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of books need not survive a power loss."""
    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(durable.os), "fsync": lambda _: None}))


class DishonestRound:
    """One round; the last client is the victim, the first T collude."""

    def __init__(self, code: ShareCode, levels: int, folder: Path, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.code = code
        self.names = [f"client-{i}" for i in range(code.n_clients)]
        self.values = rng.integers(-levels, levels + 1, (code.n_clients, code.n_values))
        self.uploads: list[Symbols] = []
        self.shares: list[Symbols] = []
        for row in self.values:
            mask, noise = draw_mask(code, rng.bytes)
            self.uploads.append(protect(code, row, mask))
            self.shares.append(encode(code, mask, noise))
        self.open_books(folder)
        self.colluders = tuple(range(code.colluders))
        self.honest = tuple(range(code.colluders, code.n_clients))
        self.victim = code.n_clients - 1
        everybody = tuple(range(code.n_clients))
        self.lists = {"all": everybody, "without": everybody[:-1]}

    def open_books(self, folder: Path) -> None:
        """Nobody has answered yet."""
        self.books = [AnswerBook(folder / name) for name in self.names]

    def answer(self, client: int, listed: Clients, confirmed_by: Clients | None = None) -> Symbols:
        """What a client returns; colluders answer everything."""

        def compute() -> PackedBits:
            total = add_shares(self.code, [self.shares[i][client] for i in listed])
            return pack_symbols(total, self.code.symbol_bits)

        if client in self.colluders:
            packed = compute()
        else:
            packed = self.books[client].answer(
                "run",
                1,
                [self.names[i] for i in listed],
                compute,
                participants=self.names,
                needed=self.code.survivors,
                confirmed_by=None if confirmed_by is None else [self.names[i] for i in confirmed_by],
            )
        code = self.code
        return unpack_symbols(packed, code.symbols_per_share, code.symbol_bits, code.modulus)

    def collect(self, first: Clients) -> dict[str, dict[int, Symbols]]:
        """Ask the ``first`` honest clients for the full list, then everybody for both."""
        got: dict[str, dict[int, Symbols]] = {"all": {}, "without": {}}
        orders = [("all", first), ("without", self.honest), ("all", self.honest)]
        for which, asked in [*orders, ("all", self.colluders), ("without", self.colluders)]:
            for client in asked:
                try:
                    got[which][client] = self.answer(client, self.lists[which])
                except AnswerRefusedError:
                    continue
        return got

    def unmask(self, got: dict[str, dict[int, Symbols]]) -> Matrix:
        """The victim's update from the difference of the two sums; raises DecodeError."""
        p = self.code.modulus
        masks = [decode(self.code, got[which]).astype(np.int64) for which in ("all", "without")]
        update = (self.uploads[self.victim] - masks[0] + masks[1]) % p
        return np.where(update > p // 2, update - p, update)


@pytest.mark.parametrize(("n", "u", "t"), BROKEN)
@pytest.mark.usefixtures("fast_disk")
def test_two_lists_reveal_an_update_where_the_thresholds_are_bad(
    n: int, u: int, t: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ShareCodeError, match="two lists"):
        ShareCode(n, t, u, 20, smallest_modulus(127, n))
    monkeypatch.setattr(shares, "check_thresholds", lambda *_: None)
    attack = DishonestRound(ShareCode(n, t, u, 20, smallest_modulus(127, n)), 127, tmp_path)
    got = attack.collect(attack.honest[: u - t])
    assert sorted(set(got["all"]) & set(got["without"])) == list(attack.colluders)
    np.testing.assert_array_equal(attack.unmask(got), attack.values[attack.victim])


@pytest.mark.usefixtures("fast_disk")
def test_two_lists_are_never_both_decoded_with_thresholds_that_are_accepted(tmp_path: Path) -> None:
    tried = 0
    for n, u, t in ACCEPTED:
        code = ShareCode(n, t, u, 5, smallest_modulus(127, n))
        attack = DishonestRound(code, 127, tmp_path)
        for n_first in range(n - t + 1):
            attack.open_books(tmp_path / f"{n}-{u}-{t}-{n_first}")
            got = attack.collect(attack.honest[:n_first])
            with pytest.raises(DecodeError, match="do not determine"):
                attack.unmask(got)
            tried += 1
    assert tried > 100


# -- the most that linear algebra can find -------------------------------------------------------------


def echelon(matrix: Matrix, p: int) -> Matrix:
    """The reduced row echelon form modulo p, without zero rows."""
    matrix = matrix.copy() % p
    rank = 0
    for column in range(matrix.shape[1]):
        below = np.flatnonzero(matrix[rank:, column])
        if not below.size:
            continue
        pivot = rank + int(below[0])
        matrix[[rank, pivot]] = matrix[[pivot, rank]]
        matrix[rank] = matrix[rank] * pow(int(matrix[rank, column]), -1, p) % p
        others = matrix[:, column].copy()
        others[rank] = 0
        matrix = (matrix - np.outer(others, matrix[rank])) % p
        rank += 1
        if rank == matrix.shape[0]:
            break
    return matrix[:rank]


def powers(clients: Clients, u: int, p: int) -> Matrix:
    """What a share, or an answer, of each client says about the U coefficients."""
    return np.array(
        [[pow(client + 1, exponent, p) for exponent in range(u)] for client in clients], np.int64
    ).reshape(-1, u)


def equations_about_the_victim(n: int, u: int, t: int, first: Clients, second: Clients) -> int:
    """Independent linear equations that all of the server's answers and shares yield about the victim's mask.

    Unknown are the U coefficients (pieces of mask and noise) of the victim and those of the sum of the others.
    The equations about the mask alone are the intersection of two row spaces, whose dimension is the sum of
    their ranks less the rank of both together.
    """
    p = smallest_modulus(127, n)
    colluders = tuple(range(t))
    everyone, others = powers((*colluders, *first), u, p), powers((*colluders, *second), u, p)
    seen = np.vstack(
        [
            np.hstack([everyone, everyone]),
            np.hstack([0 * others, others]),
            np.hstack([powers(colluders, u, p), 0 * powers(colluders, u, p)]),
        ]
    )
    mask = np.eye(u - t, 2 * u, dtype=np.int64)
    return len(echelon(seen, p)) + (u - t) - len(echelon(np.vstack([seen, mask]), p))


def splits(n: int, t: int) -> Iterator[tuple[Clients, Clients]]:
    """Ways to give one list to some honest clients and the other to the rest."""
    rng = np.random.default_rng(n * 100 + t)
    honest = np.arange(t, n)
    for size in range(n - t + 1):
        rng.shuffle(honest)
        yield tuple(honest[:size].tolist()), tuple(honest[size:].tolist())


@pytest.mark.parametrize("n", range(3, 9))
def test_the_victims_mask_is_determined_exactly_where_thresholds_are_refused(n: int) -> None:
    """Every T, U and division of the honest clients, with all answers and shares, by rank."""
    for t, u in itertools.product(range(n - 1), range(1, n)):
        if u <= t:
            continue
        found = max(equations_about_the_victim(n, u, t, *split) for split in splits(n, t))
        try:
            check_thresholds(n, t, u)
        except ShareCodeError:
            assert found == u - t
        else:
            assert found == n - u < u - t


# -- small values: why clients confirm the list to each other ------------------------------------------


def small_value_attack(
    attack: DishonestRound, levels: int, got: dict[str, dict[int, Symbols]]
) -> list[list[Clients]]:
    """For every column of the pieces, the values of the victim that agree with what was seen.

    The sum over all is decoded and its shares are subtracted from the answers for the second list: that
    leaves shares of the victim.  Combinations of them that cancel the noise are N - U equations about the U - T
    values of a column.  Guessing 2 U - N - T of the values determines the others, which must be small.
    """
    code, p = attack.code, attack.code.modulus
    u, points = code.survivors, tuple(sorted(got["without"]))
    in_all = sorted(got["all"])[:u]
    coefficients = np.array([got["all"][client] for client in in_all], np.int64)
    solved = echelon(np.hstack([powers(tuple(in_all), u, p), coefficients]), p)[:, u:]
    of_all = powers(points, u, p) @ solved % p
    of_victim = (of_all - np.array([got["without"][client] for client in points], np.int64)) % p
    noise_first = np.roll(powers(points, u, p), code.colluders, axis=1)
    about_mask = echelon(np.hstack([noise_first, of_victim]), p)[code.colluders :, code.colluders :]
    uploaded = attack.uploads[attack.victim].reshape(code.n_pieces, -1).astype(np.int64)
    lhs = about_mask[:, : code.n_pieces]
    rank, n_free = len(lhs), code.n_pieces - len(lhs)
    reduced = echelon(np.hstack([lhs, lhs @ uploaded - about_mask[:, code.n_pieces :]]), p)
    guesses = np.array(list(itertools.product(range(-levels, levels + 1), repeat=n_free)))
    found: list[list[Clients]] = []
    for column in range(uploaded.shape[1]):
        others = reduced[:, code.n_pieces + column] - guesses @ reduced[:, rank : code.n_pieces].T
        others = (others + levels) % p - levels
        fits = (others <= levels).all(axis=1)
        found.append([tuple(row) for row in np.hstack([others, guesses])[fits].tolist()])
    return found


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize(("n", "levels", "n_guesses", "left"), [(10, 7, 15, 2), (200, 127, 255**2, 1)])
def test_answering_once_does_not_protect_small_values(
    n: int, levels: int, n_guesses: int, left: int, tmp_path: Path
) -> None:
    """Default thresholds, which leave one or two values of a column to be guessed.

    Of 15^3 columns with ten clients at most two are left, of 255^51 with two hundred clients only the true one.
    """
    t, u = default_thresholds(n)
    assert (2 * levels + 1) ** (2 * u - n - t) == n_guesses
    code = ShareCode(n, t, u, 2 * (u - t), smallest_modulus(levels, n))
    attack = DishonestRound(code, levels, tmp_path)
    got = attack.collect(attack.honest[: code.n_pieces])
    assert len(got["without"]) - code.colluders == n - u
    with pytest.raises(DecodeError):
        attack.unmask(got)
    found = small_value_attack(attack, levels, got)
    for column, candidates in zip(attack.values[attack.victim].reshape(-1, 2).T, found, strict=True):
        assert tuple(column.tolist()) in candidates
        assert len(candidates) <= left


@pytest.mark.usefixtures("fast_disk")
def test_clients_that_wait_for_confirmations_answer_one_list_only(tmp_path: Path) -> None:
    """Each honest client confirms the list it hears, colluders confirm both; U confirmations are needed."""
    answered = 0
    for n, u, t in ACCEPTED:
        if u == n:
            continue
        code = ShareCode(n, t, u, 2, smallest_modulus(1, n))
        attack = DishonestRound(code, 1, tmp_path)
        for index, (first, second) in enumerate(splits(n, t)):
            attack.open_books(tmp_path / f"{n}-{u}-{t}-{index}")
            told = {"all": first, "without": second}
            for which, client in ((w, c) for w in told for c in told[w]):
                names = [attack.names[i] for i in attack.lists[which]]
                attack.books[client].confirm("run", 1, names, participants=attack.names, needed=u)
            served = set()
            for which, client in itertools.product(told, attack.honest):
                try:
                    attack.answer(client, attack.lists[which], (*attack.colluders, *told[which]))
                    served.add(which)
                except AnswerRefusedError:
                    continue
            assert len(served) <= 1
            answered += len(served)
    assert answered > 50
