"""Holding the polarisation of a ring that makes key, from the public counts of its frames alone.

Fibre turns polarisation slowly and without end.  So every frame is played a little beside the present setting, once on one
side and once on the other, in directions drawn at random and as far as costs :data:`DITHER_DB`; the difference tells the
slope, and all frames together the shape of the summit (:class:`lab.calibration.peak.Peak`, which forgets as fast as the
fibre may have turned).  After every two frames the setting moves to the summit as it is believed to be by then.

Random dithers of all actuators at once are those of stochastic parallel gradient descent, which compensates polarisation in
quantum key distribution (Liu et al., J. Infrared Millim. Waves 35, 210 (2016)).  How far to believe new counts more than old
ones, a Kalman filter says, as the fibre's walk is random.

Where nothing is to be corrected no actuator need move: with ``look_db`` frames rest at the setting until so much may be
gained, by what is known of the summit and of how fast the fibre turned so far, or until the rate has fallen.  Then frames
are played beside it again, until the summit is known twice as well; :attr:`Hold.looked` says what that came to.

There are more actuators than ways for polarisation to be wrong, so there are directions in which nothing is lost: along
them every actuator is led back to the middle of its range.  When one nevertheless stands at its end and light is lost by it,
or when the rate has fallen with no way up to be seen, :attr:`Hold.must_climb` says so.

This is a state machine without clock and instruments: :meth:`Hold.next` says what to set for the next frame,
:meth:`Hold.counted` takes what the frame counted.  Controllers in one ring take turns, a pair of frames each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from drivers.kinds import PolarizationAxes
from lab.calibration.peak import Floats, Peak
from lab.calibration.polarization import BENDS, DB, MARGIN

DITHER_DB = 0.03
"""Lost by a frame beside a summit."""
FARTHEST = 0.15
"""Of a dither from the present setting, in half turns."""
RADIUS = 0.1
"""Of a move between two pairs of frames, in half turns."""
WALK_RAD = 0.02
"""The fibre turns polarisation so far in a second, at random (per root second), on a bad day (chosen)."""
RATE_WALK = 0.003
"""The rate changes for other reasons by so much in a second, relatively (per root second)."""
HOMEWARD = 0.02
"""The part of its way to the middle of its range that an actuator goes at a time, at no loss."""
FLAT = 0.1
"""A direction that bends less than this part of the strongest loses nothing."""
MOST_LOST_DB = 1.0
FADING = 0.02
"""How much a pair of frames counts in the rate that :data:`MOST_LOST_DB` is judged by."""
END_DB = 0.1
FALLEN = 0.01
"""Of the rate, for frames that rest to look again; it must be more than three of its sigmas."""
WALK_RANGE_RAD = (0.002, 0.1)
"""What the fibre is believed to do per root second, however little or much it was seen to turn."""


class AtSummit(Protocol):
    """Where a climb, or holding, ended."""

    @property
    def settings(self) -> list[float]:
        """In the unit of the controller's axes."""

    @property
    def peak(self) -> Peak:
        """The summit's shape in half turns; its rate is 1 in any unit."""


@dataclass(frozen=True)
class Looked:
    """Frames beside the setting came to this: the old setting lost ``lost_db``, at the new one ``left_db`` may be left."""

    lost_db: float
    left_db: float
    frames: int


class Hold:
    """Holds what a climb found; settings are in the unit of ``axes``.

    ``dark_counts`` are those of a frame without light; ``walk_rad`` is how far the fibre turns polarisation, per root
    second, to begin with; ``look_db`` may be lost before it is looked for, 0 for frames that never rest.
    """

    def __init__(
        self,
        axes: PolarizationAxes,
        climbed: AtSummit,
        *,
        dark_counts: float = 0.0,
        walk_rad: float = WALK_RAD,
        look_db: float = 0.0,
        rng: np.random.Generator,
    ) -> None:
        self._axes = axes
        room = MARGIN * (axes.high - axes.low)
        self._low, self._high = axes.low + room, axes.high - room
        self._at: Floats = np.clip(np.array(climbed.settings, float), self._low, self._high)
        self._peak = copy.deepcopy(climbed.peak)
        self._dark = dark_counts
        self.walk_rad = walk_rad
        self._look_db = look_db
        self._rng = rng
        self._scale = 0.0  # counts of a frame at the summit, once known
        self._smooth = self._best = 1.0
        self._offset: Floats = np.zeros(axes.count)
        self._side = 0  # of the frame under way: 0 for none yet, then 1 and -1
        self._looking = not look_db
        self._accepted = 1.0  # the rate when looking ended
        self._moved: Floats = np.zeros(axes.count)  # since looking began, in half turns
        self._rested_s = 0.0  # since looking ended
        self._looks = 0
        self.looked: Looked | None = None
        """What the frames that ended with the latest one came to; None while they go on, or rest."""
        self.must_climb = ""
        """Why it cannot hold any more; empty as long as it does."""

    @property
    def peak(self) -> Peak:
        """The summit's shape in half turns around :attr:`settings`, its rate 1."""
        peak = copy.deepcopy(self._peak)
        peak.restart_rate(1.0, 1.0)
        return peak

    @property
    def settings(self) -> list[float]:
        """The best that is known: what to set when nobody dithers."""
        return [float(each) for each in self._at]

    def next(self) -> list[float]:
        """What to set for the next frame."""
        if self._scale and self._side != 1:
            self._look_or_rest()
            self._offset = self._dither() if self._looking else np.zeros(len(self._at))
        self._side = -1 if self._side == 1 else 1
        return [float(each) for each in self._placed()]

    def counted(self, counts: int, seconds: float, held: Sequence[float] | None = None) -> None:
        """The frame counted ``counts``; ``seconds`` passed since the one before.

        ``held`` is where the actuators really were, if that is known better.
        """
        net, self.looked = counts - self._dark, None
        root_s = math.sqrt(max(seconds, 0.0))
        turned = self.walk_rad * root_s
        self._peak.grow(RATE_WALK * root_s, math.pi / 2 * turned, BENDS * turned)
        if not self._scale:
            self._scale = max(net, 1.0)
            self._side = 0
            self._peak.restart_rate(1.0, 3 * math.sqrt(max(counts, 1)) / self._scale)
            return
        where = self._placed() if held is None else np.array(held)
        self._rested_s += max(seconds, 0.0)
        self._looks += self._looking
        self._peak.learn(
            (where - self._at) / self._axes.half_turn,
            net / self._scale,
            math.sqrt(max(counts, 1)) / self._scale,
        )
        if self._side == -1:
            if self._looking:
                self._move()
                self._end_look()
            else:
                self._judge(np.full(len(self._at), True))

    def _may_gain_db(self) -> float:
        """What may still be gained nearby, with 95 % confidence."""
        gain = self._peak.gain_below(RADIUS, np.full(len(self._at), True), self._rng)
        return DB * math.log1p(max(gain, 0.0) / max(self._peak.rate, 1e-9))

    def _look_or_rest(self) -> None:
        if self._looking:
            return
        fallen = self._accepted - self._peak.rate
        sigma = math.sqrt(self._peak.covariance[0, 0])
        if fallen > max(FALLEN * self._accepted, 3 * sigma) or self._may_gain_db() > self._look_db:
            self._looking, self._looks = True, 0
            self._moved = np.zeros(len(self._at))

    def _end_look(self) -> None:
        left_db = self._may_gain_db()
        if not self._look_db or left_db > self._look_db / 2:
            return
        self._looking, self._accepted = False, self._peak.rate
        lost = max(-0.5 * float(self._moved @ self._peak.curvature @ self._moved), 0.0)
        lost_db = DB * math.log1p(lost / max(self._peak.rate, 1e-9))
        self.looked = Looked(lost_db, left_db, self._looks)
        self._learn_walk()

    def _learn_walk(self) -> None:
        """How far the summit went since the last look, of which as much again may not have been seen."""
        if self._rested_s > 0:
            turned_rad = math.pi * float(np.linalg.norm(self._moved)) / math.sqrt(3 * self._rested_s)
            believed = math.sqrt((self.walk_rad**2 + turned_rad**2) / 2)
            self.walk_rad = float(np.clip(believed, *WALK_RANGE_RAD))
        self._rested_s = 0.0

    def _placed(self) -> Floats:
        beside = self._at + self._side * self._axes.half_turn * self._offset
        return np.clip(beside, self._axes.low, self._axes.high)

    def _dither(self) -> Floats:
        """Any direction, as far as costs what it may."""
        direction = self._rng.normal(size=len(self._at))
        direction /= np.linalg.norm(direction)
        bend = max(-float(direction @ self._peak.curvature @ direction), 1e-9)
        far = math.sqrt(2 * DITHER_DB / DB * max(self._peak.rate, 0.0) / bend)
        return np.asarray(min(far, FARTHEST) * direction)

    def _move(self) -> None:
        low, high = ((end - self._at) / self._axes.half_turn for end in (self._low, self._high))
        step, free = self._peak.towards(RADIUS, low, high)
        step = np.clip(step + self._homeward(), low, high)
        self._at = self._at + self._axes.half_turn * step
        self._moved = self._moved + step
        self._peak.shift(step)
        self._judge(free)

    def _homeward(self) -> Floats:
        """Towards the middle of all ranges along directions that lose nothing."""
        bends, along = np.linalg.eigh(self._peak.curvature)
        flat = along[:, bends > -FLAT * np.abs(bends).max()]
        way = ((self._low + self._high) / 2 - self._at) / self._axes.half_turn
        return np.asarray(HOMEWARD * flat @ (flat.T @ way))

    def _judge(self, free: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
        self._smooth += FADING * (self._peak.rate - self._smooth)
        self._best = max(self._best, self._smooth)
        lost_db = DB * math.log(self._best / max(self._smooth, 1e-9))
        if lost_db > MOST_LOST_DB:
            self.must_climb = f"the rate has fallen by {lost_db:.1f} dB and no way up is seen"
        if not free.all():
            beyond = self._peak.summit(RADIUS, np.full(len(free), True)).gain / max(self._peak.rate, 1e-9)
            if DB * math.log1p(max(beyond, 0.0)) > END_DB:
                ends = ", ".join(str(n + 1) for n in range(len(free)) if not free[n])
                self.must_climb = f"actuator {ends} is at the end of its range, and light is lost by it"
