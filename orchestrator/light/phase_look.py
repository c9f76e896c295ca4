"""The loop's phase, looked at with the launch open and before any frame of key, so that the first frames are played right.

Between two blocks of a pair the ring serves others, and the phase goes on drifting.  With all modulators at rest the
detectors hardly feel it.  So the first user plays a frame a quarter of a turn ahead in some slots and behind in the others,
drawn at random, while the second rests: the imbalance between the detectors is the sine of what is left of the phase, and
that of the detectors themselves cancels between the two.  A frame of ten thousand clicks gives it to ten milliradians::

    relay -> first   LookTurn()               look at the phase, if you want to
    first -> relay   LookArmed()              as often as the phase was found far off: fire one frame
    relay -> first   Announcement(frame=0)    its clicks; or FrameLost
    first -> relay   LookOver()               at once where the phase is known

The frame shows what everybody knows, a quarter of a turn, and makes no key: it is counted in no block and no transcript, and
its symbols are drawn for it alone.  What a relay gains that lies about its clicks is said in
:mod:`orchestrator.light.tracking.loop_phase`: nothing but lost key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.light.clicks import D1_ONLY, D2_ONLY, FrameClicks
from orchestrator.light.messages import (
    FrameLost,
    LightAborted,
    LookArmed,
    LookOver,
    LookTurn,
    announce,
    check_announcement,
    read_light_message,
    unexpected,
)
from orchestrator.light.symbols import Drawn, SymbolFrame
from orchestrator.protocols.base import PulseSymbols
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode

Look: TypeAlias = Callable[[npt.NDArray[np.int64]], float]
"""Takes the clicks of a frame, int64 of shape (2, n, n) by detector, own and other symbol; the correction to play from then on."""
MOST_LOOKS = 5
"""As far as the phase is followed, in the steps in which it is."""
SETTLED_RAD = 0.1
"""What moved the correction by less needs no second look."""


def serve_looks(
    channel: Channel,
    expose: Callable[[], tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]] | FrameLost],
    patience_s: float,
) -> None:
    """The relay's side.  LightAborted where the user does not end.

    ``expose`` fires a frame and returns its clicks: slots, uint32, and outcomes, uint8, both of shape (n,).
    """
    channel.send(encode(LookTurn()))
    for _ in range(MOST_LOOKS + 1):
        message = read_light_message(channel.recv(patience_s))
        if isinstance(message, LookOver):
            return
        if not isinstance(message, LookArmed):
            raise unexpected("LookArmed or LookOver", message)
        clicks = expose()
        channel.send(encode(clicks) if isinstance(clicks, FrameLost) else announce(0, *clicks))
    raise LightAborted(f"the first user looks at the phase more than {MOST_LOOKS} times")


def look(
    channel: Channel,
    play: Callable[[float], SymbolFrame],
    missed: Callable[[], str],
    take: Look,
    played_rad: float,
    symbols: PulseSymbols,
    patience_s: float,
) -> float:
    """The first user's side; returns the correction to play.

    ``play`` has a frame of quarter turns armed with a correction, ``missed`` says why it was not played.  LightAborted for
    anything but the clicks of that frame.  A frame that is lost is no reason not to begin: the phase stays as it was known.
    """
    for _ in range(MOST_LOOKS):
        frame = play(played_rad)
        channel.send(encode(LookArmed()))
        message = read_light_message(channel.recv(patience_s))
        if missed() or isinstance(message, FrameLost):
            break
        clicks = _counted(check_announcement(message, 0, frame.slots), frame, symbols)
        before_rad, played_rad = played_rad, take(clicks)
        if abs(played_rad - before_rad) < SETTLED_RAD:
            break
    channel.send(encode(LookOver()))
    return played_rad


def quarter_turns(symbols: PulseSymbols, drive: npt.NDArray[np.float32]) -> Drawn:
    """Of the symbols with this drive, float32 of shape (256,), those that are a quarter of a turn from a modulator at rest."""
    codes = [code for code, phase in enumerate(symbols.phases_rad) if abs(math.cos(phase)) < 1e-9]
    byte_of = np.array([int(np.flatnonzero(symbols.of_bytes == code)[0]) for code in codes])
    drawn = np.arange(256) % len(codes)
    return Drawn(np.array(codes, np.uint8)[drawn], drive[byte_of[drawn]])


def _counted(clicks: FrameClicks, frame: SymbolFrame, symbols: PulseSymbols) -> npt.NDArray[np.int64]:
    """By detector, own symbol, and the other's: that of a modulator at rest."""
    n, own = len(symbols.phases_rad), frame.at(clicks.slots)
    counted = np.zeros((2, n, n), np.int64)
    for d, outcome in enumerate((D1_ONLY, D2_ONLY)):
        counted[d, :, symbols.phases_rad.index(0.0)] = np.bincount(
            own[clicks.outcomes == outcome], minlength=n
        )
    return counted
