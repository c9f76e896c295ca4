"""Blocks of key on a simulated ring under attack: less key, or a block that says why it gives none; never neither."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driven_ring import DrivenRing
from key_on_ring import Outcome, key_of, ring_file

from orchestrator.light.messages import LightAborted
from orchestrator.postprocessing.block import BlockResult
from orchestrator.postprocessing.cascade import compile_kernels
from sim_backends.attacks.light import NOBODY
from sim_backends.attacks.table import attack_named

SHORTER, ABORT = "a shorter key", "an abort"
SLOTS = 1 << 22
PULSES = 1 << 27


@pytest.fixture(scope="module")
def ring() -> Iterator[DrivenRing]:
    compile_kernels()
    ring = DrivenRing(ring_file(1, pulses=PULSES, slots=SLOTS))
    yield ring
    ring.close()


def block(ring: DrivenRing) -> Outcome:
    try:
        return key_of(ring, ring.phase(ring.testbed.frames_per_block()), 1)
    except LightAborted as error:
        return error


@pytest.fixture(scope="module")
def honest_bits(ring: DrivenRing) -> int:
    honest = block(ring)
    assert isinstance(honest, BlockResult), honest
    assert honest.secret_bits > 10_000
    return honest.secret_bits


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "strength", "end", "why"),
    [
        ("tap", 10.0, SHORTER, ""),
        ("tap", 30.0, ABORT, "announced clicks do not fit the calibrated channel"),
        ("tap", 70.0, ABORT, "LightMissing"),
        ("intercept-resend", 5.0, ABORT, "does not fit the calibrated channel"),
        ("intercept-resend", 100.0, ABORT, "is above the limit"),
        ("bright-light", 0.5, SHORTER, ""),
        ("bright-light", 3.0, ABORT, "announced clicks do not fit the calibrated channel"),
    ],
)
def test_an_attack_ends_in_less_key_or_in_an_abort_that_says_why(
    ring: DrivenRing, honest_bits: int, name: str, strength: float, end: str, why: str
) -> None:
    attack = attack_named(name)
    assert attack.light is not None
    ring.bench.ring.eavesdrop(attack.light(strength))
    try:
        outcome = block(ring)
    finally:
        ring.bench.ring.eavesdrop(NOBODY)
    if end == SHORTER:
        assert isinstance(outcome, BlockResult), outcome
        assert outcome.secret_bits < 0.95 * honest_bits
    else:
        assert not isinstance(outcome, BlockResult), f"{outcome.secret_bits} bits"
        assert why in str(outcome)


@pytest.mark.long
def test_after_the_attack_there_is_as_much_key_as_before(ring: DrivenRing, honest_bits: int) -> None:
    again = block(ring)
    assert isinstance(again, BlockResult), again
    assert again.secret_bits == pytest.approx(honest_bits, rel=0.1)
