"""What a server and T colluding clients see of a LightSecAgg round depends on the survivors' sum only.

Small enough fields let all randomness of the honest clients be enumerated: every mask and noise of every one
of them, hence the exact distribution of everything that reaches the server or a colluder - uploads (those of
late clients as well), shares addressed to colluders, and the answers of everybody for the announced list.
Shares between honest clients travel under one-time pads of their own, so what is seen of them is uniform and
independent of all else; they are left out.  Two sets of inputs with equal sums must give equal distributions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from fl.modes.field import Symbols
from fl.modes.shares import ShareCode, add_shares, encode, protect

Codes = npt.NDArray[np.int64]
Secrets = list[tuple[Symbols, Symbols]]


@dataclass(frozen=True)
class Scene:
    """A round as the adversary sets it up.

    ``lists`` holds the survivor lists that everybody answers: one in an honest round.
    """

    code: ShareCode
    colluders: tuple[int, ...]
    lists: tuple[tuple[int, ...], ...]
    secrets: Secrets = field(default_factory=list)

    @property
    def honest(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.code.n_clients) if i not in self.colluders)


def all_secrets(code: ShareCode) -> Secrets:
    """Every (mask, noise) that draw_mask can draw, each once."""
    size = code.n_values + code.colluders * code.symbols_per_share
    return [
        (symbols[: code.n_values], symbols[code.n_values :].reshape(code.colluders, code.symbols_per_share))
        for symbols in np.array(list(itertools.product(range(code.modulus), repeat=size)), np.uint32)
    ]


def view(scene: Scene, inputs: npt.NDArray[np.int64]) -> Codes:
    """The sorted list of what is seen, one number for every choice of the honest clients' secrets."""
    code, p = scene.code, scene.code.modulus
    secrets = scene.secrets or all_secrets(code)
    shares = np.array([encode(code, mask, noise) for mask, noise in secrets], np.int64)
    honest = scene.honest
    seen: list[Codes] = []

    def spread(column: npt.NDArray[np.int64], client: int) -> Codes:
        """A function of one client's secret, as a function of all of them."""
        shape = [1] * len(honest)
        shape[honest.index(client)] = column.size
        return column.reshape(shape)

    for client in honest:
        uploads = np.array([protect(code, inputs[client], mask) for mask, _ in secrets], np.int64)
        seen += [spread(uploads[:, value], client) for value in range(code.n_values)]
        seen += [spread(shares[:, c, k], client) for c in scene.colluders for k in range(shares.shape[2])]
    for listed, j, k in itertools.product(scene.lists, range(code.n_clients), range(shares.shape[2])):
        seen.append(sum((spread(shares[:, j, k], i) for i in listed if i in honest), np.int64(0)) % p)
    assert len(seen) * np.log2(p) < 62
    grid = np.zeros([len(secrets)] * len(honest), np.int64)
    for column in seen:
        grid *= p
        grid += column
    return np.sort(grid, axis=None)


def inputs_with_equal_sum(scene: Scene, seed: int) -> list[npt.NDArray[np.int64]]:
    """Three different inputs whose honest survivors have the same sum in every list; others are arbitrary."""
    rng = np.random.default_rng(seed)
    survivors = [i for i in scene.lists[0] if i in scene.honest]
    late = [i for i in scene.honest if i not in survivors]
    half = scene.code.modulus // 2
    first = rng.integers(-half, half + 1, (scene.code.n_clients, scene.code.n_values))
    chosen = [first]
    while len(chosen) < 3:
        other = first.copy()
        other[late] = rng.integers(-half, half + 1, (len(late), scene.code.n_values))
        other[survivors[:-1]] = rng.integers(-half, half + 1, (len(survivors) - 1, scene.code.n_values))
        rest = first[survivors].sum(axis=0) - other[survivors[:-1]].sum(axis=0)
        other[survivors[-1]] = (rest + half) % scene.code.modulus - half
        if all((other != before).any() for before in chosen):
            chosen.append(other)
    return chosen


def differs(scene: Scene, seed: int = 1) -> bool:
    """Whether what is seen tells inputs of equal sum apart."""
    first, *others = (view(scene, inputs) for inputs in inputs_with_equal_sum(scene, seed))
    return any(not np.array_equal(first, other) for other in others)


ROUNDS = [
    # N, T, U, d, p, colluders, survivors
    (2, 0, 2, 2, 7, (), (0, 1)),
    (3, 0, 2, 3, 5, (), (0, 1, 2)),
    (3, 1, 3, 2, 5, (0,), (0, 1, 2)),
    (3, 1, 3, 2, 7, (2,), (0, 1, 2)),
    (3, 1, 3, 1, 7, (1,), (0, 1, 2)),
    (4, 1, 3, 2, 5, (1,), (0, 1, 2, 3)),
    (4, 1, 3, 2, 5, (1,), (0, 1, 2)),
    (4, 1, 3, 2, 5, (3,), (0, 1, 2)),
    (4, 1, 3, 1, 7, (2,), (0, 1, 3)),
    (4, 2, 4, 2, 5, (0, 3), (0, 1, 2, 3)),
    (4, 2, 4, 1, 7, (1, 2), (0, 1, 2, 3)),
]


@pytest.mark.parametrize(("n", "t", "u", "d", "p", "colluders", "survivors"), ROUNDS)
def test_only_the_sum_of_the_survivors_can_be_seen(
    n: int, t: int, u: int, d: int, p: int, colluders: tuple[int, ...], survivors: tuple[int, ...]
) -> None:
    scene = Scene(ShareCode(n, t, u, d, p), colluders, (survivors,))
    assert not differs(scene)


def test_the_sum_can_be_seen() -> None:
    """The comparison does notice inputs: another sum gives another distribution, without a common view."""
    scene = Scene(ShareCode(3, 1, 3, 2, 5), (0,), ((0, 1, 2),))
    inputs = np.array([[0, 0], [1, 2], [0, 1]])
    moved = inputs + np.array([[0, 0], [0, 0], [1, 0]])
    assert not np.intersect1d(view(scene, inputs), view(scene, moved)).size


def test_the_view_holds_the_answers_that_clients_give() -> None:
    """The last numbers of a view are the sums of :func:`add_shares`."""
    code = ShareCode(3, 1, 3, 2, 5)
    secrets = all_secrets(code)[37:38]
    shares = encode(code, *secrets[0])
    (number,) = view(Scene(code, (0,), ((0, 1, 2),), secrets), np.zeros((3, 2), np.int64)).tolist()
    for j in (2, 1, 0):
        number, answer = divmod(number, 5)
        assert answer == add_shares(code, [shares[j], shares[j]])[0]


def without_noise(code: ShareCode) -> Secrets:
    return [(mask, noise * np.uint32(0)) for mask, noise in all_secrets(code)]


def noise_from_the_mask(code: ShareCode) -> Secrets:
    return [(mask, mask[:1].reshape(noise.shape)) for mask, noise in all_secrets(code)]


def mask_that_is_biased(code: ShareCode) -> Secrets:
    """Three random bits modulo five: 0, 1 and 2 come twice as often."""
    words = np.array(list(itertools.product(range(8), repeat=3)), np.uint32) % np.uint32(5)
    return [(symbols[:2], symbols[2:].reshape(1, 1)) for symbols in words]


THREE = ShareCode(3, 1, 3, 2, 5)
FOUR = ShareCode(4, 1, 3, 2, 5)
PLANTED: dict[str, Scene] = {
    "no noise": Scene(THREE, (0,), ((0, 1, 2),), without_noise(THREE)),
    "noise that repeats the mask": Scene(THREE, (0,), ((0, 1, 2),), noise_from_the_mask(THREE)),
    "symbols drawn modulo p": Scene(THREE, (0,), ((0, 1, 2),), mask_that_is_biased(THREE)),
    "a colluder where T is 0": Scene(ShareCode(3, 0, 2, 2, 5), (0,), ((0, 1, 2),)),
    "two colluders where T is 1": Scene(FOUR, (0, 1), ((0, 1, 2, 3),)),
    "answers for two lists": Scene(FOUR, (0,), ((0, 1, 2, 3), (0, 1, 2))),
    "answers for a single client as well": Scene(THREE, (0,), ((0, 1, 2), (1,))),
}


@pytest.mark.parametrize("leak", PLANTED)
def test_a_planted_leak_is_found(leak: str) -> None:
    """The same comparison fails where the scheme is broken on purpose."""
    assert differs(PLANTED[leak])


def test_a_mask_that_serves_two_uploads_is_found() -> None:
    """An update masked again for another round: the difference of the uploads is that of the updates."""
    code = ShareCode(2, 0, 2, 1, 5)
    masks = [mask for mask, _ in all_secrets(code)]

    def uploads(first: int, second: int) -> Sequence[tuple[int, int]]:
        return sorted(
            (int(protect(code, np.array([first]), m)[0]), int(protect(code, np.array([second]), m)[0]))
            for m in masks
        )

    assert uploads(1, 1) == uploads(2, 2)
    assert uploads(1, 1) != uploads(2, 0)
