"""The electrical lines between instruments: reference clock and trigger, with what a cable does to them.

A reference line carries 10 MHz from one source to whom it is plugged into; an instrument that does not use it, or does
not get it, runs at its own rate.  A trigger line carries edges from an output to inputs; each cable delays them.
Whether an edge triggers is for the input to say, which knows its level and slope (:func:`crosses`).

Twins hold nothing of one another: they meet at these objects.  Times are in picoseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Edge:
    """A step of voltage into 50 ohm that passes a place at ``at_ps``; its way back comes long after."""

    at_ps: float
    from_v: float
    to_v: float


def crosses(edge: Edge, level_v: float, *, rising: bool) -> bool:
    """Whether an input with this level and slope sees the edge."""
    low, high = (edge.from_v, edge.to_v) if rising else (edge.to_v, edge.from_v)
    return low < level_v < high


Listener = Callable[[Edge], None]
"""What an input does with an edge that reaches it."""


@dataclass
class TriggerLine:
    """One output with the inputs it is cabled to.

    ``delays_ps``: of the cable to each sink, by the sink's name; a name that is not there is not plugged in.
    """

    source: str
    delays_ps: Mapping[str, float]
    _listeners: dict[str, Listener] = field(default_factory=dict)

    def listen(self, sink: str, listener: Listener) -> None:
        """Plug an input in, if a cable leads to it."""
        if sink in self.delays_ps:
            self._listeners[sink] = listener

    def pull(self, sink: str) -> None:
        """Unplug an input for good."""
        self._listeners.pop(sink, None)

    def send(self, source: str, edge: Edge) -> None:
        """An edge leaves an output; goes nowhere from one that is not this line's source."""
        if source != self.source:
            return
        for sink, listener in list(self._listeners.items()):
            listener(replace(edge, at_ps=edge.at_ps + self.delays_ps[sink]))


@dataclass
class ReferenceLine:
    """10 MHz to the instruments in ``plugged``; ``ppm``: how far each one's own clock is off, by name."""

    plugged: set[str]
    ppm: Mapping[str, float]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def reaches(self, name: str) -> bool:
        """Whether the reference arrives at this instrument."""
        with self._lock:
            return name in self.plugged

    def rate_error(self, name: str, *, external: bool) -> float:
        """Relative error of an instrument's clock: none for one that follows the reference, else its own."""
        return 0.0 if external and self.reaches(name) else self.ppm.get(name, 0.0) * 1e-6

    def pull(self, name: str) -> None:
        """Unplug an instrument."""
        with self._lock:
            self.plugged.discard(name)

    def plug(self, name: str) -> None:
        """Plug an instrument in."""
        with self._lock:
            self.plugged.add(name)
