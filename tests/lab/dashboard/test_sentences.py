"""What happened is told in sentences, each block once, and nothing of what only counts on."""

from __future__ import annotations

import pytest

from lab.dashboard.sentences import sentence
from orchestrator.events.common import Item
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    Epsilons,
    Learning,
    LeaseStatus,
    PairStatus,
    PeerStatus,
    RingStatus,
    Stock,
)

BLOCK = BlockReport(1, 7, "alice", "dave", True, qber=0.00729, secret_bits=42_778)


@pytest.mark.parametrize(
    ("role", "item", "said"),
    [
        ("alice", BLOCK, "alice-dave: 42,778 bits of key at QBER 0.73 %"),
        ("dave", BLOCK, ""),
        (
            "alice",
            BlockReport(1, 7, "alice", "dave", False, "tags differ"),
            "alice-dave: block without key: tags differ",
        ),
        ("orchestrator", LeaseStatus(1, 7, "a", "b", False, True, "busy"), "a-b: lease 7 was refused: busy"),
        ("orchestrator", LeaseStatus(1, 7, "a", "b", True), ""),
        ("orchestrator", PeerStatus("relay", False), "relay is gone"),
        (
            "orchestrator",
            PeerStatus("relay", True, False, "laser\x1b[2J"),
            "relay is not ready: laser\\u001b[2J",
        ),
        ("bob", Alarm("qber", "high"), "minor alarm of bob: qber: high"),
        ("bob", Alarm("qber", "", on=False), "alarm ended: bob/qber"),
        (
            "fl-server",
            Learning("r", "otp", "waiting", 9, 4, 1, 0.8, "alice waits", (("alice", "bob"),)),
            "training r waiting, 4 of 9 rounds, accuracy 80.0 %",
        ),
        (
            "fl-server",
            Learning("r", "otp", "failed", 9, reason="full"),
            "training r failed, 0 of 9 rounds: full",
        ),
        ("orchestrator", RingStatus("free", 1.0), ""),
        ("orchestrator", PairStatus("a", "b", 1, 0, 0, 1.0, True, True), ""),
        ("alice", Stock([]), ""),
        ("alice", Epsilons("dave", 0, 0, 0, 1, 1), ""),
    ],
)
def test_sentence(role: str, item: Item, said: str) -> None:
    assert sentence(role, item) == said  # type: ignore[arg-type]
