"""What lying processes say, and that they are found and refused wherever a ring is not simulated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab.runs.attacks import lies
from lab.runs.attacks.role import MODULE
from lab.runs.testbeds.folder import EXAMPLE, template_path
from orchestrator.hub.hub import Hub
from orchestrator.light.messages import FrameLost
from orchestrator.light.relay import RelayLight
from sim_backends.attacks.table import ATTACKS

SLOTS = 1 << 16
REPLACED = {"lying-relay": (RelayLight, "_expose"), "tampering-hub": (Hub, "_on_post")}


def clicks(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    slots = np.sort(rng.choice(SLOTS, n, replace=False)).astype(np.uint32)
    return slots, rng.integers(1, 4, n).astype(np.uint8)


@pytest.fixture(autouse=True)
def honest_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lie replaces in this process is put back."""
    for owner, name in REPLACED.values():
        monkeypatch.setattr(owner, name, owner.__dict__[name])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_clicks_are_announced_and_a_share_of_them_is_invented(share: float) -> None:
    slots, outcomes = clicks()
    told_slots, told = lies.invented((slots, outcomes), share, SLOTS, np.random.default_rng(2))
    assert (told_slots.dtype, told.dtype, told_slots.size) == (np.uint32, np.uint8, slots.size)
    assert np.all(np.diff(told_slots.astype(np.int64)) > 0)
    assert told_slots.max() < SLOTS
    true = dict(zip(slots.tolist(), outcomes.tolist(), strict=True))
    kept = sum(
        true.get(slot) == outcome for slot, outcome in zip(told_slots.tolist(), told.tolist(), strict=True)
    )
    assert kept / slots.size == pytest.approx(1 - share, abs=0.05)


def test_a_message_is_changed_in_one_bit() -> None:
    for at in (0, 7, 8, 1_000_003):
        changed = lies.flipped(b"message", at)
        assert sum((a ^ b).bit_count() for a, b in zip(changed, b"message", strict=True)) == 1
    assert lies.flipped(b"", 5) == b""


def test_a_relay_that_lies_keeps_lost_frames_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = [clicks(), FrameLost(1, "no record")]
    monkeypatch.setattr(RelayLight, "_expose", lambda light, frame: seen[frame])
    light: Any = RelayLight.__new__(RelayLight)
    light._testbed = SimpleNamespace(protocol=SimpleNamespace(slots_per_frame=SLOTS))
    lies.lie("lying-relay", 100.0)
    announced, _ = light._expose(0)
    assert announced.size == 2000
    assert np.intersect1d(announced, clicks()[0]).size < 200
    assert light._expose(1) is seen[1]


def test_every_attack_of_a_process_is_a_lie_and_no_other_is() -> None:
    for attack in ATTACKS:
        if attack.light:
            with pytest.raises(ValueError, match="is no attack of a process"):
                lies.lie(attack.name, attack.usual)
        elif attack.name in REPLACED:
            owner, name = REPLACED[attack.name]
            honest = owner.__dict__[name]
            lies.lie(attack.name, attack.usual)
            assert owner.__dict__[name] is not honest


def test_a_lie_with_nothing_to_replace_is_an_error_and_no_honest_process() -> None:
    with pytest.raises(AttributeError, match="Hub has no _on_letter: the lie has nothing to replace"):
        lies._replace(Hub, "_on_letter", lambda honest: None)


def test_no_process_of_a_real_ring_lies(tmp_path: Path) -> None:
    path = str(template_path(EXAMPLE))
    command = ["relay", path, "--secrets", str(tmp_path / "secrets"), "--state", str(tmp_path / "state")]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", MODULE, "lying-relay", "10.0", path, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "error: physical-ring is not simulated: no process of it may lie\n"
    assert not any(tmp_path.iterdir())
