"""What no preemptive schedule that meets given due times goes below: a linear programme over intervals of time.

Minimise the weighted sum of completion times on one machine, with preemption, releases ``r_j`` and due times ``d_j`` that
must be met, infinite for jobs without one.  The programme decides how long each job has the machine in each interval::

    breakpoints: all releases and due times;  y_ij = time of job j in interval i = [a_i, b_i)
    y_ij = 0 unless r_j <= a_i and b_i <= d_j,    sum_i y_ij = p_j,    sum_j y_ij <= b_i - a_i
    minimise  sum_j w_j p_j / 2 + sum_i sum_k (g_k - g_{k+1}) (a_i Y_ik + Y_ik ** 2 / 2)

with the jobs numbered by falling ``g_j = w_j / p_j`` and ``Y_ik = y_i1 + ... + y_ik``.  It is the preemptive time-indexed
programme (Dyer and Wolsey, Discrete Appl. Math. 26, 255, 1990) with windows, its time steps gathered into intervals
(interval-indexed: Hall, Schulz, Shmoys and Wein, Math. Oper. Res. 22, 513, 1997) without losing anything.  Without due
times its optimum is that of the programme over mean busy times (Goemans, IPCO 1996, LNCS 1084, 288; for preemptive
schedules: Goemans, Wein and Williamson, Oper. Res. Lett. 26, 149, 2000).

Why it is a lower bound.  Take any schedule that meets the due times, and let x_j(t) be 1 while job j has the machine.

1. A job that ends at C_j was served at the latest in the last p_j before it, so the mean M_j of the times at which it is
   served is at most C_j - p_j / 2, and w_j C_j >= w_j p_j / 2 + g_j (integral of t x_j(t)).
2. Job j is served in its window alone, so y_ij = (integral of x_j over interval i) keeps every constraint above.
3. In interval i the jobs 1..k together are served for Y_ik, one at a time, so at the earliest from a_i to a_i + Y_ik:
   their integrals of t x_j(t) over it add up to a_i Y_ik + Y_ik ** 2 / 2 at least.  With weights g_k - g_{k+1} >= 0 these
   inequalities add up to the sum of g_j (integral of t x_j(t)) (summation by parts).

So every such schedule costs what its y cost at least, and those no less than the minimum.  The squares are put in as
tangents, Y ** 2 / 2 >= c Y - c ** 2 / 2, which are below them; tangents are added where the solution is short of the
square, until that is little.  Wherever this ends, the value is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import coo_array, diags_array, hstack, vstack

Floats = npt.NDArray[np.float64]

CLOSE = 1e-4
"""Part of the bound by which tangents may leave it short."""
FIRST_TANGENTS = (0.25, 0.5, 0.75, 1.0)
"""Where the first ones touch, of the length of an interval."""


class CannotBeMetError(ValueError):
    """No schedule meets all of these due times."""


@dataclass(frozen=True)
class _Programme:
    """Columns of the programme: y of interval and job where it is in its window, jobs by falling weight over need."""

    interval: npt.NDArray[np.int64]
    job: npt.NDArray[np.int64]
    starts_s: Floats
    lengths_s: Floats
    ratios: Floats

    def sums(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(row, column) pairs of the sums Y, one row for each column's own, and the first row of each interval."""
        first = np.searchsorted(self.interval, self.interval)
        rows = np.repeat(np.arange(len(self.job)), np.arange(len(self.job)) - first + 1)
        columns = np.concatenate([np.arange(f, k + 1) for k, f in enumerate(first)])
        return rows, columns, first

    def steps(self) -> Floats:
        """g_k - g_{k+1} by column, g of nobody 0."""
        g = self.ratios[self.job]
        is_last = np.append(self.interval[1:] != self.interval[:-1], True)
        return np.where(is_last, g, g - np.append(g[1:], 0.0))


def due_bound_s(weights: Floats, needs_s: Floats, releases_s: Floats, dues_s: Floats) -> float:
    """The optimum of the programme, up to :data:`CLOSE` below it; arrays of one entry a job, no due time is infinity.

    Raises CannotBeMetError where no schedule meets all due times.
    """
    order = np.argsort(-weights / needs_s, kind="stable")
    weights, needs_s, releases_s, dues_s = (each[order] for each in (weights, needs_s, releases_s, dues_s))
    programme = _programme(weights / needs_s, needs_s, releases_s, dues_s)
    constant = float(weights @ needs_s / 2)
    n = len(programme.job)
    rows, columns, _ = programme.sums()
    steps = programme.steps()
    cost_y = programme.starts_s[programme.interval] * programme.ratios[programme.job]
    lengths_s = programme.lengths_s[programme.interval]
    of_row = np.concatenate([np.arange(n)] * len(FIRST_TANGENTS))
    touch_s = np.concatenate([part * lengths_s for part in FIRST_TANGENTS])
    sums = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n)).tocsr()
    equal = coo_array((np.ones(n), (programme.job, np.arange(n))), shape=(len(needs_s), 2 * n))
    room = coo_array((np.ones(n), (programme.interval, np.arange(n))), shape=(len(programme.starts_s), 2 * n))
    while True:
        tangents = _tangents(sums, of_row, touch_s)
        solved = linprog(
            np.concatenate([cost_y, steps]),
            A_ub=vstack([room, tangents]),
            b_ub=np.concatenate([programme.lengths_s, touch_s**2 / 2]),
            A_eq=equal,
            b_eq=needs_s,
            bounds=(0, None),
            method="highs",
        )
        if solved.status == 2:
            raise CannotBeMetError("no schedule meets all of these due times")
        assert solved.status == 0, solved.message
        y, squares = solved.x[:n], solved.x[n:]
        whole = sums @ y
        short = steps * np.maximum(whole**2 / 2 - squares, 0.0)
        bound = float(solved.fun + constant)
        if short.sum() <= CLOSE * bound:
            return bound
        worst = np.flatnonzero(short > 0.1 * CLOSE * bound / n)
        of_row, touch_s = np.concatenate([of_row, worst]), np.concatenate([touch_s, whole[worst]])


def _programme(ratios: Floats, needs_s: Floats, releases_s: Floats, dues_s: Floats) -> _Programme:
    times = np.unique([*releases_s, *dues_s[np.isfinite(dues_s)]])
    times = np.append(times, times[-1] + needs_s.sum())
    starts_s, ends_s = times[:-1], times[1:]
    interval, job = np.nonzero(
        (releases_s[None, :] <= starts_s[:, None]) & (ends_s[:, None] <= dues_s[None, :])
    )
    return _Programme(interval, job, starts_s, ends_s - starts_s, ratios)


def _tangents(sums: Any, of_row: npt.NDArray[np.int64], touch_s: Floats) -> Any:
    """Rows of c Y - q <= c ** 2 / 2."""
    n = sums.shape[0]
    here = np.arange(len(of_row))
    on_q = coo_array((-np.ones(len(of_row)), (here, of_row)), shape=(len(of_row), n))
    return hstack([diags_array(touch_s) @ sums[of_row], on_q])


def least_weighted_s(
    weights: Floats, needs_s: npt.NDArray[np.int64], releases_s: npt.NDArray[np.int64], dues_s: Floats
) -> float:
    """The best of all schedules in steps of a second that meet the due times, by trying them all; infinite for none.

    Nothing between whole seconds has to be tried: serving, at any time, of the jobs that are there the one which a best
    schedule completes first completes none later, and changes jobs at releases and completions alone, all whole.
    """
    states = {tuple(needs_s): 0.0}
    best = float("inf")
    for now_s in range(int(releases_s.max() + needs_s.sum()) + 1):
        following: dict[tuple[int, ...], float] = {}
        for left, cost in states.items():
            if not any(left):
                best = min(best, cost)
                continue
            following[left] = min(cost, following.get(left, float("inf")))
            for j, need in enumerate(left):
                if need and releases_s[j] <= now_s < dues_s[j]:
                    after = (*left[:j], need - 1, *left[j + 1 :])
                    total = cost + (0.0 if need > 1 else weights[j] * (now_s + 1))
                    following[after] = min(total, following.get(after, float("inf")))
        states = following
    return best
