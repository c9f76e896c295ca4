"""How the states are shared out, and where they come from."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["iid", "mixed", "one-generator"]
SPLITS: tuple[Split, ...] = get_args(Split)

NAME = "quantum-states"
SOURCE = "generator circuits trained here to target values"
