"""The attack range's hub: it changes what nodes say to each other, as strongly as it was told, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from lab.runs.attacks.lies import lie
from orchestrator.hub.hub import Hub
from orchestrator.wire.messages import Delivery, Post


@pytest.mark.parametrize(("topic", "changed_bits"), [("pair/0123/1", 1), ("light/1/1", 0)])
def test_a_bit_of_what_nodes_say_is_changed(
    hub_world: Any, monkeypatch: pytest.MonkeyPatch, topic: str, changed_bits: int
) -> None:
    monkeypatch.setattr(Hub, "_on_post", Hub._on_post)
    lie("tampering-hub", 100.0)
    alice, bob = hub_world.raw("alice").join(), hub_world.raw("bob").join()
    alice.post(Post("bob", topic, 0, more=True), b"parities")
    assert bob.get() == Delivery("alice", topic, 0, more=True)
    changed = zip(bytes(bob.payload), b"parities", strict=True)
    assert sum((a ^ b).bit_count() for a, b in changed) == changed_bits
