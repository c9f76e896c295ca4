"""What a user may ask of ``qunetlab train``, as it is kept with the run so that a resumed run is the same run.

Everything left out (None) is filled in by the experiment of the task.
"""

from __future__ import annotations

import msgspec

from fl.modes.table import IfShort, ModeName


class OptionsError(ValueError):
    """Options that contradict each other or the run they should continue."""


class TrainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a run.  ``task`` is the whole name ``TASK:MODEL@SPLIT``; ``seeds`` counts seeds from
    ``first_seed`` on; ``clips`` are clips of single arrays by name or pattern; ``max_wait_s`` is the longest that the key of the run may take to make."""

    task: str
    mode: ModeName | None = None
    clients: int | None = None
    rounds: int | None = None
    seeds: int | None = None
    first_seed: int = 1
    quick: bool = False
    baselines: bool = True
    levels: int | None = None
    ring_width: int | None = None
    clip: float | None = None
    clips: dict[str, float] | None = None
    clip_decay: float | None = None
    keep: float | None = None
    error_feedback: bool | None = None
    drop_outs: int = 0
    colluders: int | None = None
    survivors: int | None = None
    if_short: IfShort = "wait"
    max_wait_s: float | None = None
    testbed: str | None = None
    live: bool = False


def option_of(setting: str) -> str:
    """The option of ``qunetlab train`` that a setting of a run is; its own name where there is none."""
    if setting == "clips":
        return "--clip-of"
    known = setting == "seed" or setting in TrainOptions.__struct_fields__
    return f"--{setting.replace('_', '-')}" if known else setting
