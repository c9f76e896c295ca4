"""Which files a task learns from, and their checksums: those that loading them has verified."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fl.experiments.results import DataFile
from fl.workloads import parse_task
from fl.workloads.base import Task
from fl.workloads.mnist.data import data_folder
from fl.workloads.own import OwnTask

STATES = "quantum-states"


@dataclass(frozen=True)
class StateFile:
    """A cache file of quantum states, and whether it is the one its checksum was written for."""

    path: Path
    sha256: str
    verified: bool

    @property
    def state(self) -> str:
        """For a list."""
        return f"{self.path.name} {'verified' if self.verified else 'not usable: checksum differs'}"


def data_files(name: str, task: Task, folder: Path | None) -> tuple[DataFile, ...]:
    """The files behind ``task``, called ``name``; for data that is computed here, the digest of what was computed."""
    if isinstance(task, OwnTask):
        return tuple(DataFile(each.name, each.sha256, each.source, each.licence) for each in task.sources)
    spec = parse_task(name)
    if spec.task == "mnist":
        from fl.workloads.mnist.data import SHA256

        return tuple(DataFile(name, digest) for name, digest in SHA256.items())
    if spec.task in ("sentiment", "sentiment-imdb"):
        from fl.workloads.sentiment.data import SHA256 as REVIEW_FILES

        return tuple(DataFile(name, digest) for name, digest in REVIEW_FILES.items())
    if spec.task == STATES:
        files = state_files(folder)
        return tuple(DataFile(f.path.name, f.sha256) for f in files if f.path.name.startswith(spec.model))
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return (DataFile("digits bundled with scikit-learn", digest),)


def verify_files(task: str, folder: Path | None) -> None:
    """Raise DataError for a file that is missing or damaged, those included that are read only later.

    States are made anew where their cache does not hold what it should; digits are part of scikit-learn.
    """
    spec = parse_task(task)
    if spec.task == "mnist":
        from fl.workloads.mnist.data import load_mnist_test

        load_mnist_test(folder)  # the training half is verified when clients get their shards
    elif spec.task in ("sentiment", "sentiment-imdb"):
        from fl.workloads.sentiment.data import SHA256 as REVIEW_FILES
        from fl.workloads.sentiment.data import verified_file

        for name in REVIEW_FILES:
            verified_file(name, folder)


def state_files(folder: Path | None = None) -> tuple[StateFile, ...]:
    """The caches of quantum states in the data folder."""
    found = []
    for path in sorted(((folder or data_folder()) / STATES).glob("*.npz")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            noted = json.loads(path.with_suffix(".json").read_text())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            noted = None
        found.append(StateFile(path, digest, digest == noted))
    return tuple(found)
