"""How far the scheduler stays above the least weighted completion time, over 1000 random mixes:

python tests/benchmarks/bench_scheduler.py [--mixes 1000] [--due-part 0.2] [--json] [--own-gap 200]

prints the table; so does ``qunetlab bench --only scheduler_over_bound`` for 200 of them, with the worst as its figure.
What a mix is stands in ``ring_mixes.py``, what bounds it in ``due_bound.py``.

A rule that keeps due times must put off others, so its schedule is held against schedules that keep them as well: the
bound of a rule in a mix is that of all preemptive schedules which meet every due time that the rule met there.  How
many it met stands beside it, with the most that any schedule meets.  Whoever keeps none is held against none.

``--own-gap`` tells how far the bound itself is below the best of all schedules, on so many tiny mixes, by trying
all of their schedules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from due_bound import CannotBeMetError, due_bound_s, least_weighted_s
from measuring import Figure
from ring_mixes import Mix, Ours, Result, RoundRobin, Rule, draw_mix, first_come, simulate

RULES: dict[str, Callable[[], Rule]] = {
    "ours": Ours,
    "round-robin": RoundRobin,
    "first come": lambda: first_come,
}
ALLOWED = 1.10
SIZES = ((4, 7), (8, 15), (16, 31), (32, 64))
"""Users, from and to, of the rows of the table."""


@dataclass(frozen=True)
class Measured:
    """One mix, and what each rule made of it."""

    users: int
    jobs: int
    over_bound: dict[str, float]
    """Weighted completion time over the bound, by rule."""
    results: dict[str, Result]
    with_due: int
    most_met: int
    """Due times that a schedule can meet at most."""

    def met(self, rule: str) -> int:
        """Due times that a rule met."""
        return self.with_due - self.results[rule].late


def measure_mix(seed: int, due_part: float = 0.0) -> Measured:
    """The mix of ``seed`` under every rule."""
    mix = draw_mix(seed, due_part)
    results = {name: simulate(mix, rule()) for name, rule in RULES.items()}
    over = {name: result.weighted_s(mix) / bound_s(mix, result) for name, result in results.items()}
    due = sum(job.due_s is not None for job in mix.jobs)
    return Measured(mix.users, len(mix.jobs), over, results, due, most_met(mix))


def bound_s(mix: Mix, result: Result) -> float:
    """What no schedule of ``mix`` goes below that meets the due times which ``result`` met."""
    dues_s = np.array([np.inf if job.due_s is None else job.due_s for job in mix.jobs])
    return due_bound_s(
        np.array([job.weight for job in mix.jobs]),
        np.array([mix.ring_s(job) for job in mix.jobs]),
        np.array([job.arrives_s for job in mix.jobs]),
        np.where(result.done_s <= dues_s, dues_s, np.inf),
    )


def most_met(mix: Mix) -> int:
    """How many due times one preemptive schedule of ``mix`` can meet at most."""
    jobs = [(job.arrives_s, job.due_s, mix.ring_s(job)) for job in mix.jobs if job.due_s is not None]
    for count in range(len(jobs), 0, -1):
        if any(_all_met(chosen) for chosen in combinations(jobs, count)):
            return count
    return 0


def _all_met(jobs: Sequence[tuple[float, float, float]]) -> bool:
    """Whether a schedule meets all: no window is asked for more than it holds (Horn 1974)."""
    return all(
        sum(needs_s for r, d, needs_s in jobs if r >= release_s and d <= due_s) <= due_s - release_s
        for release_s, _, _ in jobs
        for _, due_s, _ in jobs
        if due_s > release_s
    )


def own_gap(mixes: int) -> dict[str, float]:
    """How far the best of all schedules is above the bound: the mean and the worst of ``mixes`` tiny mixes."""
    rng = np.random.default_rng(12)
    over: list[float] = []
    while len(over) < mixes:
        n = int(rng.integers(2, 5))
        weights = 2.0 ** rng.integers(-2, 3, n)
        needs_s, releases_s = rng.integers(1, 6, n), rng.integers(0, 7, n)
        has_due = rng.random(n) < 0.5
        dues_s = np.where(has_due, releases_s + np.ceil(needs_s * rng.uniform(1.5, 4.0, n)), np.inf)
        try:
            bound = due_bound_s(weights, needs_s.astype(float), releases_s.astype(float), dues_s)
        except CannotBeMetError:
            continue
        over.append(least_weighted_s(weights, needs_s, releases_s, dues_s) / bound)
    return {"mean": _mean(over), "p99": float(np.quantile(over, 0.99)), "worst": max(over)}


def figures(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """By rule: mean, 99th percentile and worst of the mixes over the bound, mixes beyond what is allowed, due times met."""
    told = {}
    for rule in RULES:
        over = [each.over_bound[rule] for each in measured]
        told[rule] = {
            "mean": _mean(over),
            "p99": float(np.quantile(over, 0.99)),
            "worst": max(over),
            "beyond": sum(each > ALLOWED for each in over),
            "due_met": sum(each.met(rule) for each in measured),
        }
    return told


def table(measured: Sequence[Measured]) -> str:
    """Rows by users of the ring, and all of them together."""
    lines = [
        " " * 21 + "".join(f"{name:>27}" for name in RULES) + "  most",
        f"{'users':>8} {'mixes':>6} {'jobs':>5}"
        + f"{'mean':>9}{'p99':>6}{'worst':>6}{'met':>6}" * len(RULES)
        + f"{'due':>6}",
    ]
    groups = [
        (f"{low}-{high}", [each for each in measured if low <= each.users <= high]) for low, high in SIZES
    ]
    lines += [_row(name, group) for name, group in (*groups, ("all", list(measured))) if group]
    beyond = figures(measured)["ours"]["beyond"]
    return "\n".join(
        [
            *lines,
            "weighted completion time over that of the cheapest preemptive schedule (bound) that meets the same due times;",
            f"met: due times, at most so many of so many can be; ours is more than {ALLOWED - 1:.0%} above in"
            f" {beyond:.0f} of {len(measured)} mixes",
        ]
    )


def _row(name: str, group: Sequence[Measured]) -> str:
    cells = "".join(
        f"{of['mean']:9.3f}{of['p99']:6.2f}{of['worst']:6.2f}{of['due_met']:6.0f}"
        for of in figures(group).values()
    )
    most, due = sum(each.most_met for each in group), sum(each.with_due for each in group)
    return f"{name:>8} {len(group):6d} {_mean(each.jobs for each in group):5.1f}{cells}{most:6d}/{due}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def scheduling(mixes: int = 200) -> dict[str, Figure]:
    """The figure of ``qunetlab bench``: the worst of ``mixes`` mixes; the table goes to standard error."""
    measured = [measure_mix(seed) for seed in range(mixes)]
    print(table(measured), file=sys.stderr)
    told = figures(measured)
    beaten = all(min(each.over_bound, key=each.over_bound.__getitem__) == "ours" for each in measured)
    figure: Figure = {
        "value": told["ours"]["worst"],
        "unit": "of the linear-programming bound, at worst",
        "mixes": mixes,
        **{f"{name} mean".replace(" ", "_"): of["mean"] for name, of in told.items()},
        "checks_passed": told["ours"]["worst"] <= ALLOWED and beaten,
    }
    return {"scheduler_over_bound": figure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", type=int, default=1000)
    parser.add_argument("--due-part", type=float, default=0.0, help="part of the jobs that have a due time")
    parser.add_argument("--json", action="store_true", help="one line of JSON in the place of the table")
    parser.add_argument("--own-gap", type=int, default=0, help="tiny mixes to try all schedules of")
    options = parser.parse_args()
    measured = [measure_mix(seed, options.due_part) for seed in range(options.mixes)]
    gap = own_gap(options.own_gap) if options.own_gap else None
    if options.json:
        due = {"due": sum(m.with_due for m in measured), "most_met": sum(m.most_met for m in measured)}
        print(json.dumps({"mixes": options.mixes, **due, "rules": figures(measured), "own_gap": gap}))
        return
    print(table(measured))
    if gap:
        told = ", ".join(f"{name} {value:.3f}" for name, value in gap.items())
        print(f"the best of all schedules over the bound, {options.own_gap} tiny mixes: {told}")


if __name__ == "__main__":
    main()
