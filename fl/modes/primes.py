"""The primes p of the fields F_p in which LightSecAgg computes: plain arithmetic, which loads no kernels."""

from __future__ import annotations

MAX_MODULUS_BITS = 31


class FieldError(ValueError):
    """Numbers that are no elements of the field, or a field that this module cannot serve."""


def is_prime(number: int) -> bool:
    """Miller-Rabin with the bases 2, 3, 5 and 7: exact below 3.2e9 (Jaeschke, Math. Comp. 61, 915 (1993))."""
    if number < 2 or number >= 1 << MAX_MODULUS_BITS:
        return False
    for prime in (2, 3, 5, 7):
        if number % prime == 0:
            return number == prime
    shift = ((number - 1) & (1 - number)).bit_length() - 1
    odd = (number - 1) >> shift
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power not in (1, number - 1) and number - 1 not in (
            pow(power, 1 << step, number) for step in range(1, shift)
        ):
            return False
    return True


def smallest_prime_above(bound: int) -> int:
    """The smallest prime greater than ``bound``; raises FieldError where it has more than 31 bits."""
    for candidate in range(max(bound + 1, 2), 1 << MAX_MODULUS_BITS):
        if is_prime(candidate):
            return candidate
    raise FieldError(f"no prime above {bound} fits {MAX_MODULUS_BITS} bits")


def symbol_bits(modulus: int) -> int:
    """Bits of a packed symbol: ceil(log2 p)."""
    return (modulus - 1).bit_length()
