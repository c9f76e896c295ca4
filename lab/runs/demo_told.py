"""What a demo says of itself: the content of its ``report.json``, and what ``qunetlab demo --json`` prints.

Rates are per second of light, or of the clock on the wall; secrets are counted and never told.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from fl.experiments.ring_run import RingRun
from lab.runs.following.document import Said
from orchestrator.events.learning import AbortRecord


class Named(TypedDict):
    """A testbed, in its own words."""

    name: str
    description: str


class Epsilon(TypedDict):
    """What a block may cost of secrecy and correctness, by the testbed file."""

    sec: float
    cor: float


class EpsilonSum(Epsilon):
    """What may have gone wrong with a pair, by all that was made and checked."""

    auth: float
    total: float


class DemoPair(TypedDict):
    """Totals of a pair; QBER and f are means, weighted by sifted bits.  Of its key some was ``consumed`` as pads."""

    pair: list[str]
    loss_db: float
    pulses: int
    lost_frames: int
    sifted_bits: int
    qber: float
    planned_qber: float
    f_ec: float
    secret_bits: int
    predicted_bits: int
    ring_s: float
    secret_bits_per_ring_second: float
    secret_bits_per_wall_second: float
    predicted_bits_per_ring_second: float
    planned_bits_per_ring_second: float
    aborted_blocks: int
    abort_reasons: list[str]
    consumed_bits: int
    stored_bits: int
    authentication_bits: int
    burnt_bits: int
    epsilon: EpsilonSum


class DemoRound(TypedDict):
    """A round of training with a sum."""

    round: int
    accuracy: float
    loss: float
    upload_bytes: int
    key_bits_used: int


class ReferenceRound(TypedDict):
    """The same round without masking, in float32."""

    round: int
    accuracy: float


class Aggregation(TypedDict):
    """How updates were protected; ``exact``: the sum of every round was that of the updates, to the bit."""

    mode: str
    ring_width: int
    levels: int
    exact: bool
    parameters: int


class LeftInstruments(TypedDict):
    """How instruments were left; ``unsafe`` is None where nobody could say.  Their states are their twins' own."""

    safe: bool
    unsafe: list[str] | None
    states: dict[str, Any]


class DemoReport(TypedDict):
    """All of it."""

    testbed: Named
    simulated: Literal[True]
    notes: list[str]
    task: str
    seed: int
    epsilon: Epsilon
    pairs: list[DemoPair]
    ring: RingRun | None
    rounds: list[DemoRound]
    aborted_rounds: list[AbortRecord]
    warnings: list[str]
    aggregation: Aggregation
    reference: list[ReferenceRound]
    key_demand_bits_per_pair: int
    instruments: LeftInstruments
    versions: dict[str, str]
    verdict: Said
    wall_s: float
