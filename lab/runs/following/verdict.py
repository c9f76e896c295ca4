"""The state of a testbed in one line: running, idle, degraded or stopped.

A verdict is a pure function of :class:`Facts`: what the orchestrator told and how old that is.  The first rule that
matches decides:

1. **NO ANSWER**: there is no link to the orchestrator, or it has said nothing for :data:`SILENCE_S` though it speaks
   every second.  Nothing is known, which counts as stopped.
2. **RING STOPPED**: the relay is gone or not ready; no pair has both its nodes; or key is asked for and every
   pair that lacks it has failed for :data:`GRACE_S` or longer (leases refused or broken, blocks without key).
3. **DEGRADED**: a role that the testbed names is gone or not ready, a pair that lacks key fails, an alarm is on and not shelved,
   a training run failed or was left by its server, or a free ring is not used though key is asked for (:data:`UNUSED_S`).
4. **RUNNING**: the ring is leased, or key is asked for and on its way.
5. **IDLE**: nobody asked for key, or there is as much as was asked for.

Ages count from when things became so.  A verdict never compares measured numbers with planned ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.events.inside import RingState as State
from orchestrator.events.status import (
    FL_SERVER,
    RELAY,
    Alarm,
    Learning,
    PairStatus,
    PeerStatus,
    RingStatus,
    pair_name,
)

EXIT_CODES: dict[State, int] = {"running": 0, "idle": 0, "degraded": 1, "stopped": 3, "no answer": 3}
"""What ``status --check`` ends with; 2 is left to wrong usage."""
SILENCE_S = 5.0
GRACE_S = 5.0
"""One failed lease or a process that is started again is no standstill yet."""
UNUSED_S = 30.0
PROBLEMS_NAMED = 3

_WORDS: dict[State, str] = {
    "running": "RUNNING",
    "idle": "IDLE",
    "degraded": "DEGRADED",
    "stopped": "RING STOPPED",
    "no answer": "NO ANSWER",
}


@dataclass(frozen=True)
class Facts:
    """What is known of a testbed.  Items come with their ages in seconds; missing ones were not told.

    ``link`` is why there is no link to the orchestrator (empty while there is), ``link_age_s`` since when things
    are so, ``heard_s`` how long ago anything was heard; ``expected`` are the roles without which the testbed is
    not whole, users and relay.
    """

    expected: tuple[str, ...]
    link: str = ""
    link_age_s: float = 0.0
    heard_s: float = 0.0
    peers: Mapping[str, tuple[PeerStatus, float]] | None = None
    pairs: tuple[tuple[PairStatus, float], ...] = ()
    ring: tuple[RingStatus, float] | None = None
    alarms: tuple[tuple[str, Alarm, float], ...] = ()
    learning: tuple[Learning, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """The state, since when, and why, in words of one line that still have to be escaped."""

    state: State
    age_s: float
    text: str

    @property
    def line(self) -> str:
        """Such as "RING STOPPED 27 s: relay gone"."""
        return f"{_WORDS[self.state]} {self.age_s:.0f} s: {self.text}"

    @property
    def exit_code(self) -> int:
        """See :data:`EXIT_CODES`."""
        return EXIT_CODES[self.state]


def verdict(facts: Facts) -> Verdict:
    """The first rule of this module that matches."""
    return _no_answer(facts) or _stopped(facts) or _degraded(facts) or _at_work(facts)


def _no_answer(facts: Facts) -> Verdict | None:
    if facts.link:
        return Verdict("no answer", facts.link_age_s, f"no link to the orchestrator: {facts.link}")
    if facts.heard_s > SILENCE_S:
        return Verdict("no answer", facts.heard_s, "the orchestrator is linked and says nothing")
    if facts.ring is None:
        return Verdict("no answer", facts.link_age_s, "the orchestrator has not told its state yet")
    return None


def _stopped(facts: Facts) -> Verdict | None:
    problems = {role: (why, age_s) for role, why, age_s in _away(facts)}
    if RELAY in problems:
        why, age_s = problems[RELAY]
        return Verdict("stopped", age_s, f"{RELAY} {why}")
    if facts.pairs and not any(pair.available for pair, _ in facts.pairs):
        # The ring stood still when the last pair lost a node, so the youngest of the losses that end a pair counts.
        ends = [
            max((problems[u][1] for u in pair.pair if u in problems), default=age)
            for pair, age in facts.pairs
        ]
        named = ", ".join(f"{role} {why}" for role, (why, _) in problems.items()) or "no pair can be served"
        return Verdict("stopped", min(ends), named)
    wanting = [(pair, age_s) for pair, age_s in facts.pairs if pair.lacks_key]
    failing = [(pair, pair.failing_s + age_s) for pair, age_s in wanting if pair.failures]
    if failing and len(failing) == len(wanting):
        age_s = min(for_s for _, for_s in failing)
        if age_s >= GRACE_S:
            return Verdict(
                "stopped", age_s, _several([f"{pair_name(pair.pair)}: {pair.fault}" for pair, _ in failing])
            )
    return None


def _degraded(facts: Facts) -> Verdict | None:
    problems = [(f"{role} {why}", age_s) for role, why, age_s in _away(facts)]
    problems += [
        (f"{pair_name(pair.pair)} fails: {pair.fault}", pair.failing_s + age_s)
        for pair, age_s in facts.pairs
        if pair.lacks_key and pair.failures
    ]
    problems += [
        (alarm.told_by(role), age_s)
        for role, alarm, age_s in facts.alarms
        if alarm.on and not alarm.shelved_s
    ]
    if facts.learning is not None:
        problems += _learning(facts, *facts.learning)
    if facts.ring is not None and facts.ring[0].phase == "free":
        unused_s = facts.ring[0].for_s + facts.ring[1]
        waiting = any(pair.lacks_key and pair.available and not pair.failures for pair, _ in facts.pairs)
        if unused_s >= UNUSED_S and waiting:
            problems.append(("key is asked for and no lease is given", unused_s))
    if not problems:
        return None
    return Verdict("degraded", max(age_s for _, age_s in problems), _several([text for text, _ in problems]))


def _learning(facts: Facts, run: Learning, age_s: float) -> list[tuple[str, float]]:
    """A run that failed, or that its server left before the end."""
    if run.state == "failed":
        return [(f"training {run.run_id} failed: {run.reason}", age_s)]
    server, gone_s = (facts.peers or {}).get(FL_SERVER, (None, 0.0))
    if run.state != "finished" and server is not None and not server.present:
        return [
            (f"training {run.run_id} was left by its server after {run.done} of {run.rounds} rounds", gone_s)
        ]
    return []


def _at_work(facts: Facts) -> Verdict:
    assert facts.ring is not None, "without it there is no answer"
    ring, age_s = facts.ring
    for_s = ring.for_s + age_s
    if ring.phase != "free":
        return Verdict("running", for_s, pair_name((ring.first or "", ring.second or "")))
    wanting = [pair_name(pair.pair) for pair, _ in facts.pairs if pair.lacks_key]
    if wanting:
        return Verdict("running", for_s, f"between two leases; {_several(wanting, ', ')} want key")
    in_work = [pair_name(pair.pair) for pair, _ in facts.pairs if pair.in_work_bits]
    if in_work:
        return Verdict("running", for_s, f"blocks of {_several(in_work, ', ')} are worked on")
    if any(pair.demand_bits for pair, _ in facts.pairs):
        return Verdict("idle", for_s, "there is as much key as was asked for")
    return Verdict("idle", for_s, "nobody asked for key")


def _away(facts: Facts) -> list[tuple[str, str, float]]:
    """Expected roles that are gone or not ready: role, why, for how long."""
    found = []
    for role in facts.expected:
        status, age_s = (facts.peers or {}).get(role, (None, facts.heard_s))
        if status is None or not status.present:
            found.append((role, "gone", age_s))
        elif not status.ready:
            found.append((role, f"not ready: {status.reason}", age_s))
    return found


def _several(texts: list[str], between: str = "; ") -> str:
    more = len(texts) - PROBLEMS_NAMED
    return between.join(texts[:PROBLEMS_NAMED]) + (f" and {more} more" if more > 0 else "")
