"""What a command leaves behind, in one sentence for all of them: which instruments are safe since when, which roles ended.

``Dark at 12:03:04, read back: launch, laser of relay; awg_alice, switch_alice of alice, station out of the ring.``
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.events.process import MadeSafe

if TYPE_CHECKING:
    from lab.runs.supervising.supervised import Run
    from lab.station import Station


def left_by(station: Station) -> MadeSafe:
    """What ``station`` left safe.  A switch stays where it is, so where it was moved last is what counts; nothing is asked."""
    failed = station.left_unsafe
    names = tuple(entry.name for entry in station.entries if failed is not None and entry.name not in failed)
    return MadeSafe(names, tuple(failed or ()), station.left_out)


def sentence(left: Mapping[str, MadeSafe], at: datetime | None = None) -> str:
    """What is safe, by owner; empty where nobody had an instrument."""
    told = "; ".join(_one(owner, each) for owner, each in left.items() if each.instruments or each.by_guard)
    return f"Dark at {at or datetime.now():%H:%M:%S}, read back: {told}." if told else ""


def _one(owner: str, left: MadeSafe) -> str:
    where = {None: "", True: ", station out of the ring", False: ", STATION STILL IN THE RING"}[
        left.station_out
    ]
    of = f" of {owner}" if owner else ""
    guard = f" ({', '.join(left.by_guard)} by the guard, look at it)" if left.by_guard else ""
    return f"{', '.join(left.instruments)}{of}{where}{guard}"


def words_of(run: Run) -> list[str]:
    """How the roles of ``run`` ended, what each left safe, and what the simulator saw of it."""
    ended, words = [], []
    for name, child in run.supervisor.children.items():
        code = child.process.wait()
        if code == 0:
            ended.append(name)
            continue
        owned = [entry.name for entry in run.testbed.instruments if entry.owner == name]
        look = f"; look at {', '.join(owned)}" if owned and name not in run.left else ""
        words.append(f"{name} ended with exit code {code}, its log is {child.log}{look}")
    told = [sentence(run.left), f"Ended: {', '.join(ended)}." if ended else ""]
    if run.unsafe is not None:
        told.append(
            f"The simulator saw NOT in their safe states: {', '.join(run.unsafe)}."
            if run.unsafe
            else "The simulator saw every instrument in its safe state."
        )
    return [*words, *filter(None, told)]
