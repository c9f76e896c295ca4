"""LightSecAgg shares: thresholds, exact sums with drop-outs, and what happens to wrong answers."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fl.modes import field
from fl.modes.field import Symbols
from fl.modes.primes import FieldError
from fl.modes.shares import (
    DecodeError,
    ShareCode,
    add_shares,
    check_modulus,
    decode,
    draw_mask,
    encode,
    protect,
    read_sum,
)
from fl.modes.thresholds import (
    ShareCodeError,
    check_thresholds,
    choose_thresholds,
    default_thresholds,
    most_colluders,
    smallest_modulus,
)


@dataclass
class Round:
    """All clients of one round: their weighted values, uploads and shares (sender, receiver, symbol)."""

    code: ShareCode
    values: npt.NDArray[np.int64]
    uploads: list[Symbols]
    shares: list[Symbols]

    def answers(self, clients: tuple[int, ...], survivors: tuple[int, ...]) -> dict[int, Symbols]:
        return {j: add_shares(self.code, [self.shares[i][j] for i in survivors]) for j in clients}

    def sum(self, clients: tuple[int, ...], survivors: tuple[int, ...]) -> npt.NDArray[np.int64]:
        masks = decode(self.code, self.answers(clients, survivors))
        return read_sum(self.code, [self.uploads[i] for i in survivors], masks)


def play(code: ShareCode, values: npt.NDArray[np.int64], seed: int = 0) -> Round:
    source = np.random.default_rng(seed).bytes
    uploads, shares = [], []
    for row in values:
        mask, noise = draw_mask(code, source)
        uploads.append(protect(code, row, mask))
        shares.append(encode(code, mask, noise))
    return Round(code, values, uploads, shares)


def example(n_values: int = 7, seed: int = 0) -> Round:
    """Ten clients, four colluders, at least eight survivors."""
    code = ShareCode(10, 4, 8, n_values, smallest_modulus(127, 10))
    return play(code, np.random.default_rng(seed).integers(-127, 128, (10, n_values)), seed)


# -- public parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_clients", "modulus"), [(4, 1021), (50, 12757), (200, 51001)])
def test_modulus_of_eight_bit_values(n_clients: int, modulus: int) -> None:
    """docs/formulas.md: p is 1021, 12757 and 51001 for k = 8."""
    assert smallest_modulus(127, n_clients) == modulus


@pytest.mark.parametrize(
    ("levels", "weight_sum", "modulus"), [(5, 200, 2003), (4, 200, 1801), (5, 100, 1009)]
)
def test_a_symbol_is_no_wider_than_the_sums_need(levels: int, weight_sum: int, modulus: int) -> None:
    """2001 sums of 200 clients fit 11 bits, as they fit a ring width of 11 bits; the prime above 200 * 11, 2203, takes 12."""
    assert smallest_modulus(levels, weight_sum) == modulus


@given(st.integers(1, 2000), st.integers(2, 3000))
def test_no_sum_wraps_in_the_smallest_modulus(levels: int, weight_sum: int) -> None:
    modulus = smallest_modulus(levels, weight_sum)
    assert modulus > 2 * levels * weight_sum
    assert modulus > weight_sum
    assert -levels * weight_sum >= -(modulus // 2)
    assert levels * weight_sum <= modulus // 2


def test_levels_that_fit_no_field_are_refused() -> None:
    with pytest.raises(ShareCodeError, match="fewer levels"):
        smallest_modulus(1 << 22, 1000)
    with pytest.raises(ShareCodeError, match="positive"):
        smallest_modulus(0, 4)


def test_a_modulus_in_which_a_sum_would_wrap_is_refused() -> None:
    code = ShareCode(4, 1, 3, 10, 1021)
    check_modulus(code, 127, 4)
    with pytest.raises(ShareCodeError, match=r"2 L sum\(w\) \+ 1 = 1271 sums do not fit; use p = 1277"):
        check_modulus(code, 127, 5)
    smallest_that_fits = ShareCode(4, 1, 3, 10, 7)
    check_modulus(smallest_that_fits, 1, 3)
    with pytest.raises(ShareCodeError):
        check_modulus(smallest_that_fits, 1, 4)


def test_thresholds_are_accepted_exactly_where_the_rules_hold() -> None:
    for n, t, u in itertools.product(range(1, 10), range(-1, 10), range(-1, 11)):
        good = n >= 2 and 0 <= t <= n - 2 and t < u <= n and 2 * u > n + t
        if good:
            check_thresholds(n, t, u)
        else:
            with pytest.raises(ShareCodeError):
                check_thresholds(n, t, u)


@pytest.mark.parametrize(("n", "u", "t"), [(4, 2, 1), (10, 6, 3), (10, 7, 4)])
def test_thresholds_that_two_lists_break_are_refused_by_name(n: int, u: int, t: int) -> None:
    with pytest.raises(ShareCodeError, match=rf"use U = {(n + t) // 2 + 1} to {n}"):
        ShareCode(n, t, u, 10, smallest_modulus(127, n))


def test_errors_name_thresholds_that_work() -> None:
    advised = 0
    for n, t, u in itertools.product(range(2, 9), range(7), range(1, 12)):
        try:
            check_thresholds(n, t, u)
        except ShareCodeError as error:
            advice = str(error)
        else:
            continue
        if survivors := re.search(r"use U = (\d+) to (\d+)", advice):
            for fitting in survivors.groups():
                check_thresholds(n, t, int(fitting))
        if fewer := re.search(r"or T at most (\d+) for U", advice):
            check_thresholds(n, int(fewer[1]), u)
            advised += 1
        if largest := re.search(r"T is 0 to (\d+)", advice):
            check_thresholds(n, int(largest[1]), n)
        assert survivors or largest
    assert advised > 20


@pytest.mark.parametrize(
    ("n", "t", "u"), [(2, 0, 2), (3, 1, 3), (4, 1, 3), (5, 2, 4), (10, 5, 8), (200, 100, 151)]
)
def test_default_thresholds(n: int, t: int, u: int) -> None:
    assert default_thresholds(n) == (t, u)


def test_default_thresholds_are_valid_and_leave_room_for_a_drop_out() -> None:
    for n in range(2, 1001):
        t, u = default_thresholds(n)
        check_thresholds(n, t, u)
        assert n < 4 or (u < n and t >= 1)


def test_most_colluders_is_the_largest_t_that_is_accepted() -> None:
    for n, u in itertools.product(range(2, 12), range(1, 14)):
        most = most_colluders(n, u)
        if most >= 0:
            check_thresholds(n, most, u)
        for more in range(max(most, -1) + 1, n + 1):
            with pytest.raises(ShareCodeError):
                check_thresholds(n, more, u)


def test_a_threshold_that_is_not_given_protects_as_well_as_the_other_allows() -> None:
    for n in range(3, 12):
        assert choose_thresholds(n) == default_thresholds(n)
        for t in range(1, n - 1):
            assert choose_thresholds(n, t) == (t, min(u for u in range(n + 1) if _fits(n, t, u)))
        for u in range(n // 2 + 1, n + 1):
            assert choose_thresholds(n, 0, u) == (max(t for t in range(n) if _fits(n, t, u)), u)
    assert choose_thresholds(10, 2, 9) == (2, 9)
    assert choose_thresholds(10, 0, 4) == (0, 4)


def _fits(n: int, t: int, u: int) -> bool:
    return t <= n - 2 and t < u <= n and 2 * u > n + t


@pytest.mark.parametrize("modulus", [0, 1, 4, 9, 1023, 2**31 + 11])
def test_a_modulus_that_is_no_prime_above_the_clients_is_refused(modulus: int) -> None:
    with pytest.raises(ShareCodeError, match="not a prime above N = 4"):
        ShareCode(4, 1, 3, 10, modulus)
    with pytest.raises(ShareCodeError, match="not a prime above N = 10"):
        ShareCode(10, 4, 8, 10, 7)


def test_key_of_two_hundred_clients() -> None:
    """2/(U-T) of the d symbols that pairwise pads need, hence about 25 times less."""
    code = ShareCode(200, 100, 151, 100_000, 51001)
    assert (code.symbols_per_share, code.symbol_bits) == (1961, 16)
    per_pair = 2 * code.share_bits  # a share in each direction
    assert per_pair == 2 * 1961 * 16
    assert 25 < 100_000 * 16 / per_pair < 26
    few = ShareCode(4, 1, 3, 100_000, 1021)
    assert 2 * few.share_bits == 100_000 * 10


# -- sums ----------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_survivors_and_any_answers_give_the_sum(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12), "N")
    t = data.draw(st.integers(0, n - 2), "T")
    u = data.draw(st.integers((n + t) // 2 + 1, n), "U")
    d = data.draw(st.integers(1, 40), "d")
    levels = data.draw(st.sampled_from([1, 7, 127, 40_000]), "L")
    weights = np.array(data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n), "weights"))
    code = ShareCode(n, t, u, d, smallest_modulus(levels, int(weights.sum())))
    check_modulus(code, levels, int(weights.sum()))
    extreme = data.draw(st.sampled_from([0, levels, -levels]), "extreme")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    values = np.full((n, d), extreme) if extreme else rng.integers(-levels, levels + 1, (n, d))
    clients = st.permutations(range(n)).flatmap(lambda p: st.integers(u, n).map(lambda k: tuple(p[:k])))
    survivors, answering = data.draw(clients, "survivors"), data.draw(clients, "answering")
    weighted = values * weights[:, None]
    total = play(code, weighted, int(rng.integers(2**32))).sum(answering, survivors)
    np.testing.assert_array_equal(total, weighted[list(survivors)].sum(axis=0))


def test_every_choice_of_survivors_and_answers_of_four_clients() -> None:
    code = ShareCode(4, 1, 3, 5, smallest_modulus(127, 4))
    values = np.random.default_rng(4).integers(-127, 128, (4, 5))
    four = play(code, values)
    sets = [s for size in (3, 4) for s in itertools.combinations(range(4), size)]
    for survivors, answering in itertools.product(sets, sets):
        np.testing.assert_array_equal(four.sum(answering, survivors), values[list(survivors)].sum(axis=0))


def test_shares_are_those_of_the_formula() -> None:
    """S_j = sum_u pieces_u j^u mod p, written out with Python integers."""
    code = ShareCode(5, 2, 4, 5, 1021)
    mask, noise = draw_mask(code, np.random.default_rng(1).bytes)
    pieces = [[*mask[:3]], [*mask[3:], 0], *noise]
    shares = encode(code, mask, noise)
    assert shares.shape == (5, 3)
    for j, column in itertools.product(range(5), range(3)):
        polynomial = sum(int(pieces[u][column]) * (j + 1) ** u for u in range(4))
        assert shares[j, column] == polynomial % 1021


def test_two_hundred_clients_with_drop_outs() -> None:
    code = ShareCode(200, 100, 151, 300, 51001)
    rng = np.random.default_rng(2)
    values = rng.integers(-127, 128, (200, 300))
    crowd = play(code, values)
    survivors = tuple(rng.permutation(200)[:160].tolist())
    answering = tuple(rng.permutation(200)[:151].tolist())
    np.testing.assert_array_equal(crowd.sum(answering, survivors), values[list(survivors)].sum(axis=0))


def test_any_t_columns_of_the_noise_rows_are_invertible() -> None:
    """Exhaustive over the colluders: their shares of an empty mask take p^T values, so noise hides all."""
    for n, t, u, p in [(4, 2, 4, 5), (5, 2, 4, 7), (5, 1, 4, 7)]:
        code = ShareCode(n, t, u, 1, p)
        noises = np.array(list(itertools.product(range(p), repeat=t)), np.uint32)
        shares = np.array(
            [encode(code, np.zeros(1, np.uint32), noise.reshape(t, 1))[:, 0] for noise in noises]
        )
        for colluders in itertools.combinations(range(n), t):
            assert len(np.unique(shares[:, colluders], axis=0)) == p**t


def test_masks_are_fresh_and_of_the_whole_field() -> None:
    code = ShareCode(4, 1, 3, 1000, 1021)
    first, second = draw_mask(code), draw_mask(code)
    assert (first[0] != second[0]).sum() > 900
    assert (first[1] != second[1]).sum() > 400
    assert first[1].shape == (1, 500)
    assert max(first[0].max(), second[0].max()) > 1000


# -- what is refused -----------------------------------------------------------------------------------


def test_fewer_than_u_answers_are_not_decoded() -> None:
    with pytest.raises(DecodeError, match="7 answers do not determine the sum of the masks; U = 8"):
        example().sum(tuple(range(7)), tuple(range(9)))


def test_answers_of_strangers_are_not_decoded() -> None:
    answers = example().answers(tuple(range(8)), tuple(range(9)))
    answers[10] = answers.pop(0)
    with pytest.raises(DecodeError, match="clients 0 to 9"):
        decode(example().code, answers)


@given(st.integers(0, 9), st.integers(0, 2), st.integers(1, 1020))
@settings(max_examples=40, deadline=None)
def test_one_wrong_answer_among_more_than_u_is_noticed(liar: int, column: int, shift: int) -> None:
    ten = example(n_values=12)
    answers = ten.answers(tuple(range(10)), tuple(range(10)))
    answers[liar] = answers[liar].copy()
    answers[liar][column] = (int(answers[liar][column]) + shift) % ten.code.modulus
    with pytest.raises(DecodeError, match="contradicts"):
        decode(ten.code, answers)


def test_an_answer_for_other_survivors_is_noticed() -> None:
    ten = example()
    answers = ten.answers(tuple(range(9)), tuple(range(10)))
    answers |= ten.answers((3,), tuple(range(9)))
    with pytest.raises(DecodeError, match="contradicts"):
        decode(ten.code, answers)


def test_a_wrong_answer_among_exactly_u_shows_in_the_filling() -> None:
    """Seven values in four pieces leave one symbol that must decode to zero."""
    ten = example(n_values=7)
    answers = ten.answers(tuple(range(8)), tuple(range(10)))
    answers[2] = (answers[2] + np.uint32(1)) % np.uint32(ten.code.modulus)
    with pytest.raises(DecodeError, match="end in zeros"):
        decode(ten.code, answers)


def test_numbers_outside_the_field_and_wrong_shapes_are_refused() -> None:
    ten = example()
    code, p = ten.code, ten.code.modulus
    mask, noise = draw_mask(code, np.random.default_rng(0).bytes)
    bad = mask.copy()
    bad[3] = p
    for attempt in (
        lambda: encode(code, bad, noise),
        lambda: protect(code, ten.values[0], bad),
        lambda: read_sum(code, [bad], mask),
        lambda: add_shares(code, [np.full(code.symbols_per_share, p, np.uint32)]),
    ):
        with pytest.raises(FieldError, match="no symbol of F_"):
            attempt()
    for shaped in (
        lambda: encode(code, mask[1:], noise),
        lambda: encode(code, mask, noise[1:]),
        lambda: protect(code, ten.values[0][1:], mask),
        lambda: protect(code, ten.values[0].astype(np.int32), mask),
        lambda: add_shares(code, [ten.shares[0][0][1:]]),
        lambda: add_shares(code, []),
        lambda: read_sum(code, [], mask),
        lambda: decode(code, ten.answers(tuple(range(8)), (0, 1)) | {0: mask}),
    ):
        with pytest.raises(ValueError, match=r"shape|int64|nothing to add"):
            shaped()


def test_a_value_that_would_wrap_is_refused() -> None:
    code = ShareCode(4, 1, 3, 2, 1021)
    mask, _ = draw_mask(code)
    protect(code, np.array([510, -510]), mask)
    for value in (511, -511):
        with pytest.raises(ValueError, match="exceeds 510"):
            protect(code, np.array([0, value]), mask)


# -- packing of a whole round, and speed ---------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_shares_survive_packing_under_a_pad(seed: int, n_values: int) -> None:
    ten = example(n_values, seed)
    code = ten.code
    assume(code.share_bits > 0)
    packed = field.pack_symbols(ten.shares[0][1], code.symbol_bits)
    pad = field.pack_symbols(
        np.random.default_rng(seed).integers(0, 1 << code.symbol_bits, code.symbols_per_share, np.uint32),
        code.symbol_bits,
    )
    received = field.unpack_symbols(
        packed ^ pad ^ pad, code.symbols_per_share, code.symbol_bits, code.modulus
    )
    np.testing.assert_array_equal(received, ten.shares[0][1])
