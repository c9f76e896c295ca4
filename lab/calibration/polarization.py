"""Climbing to the setting of a polarisation controller with most counts.

Polarisers make every misalignment a loss, so the count rate is all there is to look at.  As a function of one actuator it is
a sum of very few harmonics - one for a squeezer, whose voltage turns the state of polarisation about a fixed axis; two for
a wave plate that is rotated -, so looking at it every quarter of a turn misses no summit.  The climb has two stages.

**Walk**: along one actuator after the other, first over its whole range and then over a turn, always on to the highest point
that the three points around the best one tell.  Of summits that are equally high the one nearest the middle of the range is
taken, so that an actuator found at its limit is unwound.  It ends when no actuator gains any more than can be told.

**Summit**: points around the present one, along each actuator and each pair, teach a quadratic function of all
(:class:`lab.calibration.peak.Peak`); its summit is the next point.  It ends when, whatever the coefficients are that agree
with the counts, there is no more to gain than ``target_db``, and the last points were where the others had told.  Three
paddles have long ridges, on which the quadratic is flat and the summit far.  A ridge may have two tops a hundredth above what
is between them, which a quadratic takes for the summit; so the flattest direction is looked along, all that is counted there
is fitted with a polynomial that may have two tops, and where that is highest the summit is looked for again.  A higher one
that an actuator is too short for is given up like any such: the climb begins elsewhere.

Every reading is repeated until its statistics suffice for what is to be decided, so the number of readings follows from the
counts.  Going along one coordinate at a time was the fastest of four ways compared for such controllers in quantum key
distribution (Young, Duan, Pirandola et al., Applied Sciences 16, 2568 (2026)).  That an actuator of limited range is to be
brought back without a loss: Noe, Heidrich and Hoffmann, J. Lightwave Technol. 6, 1199 (1988).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drivers.kinds import PolarizationAxes
from lab.calibration.chance import by_chance
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.peak import Floats, Peak

Apply = Callable[[list[float]], Sequence[float]]
"""Sets the actuators and returns what they really hold."""
Count = Callable[[], int]
"""Counts for a time that is always the same."""

SPACING = 0.5
"""Of the points of a walk, in half turns."""
MARGIN = 0.02
"""Of the range is kept free at either end: motors hum there, and a later dither needs room."""
WALK_ERROR = 0.02
SUMMIT_ERROR = 0.006
"""Of a reading, relative to the best one."""
MUCH = 0.03
"""Summits of a walk whose heights differ by less, relatively, are equally high; gaining less, a walk ends."""
REACH = 0.2
"""How far points around a summit are from it, in half turns: they lose about a tenth."""
ROUGH = 0.01
"""A quadratic and the lag of piezos are wrong by so much there, relatively."""
SURPRISE = 1e-6
"""Points that differ so much from what the ones before them told, as they would by chance so seldom, do not repeat."""
BENDS = math.pi**2 / 2
"""cos^2(pi u / 2) bends by as much of its summit, per square of a half turn."""
RIDGE = 0.5
"""A direction that bends less than this part of the one that bends most may be a ridge."""
ALONG = np.linspace(-0.8, 0.8, 9)
"""Where a ridge is looked at, in half turns."""
RIDGE_ERROR = 0.004
"""Of a reading there: between two tops of a ridge that rise by a hundredth its middle passes for a summit."""
RIDGE_DEGREE = 4
"""Of the polynomial that a ridge is taken to be: it may have two tops."""
HIGHER = 1.0
"""So many sigmas above the summit a ridge is worth going along: to go in vain costs readings and no more."""
FLAT_BY_CHANCE = 1e-4
ABOVE_DARK = 5.0
"""So many sigmas above the dark counts is light."""
MOST_REPEATS = 400
MOST_ROUNDS = 30
MOST_UNWOUND = 8
MOST_RIDGES = 6
DB = 10 / math.log(10)


@dataclass(frozen=True)
class Climbed:
    """Where the climb ended: ``settings`` in the axes' unit, ``rate`` of net counts per reading with its error (one sigma).

    ``below_best_db``: what may still be gained nearby, with 95 % confidence.  ``unwound`` counts how often an actuator
    was brought back from its limit.  ``peak`` is the shape of the summit in half turns, relative to ``rate``.
    """

    settings: list[float]
    rate: float
    rate_sigma: float
    below_best_db: float
    gained_db: float
    readings: int
    unwound: int
    peak: Peak


@dataclass
class _Desk:
    """Moves the actuators, takes readings and keeps account of them; settings are float64 of shape (n,)."""

    axes: PolarizationAxes
    apply: Apply
    count: Count
    dark: float
    best: float = 0.0
    readings: int = 0

    def __post_init__(self) -> None:
        room = MARGIN * (self.axes.high - self.axes.low)
        self.low, self.high = self.axes.low + room, self.axes.high - room

    def read(self, settings: Floats, error: float) -> tuple[Floats, float, float]:
        """Where the actuators really are, the net rate there and its sigma, at most ``error`` of the best rate so far.

        Raises CalibrationRefusedError when that takes more readings than is sensible.
        """
        held = np.array(self.apply([float(each) for each in settings]))
        counts = repeats = 0
        while True:
            counts, repeats = counts + self.count(), repeats + 1
            rate, sigma = counts / repeats - self.dark, math.sqrt(max(counts, 1)) / repeats
            if sigma <= error * max(self.best, rate):
                break
            if repeats == MOST_REPEATS:
                raise CalibrationRefusedError(
                    f"{MOST_REPEATS} readings give {rate:.1f} +- {sigma:.1f} counts above the dark ones each, too few to climb on",
                    "count longer, or launch more light",
                )
        self.readings += repeats
        self.best = max(self.best, rate)
        return held, rate, sigma


def climb(
    axes: PolarizationAxes,
    start: Sequence[float],
    apply: Apply,
    count: Count,
    *,
    dark_counts: float,
    target_db: float = 0.05,
    near: bool = False,
    rng: np.random.Generator,
) -> Climbed:
    """Climb from ``start`` until the rate is at most ``target_db`` below the best; ends at the settings it returns.

    ``dark_counts`` are those of a reading without light.  ``near``: the summit is thought to be close to ``start``, and the
    walk is left out as long as it is found there.  Raises CalibrationRefusedError when no light is seen, nothing
    responds, an actuator would have to go beyond its limit, or the statistics do not suffice.
    """
    desk = _Desk(axes, apply, count, dark_counts)
    at, first, sigma = desk.read(np.clip(np.array(start, float), desk.low, desk.high), math.inf)
    found, unwound = None, 0
    if near and first > ABOVE_DARK * sigma:
        found = _highest(desk, at, target_db, rng)
        if not found.is_told(target_db):
            found = None
    found = found or _highest(desk, _walk(desk, at), target_db, rng)
    while not found.is_told(target_db):
        if not (found.ends and found.repeats) or unwound == MOST_UNWOUND:
            raise _not_told(desk, found, target_db)
        elsewhere = rng.uniform(desk.low, desk.high, len(at))
        found, unwound = _highest(desk, _walk(desk, elsewhere), target_db, rng), unwound + 1
    at, rate, sigma = desk.read(found.at, SUMMIT_ERROR)
    return Climbed(
        settings=[float(each) for each in at],
        rate=rate,
        rate_sigma=sigma,
        below_best_db=found.beyond_db,
        gained_db=DB * math.log(rate / max(first, 1.0)),
        readings=desk.readings,
        unwound=unwound,
        peak=found.peak,
    )


def approach(
    axes: PolarizationAxes, start: Sequence[float], apply: Apply, count: Count, *, dark_counts: float
) -> list[float]:
    """The walk of a climb alone: settings where a tenth of the light may still be lost, found with few counts.

    Raises as :func:`climb` does.
    """
    desk = _Desk(axes, apply, count, dark_counts)
    at, _, _ = desk.read(_walk(desk, np.clip(np.array(start, float), desk.low, desk.high)), WALK_ERROR)
    return [float(each) for each in at]


def _not_told(desk: _Desk, found: _Summit, target_db: float) -> CalibrationRefusedError:
    if not found.repeats:
        return CalibrationRefusedError(
            f"after {desk.readings} readings at the summit they still do not repeat",
            "look for what else changes the rate: polarisation that drifts while it is climbed, a laser that is not steady",
        )
    ends = ", ".join(map(str, found.ends))
    return CalibrationRefusedError(
        f"after {desk.readings} readings {found.beyond_db:.2f} dB may still be gained, more than {target_db:g} dB"
        + (f", and actuator {ends} is at the end of its range" if ends else ""),
        "give the controller's fibre another lie" if ends else "count longer, or launch more light",
    )


# The walk


@dataclass
class _Scan:
    """Rates along one actuator, in the order of its settings."""

    settings: list[float]
    rates: list[float]
    sigmas: list[float]

    def summit(self, middle: float) -> tuple[float, float]:
        """Setting and height of the highest point; of those that are as high, of the one nearest ``middle``."""
        found = [self._around(n) for n in range(len(self.rates)) if self._is_top(n)]
        height = max(each[1] for each in found)
        enough = height - max(MUCH * height, 2 * max(self.sigmas))
        return min((each for each in found if each[1] >= enough), key=lambda each: abs(each[0] - middle))

    def _is_top(self, n: int) -> bool:
        return self.rates[n] >= max(self.rates[max(n - 1, 0) : n + 2])

    def _around(self, n: int) -> tuple[float, float]:
        """The vertex of the parabola through a point and its neighbours; at an end the point itself."""
        if not 0 < n < len(self.rates) - 1:
            return self.settings[n], self.rates[n]
        bend, slope, height = np.polyfit(
            np.array(self.settings[n - 1 : n + 2]) - self.settings[n], self.rates[n - 1 : n + 2], 2
        )
        if bend >= 0:
            return self.settings[n], self.rates[n]
        return self.settings[n] - slope / (2 * bend), height - slope**2 / (4 * bend)

    def chi2(self) -> tuple[float, int]:
        """Against a rate that is the same everywhere, and its degrees of freedom."""
        rates, weights = np.array(self.rates), 1 / np.array(self.sigmas) ** 2
        return float(weights @ (rates - weights @ rates / weights.sum()) ** 2), len(rates) - 1


def _scan(desk: _Desk, at: Floats, axis: int, settings: Floats, error: float) -> _Scan:
    scan = _Scan([], [], [])
    for each in settings:
        point = at.copy()
        point[axis] = each
        held, rate, sigma = desk.read(point, error)
        scan.settings.append(float(held[axis]))
        scan.rates.append(rate)
        scan.sigmas.append(sigma)
    return scan


def _whole_range(desk: _Desk) -> Floats:
    count = math.ceil((desk.high - desk.low) / (SPACING * desk.axes.half_turn)) + 1
    return np.linspace(desk.low, desk.high, count)


def _walk(desk: _Desk, at: Floats) -> Floats:
    """Where no actuator alone gains much more."""
    middle, whole = (desk.low + desk.high) / 2, _whole_range(desk)
    at, scans = at.copy(), []
    for axis in range(len(at)):
        scans.append(_scan(desk, at, axis, whole, math.inf))
        at[axis] = scans[-1].summit(middle)[0]
    _require_light(desk, scans)
    turn = SPACING * desk.axes.half_turn * np.arange(-2, 3)
    height = 0.0
    while desk.best > height * (1 + MUCH):
        height = desk.best
        for axis in range(len(at)):
            near = at[axis] + turn
            inside = desk.low <= near[0] and near[-1] <= desk.high
            at[axis] = _scan(desk, at, axis, near if inside else whole, WALK_ERROR).summit(at[axis])[0]
    return at


def _require_light(desk: _Desk, scans: Sequence[_Scan]) -> None:
    """CalibrationRefusedError unless light is seen, and seen to respond."""
    brightest, sigma = max(
        (rate, sigma) for scan in scans for rate, sigma in zip(scan.rates, scan.sigmas, strict=True)
    )
    if brightest < ABOVE_DARK * sigma:
        raise CalibrationRefusedError(
            f"the highest of {desk.readings} readings is {brightest:.1f} +- {sigma:.1f} counts above the dark ones, wherever the "
            "actuators stand",
            "look whether the launch is open, the stations of the pair are taken in, and the detectors are biased",
        )
    chi2, degrees = (sum(each) for each in zip(*(scan.chi2() for scan in scans), strict=True))
    if by_chance(chi2, degrees) > FLAT_BY_CHANCE:
        raise CalibrationRefusedError(
            f"the rate does not respond to any actuator: {desk.readings} readings over their whole ranges differ by no more "
            f"than counting makes them (chi^2 of {chi2:.0f} for {degrees})",
            "look whether the controller stands in the light's way to a polariser, and whether its outputs are on; or count longer",
        )


# The summit


def _around(count: int, flip: int) -> list[Floats]:
    """Offsets, in half turns, that tell every coefficient; every other round the pairs go the other way."""
    alone = np.eye(count)
    points = [sign * alone[axis] for axis in range(count) for sign in (1.0, -1.0)]
    points += [(alone[i] + flip * alone[j]) / math.sqrt(2) for i in range(count) for j in range(i)]
    return [np.zeros(count), *(REACH * point for point in points)]


@dataclass(frozen=True)
class _Summit:
    """A summit, its shape, and what may still be gained: within the range of the actuators, and if they had none."""

    at: Floats
    peak: Peak
    within_db: float
    beyond_db: float
    ends: list[int]
    """Actuators that are at the end of their range, from 1."""
    repeats: bool
    """Whether the last points agree with those before them."""

    def is_told(self, target_db: float) -> bool:
        """Whether it is known to be as good as that."""
        return self.beyond_db <= target_db and self.repeats


def _summit(desk: _Desk, at: Floats, target_db: float, rng: np.random.Generator) -> _Summit:
    """Find the summit near ``at``, as well as it can be told."""
    half_turn, reach = desk.axes.half_turn, REACH * desk.axes.half_turn
    low, high = desk.low + reach, desk.high - reach
    at, scale = np.clip(at, low, high), desk.best
    peak = Peak(len(at), 1.0, 1.0, BENDS)
    all_free = np.full(len(at), True)
    for number in range(MOST_ROUNDS):
        surprises = []
        for offset in _around(len(at), -1 if number % 2 else 1):
            held, rate, sigma = desk.read(at + half_turn * offset, SUMMIT_ERROR)
            surprises.append(peak.learn((held - at) / half_turn, rate / scale, sigma / scale, ROUGH))
        moved, free = peak.towards(REACH, (low - at) / half_turn, (high - at) / half_turn)
        at = at + half_turn * moved
        peak.shift(moved)
        _allow_for(peak, float(np.linalg.norm(moved)))
        within_db = _db(peak.gain_below(REACH, free, rng) / peak.rate) if free.any() else 0.0
        repeats = by_chance(float(np.square(surprises).sum()), len(surprises)) > SURPRISE
        if number and within_db <= target_db and repeats:  # the first points agree with any quadratic
            break
    beyond_db = within_db if free.all() else _db(peak.gain_below(REACH, all_free, rng) / peak.rate)
    ends = [n + 1 for n in range(len(at)) if not free[n]]
    return _Summit(at, peak, within_db, beyond_db, ends, bool(repeats))


def _highest(desk: _Desk, at: Floats, target_db: float, rng: np.random.Generator) -> _Summit:
    """The summit near ``at``, or one that is higher along its ridges: as well told, or at the end of an actuator's range."""
    found = _summit(desk, at, target_db, rng)
    for _ in range(MOST_RIDGES):
        if not found.is_told(target_db) or (higher := _higher(desk, found)) is None:
            break
        other = _summit(desk, higher, target_db, rng)
        if not (other.is_told(target_db) or other.ends):
            break
        found = other
    return found


def _higher(desk: _Desk, found: _Summit) -> Floats | None:
    """The highest point along the direction that bends least, if that is a ridge and rises above the summit."""
    bends, along = np.linalg.eigh(found.peak.curvature)
    ways = [(far, found.at + far * desk.axes.half_turn * along[:, -1]) for far in ALONG]
    inside = [(far, at) for far, at in ways if np.all((desk.low <= at) & (at <= desk.high))]
    if bends[-1] < RIDGE * bends[0] or len(inside) <= RIDGE_DEGREE + 1:
        return None
    far = np.array([each for each, _ in inside])
    read = [desk.read(at, RIDGE_ERROR) for _, at in inside]
    rates, sigmas = (np.array([each[n] for each in read]) for n in (1, 2))
    powers = np.vander(far, RIDGE_DEGREE + 1, increasing=True)
    coefficients, covariance = _fitted(powers, rates, sigmas)
    rises = powers - powers[far == 0.0]
    best = int(np.argmax(rises @ coefficients))
    rise, sigma = rises[best] @ coefficients, math.sqrt(rises[best] @ covariance @ rises[best])
    return inside[best][1] if rise > HIGHER * sigma else None


def _fitted(columns: Floats, values: Floats, sigmas: Floats) -> tuple[Floats, Floats]:
    """Coefficients of ``columns`` (n, k) by weighted least squares, and their covariance."""
    weighted = columns / sigmas[:, None]
    covariance = np.asarray(np.linalg.inv(weighted.T @ weighted), np.float64)
    return covariance @ weighted.T @ (values / sigmas), covariance


def _db(gain: float) -> float:
    return DB * math.log1p(max(gain, 0.0))


def _allow_for(peak: Peak, moved: float) -> None:
    """A quadratic is only the beginning of the truth: what a move by ``moved`` half turns may have changed."""
    peak.grow(moved**3, BENDS * moved**2, BENDS * moved)
