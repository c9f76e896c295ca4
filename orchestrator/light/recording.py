"""One record of the time tagger, from its trigger to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drivers.links.errors import NotReadyError

if TYPE_CHECKING:
    from drivers.kinds import TimeTagger
    from lab.testbed import Testbed

Times = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Time stamps of D1 and D2: 1-d int64, ps since the trigger."""
PS_PER_S = 1e12
SETTLE_PS = 1_000_000
"""Extra record length after the light of the last slot, so that delayed tags still fall into it."""
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


def frame_record_ps(testbed: Testbed, slots: int) -> int:
    """How long a record must be for the light of so many slots, from the trigger on."""
    light_ps = slots * PS_PER_S / testbed.protocol.clock_hz
    return round(max(testbed.calibration.detector_delays_ps) + light_ps) + SETTLE_PS


def recorded(
    tagger: TimeTagger,
    channels: tuple[int, int],
    duration_ps: int,
    *,
    timeout_s: float,
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> Times:
    """The time stamps of one record, of the inputs of D1 and D2.  NotReadyError where it does not end in time."""
    if not plays_to_its_end(tagger, duration_ps, timeout_s=timeout_s, pause=pause, clock=clock):
        raise NotReadyError("the tagger's record did not end in time")
    first, second = (tagger.read_tags(channel)[:, 0].astype(np.int64) for channel in channels)
    return first, second
