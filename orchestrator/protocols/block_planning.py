"""The block plan of each pair of a testbed: what its two nodes agree on, and what the scheduler expects."""

from __future__ import annotations

import importlib

from lab.testbed import Testbed
from orchestrator.protocols.base import BlockPlan, KeyProtocol
from orchestrator.protocols.catalogue import PROTOCOLS, objection


def protocol_named(name: str) -> KeyProtocol:
    """The protocol of that name in the catalogue; raises ValueError naming those that there are."""
    if why := objection(name):
        raise ValueError(why)
    module, _, kind = PROTOCOLS[name].partition(":")
    protocol: KeyProtocol = getattr(importlib.import_module(module), kind)()
    return protocol


def plan_for(testbed: Testbed, first: str, second: str) -> BlockPlan:
    """The block plan of a pair by the protocol that the testbed file names, the same at both nodes."""
    return protocol_named(testbed.protocol.name).plan(testbed, first, second)
