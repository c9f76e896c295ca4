"""The prime field: exact products, exactly uniform symbols, packing that refuses what is no symbol."""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.modes import field
from fl.modes.field import Symbols
from fl.modes.primes import FieldError, is_prime, smallest_prime_above, symbol_bits

LARGEST_PRIME = 2**31 - 1
PRIMES = (3, 5, 7, 251, 257, 1021, 12757, 51001, 65537, 1_000_003, LARGEST_PRIME)


def symbols(rng: np.random.Generator, shape: int | tuple[int, ...], modulus: int) -> Symbols:
    return rng.integers(0, modulus, shape, np.uint32)


def test_primes_are_those_of_the_sieve() -> None:
    limit = 30_000
    sieve = np.ones(limit, bool)
    sieve[:2] = False
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = False
    assert [number for number in range(limit) if is_prime(number)] == np.flatnonzero(sieve).tolist()


@pytest.mark.parametrize(
    ("number", "prime"),
    [
        (25_326_001, False),
        (LARGEST_PRIME, True),
        (2_147_483_629, True),
        (46_337**2, False),
        (2**31 + 11, False),
    ],
)
def test_large_primes(number: int, prime: bool) -> None:
    """25326001 is a strong pseudoprime to the bases 2, 3 and 5; 2^31 + 11 is prime but too large here."""
    assert is_prime(number) is prime


def test_a_prime_that_does_not_fit_is_refused() -> None:
    assert smallest_prime_above(LARGEST_PRIME - 1) == LARGEST_PRIME
    with pytest.raises(FieldError, match="31 bits"):
        smallest_prime_above(LARGEST_PRIME)


@given(st.sampled_from(PRIMES), st.integers(0, 300), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_packed_symbols_come_back(modulus: int, n_symbols: int, seed: int) -> None:
    bits = symbol_bits(modulus)
    values = symbols(np.random.default_rng(seed), n_symbols, modulus)
    packed = field.pack_symbols(values, bits)
    assert packed.size == (n_symbols * bits + 7) // 8
    number = sum(int(value) << (index * bits) for index, value in enumerate(values))
    assert int.from_bytes(packed.tobytes(), "little") == number
    np.testing.assert_array_equal(field.unpack_symbols(packed, n_symbols, bits, modulus), values)


@given(st.sampled_from(PRIMES), st.integers(1, 50), st.data())
@settings(max_examples=60, deadline=None)
def test_a_packed_word_that_is_no_symbol_is_refused(
    modulus: int, n_symbols: int, data: st.DataObject
) -> None:
    bits = symbol_bits(modulus)
    values = symbols(np.random.default_rng(n_symbols), n_symbols, modulus)
    where = data.draw(st.integers(0, n_symbols - 1))
    values[where] = data.draw(st.integers(modulus, 2**bits - 1))
    packed = field.pack_symbols(values, bits)
    with pytest.raises(
        FieldError, match=rf"value {where} of {n_symbols} is not a number from 0 to {modulus - 1}"
    ):
        field.unpack_symbols(packed, n_symbols, bits, modulus)


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(FieldError, match="value 1 of 2"):
        field.pack_symbols(np.array([1, 1024], np.uint32), 10)
    with pytest.raises(FieldError, match="10 bits, not 11"):
        field.unpack_symbols(np.zeros(11, np.uint8), 8, 11, 1021)
    with pytest.raises(ValueError, match="bytes"):
        field.unpack_symbols(np.zeros(9, np.uint8), 8, 10, 1021)


@pytest.mark.parametrize("modulus", [5, 7, 251, 257, 1021])
def test_every_symbol_is_equally_likely(modulus: int) -> None:
    """Random bytes that run through every word once yield every symbol the same number of times."""
    bits = symbol_bits(modulus)
    words = np.arange(256 if bits <= 8 else 1 << 16, dtype="u1" if bits <= 8 else "<u2").tobytes()
    passes = 256 // 2**bits if bits <= 8 else (1 << 16) // 2**bits
    drawn = field.draw_symbols(passes * modulus, modulus, lambda size: bytes(islice(cycle(words), size)))
    np.testing.assert_array_equal(np.bincount(drawn, minlength=modulus), passes)


@given(st.sampled_from(PRIMES), st.integers(0, 2000), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_drawing_goes_on_until_there_are_enough(modulus: int, n_symbols: int, seed: int) -> None:
    """A source in which every other word is all ones, hence no symbol, needs further draws."""
    rng = np.random.default_rng(seed)

    def source(size: int) -> bytes:
        data = np.frombuffer(rng.bytes(size + 8), np.uint8)[:size].copy()
        data.reshape(-1)[: size - size % 8].reshape(-1, 8)[:, :4] = 0xFF
        return data.tobytes()

    drawn = field.draw_symbols(n_symbols, modulus, source)
    assert drawn.shape == (n_symbols,)
    assert not n_symbols or int(drawn.max()) < modulus
    assert n_symbols < 500 or modulus < 5 or int(drawn.max()) > modulus // 2 > int(drawn.min())


@given(
    st.sampled_from(PRIMES), st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32)
)
@settings(max_examples=150, deadline=None)
def test_products_are_those_of_integers(modulus: int, n: int, k: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = symbols(rng, (n, k), modulus), symbols(rng, (k, m), modulus)
    expected = (left.astype(object) @ right.astype(object)) % modulus
    np.testing.assert_array_equal(field.matmul(left, right, modulus), expected.astype(np.uint32))


@pytest.mark.parametrize(
    ("n", "k", "m"), [(200, 151, 700), (3, 2, 40_000), (1, 40_000, 3), (2, 3, 0), (2, 3, 1)]
)
def test_products_in_several_blocks(n: int, k: int, m: int) -> None:
    rng = np.random.default_rng(m)
    left, right = symbols(rng, (n, k), 1021), symbols(rng, (k, m), 1021)
    expected = (left.astype(np.int64) @ right.astype(np.int64)) % 1021
    np.testing.assert_array_equal(field.matmul(left, right, 1021), expected.astype(np.uint32))


@pytest.mark.parametrize("modulus", [51001, 1_000_003, 94_906_249, LARGEST_PRIME])
@pytest.mark.parametrize("above", [0, 1, 700])
def test_products_are_exact_where_float64_ends(modulus: int, above: int) -> None:
    """Odd factors as large as they get, at the longest inner dimension of one product and past it."""
    inner = min(2**53 // (modulus - 1) ** 2, 4000) + above
    if not inner:
        inner = 1
    direct = inner * (modulus - 1) ** 2 <= 2**53
    assert (field.limb_bits(inner, modulus) == symbol_bits(modulus)) is direct
    rng = np.random.default_rng(inner)
    left = (modulus - 2 - 2 * rng.integers(0, 3, (3, inner))).astype(np.uint32)
    right = (modulus - 2 - 2 * rng.integers(0, 3, (inner, 2))).astype(np.uint32)
    expected = (left.astype(object) @ right.astype(object)) % modulus
    np.testing.assert_array_equal(field.matmul(left, right, modulus), expected.astype(np.uint32))


def test_products_of_every_remainder_near_a_multiple_are_reduced() -> None:
    """One-by-one products ``q p + r`` for remainders at both ends, up to 2^53."""
    for modulus in (3, 1021, 51001):
        for quotient in (0, 1, 2**20, 2**53 // modulus - 1):
            products = np.array([[quotient * modulus + rest for rest in (0, 1, modulus - 1)]], np.float64)
            out = np.empty((1, 3), np.uint32)
            field._reduce(products, float(modulus), out, 0)
            assert out.tolist() == [[0, 1, modulus - 1]]


def test_a_field_that_is_too_large_is_refused() -> None:
    one = np.ones((1, 1), np.uint32)
    with pytest.raises(FieldError, match="31 bits"):
        field.matmul(one, one, 2**31 + 11)
    assert field.limb_bits(2**23, LARGEST_PRIME) == 0


def test_inverses() -> None:
    numbers = np.arange(1, 1021)
    assert ((field.inverses(numbers, 1021) * numbers) % 1021 == 1).all()
