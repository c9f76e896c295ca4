"""What may go wrong with which probability: the epsilons of a block, their bounds, and what keeping them costs.

``eps_sec`` bounds what an adversary knows, ``eps_cor`` that the two ends end up with different keys, ``eps_auth``
that a changed message was taken for the peer's; over blocks they add (Renner, PhD thesis, ETH Zurich 2005,
section 2.2: universal composability).

Verification and authentication rest on Poly1305 used as an almost-XOR-universal hash under a fresh key for every
tag: two different texts of L bytes get tags of a given difference with probability at most
``8 ceil(L/16) / 2**106`` (Bernstein, FSE 2005, theorem 3.3).  ``t`` tags under independent keys multiply:
``(8 ceil(n/128) / 2**106)**t`` for a block of n bits.  :func:`verification_tags` is the smallest t that keeps
``eps_cor``; every tag spends 256 bits of an authentication lane and its published outcome discloses at most a bit.
"""

from __future__ import annotations

import math

EPS_MIN = 1e-80
"""Smallest epsilon that can be asked for: beyond it the bounds leave the range of double precision."""
PULSES_MAX = 10**18
"""Largest block, three centuries of light at 100 MHz: beyond it counts and bounds lose their meaning."""


class ParameterError(ValueError):
    """A parameter outside its range; ``name`` is the argument's, ``text`` says what it must be."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name} {text}")
        self.name = name
        self.text = text


def check_epsilon(name: str, value: float) -> None:
    """Raise ParameterError unless ``value`` is a probability that can be kept."""
    if not EPS_MIN <= value < 1.0:
        raise ParameterError(name, f"must lie in [{EPS_MIN:g}, 1), got {value:g}")


def forgery_bound(n_bytes: int, tags: int = 1) -> float:
    """Probability that a changed text of at most ``n_bytes`` passes all of ``tags`` one-time tags."""
    return float((8.0 * math.ceil(n_bytes / 16) / 2.0**106) ** tags)


def undetected_error_bound(n_bits: int, tags: int = 1) -> float:
    """Probability that two different blocks of ``n_bits`` get the same ``tags`` tags, at most."""
    return float((8.0 * math.ceil(n_bits / 128) / 2.0**106) ** tags)


def verification_tags(n_bits: int, eps_cor: float) -> int:
    """How many independent tags over a block of ``n_bits`` keep ``eps_cor``; at least one.

    Raises ParameterError for an ``eps_cor`` outside its range.
    """
    check_epsilon("eps_cor", eps_cor)
    one = undetected_error_bound(max(n_bits, 1))
    if one >= 1.0:
        raise ParameterError("n_pulses", f"is so large that tags over {n_bits} bits prove nothing")
    tags = 1
    while one**tags > eps_cor:
        tags += 1
    return tags
