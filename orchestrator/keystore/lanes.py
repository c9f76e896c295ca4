"""Lanes: which bit of a block serves which purpose, and who may allocate it.

The key that one pair shares is kept in five *lanes*.  A lane is an endless line of bit positions; a block
deposited into it occupies the positions from an agreed start on, and a *head* divides what is gone (below)
from what may still be allocated (at or above).  Every lane has one allocating owner, so that the two ends
never race for the same bits:

=========  ========================================================  ==========
lane       purpose                                                   owner
=========  ========================================================  ==========
auth_ab    one-time tags of messages from the first to the second    first
auth_ba    one-time tags of messages from the second to the first    second
otp_ab     one-time pads of messages from the first to the second    first
otp_ba     one-time pads of messages from the second to the first    second
mask       pairwise masks of the secure sum                          first
=========  ========================================================  ==========

This module is pure: positions in, positions out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

PairEnd = Literal["first", "second"]
"""Which of the two users of a pair a node is."""

INITIAL_SECRET_BITS = 65536
"""Initial secret per direction (docs/formulas.md, Authentication and the key store)."""
AUTH_ALARM_BITS = 16384
"""An authentication lane below this is reported."""
LOW_WATER_BITS = 8192
"""An authentication lane below this is spent neither by meetings that nobody asked for nor by lease windows (I8)."""
AUTH_STOP_BITS = 2048
"""An authentication lane is never spent below this."""


class Lane(StrEnum):
    """The five lanes of a pair, in the order in which a block fills them."""

    AUTH_AB = "auth_ab"
    AUTH_BA = "auth_ba"
    OTP_AB = "otp_ab"
    OTP_BA = "otp_ba"
    MASK = "mask"


AUTH_LANES = (Lane.AUTH_AB, Lane.AUTH_BA)


def lane_owner(lane: Lane) -> PairEnd:
    """The end that allocates bits of ``lane``."""
    return "second" if lane in (Lane.AUTH_BA, Lane.OTP_BA) else "first"


def outgoing_auth(pair_end: PairEnd) -> Lane:
    """The lane that tags what ``pair_end`` sends."""
    return Lane.AUTH_AB if pair_end == "first" else Lane.AUTH_BA


def incoming_auth(pair_end: PairEnd) -> Lane:
    """The lane that tags what ``pair_end`` receives."""
    return Lane.AUTH_BA if pair_end == "first" else Lane.AUTH_AB


def outgoing_otp(pair_end: PairEnd) -> Lane:
    """The lane whose bits ``pair_end`` allocates for applications that send."""
    return Lane.OTP_AB if pair_end == "first" else Lane.OTP_BA


def incoming_otp(pair_end: PairEnd) -> Lane:
    """The lane whose bits the peer of ``pair_end`` allocates."""
    return Lane.OTP_BA if pair_end == "first" else Lane.OTP_AB


@dataclass(frozen=True, order=True)
class Range:
    """Bit positions ``start .. start + n_bits`` of a lane."""

    start: int
    n_bits: int

    @property
    def end(self) -> int:
        return self.start + self.n_bits


@dataclass(frozen=True)
class Part:
    """Bits ``offset .. offset + n_bits`` of a block, which go to ``lane``."""

    lane: Lane
    offset: int
    n_bits: int


@dataclass(frozen=True)
class SplitRule:
    """The fixed rule by which both ends divide a block.

    Each authentication lane receives the larger of ``auth_bits`` and ``auth_per_1024``/1024 of the block
    (one reservation spends 256 bits in each direction, so the refill has to follow the amount of key), but
    never more than a quarter of it; ``otp_per_1024``/1024 go to each one-time-pad lane; the rest masks.
    Shares are whole bytes.
    """

    auth_bits: int = 4096
    auth_per_1024: int = 32
    otp_per_1024: int = 0

    def __post_init__(self) -> None:
        if self.auth_bits < 0 or self.auth_per_1024 < 0 or self.otp_per_1024 < 0:
            raise ValueError("shares of a block cannot be negative")
        if self.auth_per_1024 + self.otp_per_1024 > 512:
            raise ValueError("auth_per_1024 + otp_per_1024 count once per direction and may not exceed 512")

    def text(self) -> str:
        """How a store writes the rule down; :meth:`of_text` reads it."""
        return f"{self.auth_bits},{self.auth_per_1024},{self.otp_per_1024}"

    @classmethod
    def of_text(cls, text: str) -> SplitRule:
        return cls(*(int(field) for field in text.split(",")))

    def parts(self, n_bits: int) -> tuple[Part, ...]:
        """The parts of a block of ``n_bits``, without gaps, in block order; empty shares are left out."""
        auth = min(max(self.auth_bits, n_bits * self.auth_per_1024 // 1024), n_bits // 4) // 8 * 8
        otp = min(n_bits * self.otp_per_1024 // 1024, (n_bits - 2 * auth) // 2) // 8 * 8
        sizes = {Lane.AUTH_AB: auth, Lane.AUTH_BA: auth, Lane.OTP_AB: otp, Lane.OTP_BA: otp}
        sizes[Lane.MASK] = n_bits - sum(sizes.values())
        parts: list[Part] = []
        offset = 0
        for lane in Lane:
            if sizes[lane]:
                parts.append(Part(lane, offset, sizes[lane]))
            offset += sizes[lane]
        return tuple(parts)


def find_run(head: int, stored: Iterable[Range], n_bits: int) -> Range | None:
    """The first ``n_bits`` consecutive stored positions at or above ``head``.

    ``stored`` lists what the lane holds, ordered and without overlaps; gaps occur where one end burnt a
    block that the other never had.  None if no run is long enough.
    """
    run_start = run_end = head
    for piece in stored:
        if piece.end <= run_end:
            continue
        if piece.start > run_end:
            run_start = piece.start
        run_end = piece.end
        if run_end - run_start >= n_bits:
            return Range(run_start, n_bits)
    return None


def covers(wanted: Range, stored: Iterable[Range]) -> bool:
    """Whether every position of ``wanted`` is stored (``stored`` as for :func:`find_run`)."""
    reached = wanted.start
    for piece in stored:
        if piece.start > reached:
            break
        reached = max(reached, piece.end)
    return reached >= wanted.end


def places(runs: Iterable[Range], sizes: Iterable[int]) -> list[Range] | None:
    """Where ranges of these sizes fit in ``runs``, one after the other and none over a gap; None if they do not."""
    rest = iter(runs)
    run = next(rest, None)
    found: list[Range] = []
    for size in sizes:
        while run is not None and run.n_bits < size:
            run = next(rest, None)
        if run is None:
            return None
        found.append(Range(run.start, size))
        run = Range(run.start + size, run.n_bits - size)
    return found


@dataclass(frozen=True)
class Ledger:
    """What became of every bit shared with a peer; invariant I9 says that the books balance.

    ``stored`` is counted from the sealed pieces themselves, the other four from running totals.
    """

    produced: int
    stored: int
    delivered: int
    authentication: int
    burnt: int

    @property
    def balanced(self) -> bool:
        return self.produced == self.stored + self.delivered + self.authentication + self.burnt

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.produced + other.produced,
            self.stored + other.stored,
            self.delivered + other.delivered,
            self.authentication + other.authentication,
            self.burnt + other.burnt,
        )


EMPTY_LEDGER = Ledger(0, 0, 0, 0, 0)
