"""How a training run goes, for those who watch the ring: one item of status, made from the server's events.

The learning server serves its clients at an endpoint of its own and needs no hub.  Where the testbed file names one,
the server reports how the run goes; training does not depend on it.  A run is *finished* only with at least one
round summed and no reason to have ended early; everything else that ended has *failed*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from fl.rounds.config import FLConfig
from lab.testbed import AUTO, Testbed
from orchestrator.events.learning import (
    RoundAborted,
    RoundCompleted,
    RoundStarted,
    RunFinished,
    RunStarted,
    ServerEvent,
    WaitingForClients,
    WaitingForKeys,
)
from orchestrator.events.status import FL_SERVER, Learning
from orchestrator.hub.connect import connect_agent
from orchestrator.metrics.book import Metrics
from orchestrator.wire.fields import REASON_LIMIT

WAITS_TOLD = 256
NO_SUM = "no round gave a sum"


def begun(config: FLConfig) -> Learning:
    """The status of a run that has not started."""
    return Learning(config.run_id[:64], config.mode, "waiting", config.rounds)


def after(status: Learning, event: ServerEvent) -> Learning:
    """The status after one more event; the same where the event changes nothing that is shown."""
    match event:
        case RunStarted():
            return replace(
                status, state="running", done=event.completed_rounds, round_bits=event.key_bits_per_pair
            )
        case WaitingForClients():
            reason = _short(f"waiting for {', '.join(event.missing)}")
            return replace(status, state="waiting", reason=reason, waits=(), eta_s=None)
        case WaitingForKeys():
            reason = _short(f"{event.client} waits for keys: {event.detail}")
            waits = tuple((event.client, peer) for peer in event.missing_bits)[:WAITS_TOLD]
            return replace(status, state="waiting", reason=reason, waits=waits, eta_s=event.eta_s)
        case RoundStarted():
            return replace(status, state="running", reason="", waits=(), eta_s=None)
        case RoundCompleted(record):
            return replace(
                status,
                state="running",
                done=status.done + 1,
                accuracy=record.accuracy,
                reason="",
                waits=(),
                eta_s=None,
                key_bits=record.key_bits_used,
                upload_bytes=record.upload_bytes,
            )
        case RoundAborted(lost):
            return replace(
                status,
                aborted=status.aborted + 1,
                reason=_short(f"round {lost.round} was aborted: {lost.reason}"),
                waits=(),
                eta_s=None,
                key_bits=lost.key_bits_burnt,
                upload_bytes=lost.upload_bytes,
            )
        case RunFinished():
            return ended(status, event.reason)
        case _:
            return status


def ended(status: Learning, reason: str) -> Learning:
    """The status of a run that ended, for ``reason`` if it was too early."""
    reason = reason or ("" if status.done else NO_SUM)
    return replace(
        status, state="failed" if reason else "finished", reason=_short(reason), waits=(), eta_s=None
    )


@contextmanager
def told_to_hub(
    testbed: Testbed, secrets: Path, config: FLConfig, metrics: Metrics
) -> Iterator[Callable[[ServerEvent], None]]:
    """Tells the hub of every event that it is called with, and of an error that ends the run."""
    if AUTO in (testbed.hub.control, testbed.hub.bulk):
        yield lambda event: None
        return
    status = begun(config)
    agent = connect_agent(testbed, FL_SERVER, secrets, metrics.tell)

    def tell(event: ServerEvent) -> None:
        nonlocal status
        before, status = status, after(status, event)
        if status != before:
            agent.control_send(status)

    try:
        agent.control_send(status)
        yield tell
    except BaseException as error:
        if status.state not in ("finished", "failed"):
            agent.control_send(ended(status, str(error) or type(error).__name__))
        raise
    finally:
        agent.close()


def _short(text: str) -> str:
    return text[:REASON_LIMIT]
