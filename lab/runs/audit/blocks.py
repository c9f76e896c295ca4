"""Whether the two users of a pair have the same block on record, and its figures follow from its counts.

Everything that can be worked out again is: the error rate, what was disclosed, which labels make key, and the secret length
by the protocol's own bound, from the testbed as it was calibrated.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lab.runs.audit.case import Case, Ring, RoleRecords
from lab.runs.audit.findings import Asking, Check
from lab.runs.audit.leases import Blocks, blocks_of, lights_of
from lab.testbed import Testbed, TestbedError, parse_testbed
from orchestrator.protocols.base import BlockCounts, BlockPlan, binary_entropy
from orchestrator.protocols.block_planning import plan_for
from orchestrator.protocols.epsilons import undetected_error_bound
from orchestrator.records.keeping import path_of_testbed
from orchestrator.records.kinds import BlockEnded, SymbolCounts

ALIKE = (
    "first",
    "second",
    "block_id",
    "plan",
    "frames",
    "pulses",
    "lost_frames",
    "agreed",
    "counts",
    "disclosed_bits",
    "qber",
    "secret_bits",
)
"""What both users of a block must have on record alike."""
EDITED = "the two users agreed on it while the block was made: one of the two records was edited afterwards"


def check_pairs(case: Case) -> Check:
    """Both users of a block tell the same of it."""
    ask = Asking("blocks of both users")
    for ring in case.rings:
        blocks = {user: blocks_of(ring, user) for user in ring.roles}
        for user, own in blocks.items():
            for token, (block, where) in own.items():
                other = blocks.get(block.peer, {}).get(token)
                if user == block.first and other is not None:
                    _alike(ask, block, where, *other)
                elif other is None:
                    _alone(ask, ring, block, where)
    return ask.done()


def _alone(ask: Asking, ring: Ring, block: BlockEnded, where: str) -> None:
    peer = ring.roles.get(block.peer)
    if peer is None:
        ask.note(f"{where}: the records of {block.peer} are not here")
    elif peer.was_killed_after(block.at):
        ask.note(f"{where}: {block.peer} was killed and has no record of {block.block_id}")
    else:
        ask.that(
            False,
            f"{block.peer} has no record of {block.block_id}, which {block.owner} has",
            where,
            "it was taken out of the records of one, or put into those of the other",
        )


def _alike(ask: Asking, one: BlockEnded, one_at: str, other: BlockEnded, other_at: str) -> None:
    where = f"{one_at}, {other_at}"
    if one.counts is None or other.counts is None:
        ask.note(f"{where}: {one.block_id} was given up before both had counted")
        return
    for name in ALIKE:
        if name == "counts":
            _counts_alike(ask, one, other, where)
            continue
        values = getattr(one, name), getattr(other, name)
        if name == "secret_bits" and not (one.stored and other.stored):
            continue
        ask.same(
            f"{name} of {one.block_id}",
            {one.owner: values[0], other.owner: values[1]},
            where,
            EDITED,
        )
    if one.stored != other.stored:
        ask.note(f"{where}: the last word about {one.block_id} was lost, and one user stored it later")
    elif one.stored:
        ask.same(
            f"where {one.block_id} lies in the two key stores",
            {one.owner: _spans(one), other.owner: _spans(other)},
            where,
            "the two ends would use other bits for one purpose",
        )


def _spans(block: BlockEnded) -> dict[str, str]:
    return {lane: f"{span.start}+{span.n_bits}" for lane, span in sorted(block.lanes.items())}


def _counts_alike(ask: Asking, one: BlockEnded, other: BlockEnded, where: str) -> None:
    for name in SymbolCounts.__struct_fields__:
        ask.same(
            f"{name} of {one.block_id}",
            {one.owner: getattr(one.counts, name), other.owner: getattr(other.counts, name)},
            where,
            EDITED,
        )


def check_figures(case: Case) -> Check:
    """Each block's figures follow from its own counts."""
    ask = Asking("figures of blocks from their counts")
    for ring in case.rings:
        lights = lights_of(ring)
        for user in ring.roles:
            for token, (block, where) in blocks_of(ring, user).items():
                if block.counts is None:
                    continue
                _figures(ask, block, block.counts, where)
                if token in lights and lights[token][0].ok and not block.own_lost:
                    announced = lights[token][0].announced
                    ask.that(
                        block.counts.n_announced <= announced,
                        f"{block.counts.n_announced} single clicks of {announced} announced ones",
                        where,
                        "a user cannot keep more clicks than the relay announced",
                    )
    return ask.done()


def _figures(ask: Asking, block: BlockEnded, counts: SymbolCounts, where: str) -> None:
    means = "a count was edited, or a figure that is computed from it"
    labels = sum(map(sum, counts.by_labels))
    for what, sums, of in (
        ("clicks by label", labels, counts.n_announced),
        ("clicks by detector", sum(counts.by_detector), counts.n_announced),
        ("test errors by detector", sum(counts.test_errors_by_detector), counts.test_errors),
    ):
        ask.that(sums == of, f"{what} of {block.block_id} add up to {sums}, not to {of}", where, means)
    reconciled = counts.key_errors is not None
    errors, rounds = (
        (counts.key_errors or 0, counts.n_key) if reconciled else (counts.test_errors, counts.n_test)
    )
    qber = errors / rounds if rounds else 0.5
    ask.that(
        block.qber is not None and math.isclose(block.qber, qber, rel_tol=1e-12),
        f"QBER of {block.block_id} is told as {block.qber}; {errors} errors of {rounds} rounds are {qber:.6g}",
        where,
        "the error rate was edited, or a count that it comes from",
    )
    spent = block.spent
    if spent is None:
        return
    ask.that(
        block.disclosed_bits == spent.parity_bits + spent.tags,
        f"disclosed bits of {block.block_id} are told as {block.disclosed_bits}; {spent.parity_bits} parities and "
        f"{spent.tags} verification outcomes are {spent.parity_bits + spent.tags}",
        where,
        "what was disclosed costs key bit by bit: too little of it makes key that is not secret",
    )
    entropy = counts.n_key * binary_entropy(qber)
    f_ec = spent.parity_bits / entropy if entropy else 0.0
    ask.that(
        block.f_ec is not None and math.isclose(block.f_ec, f_ec, rel_tol=1e-9),
        f"f of {block.block_id} is told as {block.f_ec}, its counts give {f_ec:.6g}",
        where,
        means,
    )


@dataclass
class Plans:
    """Plans made again, each once, from the testbeds that roles kept."""

    made: dict[tuple[str, str, str], BlockPlan | str] = field(default_factory=dict)

    def plan(self, role: RoleRecords, block: BlockEnded) -> BlockPlan | str:
        """The plan of a block, or why it cannot be had."""
        key = block.testbed, block.first, block.second
        if key not in self.made:
            self.made[key] = self._make(path_of_testbed(role.folder, block.testbed), block)
        return self.made[key]

    @staticmethod
    def _make(path: Path, block: BlockEnded) -> BlockPlan | str:
        try:
            testbed: Testbed = parse_testbed(json.loads(path.read_bytes()), path)
            return plan_for(testbed, block.first, block.second)
        except FileNotFoundError:
            return "the testbed that it was planned from is not kept here"
        except (OSError, ValueError, TestbedError) as error:
            return f"the testbed that it was planned from cannot be used: {error}"


def check_lengths(case: Case) -> Check:
    """Plan and secret length of every block, worked out again by the protocol's own bound."""
    ask, plans = Asking("secret lengths by the protocol's bound"), Plans()
    for ring in case.rings:
        for user, role in ring.roles.items():
            for block, where in blocks_of(ring, user).values():
                if not block.testbed:
                    continue
                plan = plans.plan(role, block)
                if isinstance(plan, str):
                    ask.note(f"{where}: {plan}")
                    continue
                ask.that(
                    plan.digest() == block.plan,
                    f"the plan of {block.block_id} is another than its testbed gives",
                    where,
                    "settings, limits or calibrated values were not those that both users compared",
                )
                if block.counts is not None:
                    _length(ask, plan, block, block.counts, where)
    return ask.done()


def _length(ask: Asking, plan: BlockPlan, block: BlockEnded, counted: SymbolCounts, where: str) -> None:
    counts = block_counts(block, counted)
    n_key, n_test = _kept_by(plan, counted)
    ask.that(
        (counted.n_key, counted.n_test) == (n_key, n_test),
        f"{counted.n_key} key and {counted.n_test} test rounds of {block.block_id}; its labels give {n_key} and {n_test}",
        where,
        "rounds were moved between key and test, which nobody may choose",
    )
    length = plan.secret_length(counts)
    if block.spent is not None:
        _spent(ask, plan, block, counted.n_key, where)
    if block.stored or block.secret_bits:
        ask.that(
            block.secret_bits == length.bits,
            f"{block.block_id} has {block.secret_bits} secret bits on record; its counts give {length.bits}"
            + (f" ({length.reason})" if length.reason else ""),
            where,
            "the key is longer than what is secret of it, or a count was edited after it was made",
        )
    if block.phase_error_upper is not None:
        ask.that(
            math.isclose(block.phase_error_upper, length.phase_error_upper, rel_tol=1e-9),
            f"the phase error bound of {block.block_id} is told as {block.phase_error_upper:.6g}; its counts give "
            f"{length.phase_error_upper:.6g}",
            where,
            "the bound was edited, or a count that it comes from",
        )


def _spent(ask: Asking, plan: BlockPlan, block: BlockEnded, n_key: int, where: str) -> None:
    assert block.spent is not None
    tags, eps_cor = block.spent.tags, undetected_error_bound(n_key, block.spent.tags)
    ask.that(
        tags == plan.verification_tags(n_key)
        and math.isclose(block.spent.eps_cor, eps_cor, rel_tol=1e-9)
        and block.spent.eps_sec == plan.eps_sec,
        f"{block.block_id} was verified by {tags} tags for eps_sec {block.spent.eps_sec:g} and eps_cor "
        f"{block.spent.eps_cor:g}; the plan asks for {plan.verification_tags(n_key)} tags, which give {eps_cor:g}, and "
        f"eps_sec {plan.eps_sec:g}",
        where,
        "what may have gone wrong with this key is not what its record says",
    )


def _kept_by(plan: BlockPlan, counts: SymbolCounts) -> tuple[int, int]:
    """(key, test) rounds among the clicks, by the protocol's own rule."""
    n_key = n_test = 0
    for a, row in enumerate(counts.by_labels):
        for b, count in enumerate(row):
            key, test = plan.symbols.kept(np.array([a], np.uint8), np.array([b], np.uint8))
            n_key, n_test = n_key + count * int(key[0]), n_test + count * int(test[0])
    return n_key, n_test


def block_counts(block: BlockEnded, counts: SymbolCounts) -> BlockCounts:
    """What the protocol's functions take."""
    return BlockCounts(
        n_pulses=block.pulses,
        leak_bits=block.disclosed_bits,
        **{name: getattr(counts, name) for name in SymbolCounts.__struct_fields__},
    )


def blocks_by_owner(ring: Ring) -> dict[str, Blocks]:
    """The blocks of every user of a ring."""
    return {user: found for user in ring.roles if (found := blocks_of(ring, user))}
