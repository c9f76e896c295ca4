"""What callers say to an ID900: inputs and durations, as Python or NumPy numbers, refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from drivers.links.errors import InstrumentError, LimitError, WrongKindError
from drivers.links.limits import plain
from drivers.timetaggers.id900_state import CHANNELS, START, block

MAX_DURATION_PS = 10**15
Error = Callable[[type[InstrumentError], str], InstrumentError]
"""Makes an error of the driver."""


def inputs_of(channels: object, error: Error) -> tuple[int, ...]:
    """The numbers of inputs, each once.  Raises LimitError for what is none or stands there twice."""
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise error(WrongKindError, f"{channels!r} is no list of inputs, as in [1, 2]")
    chosen = [plain(channel) for channel in channels]
    for channel in chosen:
        if isinstance(channel, bool) or channel not in CHANNELS or chosen.count(channel) > 1:
            raise error(LimitError, f"inputs {chosen}: each is one of {CHANNELS}, and stands there once")
    return tuple(map(int, chosen))


def block_of(channel: object, error: Error) -> str:
    """The header of an input, 0 being START.  Raises LimitError for what is neither."""
    is_start = channel == START and not isinstance(channel, bool)
    return block(START if is_start else inputs_of([channel], error)[0])


def whole_duration_ps(duration_ps: float, error: Error) -> int:
    """The duration of a record.  Raises LimitError where it is no whole number within the limits."""
    duration = plain(duration_ps)
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise error(WrongKindError, f"{duration!r} is no duration, which is a number of ps")
    if not (1 <= duration <= MAX_DURATION_PS and duration == int(duration)):
        raise error(
            LimitError,
            f"a record of {duration} ps: it lasts a whole number of ps from 1 to {MAX_DURATION_PS}",
        )
    return int(duration)
