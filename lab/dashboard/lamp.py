"""The wall page's one word, its colour, and what is wrong: a pure function of what the board holds.

The word says what the ring does, the colour how well: red for what an operator must look at at once, amber for what becomes so,
blue for a ring that nobody asks anything of, green for the rest.  The rules are those below, each of them a sentence; limits come
from the testbed and the plan, and a rule whose numbers nobody told says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from lab.runs.following.verdict import Facts, Verdict, verdict
from orchestrator.events.status import BlockReport, PairStatus, pair_name

Colour = Literal["red", "amber", "blue", "green"]
MISSING_S = 5.0
UNSERVED_S = 60.0
QBER_HIGH = 1.5
"""Times the planned one."""
RATE_LOW = 0.7
"""Of the planned one."""
FAILURES = 2
DISK_LOW = 0.05


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, in a sentence."""

    colour: Literal["red", "amber"]
    text: str


class Lamp(msgspec.Struct, frozen=True):
    """What the wall shows: ``word``, what it is about, since when (seconds ago), and what is wrong, worst first."""

    colour: Colour
    word: str
    about: str
    for_s: float
    problems: tuple[Problem, ...]


class Plan(msgspec.Struct, frozen=True):
    """What was planned of a pair: QBER and its limit, secret bits per second on the ring."""

    qber: float
    qber_limit: float
    rate_bps: float


class PairNow(msgspec.Struct, frozen=True):
    """A pair: what the scheduler knows, its latest block and that one's age, its plan, and how long its stock lasts.

    ``unserved_s``: for how long it has lacked key without a stored block, less what it waits for its turn.  ``lasts_s``: None while nothing is used.
    """

    pair: PairStatus
    block: BlockReport | None = None
    plan: Plan | None = None
    unserved_s: float = 0.0
    lasts_s: float | None = None
    falls: bool = False
    """More of its key is used than made."""
    round_bits: int = 0
    """Key that a round of the running training takes of it; 0 without one."""


def lamp(
    facts: Facts,
    pairs: tuple[PairNow, ...],
    interlocks: Mapping[str, Mapping[str, Any]],
    free_share: float | None,
) -> Lamp:
    """From what the hub told, each pair, the interlocks of this machine by role, and the part of its disk that is free."""
    said = verdict(facts)
    word, about = _word(said, facts)
    problems = sorted(
        [*_of_roles(facts), *_of_interlocks(interlocks), *_of_pairs(pairs), *_of_disk(free_share)],
        key=lambda each: each.colour != "red",
    )
    colour = _colour(said, word, problems)
    return Lamp(colour, word, about, said.age_s, tuple(problems))


def _word(said: Verdict, facts: Facts) -> tuple[str, str]:
    if said.state == "no answer":
        return "NO ANSWER", said.text
    if said.state == "stopped":
        return "STOPPED", said.text
    ring = facts.ring[0] if facts.ring else None
    if ring is not None and ring.phase != "free":
        return "KEYING", pair_name((ring.first or "", ring.second or ""))
    if any(pair.lacks_key for pair, _ in facts.pairs):
        return "WAITING", "key is asked for, and the ring is between two leases"
    return "IDLE", "no demand" if said.state != "idle" else said.text


def _colour(said: Verdict, word: str, problems: list[Problem]) -> Colour:
    if word in ("NO ANSWER", "STOPPED") or any(each.colour == "red" for each in problems):
        return "red"
    if problems or said.state == "degraded":
        return "amber"
    return "blue" if word == "IDLE" else "green"


def _of_roles(facts: Facts) -> Iterator[Problem]:
    for role in facts.expected:
        peer, age_s = (facts.peers or {}).get(role, (None, facts.link_age_s))
        if peer is None or not peer.present:
            if age_s > MISSING_S:
                yield Problem("red", f"{role} is missing")
        elif peer.instruments:
            yield Problem("red", f"{role} does not reach {', '.join(peer.instruments)}: {peer.reason}")
        elif not peer.ready and age_s > MISSING_S:
            yield Problem("red", f"{role} is not ready: {peer.reason}")


def _of_interlocks(interlocks: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    for role, told in interlocks.items():
        state = told.get("state") or {}
        if state.get("unsafe"):
            yield Problem("red", f"the safe state of {role} is not confirmed: {told['text']}")
        elif state.get("causes"):
            yield Problem("red", f"{told['text']}")


def _of_pairs(pairs: tuple[PairNow, ...]) -> Iterator[Problem]:
    for each in pairs:
        name, block, plan = pair_name(each.pair.pair), each.block, each.plan
        if each.unserved_s > UNSERVED_S:
            yield Problem("red", f"{name} has lacked key for {each.unserved_s:.0f} s and no block was stored")
        if each.round_bits and each.pair.stock_bits < each.round_bits and each.falls:
            yield Problem("red", f"{name} has less key than a round takes, and it falls")
        if each.pair.failures >= FAILURES:
            yield Problem(
                "amber",
                f"{name}: {each.pair.failures} leases or blocks in a row gave no key: {each.pair.fault}",
            )
        if block is None or plan is None:
            continue
        if block.qber is not None and block.qber >= plan.qber_limit:
            yield Problem(
                "red", f"{name}: QBER {100 * block.qber:.2f} % is at its limit of {100 * plan.qber_limit:g} %"
            )
        elif block.qber is not None and block.qber > QBER_HIGH * plan.qber:
            yield Problem("amber", f"{name}: QBER {100 * block.qber:.2f} %, planned {100 * plan.qber:.2f} %")
        if block.stored and block.light_s and plan.rate_bps:
            share = block.secret_bits / block.light_s / plan.rate_bps
            if share < RATE_LOW:
                yield Problem("amber", f"{name}: {100 * share:.0f} % of the planned key rate")


def _of_disk(free_share: float | None) -> Iterator[Problem]:
    if free_share is not None and free_share < DISK_LOW:
        yield Problem("amber", f"the disk is nearly full: {100 * free_share:.1f} % are free")
