"""Made-up runs for the pages that show them: a demo, a training, a calibration, a ring."""

from __future__ import annotations

from typing import Any

import msgspec

from fl.experiments.notes import notes_for
from fl.experiments.results import (
    AbortedRow,
    Arm,
    Comparison,
    CompressionSummary,
    Final,
    KeyBudget,
    Results,
    RoundRow,
    RoundTimes,
    SeedRun,
    Stall,
    StallPart,
)
from fl.experiments.ring_run import BlockFigures, LightTime, PairPlan, PlannedPoint, RingRun
from fl.keys.budget import PairLedger, PairSupply, forecast, record
from fl.rounds.config import FLConfig
from lab.calibration.finding import Curve, Measured
from lab.calibration.finding import Finding as CalibrationFinding
from lab.calibration.steps import Step
from lab.runs.audit.findings import Audit, Check, Finding
from lab.runs.following.document import Said

PAIR = ("alice", "carol")
AUDITED = Audit(
    "qunetlab-runs/<run> of a day with a long name, of an operator with another",
    False,
    (
        Check("chains of records", "passed", 1204),
        Check(
            "blocks at both ends",
            "failed",
            88,
            (
                Finding(
                    "secret bits of alice-bob differ: alice says 50000, bob says 49999",
                    "alice/records/block/1/2, bob/records/block/1/2",
                    "one of the two <lies>",
                ),
            ),
        ),
        Check("sealed key", "not checkable here", 0, notes=("takes each owner's store key",)),
    ),
)


def demo_report(users: tuple[str, ...], **more: Any) -> Any:
    """What ``report.json`` says of a demo with these users."""
    pairs = [(one, other) for index, one in enumerate(users) for other in users[index + 1 :]]
    row = {
        "loss_db": 9.0, "pulses": 1, "lost_frames": 0, "sifted_bits": 1, "qber": 0.01, "planned_qber": 0.01, "f_ec": 1.1,
        "secret_bits": 9, "ring_s": 1.0, "secret_bits_per_ring_second": 9.0, "secret_bits_per_wall_second": 9.0,
        "planned_bits_per_ring_second": 9.0, "predicted_bits_per_ring_second": 8.5, "aborted_blocks": 0, "abort_reasons": [], "consumed_bits": 1,
        "stored_bits": 8, "authentication_bits": 1, "burnt_bits": 0,
        "epsilon": {"sec": 1e-10, "cor": 7e-27, "auth": 1e-26, "total": 1e-10},
    }  # fmt: skip
    config = FLConfig("r", "digits", users)
    return {
        "testbed": {"name": "ring", "description": "a ring"},
        "ring": None,
        "task": "digits",
        "seed": 1,
        "epsilon": {"sec": 1e-10, "cor": 1e-15},
        "warnings": [],
        "notes": list(notes_for(config)),
        "pairs": [{"pair": list(pair), **row} for pair in pairs],
        "rounds": [{"round": 1, "accuracy": 0.5, "loss": 1.0, "upload_bytes": 10, "key_bits_used": 10}],
        "aggregation": {"mode": "otp", "ring_width": config.ring_width, "exact": True, "parameters": 3},
        "reference": [{"round": 1, "accuracy": 0.5}],
        "key_demand_bits_per_pair": 3,
        "instruments": {"safe": True, "unsafe": [], "states": {}},
        "versions": {"qunetlab": "0"},
        "verdict": Said("idle", 2.0, "", 0, "IDLE 2 s: all is <well>"),
        "wall_s": 1.0,
        **more,
    }


def training_results(**more: Any) -> Results:
    """Of a training run, made up."""
    rows = tuple(RoundRow(n, 0.5 + n / 10, 1.0 / n, 1000.0, 60_000, 0, True) for n in (1, 2, 4))
    live = SeedRun(1, rows, (RoundTimes(work_s=2.0, wait_s=9.0),) * 3, (AbortedRow(3, "<bob> left", 5),))
    supply = [PairSupply(("alice", "bob"), 0, 1000.0, "planned")]
    ledger = PairLedger(("alice", "bob"), 9000, 4000, 300, 200, 4500)
    level = Arm(
        "oracle",
        "oracle",
        "digits",
        2,
        "none",
        "none",
        Final(0.99, None, 1),
        rows[:1],
        (SeedRun(1, rows[:1]),),
    )
    base = Results(
        task="digits",
        mode="otp",
        split="iid",
        clients=2,
        rounds=rows,
        final=Final(0.9, (0.85, 0.95), 2),
        baselines={"oracle": level},
        compression=CompressionSummary(10, 0.75, 1000, 800, 127, 0.8, True, 1000.0, 4000),
        key_supply="live",
        security="information-theoretic",
        title="A <run>",
        runs=(live,),
        comparisons={"gain": Comparison("two minus one", 0.05, (0.01, 0.09), (0.04, 0.06))},
        key_budget=KeyBudget(forecast("otp", 3, 2000, supply), record([(1, 9), (2, 9)], [(3, 5)], [ledger])),
        stalls=(Stall("instrument fault", 12.5, (StallPart(("laser",), 12.5),)),),
        notes=("a note & more",),
    )
    return msgspec.structs.replace(base, **more)


CURVE = Curve(
    "Clicks by level", "voltage / V", "clicks", [0.0, 0.1, 0.2], {"D1": [3.0, 2.0, 1.0]}, {"D1": [3.1, 2.0, 0.9]},
    {"D1": [1.0, 1.0, 1.0]},
)  # fmt: skip
CALIBRATED = CalibrationFinding(
    step=Step.PHASE,
    owner="alice",
    partner="<b>carol</b>",
    values={"v_pi_v": Measured(3.97, 0.0025, "V")},
    figures={"half_wave_v": Measured(0.2, 0.0001, "V")},
    settings={"rf_gain": 20.0},
    quality={"chi2": 501.0},
    counts={"D1": [3, 2, 1]},
    curves=[CURVE],
    light_s=1.4,
)


def block_figures(
    pair: tuple[str, str], at_s: float, secret_bits: int, *, stored: bool = True
) -> BlockFigures:
    """A block of one second of light."""
    return BlockFigures(pair, at_s, 1.0, 0.01 if stored else 0.08, 10_000, secret_bits, stored)


RING = RingRun(
    "2026-03-01T12:00:00+00:00",
    (LightTime(PAIR, "key", 0.0, 4.0, 1.0, True), LightTime(("bob", "dave"), "key", 5.0, 4.0, 1.0, False, "QBER")),
    (block_figures(PAIR, 4.0, 50_000), block_figures(PAIR, 5.0, 54_000), block_figures(("bob", "dave"), 9.0, 0, stored=False)),
    (PairPlan(PAIR, 10.0, 52_000.0, 0.007, 0.06, (PlannedPoint(9.0, 70_000.0, 0.006), PlannedPoint(10.0, 52_000.0, 0.007))),),
    (7.0,),
)  # fmt: skip
