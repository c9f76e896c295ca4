"""Whether a role lives and does its work, from what it says of itself.

It lives while its control loop turns.  It does its work while it serves, the hub is linked, its instruments are there.

A role serves once it said its first line: by then its key store is open and its instruments have been identified, or it said
what they lack (:class:`~orchestrator.events.status.Ready`).
"""

from __future__ import annotations

from orchestrator.events.inside import HubLink, Loop
from orchestrator.events.status import Ready
from orchestrator.metrics.book import Metrics
from orchestrator.wire.links import LinkState


def hanging(loop: Loop) -> tuple[str, ...]:
    """Why the role does not live, in words; nothing if it does."""
    if loop.age_s <= loop.limit_s:
        return ()
    return (f"its control loop has not turned for {loop.age_s:.0f} s",)


def unready(metrics: Metrics) -> tuple[str, ...]:
    """Why the role does not do its work, in words; nothing if it does."""
    why = []
    if metrics.serving is None:
        why.append("it has not started to serve")
    why += [
        f"no link to the hub: {link.reason or link.state.value}"
        for link in metrics.latest(HubLink)
        if link.state is not LinkState.UP
    ]
    why += [
        ": ".join(filter(None, ("it can take no lease", told.reason)))
        for told in metrics.latest(Ready)
        if not told.ready
    ]
    return tuple(why)
