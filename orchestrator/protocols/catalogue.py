"""The catalogue of protocols: one row each, from which testbed files, nodes, planner and ``keyrate`` know them.

A row is a name and ``module:Class`` of its :class:`~orchestrator.protocols.base.KeyProtocol`.  Names are all that a
testbed file needs; :func:`orchestrator.protocols.block_planning.protocol_named` imports what stands behind them.
"""

from __future__ import annotations

DEFAULT = "four-phase"
PROTOCOLS = {DEFAULT: "orchestrator.protocols.four_phase.protocol:FourPhase"}


def objection(name: str) -> str:
    """Why ``name`` names no protocol; empty if it does."""
    return "" if name in PROTOCOLS else f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}"
