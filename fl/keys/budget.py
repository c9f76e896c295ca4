"""How much key a run will use, whether it is there, and how long making the rest would take.

A round costs every pair the same number of bits, whatever the mode (:meth:`fl.modes.base.Aggregation.
key_bits_per_pair`), so a run of R rounds costs ``N (N-1) / 2`` pairs R times that.  Against this stand each pair's
stock and its rate, which is per second *of ring*: the ring serves one pair at a time, so the times of the pairs add
up, and no rate can be stated that holds for all pairs at once.

Everything here is arithmetic on counts; no key bit passes through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from orchestrator.events.status import pair_name

Pair: TypeAlias = tuple[str, str]
RateSource: TypeAlias = Literal["planned", "measured", "none", "simulated"]
Verdict: TypeAlias = Literal["none-needed", "simulated", "in-stock", "in-time", "short"]


class PairSupply(msgspec.Struct, frozen=True):
    """What a pair has: bits in stock, and secret bits per second while it holds the ring (0: none)."""

    pair: Pair
    stock_bits: int
    rate_bps: float
    source: RateSource


class PairForecast(msgspec.Struct, frozen=True):
    """One pair over the whole run; ``ring_s`` is None where nothing makes the missing bits."""

    pair: Pair
    needed_bits: int
    stock_bits: int
    missing_bits: int
    rate_bps: float
    source: RateSource
    ring_s: float | None


class KeyForecast(msgspec.Struct, frozen=True):
    """Key of a run before it starts.

    ``bits_per_pair_and_round`` and ``n_pairs`` multiply to ``bits_per_round``; ``ring_s`` is how long the
    ring is busy with the missing bits of all pairs (None: some pair's will never come); ``rounds_in_stock``
    is how many rounds the stock of every pair covers.
    """

    mode: str
    rounds: int
    n_pairs: int
    bits_per_pair_and_round: int
    bits_per_round: int
    bits_total: int
    verdict: Verdict
    text: str
    rounds_in_stock: int = 0
    ring_s: float | None = None
    pairs: tuple[PairForecast, ...] = ()
    if_short: str = "wait"


class RoundKeys(msgspec.Struct, frozen=True):
    """Bits a round used over all pairs, or burnt when it was aborted."""

    round: int
    bits: int
    burnt: bool = False


class PairLedger(msgspec.Struct, frozen=True):
    """A pair's key store at the end: bits made, used as pads, spent on authentication, burnt, in stock."""

    pair: Pair
    produced: int
    delivered: int
    authentication: int
    burnt: int
    stored: int


class KeyRecord(msgspec.Struct, frozen=True):
    """Every bit that a run used; ``ledgers`` only where there are key stores to read."""

    used_bits: int
    burnt_bits: int
    rounds: tuple[RoundKeys, ...]
    ledgers: tuple[PairLedger, ...] = ()


def simulated_forecast(mode: str, rounds: int, n_clients: int, bits_per_pair_and_round: int) -> KeyForecast:
    """The forecast of a run whose keys come from a generator: nothing can run short."""
    n_pairs = n_clients * (n_clients - 1) // 2
    per_round = n_pairs * bits_per_pair_and_round
    text = (
        f"{counted(rounds, 'round')} of {n_clients} clients would use {quantity(bits_per_pair_and_round)} per pair "
        f"and round, {quantity(per_round * rounds)} over {counted(n_pairs, 'pair')}; keys of this run are simulated"
        if per_round
        else f"mode {mode} uses no key"
    )
    return KeyForecast(
        mode,
        rounds,
        n_pairs,
        bits_per_pair_and_round,
        per_round,
        per_round * rounds,
        "simulated" if per_round else "none-needed",
        text,
    )


def forecast(
    mode: str,
    rounds: int,
    bits_per_pair_and_round: int,
    supply: Sequence[PairSupply],
    *,
    if_short: str = "wait",
    longest_s: float | None = None,
) -> KeyForecast:
    """The forecast of a run on real key stores.

    ``longest_s`` is the most ring time that still counts as in time (None: any finite time does).
    """
    needed = bits_per_pair_and_round * rounds
    pairs = tuple(_pair_forecast(each, needed) for each in supply)
    per_round = bits_per_pair_and_round * len(pairs)
    ring_s = None if any(each.ring_s is None for each in pairs) else sum(each.ring_s or 0.0 for each in pairs)
    covered = min(
        (each.stock_bits // bits_per_pair_and_round for each in pairs if bits_per_pair_and_round),
        default=rounds,
    )
    verdict, text = _verdict(mode, rounds, pairs, ring_s, needed, longest_s)
    return KeyForecast(
        mode,
        rounds,
        len(pairs),
        bits_per_pair_and_round,
        per_round,
        per_round * rounds,
        verdict,
        text,
        min(covered, rounds),
        ring_s,
        pairs,
        if_short,
    )


def _pair_forecast(supply: PairSupply, needed: int) -> PairForecast:
    missing = max(0, needed - supply.stock_bits)
    ring_s = 0.0 if not missing else missing / supply.rate_bps if supply.rate_bps > 0 else None
    return PairForecast(
        supply.pair, needed, supply.stock_bits, missing, supply.rate_bps, supply.source, ring_s
    )


def _verdict(
    mode: str,
    rounds: int,
    pairs: Sequence[PairForecast],
    ring_s: float | None,
    needed: int,
    longest_s: float | None,
) -> tuple[Verdict, str]:
    if not needed or not pairs:
        return "none-needed", f"mode {mode} uses no key"
    head = f"{counted(rounds, 'round')} need{'s' if rounds == 1 else ''} {quantity(needed)} per pair"
    short = [each for each in pairs if each.missing_bits]
    if not short:
        return "in-stock", f"{head}; all {len(pairs)} pairs have it in stock"
    if ring_s is None:
        never = ", ".join(
            f"{pair_name(each.pair)} lacks {quantity(each.missing_bits)}"
            for each in short
            if each.ring_s is None
        )
        return "short", f"{head}; {never}, and nothing makes key for it"
    text = (
        f"{head}; {len(short)} of {len(pairs)} pairs lack {quantity(sum(p.missing_bits for p in short))} "
        f"together, about {duration(ring_s)} of light"
    )
    if longest_s is not None and ring_s > longest_s:
        return "short", f"{text}, more than the {duration(longest_s)} allowed"
    return "in-time", text


def record(
    rounds: Iterable[tuple[int, int]],
    aborted: Iterable[tuple[int, int]] = (),
    ledgers: Iterable[PairLedger] = (),
) -> KeyRecord:
    """From (round, bits used) and (round, bits burnt)."""
    used = [RoundKeys(number, bits) for number, bits in rounds]
    burnt = [RoundKeys(number, bits, True) for number, bits in aborted]
    return KeyRecord(
        sum(each.bits for each in used),
        sum(each.bits for each in burnt),
        tuple(sorted([*used, *burnt], key=lambda each: each.round)),
        tuple(ledgers),
    )


def quantity(bits: float) -> str:
    """Bits with a decimal prefix."""
    for factor, unit in ((1e12, "Tbit"), (1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if bits >= factor:
            return f"{bits / factor:.3g} {unit}"
    return f"{bits:g} bit"


def counted(number: int, what: str) -> str:
    """``1 round``, ``2 rounds``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
