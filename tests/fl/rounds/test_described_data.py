"""What the clients of a run learn from: named in its settings, its description and the words of a consent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fl.modes.base import model_digest
from fl.rounds.aggregation import aggregation_for
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.config import FLConfig
from fl.rounds.consent_words import explained
from fl.workloads import load_task
from fl.workloads.base import Task
from fl.workloads.digits.sources import SHA256
from orchestrator.delivery.consent import DescribedSource, RunDescription, differences
from orchestrator.wire.codec import decode, encode

USERS = ("alice", "bob", "charlie")


def own_digits(folder: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    path = folder / f"größe{seed}.npz"
    halves = {
        name: rng.integers(0, 17, (n, 8, 8), dtype=np.uint8) for name, n in (("x_train", 9), ("x_test", 4))
    }
    np.savez(path, **halves, y_train=np.arange(9), y_test=np.arange(4))
    return path


def settings(task: Task) -> FLConfig:
    return FLConfig.for_task(task, USERS, run_id="run", name="digits:mlp@iid")


def described(task: Task) -> RunDescription:
    config = settings(task)
    first = model_digest(task.initial_parameters(config.seed))
    return aggregation_for(config, task.n_parameters, first).description


def test_the_registered_data_are_named_by_their_checksum() -> None:
    description = described(load_task("digits"))
    assert description.sources == (DescribedSource("digits bundled with scikit-learn", SHA256),)
    words = explained(description, "alice")
    assert f"data: digits bundled with scikit-learn (SHA-256 {SHA256}), the same for every client" in words
    config = settings(load_task("digits"))
    assert decode(encode(config), FLConfig) == config


def test_own_files_are_named_by_their_checksum_in_printable_words(tmp_path: Path) -> None:
    path = own_digits(tmp_path, 1)
    (source,) = described(load_task("digits", path)).sources
    assert source.name == "own file gr\\xf6\\xdfe1.npz"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_client_with_other_files_takes_no_part_and_is_told_both(tmp_path: Path) -> None:
    server, client = (load_task("digits", own_digits(tmp_path, seed)) for seed in (1, 2))
    rules = ClientRules()
    rules.check_task("alice", settings(server), load_task("digits", own_digits(tmp_path, 1)))
    for other in (client, load_task("digits")):
        with pytest.raises(
            ClientRefusesError, match=r"other data .* here .*SHA-256 \w{64}.*, there own file"
        ):
            rules.check_task("alice", settings(server), other)


def test_files_under_another_name_are_the_same_data(tmp_path: Path) -> None:
    """Else the sums of two runs over one file could be compared, and tell a client's update."""
    one = described(load_task("digits", own_digits(tmp_path, 1)))
    renamed = msgspec.structs.replace(one, data="weather", clip=2.0)
    assert differences(one, renamed) == ("clip",)
    other = msgspec.structs.replace(renamed, sources=(DescribedSource("another", "ab" * 32),))
    assert differences(one, other) == ()
    assert (
        differences(msgspec.structs.replace(one, sources=()), msgspec.structs.replace(renamed, sources=()))
        == ()
    )
