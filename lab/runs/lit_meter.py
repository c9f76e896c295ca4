"""Light on, a knob in hand: what detectors see of a pair's light while somebody turns instruments.

Frames are looked at one after the other; since a knob was turned their clicks are added up, so that a dim ring is known better the
longer it is left alone.  A turn begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.runs.at_hand import AtHand
from lab.runs.knobs import Knob, knob, turn
from lab.runs.lit_ring import Seen
from lab.testbed import Testbed

FRAMES = 16
"""Most frames that are added up: older ones say less of a ring that drifts."""


@dataclass
class LitMeter:
    """The meter of one pair, and the knobs that were turned; ``testbed`` is that of the instruments in ``hand``."""

    testbed: Testbed
    hand: AtHand
    frames: list[Seen] = field(default_factory=list)
    turned: dict[str, str] = field(default_factory=dict)
    """The latest of each knob, in words."""

    def look(self) -> Seen:
        """One more frame; what was seen since the last turn.  Raises InterlockedError, NotReadyError."""
        assert self.hand.light is not None
        self.hand.session.check()
        self.frames = [*self.frames, self.hand.light.look()][-FRAMES:]
        return self.seen

    @property
    def seen(self) -> Seen:
        """The frames together."""
        return Seen(
            d1=sum(each.d1 for each in self.frames),
            d2=sum(each.d2 for each in self.frames),
            right=sum(each.right for each in self.frames),
            wrong=sum(each.wrong for each in self.frames),
            light_s=sum(each.light_s for each in self.frames),
        )

    def order(self, text: str) -> str:
        """``INSTRUMENT.PARAMETER VALUE``: turn it, and what it holds then.

        Raises ValueError for what is no such order, and what turning raises: nothing was sent then.
        """
        name, _, value = text.strip().replace("=", " ").partition(" ")
        if not value.strip():
            raise ValueError(f"{text.strip()!r} turns nothing: write INSTRUMENT.PARAMETER VALUE")
        wanted: Knob = knob(self.testbed, name)
        told = str(turn(self.hand.instrument(wanted.entry.name), wanted.parameter, value.strip()))
        self.turned[str(wanted)] = told
        self.frames = []
        return told


def figures(seen: Seen) -> list[tuple[str, str]]:
    """What is shown, with units."""
    if not seen.light_s:
        return [("light", "no frame yet")]
    clicks = seen.right + seen.wrong
    rates = [("D1", f"{seen.d1 / seen.light_s:.4g} /s"), ("D2", f"{seen.d2 / seen.light_s:.4g} /s")]
    if not clicks:
        return [*rates, ("visibility", "no clicks"), ("QBER", "no clicks")]
    sigma = (seen.error_ratio * (1 - seen.error_ratio) / clicks) ** 0.5
    return [
        *rates,
        ("visibility", f"{seen.visibility:.4f} +- {2 * sigma:.4f}"),
        ("QBER", f"{100 * seen.error_ratio:.2f} +- {100 * sigma:.2f} %"),
    ]
