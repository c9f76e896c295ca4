"""What a generator is cabled to: trigger line, reference, and what its channels drive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sim_backends.lines import Edge
from sim_backends.optics_parts import Drive
from sim_backends.site import Site

TTL_EDGE = Edge(0.0, 0.0, 2.5)
"""What :meth:`trigger` sends unless told otherwise."""


class Around(Protocol):
    """What a generator is cabled to: part of :class:`sim_backends.site.Site`."""

    @property
    def latency_ps(self) -> float:
        """From an edge at its trigger input to its output."""

    def has_reference(self) -> bool:
        """Whether 10 MHz arrive at its reference input."""

    def clock_error(self, *, external: bool) -> float:
        """Relative error of its clock."""

    def drive(self, channel: str, drive: Drive | None, *, clock_error: float = 0.0) -> None:
        """What it puts out."""


class Alone:
    """A generator that nothing is cabled to, with a clock that is right."""

    latency_ps = 0.0

    def has_reference(self) -> bool:
        """A good one."""
        return True

    def clock_error(self, *, external: bool) -> float:
        """None."""
        return 0.0

    def drive(self, channel: str, drive: Drive | None, *, clock_error: float = 0.0) -> None:
        """Goes nowhere."""


@dataclass(frozen=True)
class OneChannel:
    """A site for which one channel of the generator is the whole."""

    site: Site
    channel: str

    @property
    def latency_ps(self) -> float:
        return self.site.latency_ps

    def has_reference(self) -> bool:
        return self.site.has_reference()

    def clock_error(self, *, external: bool) -> float:
        return self.site.clock_error(external=external)

    def drive(self, channel: str, drive: Drive | None, *, clock_error: float = 0.0) -> None:
        if channel == self.channel:
            self.site.drive("", drive, clock_error=clock_error)
