"""A second protocol needs its folder and one row of the catalogue: planned, driven, sifted and distilled like the first."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rehearsal import Side, memory_lanes, rehearse

from lab.cli.keyrate import keyrate_command
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, TestbedError, parse_testbed
from orchestrator.bits import BitArray
from orchestrator.light.clicks import D1_ONLY, BlockClicks
from orchestrator.light.symbols import SymbolFrame, drive_table
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.protocols.base import (
    BlockCounts,
    BlockPlan,
    BoolArray,
    Codes,
    KeyLength,
    KeyProtocol,
    Misfit,
    PulseSymbols,
)
from orchestrator.protocols.block_planning import plan_for, protocol_named
from orchestrator.protocols.catalogue import PROTOCOLS

SLOTS = 1 << 15
KEY, TEST, DECOY = range(3)


class ThreeKinds(PulseSymbols):
    """Key and test rounds of two phases each, and a decoy without a bit; labels of two bits."""

    phases_rad = (0.0, math.pi, math.pi / 2, -math.pi / 2, math.pi / 4)
    label_bits = 2

    @property
    def of_bytes(self) -> Codes:
        value = np.arange(256)
        kind = np.select([value < 160, value < 224], [KEY, TEST], DECOY)
        return np.where(kind == DECOY, 4, 2 * kind + (value & 1)).astype(np.uint8)

    def labels(self, symbols: Codes) -> Codes:
        return symbols >> np.uint8(1)

    def bits(self, symbols: Codes) -> BitArray:
        return symbols & np.uint8(1)

    def kept(self, first: Codes, second: Codes) -> tuple[BoolArray, BoolArray]:
        return (first == KEY) & (second == KEY), (first == TEST) & (second == TEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoyPlan(BlockPlan):
    """Half of every kept bit is secret, if the decoys were seen as often as they must be."""

    @property
    def p_x(self) -> float:
        return 160 / 256

    @property
    def symbols(self) -> PulseSymbols:
        return ThreeKinds()

    def digest(self) -> str:
        return hashlib.sha256(f"decoy {self.n_pulses} {self.mu_a} {self.mu_b}".encode()).hexdigest()

    def violations(self, counts: BlockCounts) -> tuple[Misfit, ...]:
        seen, expected = counts.by_labels[DECOY][DECOY], counts.n_announced / 64
        few = abs(seen - expected) > 6 * math.sqrt(expected)
        return (Misfit(f"{seen} decoys where {expected:.0f} are expected"),) if few else ()

    def predicted_bits(self, counts: BlockCounts) -> int:
        return counts.n_key // 2

    def secret_length(self, counts: BlockCounts) -> KeyLength:
        bits = max(counts.n_key // 2 - counts.leak_bits - 40, 0)
        return KeyLength(bits, 0.11, counts.leak_bits, bits, "" if bits else "nothing is left")


class Decoys(KeyProtocol):
    """The second protocol."""

    def plan(self, testbed: Testbed, first: str, second: str) -> DecoyPlan:
        mu, p = testbed.protocol.mu or 0.1, testbed.protocol
        n_pulses = testbed.frames_per_block() * p.slots_per_frame
        return DecoyPlan(
            n_pulses=n_pulses, mu_a=mu, mu_b=mu, eps_sec=p.eps_sec, eps_cor=p.eps_cor, qber_limit=p.qber_limit,
            gain=1.0, qber=0.01, expected_bits=n_pulses // 16,
        )  # fmt: skip

    @staticmethod
    def key_rate(
        loss_a_db: float, loss_b_db: float, *others: Any, **more: Any
    ) -> dict[str, float | int | None]:
        return {"key_rate_per_pulse": 10 ** (-(loss_a_db + loss_b_db) / 20)}


def content(name: str) -> dict[str, Any]:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= {"name": name, "slots_per_frame": SLOTS, "pulses_per_block": SLOTS}
    return data


@pytest.fixture
def testbed(monkeypatch: pytest.MonkeyPatch) -> Testbed:
    monkeypatch.setitem(PROTOCOLS, "decoys", f"{__name__}:Decoys")
    return parse_testbed(content("decoys"), Path("decoys.toml"))


def light(testbed: Testbed, plan: BlockPlan, seed: int) -> tuple[BlockClicks, BlockClicks]:
    """Every slot clicks once: in detector 1 for equal phases, read off the two users' own waveforms."""
    rng, user = np.random.default_rng(seed), testbed.user("alice")
    drive = {"v_pi_v": user.v_pi_v, "rf_gain": user.rf_gain, "amplitude_vpp": user.awg_amplitude_vpp}
    volts_to_rad = math.pi * user.rf_gain * user.awg_amplitude_vpp / 2 / user.v_pi_v
    slots, phases, codes = np.arange(SLOTS, dtype=np.uint32), [], []
    for gate in (0, 1):
        frame, out = SymbolFrame(SLOTS, plan.symbols.of_bytes), np.zeros(2 * SLOTS + gate, np.float32)
        frame.draw(lambda buffer: buffer.__setitem__(slice(None), rng.bytes(len(buffer))))
        frame.write_waveform(drive_table(plan.symbols, **drive), out, samples_per_slot=2, lead_samples=gate)
        phases.append(out[gate::2] * volts_to_rad)
        codes.append(frame.at(slots))
    bright = (1 + 0.98 * np.cos(phases[0] - phases[1])) / 2
    outcome = (D1_ONLY + (rng.random(SLOTS) > bright)).astype(np.uint8)
    zeros = np.zeros(SLOTS, np.uint32)
    first, second = (BlockClicks(zeros, slots, outcome.copy(), code, SLOTS) for code in codes)
    return first, second


def sides_of(testbed: Testbed, plan: BlockPlan) -> dict[Any, Side]:
    clicks, lanes = light(testbed, plan, 1), memory_lanes(np.random.default_rng(2))
    return {"first": Side(clicks[0], lanes[0], plan), "second": Side(clicks[1], lanes[1], plan)}


def test_a_second_protocol_goes_the_whole_way(testbed: Testbed) -> None:
    plan = plan_for(testbed, "alice", "bob")
    sides = sides_of(testbed, plan)
    rehearse(sides)
    first, second = sides["first"].result, sides["second"].result
    assert first.key is not None
    assert second.key is not None
    assert first.key.reveal_bytes() == second.key.reveal_bytes()
    assert first.n_key == pytest.approx(SLOTS * (160 / 256) ** 2, rel=0.05)
    assert first.n_test == pytest.approx(SLOTS * (64 / 256) ** 2, rel=0.1)
    assert first.qber == pytest.approx(0.01, abs=0.003)
    assert first.secret_bits == first.n_key // 2 - first.leak_bits - 40 == len(first.key)


def test_its_own_rule_gives_a_block_up(testbed: Testbed) -> None:
    sides = sides_of(testbed, plan_for(testbed, "alice", "bob"))
    for side in sides.values():
        decoys = sides["first"].clicks.symbol == 4
        side.clicks.outcome[decoys] = 3
    rehearse(sides)
    outcome = sides["first"].outcome
    assert isinstance(outcome, BlockAborted)
    assert "0 decoys where" in outcome.reason


def test_users_of_two_protocols_make_no_key(testbed: Testbed) -> None:
    ours = plan_for(testbed, "alice", "bob")
    theirs = plan_for(parse_testbed(content("four-phase"), Path("four.toml")), "alice", "bob")
    sides = sides_of(testbed, ours)
    sides["second"].plan = theirs
    sides["second"].clicks.symbol %= 4
    rehearse(sides)
    for side in sides.values():
        assert isinstance(side.outcome, BlockAborted)
    assert "differ in 'plan'" in str(sides["first"].outcome)


def test_keyrate_asks_the_protocol(testbed: Testbed) -> None:
    ask: Callable[..., Any] = keyrate_command
    options = dict.fromkeys(("mu_a", "mu_b", "p_x", "n_pulses"))
    options |= {"visibility": 0.99, "dark_count": 1e-7, "f_ec": 1.1, "eps_sec": 1e-10, "eps_cor": 1e-15}
    report = ask(protocol="decoys", loss_a_db=10.0, loss_b_db=10.0, optimize=True, **options)
    assert report == {"key_rate_per_pulse": 0.1}


def test_a_protocol_that_is_not_in_the_catalogue_is_named() -> None:
    with pytest.raises(TestbedError) as caught:
        parse_testbed(content("bb84") | {"users": "none"}, Path("x.toml"))
    assert ("protocol.name", "unknown protocol 'bb84'; known: four-phase") in caught.value.problems
    with pytest.raises(ValueError, match="unknown protocol 'bb84'; known: four-phase"):
        protocol_named("bb84")


def test_every_row_of_the_catalogue_is_a_protocol() -> None:
    assert all(isinstance(protocol_named(name), KeyProtocol) for name in PROTOCOLS)
