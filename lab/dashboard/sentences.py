"""What happened, as an operator would say it: one sentence for each item of status that is news, none for the rest."""

from __future__ import annotations

from lab.runs.shown import shown
from orchestrator.events.common import Unknown
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    HubStatus,
    Learning,
    LeaseStatus,
    PeerStatus,
    Refusals,
    StatusItem,
    pair_name,
)


def sentence(role: str, item: StatusItem) -> str:
    """Empty for what only counts on; a training run that waits for key says so, not each second anew for whose."""
    match item:
        case BlockReport() if item.counts(role):
            return shown(f"{pair_name(item.pair)}: {_block(item)}")
        case LeaseStatus(ok=False):
            how = "was refused" if item.refused else "failed"
            return shown(f"{pair_name(item.pair)}: lease {item.lease_number} {how}: {item.reason}")
        case PeerStatus():
            return shown(f"{item.peer} {_peer(item)}")
        case Alarm(on=True):
            return shown(item.told_by(role))
        case Alarm():
            return shown(f"alarm ended: {item.id_of(role)}")
        case Learning():
            reason = f": {item.reason}" if item.reason and not item.waits else ""
            accuracy = "" if item.accuracy is None else f", accuracy {100 * item.accuracy:.1f} %"
            return shown(
                f"training {item.run_id} {item.state}, {item.done} of {item.rounds} rounds{accuracy}{reason}"
            )
        case Refusals():
            return shown(f"{item.peer} was refused {item.count} times, the last: {item.last}")
        case HubStatus(overloads=overloads) if overloads:
            return f"the hub dropped or refused {overloads} messages, more was said than may wait"
        case Unknown():
            return shown(item.told_by(role))
        case _:
            return ""


def _block(block: BlockReport) -> str:
    if not block.stored:
        return f"block without key: {block.reason}"
    qber = "" if block.qber is None else f" at QBER {100 * block.qber:.2f} %"
    return f"{block.secret_bits:,} bits of key{qber}"


def _peer(peer: PeerStatus) -> str:
    if not peer.present:
        return "is gone"
    return "is ready" if peer.ready else f"is not ready: {peer.reason}"
