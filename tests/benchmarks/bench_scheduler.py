"""How far the scheduler stays above the least weighted completion time, over 1000 random mixes:

python tests/benchmarks/bench_scheduler.py [--mixes 1000] [--due-part 0.2]

prints the table; so does ``qunetlab bench --only scheduler_over_bound`` for 200 of them, with the worst as its figure.
What a mix is, and what bounds it, stands in ``ring_mixes.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from measuring import Figure
from ring_mixes import Ours, Result, RoundRobin, Rule, bound_s, draw_mix, first_come, simulate

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
    """One mix: its bound in seconds, and what each rule made of it."""

    users: int
    jobs: int
    bound_s: float
    over_bound: dict[str, float]
    """Weighted completion time over the bound, by rule."""
    results: dict[str, Result]
    with_due: int


def measure_mix(seed: int, due_part: float = 0.0) -> Measured:
    """The mix of ``seed`` under every rule."""
    mix = draw_mix(seed, due_part)
    bound = bound_s(mix)
    results = {name: simulate(mix, rule()) for name, rule in RULES.items()}
    over = {name: result.weighted_s(mix) / bound for name, result in results.items()}
    due = sum(job.due_s is not None for job in mix.jobs)
    return Measured(mix.users, len(mix.jobs), bound, over, results, due)


def table(measured: Sequence[Measured]) -> str:
    """Rows by users of the ring, and all of them together."""
    head = f"{'users':>8} {'mixes':>6} {'jobs':>5}" + "".join(f"{name:>13}{'worst':>7}" for name in RULES)
    lines = [head + f"{'late, of due':>32}"]
    groups = [
        (f"{low}-{high}", [each for each in measured if low <= each.users <= high]) for low, high in SIZES
    ]
    lines += [_row(name, group) for name, group in (*groups, ("all", list(measured))) if group]
    return "\n".join(
        [*lines, "weighted completion time over the linear-programming bound: mean and worst of the mixes"]
    )


def _row(name: str, group: Sequence[Measured]) -> str:
    cells = []
    for rule in RULES:
        over = [each.over_bound[rule] for each in group]
        cells.append(f"{_mean(over):13.3f}{max(over):7.3f}")
    late = " / ".join(str(sum(each.results[rule].late for each in group)) for rule in RULES)
    due = f"{late} of {sum(each.with_due for each in group)}"
    return f"{name:>8} {len(group):6d} {_mean(each.jobs for each in group):5.1f}{''.join(cells)}{due:>32}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def scheduling(mixes: int = 200) -> dict[str, Figure]:
    """The figure of ``qunetlab bench``: the worst of ``mixes`` mixes; the table goes to standard error."""
    measured = [measure_mix(seed) for seed in range(mixes)]
    print(table(measured), file=sys.stderr)
    worst = max(each.over_bound["ours"] for each in measured)
    others = {
        f"{name} mean".replace(" ", "_"): _mean(each.over_bound[name] for each in measured) for name in RULES
    }
    beaten = all(min(each.over_bound, key=each.over_bound.__getitem__) == "ours" for each in measured)
    figure: Figure = {
        "value": worst,
        "unit": "of the linear-programming bound, at worst",
        "mixes": mixes,
        **others,
        "checks_passed": worst <= ALLOWED and beaten,
    }
    return {"scheduler_over_bound": figure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", type=int, default=1000)
    parser.add_argument("--due-part", type=float, default=0.0, help="part of the jobs that have a due time")
    options = parser.parse_args()
    print(table([measure_mix(seed, options.due_part) for seed in range(options.mixes)]))


if __name__ == "__main__":
    main()
