"""A simulated ring that nobody has calibrated, on disk, and what it really is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewer_users import ring_of_users

from lab.runs.testbeds.another_ring import another_ring
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, load_testbed, parse_testbed, read_testbed, write_testbed
from sim_backends.optics import Ring
from sim_backends.optics_hidden import ring_of
from sim_backends.survey import surveyed

ALL = ("alice", "bob", "carol", "dave")


@dataclass(frozen=True)
class Uncalibrated:
    """A testbed file with the values of the order, and the same content as a faultless calibration would have it."""

    path: Path
    truth: dict[str, Any]

    def testbed(self) -> Testbed:
        """As it is read at this moment, with all that was calibrated."""
        return load_testbed(self.path)

    def ring(self) -> Ring:
        """The light with everything that is hidden, of its own."""
        return ring_of(self.testbed())

    def of_user(self, name: str) -> dict[str, Any]:
        """The true values of a user."""
        return next(user for user in self.truth["users"] if user["name"] == name)


def uncalibrated_ring(
    folder: Path,
    *,
    ring_seed: int,
    users: Collection[str] = ("alice", "bob"),
    slots_per_frame: int = 1 << 19,
) -> Uncalibrated:
    """The bundled ring with some of its stations, made anew from ``ring_seed``."""
    source = template_path("simulated-four-node")
    data = ring_of_users(read_testbed(source), users, seed=ring_seed)
    data["protocol"] = {**data["protocol"], "slots_per_frame": slots_per_frame}
    data = another_ring(data, source, ring_seed=ring_seed, uncalibrated=True)
    path = folder / "testbed.toml"
    write_testbed(data, path)
    return Uncalibrated(path, surveyed(data, parse_testbed(data, path)))
