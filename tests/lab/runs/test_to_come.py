"""Counters stand at 0 before the first of what they count: whatever a role tells later was named beforehand."""

from __future__ import annotations

import pytest

from lab.key_delivery import applications_named
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.watched.process import metrics_of
from lab.testbed import Testbed, load_testbed
from orchestrator.events.common import Unknown
from orchestrator.events.delivery import (
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeysDelivered,
    KeyServerFault,
    KeysRefused,
)
from orchestrator.events.learning import ClientDropped, ClientState, UploadRefused
from orchestrator.events.process import Calibrated
from orchestrator.events.status import BlockReport, HubStatus, LeaseStatus, Refusals
from orchestrator.metrics.exposition import Exposition

NODE_WORDS = (
    KeysDelivered("app1", "bob", 3, 768, "master"),
    KeysRefused("app1", "quota", "slave"),
    KeysRefused("", "caller", "master"),
    KeyRequestAnswered("app1", "POST", "enc_keys", "app2", 200, 3, 0.1),
    KeyCallerTurnedAway("10.0.0.1", "certificate refused"),
    KeyServerFault("starting", "OSError"),
    BlockReport(1, 7, "alice", "bob", True, secret_bits=5000),
    BlockReport(1, 8, "alice", "bob", False, "too many errors", cause="verification"),
    Calibrated("phase", "alice"),
    Unknown("of tomorrow"),
)
TOLD = {
    "alice": NODE_WORDS,
    "relay": (Calibrated("carver", "relay", refused="no light"), Unknown("of tomorrow")),
    "orchestrator": (
        LeaseStatus(1, 1, "alice", "bob", False),
        HubStatus(3),
        Refusals("alice", 2, "Served"),
        Unknown("of tomorrow"),
    ),
    "fl-alice": (ClientState("alice", 1, "round aborted"),),
    "fl-server": (UploadRefused(1, "alice", "late"), ClientDropped(1, "alice", "upload", "gone")),
}


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    path = create_folder(
        tmp_path_factory.mktemp("counted") / "bench",
        template_path("simulated-four-node"),
        applications=applications_named(("app1@alice", "app2@bob")),
    )
    return load_testbed(path)


@pytest.mark.parametrize("role", TOLD)
def test_every_counter_that_a_role_moves_was_there_at_zero(testbed: Testbed, role: str) -> None:
    metrics = metrics_of(role, testbed, None)
    before = {metric.name: dict(said) for metric, said in metrics.samples() if metric.is_counter}
    assert before
    assert all(value == 0.0 for said in before.values() for value in said.values())
    for word in TOLD[role]:
        metrics.tell(word)
    moved = 0
    for metric, said in metrics.samples():
        if metric.is_counter:
            assert set(said) == set(before[metric.name]), metric.name
            moved += sum(value != 0.0 for value in said.values())
    assert moved >= len(TOLD[role])


def test_a_node_without_applications_counts_none(testbed: Testbed) -> None:
    page = Exposition(metrics_of("carol", testbed, None)).page()[1].decode()
    assert "qunetlab_keys_delivered" not in page
    assert "qunetlab_key_" not in page
