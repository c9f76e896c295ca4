"""The settings of one party's polarisation controller, by the gap that they align, kept over restarts.

A gap is the fibre between two polarisers, so it depends on who is taken in: the relay's goes to the first user of the pair,
the first user's to the second, and the second's to the relay.  What is kept is where light passes best and how the rate
falls off around it; nobody but the owner of the controller needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from drivers.kinds import PolarizationAxes
from lab.calibration.peak import Peak
from orchestrator.durable import make_folder, read_kept, write_kept

logger = logging.getLogger(__name__)

FILE = "polarization.json"
FORMAT = 1


class Kept(msgspec.Struct, frozen=True):
    """Where light passes best through one gap.

    ``mean`` and ``covariance`` are those of a :class:`~lab.calibration.peak.Peak` around ``settings``; ``at`` is when that
    was so.  ``must_climb`` says why it cannot be gone on from; empty where it can.
    """

    settings: list[float]
    mean: list[float]
    covariance: list[list[float]]
    walk_rad: float
    at: datetime
    must_climb: str = ""

    @classmethod
    def of(
        cls, settings: list[float], peak: Peak, walk_rad: float, at: datetime, must_climb: str = ""
    ) -> Kept:
        """With the shape of ``peak``."""
        return cls(settings, peak.mean.tolist(), peak.covariance.tolist(), walk_rad, at, must_climb)

    @property
    def peak(self) -> Peak:
        """Its shape."""
        return Peak.known(np.array(self.mean), np.array(self.covariance))

    def fits(self, axes: PolarizationAxes) -> bool:
        """Whether a controller with these axes can be set so."""
        inside = all(axes.low <= each <= axes.high for each in self.settings)
        terms = 1 + axes.count + axes.count * (axes.count + 1) // 2
        square = [len(row) for row in self.covariance] == [terms] * terms
        return len(self.settings) == axes.count and inside and len(self.mean) == terms and square


class _File(msgspec.Struct, frozen=True):
    gaps: Mapping[str, Kept]
    format: int = FORMAT


class KeptSettings:
    """All that a party keeps; in ``folder``, or nowhere beyond its own life without one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / FILE
        self._gaps: dict[str, Kept] = {}
        if self._path is not None:
            self._gaps = _read(self._path)

    def get(self, gap: str, axes: PolarizationAxes) -> Kept | None:
        """What is kept of a gap, for a controller with these axes; None where nothing is that fits it."""
        kept = self._gaps.get(gap)
        return kept if kept is not None and kept.fits(axes) else None

    def put(self, gap: str, kept: Kept) -> None:
        """Keep this of a gap, in the place of what was.  OSError where the file cannot be written."""
        self._gaps[gap] = kept
        if self._path is not None:
            make_folder(self._path.parent)
            write_kept(self._path, _File(self._gaps))


def _read(path: Path) -> dict[str, Kept]:
    """Nothing where there is no file; one that cannot be read is told, and costs a climb."""
    try:
        return dict(read_kept(path, _File, FORMAT).gaps)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.error("%s is left aside, polarisation is climbed anew: %s", path, error)
        return {}
