"""One record of the time tagger, from its trigger to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drivers.kinds import TimeTagger

PS_PER_S = 1e12
_POLL_S = 0.0005


def plays_to_its_end(
    tagger: TimeTagger,
    duration_ps: int,
    *,
    timeout_s: float,
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> bool:
    """Play a record; whether it ends within ``timeout_s`` after its duration."""
    tagger.play_record(duration_ps)
    deadline = clock() + timeout_s + duration_ps / PS_PER_S
    while tagger.record_playing():
        if clock() > deadline:
            return False
        pause(_POLL_S)
    return True
